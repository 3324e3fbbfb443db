"""What tests look at, or change, behind the public names of the library: all of it is here.

Ruff (SLF001) refuses ``._x`` anywhere else, so that a change inside is one to this file.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Hashable, Mapping

    from mpx_channels.channels.names import Names
    from mpx_channels.channels.queue_reader import QueueReader
    from mpx_channels.channels.reader import Reader
    from mpx_channels.channels.woken_reader import WokenReader
    from mpx_channels.layer import Mailbox, MpxChannelLayer
    from mpx_channels.layer.followed import Followed
    from mpx_channels.layer.groups.topics import Topic
    from mpx_channels.layer.hub import Hub
    from mpx_channels.layer.hubs import Hubs
    from mpx_channels.layer.processes.ledger import Ledger
    from mpx_channels.layer.taps import Tap
    from mpx_channels.messages.crypto import Cipher
    from mpx_channels.messages.serializers import SerializersRegistry
    from mpx_channels.multiplexer import Multiplexer, PromiseSubscription, SentinelNode
    from mpx_channels.multiplexer.counters import EngineCounters
    from mpx_channels.multiplexer.failover import FailoverWatch
    from mpx_channels.multiplexer.flow import Flow
    from mpx_channels.multiplexer.link import Link
    from mpx_channels.multiplexer.logs import LimitedLog
    from mpx_channels.multiplexer.publisher import Publisher
    from mpx_channels.multiplexer.publishers import Publishers
    from mpx_channels.multiplexer.refusals import Refused
    from mpx_channels.multiplexer.registry import Entry, Listener, Registry
    from mpx_channels.multiplexer.subscriber import Subscriber, Subscribers
    from mpx_channels.multiplexer.subscriptions import ChannelSubscription
    from mpx_channels.multiplexer.wire import Wire
    from mpx_channels.presence.store import Store
    from tests.proxy import Proxy

# -- the layer ------------------------------------------------------------------------------------


def hubs_of(layer: MpxChannelLayer) -> Hubs:
    """What a layer has on each event loop."""
    return layer._hubs


def loops_of(layer: MpxChannelLayer) -> Mapping[asyncio.AbstractEventLoop, Hub]:
    """The event loops that use a layer, with what each has."""
    return layer._hubs.by_loop


def hub_of(layer: MpxChannelLayer) -> Hub:
    """What it has on the running event loop."""
    hub = layer._hubs.here
    assert hub is not None, "the layer was not used on this event loop yet"
    return hub


def presence_store_of(layer: MpxChannelLayer) -> Store:
    """What it does with presence in Redis."""
    return hub_of(layer).presence._store


def shared_hub_of(layer: MpxChannelLayer) -> Hub | None:
    """What synchronous callers share, if there is something."""
    return layer._hubs.of_portal


def multiplexer_of(layer: MpxChannelLayer) -> Multiplexer:
    """The engine of a layer on the running event loop."""
    return hub_of(layer).multiplexer


def mailbox_of(layer: MpxChannelLayer, channel: str) -> Mailbox:
    """The mailbox of a channel of the running event loop."""
    return hub_of(layer).mailboxes[channel]


def names_of(layer: MpxChannelLayer) -> Names:
    """What its names are called in Redis."""
    return layer._names


def topic_of(layer: MpxChannelLayer, group: str) -> Topic:
    """A group with members on the running event loop."""
    return hub_of(layer).groups.topics[layer._names.group(group)]


def looks_of(layer: MpxChannelLayer) -> Any:
    """What asks how histories stand, on the running event loop."""
    return hub_of(layer).history._looks


def published_at(layer: MpxChannelLayer) -> dict[str, float]:
    """When it published to which group last, by the group's name in Redis."""
    return layer._published_at


def accounts_of(ledger: Ledger) -> Collection[object]:
    """What is kept of event loops for statistics."""
    return ledger._accounts


def group_received(hub: Hub, name: str, data: bytes) -> None:
    """As if Redis had sent a message to a group."""
    hub.groups._received(name, data)


def wildcard_received(hub: Hub, pattern: str, name: str, data: bytes) -> None:
    """As if Redis had sent a message to a group for a pattern that matches it."""
    hub.wildcards._match(pattern, name, data)


