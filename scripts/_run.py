"""Runs a command, and on INT, TERM, HUP or QUIT ends it with everything it started.

    python scripts/_run.py COMMAND [ARGUMENT...]

The exit status is the command's, or 128 and the signal's number as in a shell.

A shell alone can't do it: one that was itself started with ``&`` has INT ignored, may not trap
it, and hands that on to all it starts; and it knows a command's process, but not those that this
has started. So the command gets a process group of its own, and the group is signalled.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

GRACE = 10  # seconds, from the signal to SIGKILL


def run(command: list[str], ending: signal.Signals = signal.SIGINT) -> int:
    """The exit status, as above. `ending` is what the group is sent, whichever signal came.

    The signals stay caught afterwards, so that the caller can tidy up in peace.
    """
    group: int | None = None
    stopped_by: int | None = None

    def signal_group(signum: int) -> bool:
        """Whether there was anybody left to signal."""
        if group is None:
            return False
        try:
            os.killpg(group, signum)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of zombies
            return False
        return True

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopped_by
        if stopped_by is None:
            stopped_by = signum
            signal_group(ending)
            signal.alarm(GRACE)

    def kill(signum: int, frame: FrameType | None) -> None:
        signal_group(signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, stop)

    process = subprocess.Popen(command, process_group=0)
    group = process.pid
    if stopped_by is not None:  # while the command was being started
        signal_group(ending)
    status = process.wait()

    # Whoever outlived the command it belonged to.
    if signal_group(signal.SIGTERM):
        deadline = time.monotonic() + GRACE
        while signal_group(0) and time.monotonic() < deadline:
            time.sleep(0.05)
        signal_group(signal.SIGKILL)

    if stopped_by is not None:
        return 128 + stopped_by
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
