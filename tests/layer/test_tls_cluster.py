"""TLS to all nodes of a cluster, and what is said where something is wrong with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.layer import InvalidConfig, MpxChannelLayer, NotConnected
from mpx_channels.layer.clusters import names_for
from mpx_channels.multiplexer.cluster import scout
from tests.clusters import Cluster, one_by_one, slot_of
from tests.conftest import PATIENCE, eventually
from tests.diagnostics.doctor.examine import complaints, examine, examine_patiently, of, worst
from tests.users import needs_more

from .test_acl import HISTORY, groups, histories, operations, presences, queues
from .test_tls import known, looks_as_long_as_it_takes

if TYPE_CHECKING:
    from tests.tls import Certificates

__all__ = ["looks_as_long_as_it_takes"]

Config = dict[str, Any]

NAMES = {
    "cluster-announce-hostname": "localhost",
    "cluster-preferred-endpoint-type": "hostname",
    "bind": "127.0.0.1 127.0.0.2",
}


@pytest.fixture(scope="module")
def tls_cluster(certificates: Certificates) -> Iterator[Cluster]:
    """Three masters that announce their names, and want certificates of whoever comes."""
    options = certificates.options(wants_ours=True)
    with Cluster(config=NAMES, tls=options) as running:
        yield running


@pytest.fixture
def ours(certificates: Certificates) -> Config:
    return {"ssl_ca_certs": certificates.ca, "ssl_certfile": certificates.client}


@pytest.fixture
def config(tls_cluster: Cluster, ours: Config, prefix: str) -> Config:
    hosts = [{"address": seed, **ours} for seed in tls_cluster.seeds]
    # TLS is work, and this machine may be busy.
    patient = {"connect_timeout": 20.0, "backlog_timeout": 20.0}
    return {"hosts": hosts, "cluster": True, "prefix": prefix, "history": HISTORY, **patient}


NewLayer = Callable[..., MpxChannelLayer]


@pytest.fixture
async def new_layer(config: Config) -> AsyncIterator[NewLayer]:
    made: list[MpxChannelLayer] = []

    def new(**changes: Any) -> MpxChannelLayer:
        made.append(MpxChannelLayer(**{**config, **changes}))
        return made[-1]

    yield new
    for layer in made:
        await asyncio.wait_for(layer.close(), PATIENCE)


async def over_all_masters(layer: MpxChannelLayer, other: MpxChannelLayer) -> None:
    """Groups enough that each master has some."""
    mailbox = await layer.open_channel()
    names = [f"room.{number}" for number in range(30)]
    await asyncio.gather(*(layer.group_add(name, mailbox.channel) for name in names))
    await asyncio.gather(*(other.group_send(name, {"type": name}) for name in names))
    async with asyncio.timeout(30):
        assert {(await mailbox.get())["type"] for _ in names} == set(names)


@pytest.mark.parametrize("sharded", [True, False])
async def test_everything(
    new_layer: NewLayer, tls_cluster: Cluster, config: Config, sharded: bool
) -> None:
    # One seed will do: the others are where it says that they are.
    layers = [new_layer(hosts=config["hosts"][:1], sharded_pubsub=sharded) for _ in range(2)]
    for use in (over_all_masters, groups, queues, histories, presences, operations):
        await use(*layers)
    stats = layers[0].stats()
    assert stats is not None
    assert {each.address for each in stats.multiplexer.nodes} == set(tls_cluster.seeds)


async def test_a_slot_moves(new_layer: NewLayer, tls_cluster: Cluster) -> None:
    layer, other = new_layer(), new_layer()
    mailbox = await layer.open_channel()
    await layer.group_add("room", mailbox.channel)
    name = names_for(layer.config).group("room")
    source = tls_cluster.master_of(name)
    target = next(node for node in tls_cluster.masters if node is not source)
    slot = slot_of(name)
    sent = 0
    async for _ in one_by_one(tls_cluster.migrating(slot, target)):
        await other.group_send("room", {"type": "x", "n": sent})
        sent += 1
    async with asyncio.timeout(30):
        assert [(await mailbox.get())["n"] for _ in range(sent)] == list(range(sent))


@needs_more
async def test_the_doctor(config: Config, tls_cluster: Cluster) -> None:
    rows = await examine_patiently(config)
    assert complaints(rows) == []
    assert {row.node for row in of(rows, "reachable")} == set(tls_cluster.seeds)


@dataclass
class Case:
    """How a cluster is spoken to, and what is said of that."""

    says: str
    todo: str
    host: Callable[[Certificates], Config] = lambda certificates: {}
    leaves_out: tuple[str, ...] = ()
    at: str = "rediss://localhost:{tls}"
    config: Config = field(default_factory=dict)
    # Seconds after which the first caller has to know.
    patience: float = 0.5


WRONG = {
    "unknown authority": Case(
        "the certificate of localhost:{tls} was signed by nobody whom this machine trusts",
        "ssl_ca_certs",
        host=lambda certificates: {"ssl_ca_certs": certificates.other_ca},
    ),
    "other name": Case(
        "the certificate of 127.0.0.2:{tls} is one for other names",
        "write one of these into hosts",
        at="rediss://127.0.0.2:{tls}",
    ),
    "none of ours": Case(
        "localhost:{tls} wants a certificate of ours and has got none",
        "ssl_certfile",
        leaves_out=("ssl_certfile",),
    ),
    "spoken to without TLS": Case(
        "localhost:{tls} speaks TLS and is spoken to without",
        "write rediss://",
        at="redis://localhost:{tls}",
        leaves_out=("ssl_ca_certs", "ssl_certfile"),
    ),
    "speaks none": Case(
        "localhost:{plain} speaks no TLS",
        "write redis://",
        at="rediss://localhost:{plain}",
    ),
    "announces another name": Case(
        # What the seed says is reached there: by an address that no certificate is for.
        "the certificate of 127.0.0.2:{any} is one for other names",
        "in a cluster it is the name or address that those announce",
        config={"address_remap": lambda address: ("127.0.0.2", address[1])},
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_a_sentence(
    new_layer: NewLayer,
    tls_cluster: Cluster,
    ours: Config,
    certificates: Certificates,
    case: Case,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = tls_cluster.masters[0]
    ports = {"tls": node.announced, "plain": node.port}
    host = {"address": case.at.format(**ports), **ours, **case.host(certificates)}
    for key in case.leaves_out:
        del host[key]
    places = [f"{each.announced}" for each in tls_cluster.masters]
    says = [case.says.format(**ports, any=port) for port in places]

    def is_said(text: str) -> bool:
        return any(each in text for each in says) and case.todo in text and "_ssl.c" not in text

    layer = new_layer(
        hosts=[host], backlog_timeout=case.patience, connect_timeout=4.0, **case.config
    )
    # From then on nobody is too slow, and all hear the same.
    await known(layer, is_said)
    monkeypatch.setattr(scout, "PATIENCE", PATIENCE)
    with pytest.raises(NotConnected) as caught:
        await layer.group_send("room", {"type": "x"})
    assert is_said(str(caught.value)), str(caught.value)
    with pytest.raises(NotConnected) as caught:
        await layer.connect(timeout=0.1)
    assert is_said(str(caught.value)), str(caught.value)
    health = await layer.healthy(0.1)
    assert is_said(health.reason or ""), health.reason
    logged = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert any(is_said(each) for each in logged), logged
    rows = await examine({"hosts": [host], "cluster": True, "prefix": prefix, **case.config})
    assert worst(rows, "reachable") == Level.PROBLEM
    assert any(
        is_said(f"{row.finding.found} {row.finding.todo}") for row in of(rows, "reachable")
    ), [row.as_json() for row in of(rows, "reachable")]


async def test_what_is_so_with_all_seeds_is_said_once(
    new_layer: NewLayer,
    config: Config,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it is looked into once, not at each attempt."""
    looks: list[Any] = []

    async def look_closer(error: BaseException, connection: Any) -> Any:
        looks.append(connection.port)
        return await looked(error, connection)

    looked = scout.look_closer
    monkeypatch.setattr(scout, "look_closer", look_closer)
    # Who is slow is looked at for that, too.
    monkeypatch.setattr(scout, "PATIENCE", PATIENCE)
    hosts = [{**host, "ssl_ca_certs": certificates.other_ca} for host in config["hosts"]]
    layer = new_layer(hosts=hosts, backlog_timeout=0.5)
    await known(layer, lambda text: "was signed by nobody" in text)
    with pytest.raises(NotConnected) as caught:
        await layer.group_send("room", {"type": "x"})
    text = str(caught.value)
    assert text.count("was signed by nobody") == 1
    for host in hosts:
        assert host["address"].partition("://")[2] in text
    with pytest.raises(NotConnected):
        await layer.group_send("room", {"type": "x"})
    assert len(looks) == 3


