"""All that a layer does, over TLS; what goes wrong with it is in tests/multiplexer/test_tls.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from mpx_channels.layer import MpxChannelLayer, NotConnected
from mpx_channels.multiplexer import tls
from tests.conftest import PATIENCE, eventually
from tests.diagnostics.doctor.examine import complaints, examine_patiently
from tests.inside import links_of, multiplexer_of

from .test_acl import HISTORY, groups, histories, operations, queues, wildcards

if TYPE_CHECKING:
    from tests.tls import Certificates

Host = dict[str, Any]


@pytest.fixture(autouse=True)
def looks_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At what is wrong with TLS; a busy machine may need more than the second that there is."""
    monkeypatch.setattr(tls, "PATIENCE", PATIENCE)


@pytest.fixture(params=["single", "sentinel"])
def host(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Host]:
    """An entry of ``hosts``; whoever connects has to show a certificate."""
    from tests.tls import TlsSentinel, TlsServer

    ours = {"ssl_certfile": certificates.client}
    with TlsServer(certificates, wants_ours=True, **{"tls-replication": "yes"}) as server:
        if request.param == "single":
            yield {**server.host, **ours}
            return
        with TlsSentinel(certificates, master=server, wants_ours=True) as sentinel:
            entry = sentinel.host
            yield {**entry, **ours, "sentinel_kwargs": {**entry["sentinel_kwargs"], **ours}}


@pytest.mark.parametrize("protocol", [2, 3])
async def test_everything(host: Host, protocol: int) -> None:
    config: Any = {"hosts": [{**host, "protocol": protocol}], "history": HISTORY}
    first, second = MpxChannelLayer(**config), MpxChannelLayer(**config)
    try:
        for use in (groups, wildcards, queues, histories, operations):
            await use(first, second)
        assert (await first.healthy(PATIENCE)).ok
    finally:
        await first.close()
        await second.close()


def test_synchronous_code(host: Host) -> None:
    layer = MpxChannelLayer(hosts=[host])
    layer.sync.group_send("room", {"type": "x"})
    layer.sync.send("jobs", {"type": "x"})
    assert layer.sync.fleet_stats().queues == {"jobs": 1}
    layer.sync.flush()
    layer.sync.close()


async def test_the_doctor(host: Host) -> None:
    rows = await examine_patiently({"hosts": [host]})
    assert complaints(rows) == []


async def known(layer: MpxChannelLayer, is_said: Callable[[str], bool]) -> None:
    """Return when it is known what is wrong; at first, on a busy machine, it is the time."""
    said = ""
    deadline = time.monotonic() + PATIENCE
    while not is_said(said):
        assert time.monotonic() < deadline, said
        with pytest.raises(NotConnected) as caught:
            await layer.connect(timeout=0.1)
        said = str(caught.value)


async def test_the_error_of_a_layer(certificates: Certificates) -> None:
    """Whoever sends, joins or asks for its health reads why, and what to do."""
    from tests.tls import TlsServer

    with TlsServer(certificates, shows=certificates.expired) as server:
        layer = MpxChannelLayer(hosts=[server.host], backlog_timeout=1.0, connect_timeout=1.0)
        says = f"the certificate of localhost:{server.port} has expired: give the server a new one"
        try:
            await known(layer, lambda text: says in text)
            links = links_of(multiplexer_of(layer))
            await eventually(lambda: all(says in str(link.last_error) for link in links))
            with pytest.raises(NotConnected, match=says):
                await layer.group_send("room", {"type": "x"})
            with pytest.raises(NotConnected, match=says):
                await layer.new_channel()
            health = await layer.healthy(0.5)
            assert not health.ok
            assert says in (health.reason or "")
        finally:
            await asyncio.wait_for(layer.close(), PATIENCE)
