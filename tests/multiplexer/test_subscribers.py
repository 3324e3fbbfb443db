"""The subscribers of all servers: patterns follow when servers come and go."""

from __future__ import annotations

import pytest
import redis

from mpx_channels.multiplexer import LinkLost, Multiplexer, Node
from tests.inside import subscribers_of

from ..conftest import RestartableServer, eventually
from .recorder import Recorder


@pytest.fixture
def other(restartable_server: RestartableServer) -> Node:
    """A server that the multiplexer was not told of."""
    return Node(restartable_server.url)


async def test_a_pattern_is_subscribed_to_at_a_server_that_was_added(
    mpx: Multiplexer, other: Node, restartable_server: RestartableServer
) -> None:
    recorder = Recorder()
    sub = mpx.new_pattern_subscription("added.*", *recorder.callbacks)
    await sub.wait_for_activation()
    subscriber = subscribers_of(mpx).add(other)
    assert subscribers_of(mpx).only is None
    assert not any(each.alone for each in subscribers_of(mpx).all)
    assert not sub.active
    assert sub.pending() == (other,)
    restartable_server.start()
    subscriber.start()
    await eventually(lambda: sub.active)
    with restartable_server.client() as client:
        assert client.publish("added.x", "there") == 1
    await eventually(lambda: recorder.messages)
    assert recorder.messages == [("added.x", b"there")]
    sub.close(at_once=True)
    with restartable_server.client() as client:
        await eventually(lambda: client.pubsub_numpat() == 0)


async def test_a_pattern_lets_go_of_a_server_that_was_removed(
    mpx: Multiplexer, other: Node, client: redis.Redis
) -> None:
    """It never came up, and the pattern waits for nothing else."""
    recorder = Recorder()
    sub = mpx.new_pattern_subscription("removed.*", *recorder.callbacks)
    await sub.wait_for_activation()
    subscriber = subscribers_of(mpx).add(other)
    waiting = sub.activation()
    assert not waiting.done()
    assert subscribers_of(mpx).remove(other) is subscriber
    await waiting
    assert sub.active
    assert not subscriber.wanted
    only = subscribers_of(mpx).only
    assert only is not None
    assert only.alone
    client.publish("removed.x", "here")
    await eventually(lambda: recorder.messages)
    subscriber.link_down(ConnectionError("of the test"))
    assert not recorder.disconnects
    sub.close()


async def test_a_name_is_removed_where_its_entry_is(mpx: Multiplexer, other: Node) -> None:
    """Also when the topology says by now that the name belongs elsewhere."""
    sub = mpx.new_channel_subscription()
    sub.add("stays")
    (first,) = subscribers_of(mpx).all
    second = subscribers_of(mpx).add(other)
    subscribers_of(mpx).of = lambda name: second  # type: ignore[method-assign]
    await sub.wait_for_activation("stays")
    sub.remove("stays", at_once=True)
    await eventually(lambda: not first.wanted)


async def test_the_loss_of_a_server_that_was_added_is_told(mpx: Multiplexer, other: Node) -> None:
    lost: list[LinkLost] = []
    mpx.on_lost(lost.append)
    subscriber = subscribers_of(mpx).add(other)
    subscriber.link_down(ConnectionError("of the test"))
    assert [(str(loss), loss.names) for loss in lost] == [(f"{other}: of the test", frozenset())]