async def test_a_seed_that_is_wrong_is_passed_over(
    new_layer: NewLayer, config: Config, tls_cluster: Cluster
) -> None:
    """As long as another one is right; the doctor says what is wrong with the first."""
    port = tls_cluster.masters[0].announced
    wrong = {**config["hosts"][0], "address": f"rediss://127.0.0.2:{port}"}
    hosts = [wrong, config["hosts"][1]]
    layer = new_layer(hosts=hosts)
    await layer.group_send("room", {"type": "x"})
    await eventually(lambda: layer.stats().multiplexer.nodes)  # type: ignore[union-attr]
    rows = await examine_patiently({**config, "hosts": hosts}, "settings", "masters")
    (warning,) = [row.finding for row in of(rows, "masters") if row.finding.level != Level.OK]
    assert f"the certificate of 127.0.0.2:{port} is one for other names" in warning.found


def test_tls_at_some_seeds_only() -> None:
    """The password would be sent to it for all to read."""
    hosts = ["redis://a", "rediss://b:1", "rediss://c"]
    with pytest.raises(InvalidConfig, match="hosts has rediss://b:1, with TLS, behind redis://a"):
        MpxChannelLayer(cluster=True, hosts=hosts[:2])
    with pytest.raises(InvalidConfig) as caught:
        MpxChannelLayer(cluster=True, hosts=hosts)
    assert len(caught.value.problems) == 2
    # What the others do not say, the first one does.
    MpxChannelLayer(cluster=True, hosts=["rediss://a", ("b", 6379), "redis://c"])
    MpxChannelLayer(hosts=hosts)
