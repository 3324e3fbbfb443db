"""What the layer's and the consumers' suites run over: one server, Sentinel, a cluster.

    pytest tests/layer --over cluster              all of it over a cluster, and nothing else
    pytest tests/layer --over single,sentinel      twice

By itself a test runs over a single server, and one that is marked ``everywhere`` over others as
well. A test that asks for a server of its own, or names the session's, is about that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis

from .servers import major_version
from .users import as_admin, is_least

if TYPE_CHECKING:
    from .clusters import Cluster
    from .sentinels import Sentinels

__all__ = ["CLASSIC", "CLUSTER", "SENTINEL", "SINGLE", "Outside", "parse_over"]

SINGLE = "single"
SENTINEL = "sentinel"
CLUSTER = "cluster"
# A cluster without sharded Pub/Sub.
CLASSIC = "classic"
ALL = (SINGLE, SENTINEL, CLUSTER, CLASSIC)

# Whoever asks for one of these knows its server.
OWN_SERVERS = frozenset(
    {"cluster", "client", "own_cluster", "proxy", "redis_url", "restartable_server", "sentinels"}
    | {"server", "unix_url"}
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--over",
        type=parse_over,
        help=f"what layers run over: some of {','.join(ALL)}, or all (as each test is marked)",
    )


def parse_over(text: str) -> tuple[str, ...]:
    """The value of ``--over``; raises `pytest.UsageError`."""
    chosen = ALL if text == "all" else tuple(text.split(","))
    if wrong := set(chosen) - set(ALL):
        raise pytest.UsageError(f"--over {text}: no {wrong.pop()!r}, but {', '.join(ALL)} or all")
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "everywhere(classic=False): by itself, too, runs over Sentinel and a cluster, with classic "
        "Pub/Sub as well if that is said",
        "classic: needs classic Pub/Sub in a cluster",
        "only_single(reason): is about one server, or tells too little elsewhere",
    ):
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (chosen := _over(metafunc)) != (SINGLE,):
        metafunc.parametrize("topology", chosen, indirect=True)


def _over(metafunc: pytest.Metafunc) -> tuple[str, ...]:
    """What a test is to run over; over a single server if that is nothing to choose for it."""
    names, marker = set(metafunc.fixturenames), metafunc.definition.get_closest_marker
    if "topology" not in names or names & OWN_SERVERS or marker("only_single"):
        return (SINGLE,)
    everywhere = marker("everywhere")
    asked: Iterable[str] | None = metafunc.config.getoption("over")
    if asked is None:
        asked = (SINGLE,)
        if everywhere and not is_least():  # who is not allowed to make a cluster
            asked = ALL if everywhere.kwargs.get("classic") else (SINGLE, SENTINEL, CLUSTER)
    if marker("classic"):
        asked = [CLASSIC if each == CLUSTER else each for each in asked]
    return tuple(dict.fromkeys(asked))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would run over a single server, if that was not asked for.

    And what is about clusters where the servers have no sharded Pub/Sub; `layer_config` is not.
    """
    if major_version() < 7:
        for item in items:
            fixtures = {"cluster", "own_cluster"} & set(getattr(item, "fixturenames", ()))
            if fixtures or "cluster" in item.nodeid.partition("::")[0]:
                item.add_marker(pytest.mark.skip("sharded Pub/Sub is there from Redis 7 on"))
    if SINGLE in (config.getoption("over") or (SINGLE,)):
        return
    out = [item for item in items if "topology" not in _parameters(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if "topology" in _parameters(item)]


def _parameters(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


# -- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def session_sentinels(server: object) -> Iterator[Sentinels]:
    """The session's master, replica and Sentinel. Leave them running and as they are."""
    from .sentinels import Sentinels

    with Sentinels() as running:
        yield running


@pytest.fixture
def topology(request: pytest.FixtureRequest) -> str:
    """What the test runs over."""
    return getattr(request, "param", SINGLE)


@pytest.fixture
def layer_config(topology: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What CONFIG says of that."""
    # Not among the arguments: only what is needed is started.
    if topology == SINGLE:
        return {"hosts": [request.getfixturevalue("redis_url")]}
    if topology == SENTINEL:
        return {"hosts": [request.getfixturevalue("session_sentinels").host]}
    cluster: Cluster = request.getfixturevalue("cluster")
    if topology == CLUSTER and not cluster.has_sharded_pubsub:
        pytest.skip("these servers know no sharded Pub/Sub")
    config = {"hosts": cluster.seeds, "cluster": True}
    return config if topology == CLUSTER else {**config, "sharded_pubsub": False}


@pytest.fixture
def layer_json(layer_config: dict[str, Any]) -> str:
    """The same, for programs of their own."""
    return json.dumps(layer_config)


class Outside:
    """Looks at what layers do in Redis, and meddles; the names are Redis'."""

    def __init__(
        self, nodes: list[redis.Redis], at: Callable[[str], redis.Redis], *, sharded: bool
    ) -> None:
        self.nodes = nodes  # plain clients of all masters
        self.at = at  # of the one that has a key
        self._kind = "SHARD" if sharded else ""

    def publish(self, name: str, data: str | bytes) -> None:
        """As any program does."""
        self.nodes[0].publish(name, data)

    def publish_as_layers(self, name: str, *data: bytes) -> None:
        """To what a layer has for itself, such as a group or an inbox; in one piece."""
        with self.at(name).pipeline(transaction=False) as pipeline:
            for each in data:
                pipeline.execute_command("SPUBLISH" if self._kind else "PUBLISH", name, each)
            pipeline.execute()

    def numsub(self, name: str, *, classic: bool = False) -> int:
        """How many are subscribed to what a layer has for itself, or, ``classic``, raw."""
        command = f"PUBSUB {'' if classic else self._kind}NUMSUB"
        # redis-py makes pairs of one kind of these answers and not of the other.
        return sum(_flat(node.execute_command(command, name))[1] for node in self.nodes)

    def channels(self, pattern: str = "*") -> set[str]:
        """What somebody is subscribed to, of whatever kind."""
        found: set[bytes] = set()
        for node in self.nodes:
            for kind in {"", self._kind}:
                found.update(node.execute_command(f"PUBSUB {kind}CHANNELS", pattern))
        return {name.decode() for name in found}

    def keys(self, pattern: str = "*") -> set[str]:
        """The keys of all."""
        return {key.decode() for node in self.nodes for key in node.scan_iter(pattern, 1000)}

    def cut(self) -> None:
        """Break all connections that are subscribed to something."""
        for node in self.nodes:
            node.client_kill_filter(_type="pubsub")

    def forget_scripts(self) -> None:
        for node in self.nodes:
            node.script_flush()

    def flushall(self) -> None:
        for node in self.nodes:
            node.flushall()


def _flat(answer: Any) -> Any:
    return answer[0] if isinstance(answer[0], tuple) else answer


@pytest.fixture
def outside(topology: str, request: pytest.FixtureRequest) -> Iterator[Outside]:
    """Looks from outside at what the test runs over."""
    with ExitStack() as stack:
        if topology in (CLUSTER, CLASSIC):
            cluster: Cluster = request.getfixturevalue("cluster")
            clients = {node: stack.enter_context(node.client()) for node in cluster.masters}
            yield Outside(
                list(clients.values()),
                lambda name: clients[cluster.master_of(name)],
                sharded=topology == CLUSTER,
            )
            return
        if topology == SENTINEL:
            client = request.getfixturevalue("session_sentinels").master.client()
        else:
            client = redis.Redis.from_url(as_admin(request.getfixturevalue("redis_url")))
        stack.enter_context(client)
        yield Outside([client], lambda name: client, sharded=False)