def serve(hub: Hub, question: dict[str, Any]) -> Collection[asyncio.Task[None]]:
    """Have a process ask something of itself; the tasks that see to what is asked."""
    hub.control._serve(hub.process_id, 1, question)
    return hub.control._tasks


# -- readers of plain channels --------------------------------------------------------------------


def queue_reader(layer: MpxChannelLayer, channel: str, hub: Hub | None = None) -> Reader:
    """What reads a plain channel, on the running event loop or for that hub."""
    return (hub or hub_of(layer)).queues.reader_of(layer._names.queue(channel))


def queue_readers(layer: MpxChannelLayer) -> Collection[Reader]:
    """All of them on the running event loop, a server each."""
    hub = layer._hubs.here
    return hub.queues.readers if hub is not None else ()


def asked_for(reader: Any) -> Collection[str]:
    """The lists that a blocking pop is under way for, or that are listened to, in a cluster."""
    asked: Collection[str] = reader._asked if hasattr(reader, "_asked") else reader._listened
    return asked


def listened_to(reader: WokenReader) -> Collection[str]:
    """The lists that it wants to hear of."""
    return reader._listened


def popped_from(reader: WokenReader) -> Collection[str]:
    """The lists that a pop is under way from."""
    return reader._popping


def held_by(reader: Reader) -> Mapping[str, Collection[bytes]]:
    """What was popped for readers that were cancelled."""
    return reader._held


def puts_under_way(layer: MpxChannelLayer) -> int:
    """How many calls of the script that adds to plain channels wait for their answers."""
    scripts = hub_of(layer).queues._puts.values()
    if not multiplexer_of(layer).cluster:
        return sum(script._only.under_way for script in scripts if script._only is not None)
    lines = next((script._lines for script in scripts), {})  # which all share
    return sum(line.under_way for line in lines.values())


def wake(reader: QueueReader) -> None:
    """End the blocking pop, as a new reader does."""
    reader._wake()


# -- messages -------------------------------------------------------------------------------------


def hours_of(cipher: Cipher) -> Collection[int]:
    """The hours that a cipher keeps the first key of."""
    return cipher._first._hours


def put_back_clock(layer: MpxChannelLayer, seconds: float) -> None:
    """Have messages be encrypted, and looked at, as if it were so much earlier."""
    cipher = layer.wrapping._cipher
    assert cipher is not None
    cipher._clock = lambda: time.time() - seconds


def serializers_of(registry: SerializersRegistry) -> dict[str, type]:
    """The classes that are registered; to be put back after a test that registers more."""
    return registry._classes


# -- the multiplexer ------------------------------------------------------------------------------


def subscriber_of(multiplexer: Multiplexer) -> Subscriber:
    """What subscribes at the first server."""
    return multiplexer._subscriber


def subscribers_of(multiplexer: Multiplexer) -> Subscribers:
    """What subscribes, a server each."""
    return multiplexer._subscribers


def publisher_of(multiplexer: Multiplexer) -> Publisher:
    """What publishes, where there is one node."""
    publisher = multiplexer._publisher
    assert publisher is not None, "there are several nodes"
    return publisher


def publishers_of(multiplexer: Multiplexer) -> Publishers:
    """What publishes, a node each, and what waits in blocking commands."""
    return multiplexer._publishers


def registry_of(multiplexer: Multiplexer) -> Registry:
    """What is wanted and what was sent, at the first server."""
    return multiplexer._subscriber.registry


def link_of(multiplexer: Multiplexer) -> Link:
    """The subscribing connection to the first server."""
    return multiplexer._subscriber.link


def links_of(multiplexer: Multiplexer) -> list[Link]:
    """The connections that publish and subscribe."""
    ends = (*multiplexer._publishers.all, *multiplexer._subscribers.all)
    return [each.link for each in ends]


def probes_of(multiplexer: Multiplexer) -> Collection[object]:
    """What was published for whoever asks for its health, and is waited for."""
    assert multiplexer._probes is not None
    probes = multiplexer._probes._of.values()
    return [question for probe in probes for question in (*probe.questions, *probe._new)]


def are_watched(multiplexer: Multiplexer) -> bool:
    """Whether something is timed, or asked, in order to find links that deliver nothing."""
    assert multiplexer._probes is not None
    watches = [probe._watch for probe in multiplexer._probes._of.values()]
    return any(watch._timer is not None or watch._answer is not None for watch in watches)


