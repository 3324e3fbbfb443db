"""What `manage.py mpx` does: a file for each subcommand.

It stands beside the floors and reads them through their public snapshots; none imports it.
"""

from .bench import Bench
from .doctor import Doctor
from .drain import Drain, Undrain
from .history import History
from .listen import Listen
from .send import Request, Resolve, Send
from .status import Status
from .subcommand import Subcommand
from .top import Top

__all__ = ["subcommands"]


def subcommands() -> list[Subcommand]:
    """All of them, in the order of ``--help``."""
    return [
        Doctor(),
        Status(),
        Top(),
        Listen(),
        History(),
        Send(),
        Resolve(),
        Request(),
        Drain(),
        Undrain(),
        Bench(),
    ]