def watch_of(multiplexer: Multiplexer) -> FailoverWatch:
    """What listens to Sentinels."""
    return multiplexer._watches[0]


def attempts_of(link: Link) -> int:
    """How often it tried in vain to connect, since it last could."""
    return link._attempts


# The method that `Link` connects by, for getattr and monkeypatch.
CONNECT = "_connect"


def late_in(registry: Registry) -> Collection[tuple[Entry, Listener]]:
    """Who is to be told of names that were active already."""
    return registry._late


def unanswered_pings(registry: Registry) -> int:
    """The PINGs that Redis has not answered."""
    return registry._unanswered.count(None)


def forbidden_in(registry: Registry) -> Refused[Entry]:
    """What an ACL forbids, and is to be asked for again."""
    return registry._forbidden


def rounds_of(refused: Refused[Any]) -> int:
    """How often it was asked for again in vain."""
    return refused._attempts


def ask_again_in(refused: Refused[Any], seconds: float) -> None:
    """Have it asked for again after this time, and not after the usual one."""
    refused._backoff = lambda attempts: seconds


def waiting_for_names(subscription: ChannelSubscription) -> list[list[asyncio.Future[None]]]:
    """Who waits for a subscription's names to be confirmed, name by name."""
    return list(subscription._waiters.values())


def promises_in(subscription: PromiseSubscription) -> Mapping[str, Collection[object]]:
    """Promises that are waited for."""
    return subscription._promises


def full_buffers(flow: Flow) -> Collection[object]:
    """The buffers that messages are held back for."""
    return flow._full


def use_up(flow: Flow) -> None:
    """Have it wait for nobody for longer than a turn, as after much waiting."""
    flow._allowance = 0.0


def counters_of(publisher: Publisher) -> EngineCounters:
    return publisher._counters


def unanswered_by(publisher: Publisher) -> int:
    """How much was sent that the server has not answered."""
    return len(publisher._unanswered)


def waits_until(publisher: Publisher) -> float:
    """When the first command that waits for a connection is given up."""
    due = publisher._backlog.next_due()
    assert due is not None, "none waits"
    return due


def refusable_in(publisher: Publisher) -> Collection[object]:
    """The commands that are kept for whoever takes refusals."""
    return publisher._refusable


def watched_by(publisher: Publisher) -> Collection[object]:
    """The commands whose answers must not be lost."""
    return publisher._doubts._again


def is_watched(publisher: Publisher) -> bool:
    """Whether a time is set for the server to answer in."""
    return publisher._watchdog is not None


def kinds_in(log: LimitedLog) -> Mapping[Hashable, Any]:
    """What a log remembers, by the kinds of messages."""
    return log._kinds


def is_reading(wire: Wire) -> bool:
    """Whether it takes bytes from the socket."""
    return wire._transport.is_reading()


def lead_to(proxy: Proxy, host: str, port: int) -> None:
    """Have a proxy lead to another server, from the next connection on."""
    proxy._upstream = (host, port)


# -- Sentinel -------------------------------------------------------------------------------------

# The method that `SentinelNode` asks one Sentinel by, for getattr and setattr.
ASK = "_address_from"


def sentinels_of(node: SentinelNode) -> list[Any]:
    """The Sentinels, in the order in which they are asked."""
    return node._sentinels


def asked_all(watch: FailoverWatch) -> bool:
    """Whether it has asked all Sentinels for each other."""
    return watch._asking is not None and watch._asking.done()


def is_asking(watch: FailoverWatch) -> bool:
    """Whether it has begun to."""
    return watch._asking is not None


def listens_at(watch: FailoverWatch) -> Any:
    """The Sentinel that it listens to."""
    wire = watch.link.wire
    assert wire is not None
    return watch._sentinel.address(wire.connection)


# -- consumers ------------------------------------------------------------------------------------


def tasks_of(consumer: Any) -> Collection[asyncio.Task[Any]]:
    """The tasks of a consumer, its pump among them."""
    return consumer._mpx_tasks


def hooks_of(consumer: Any) -> Any:
    """The events of the link that a consumer has handlers for."""
    return consumer._mpx_hooks()


def promises_of(consumer: Any) -> Collection[object]:
    """The promises that a consumer waits for."""
    return consumer._mpx_promises


def followed_by(tap: Tap) -> list[Followed]:
    """What a tap follows in a cluster of sharded channels."""
    return tap._followed
