"""What a layer holds on one event loop: the multiplexer, the mailboxes and the groups."""

from __future__ import annotations

import asyncio
import itertools
import logging
import uuid
from collections import OrderedDict, deque

import msgspec

from mpx_channels.multiplexer import ChannelSubscription, Multiplexer, NotConnected

from .envelope import UnreadableEnvelope, unseal
from .mailbox import Delivery, Mailbox
from .stats import Counters, LayerStats

__all__ = ["PROCESS_ID_LENGTH", "Group", "Hub"]

logger = logging.getLogger("mpx_channels.layer")

# Of a UUID's 32 hexadecimal digits; two of 65,536 processes share an id with odds of 1 : 8 * 10**9.
PROCESS_ID_LENGTH = 16
# A full mailbox, and foreign bytes on a name, are mentioned this often (seconds).
COMPLAIN_EVERY = 60.0


class Group:
    """The channels of this process that are in one group."""

    __slots__ = ("live", "members")

    def __init__(self) -> None:
        self.members: dict[str, Mailbox] = {}
        # Whether Redis delivers the group's messages here now.
        self.live = False

    def add(self, name: str, mailbox: Mailbox) -> None:
        """Make a channel a member of this group, which has this name in Redis."""
        members, channel = self.members, mailbox.channel
        if channel not in members:
            members[channel] = mailbox
            if mailbox.groups is None:
                mailbox.groups = [name]
            else:
                mailbox.groups.append(name)


class Hub:
    """One layer on one event loop: it lives and dies with the loop.

    Redis knows two kinds of names of it: ``<prefix>:g:<group>``, subscribed to while the group
    has members here, and ``<prefix>:p:<process id>``, the inbox of all its channels together.
    """

    def __init__(self, multiplexer: Multiplexer, prefix: str, expiry: float, wait: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.multiplexer = multiplexer
        self.counters = Counters()
        # Names the hub, not the process: after a fork or on another loop there is another inbox.
        self.process_id = uuid.uuid4().hex[:PROCESS_ID_LENGTH]
        self.inbox = f"{prefix}:p:{self.process_id}"
        self.mailboxes: dict[str, Mailbox] = {}
        self.groups: dict[str, Group] = {}
        self._expiry = expiry
        self._wait = wait
        self._numbers = itertools.count(1)
        self._channels = multiplexer.new_channel_subscription(self._channel_message)
        self._groups = multiplexer.new_channel_subscription(
            self._group_message, self._groups_down, self._group_up
        )
        self._abandoned: OrderedDict[Mailbox, float] = OrderedDict()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._waits: deque[tuple[float, asyncio.Future[None], str]] = deque()
        self._wait_timer: asyncio.TimerHandle | None = None
        self._complained_at = float("-inf")

    # -- life ---------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether what is sent to our channels arrives now."""
        return self._channels.is_active(self.inbox)

    @property
    def running(self) -> bool:
        return self.multiplexer.running

    async def start(self) -> None:
        """Begin to connect, and to listen to the inbox; returns at once."""
        if not self._channels.channels:
            self._channels.add(self.inbox)
        await self.multiplexer.start()

    async def stop(self) -> None:
        """Let publishes out and close the connections."""
        for timer in (self._sweep_timer, self._wait_timer):
            if timer is not None:
                timer.cancel()
        self._sweep_timer = self._wait_timer = None
        await self.multiplexer.stop()

    def clear(self) -> None:
        """Forget every group and every unread message; the channels stay."""
        for mailbox in self.mailboxes.values():
            mailbox.clear()
            mailbox.groups = None
        self.groups.clear()
        self._groups.clear()

    # -- channels -----------------------------------------------------------------------------

    async def ready(self) -> None:
        """Return once what is sent to our channels arrives."""
        if not self.live:
            await self._confirmed(self._channels, self.inbox)

    def new_local_name(self) -> str:
        """The local part of a channel name that this hub has not given out yet."""
        return format(next(self._numbers), "x")

    def open(self, channel: str, capacity: int) -> Mailbox:
        """A mailbox for a channel of this process."""
        mailbox = self.mailboxes[channel] = Mailbox(channel, capacity, self.loop, self.counters)
        return mailbox

    def abandon(self, mailbox: Mailbox) -> None:
        """A reader gave up: if none comes back within the expiry, the channel is taken down.

        Channels has no call for a channel's end, but its consumers cancel their `receive` when
        they end. A reader that merely timed out comes back sooner.
        """
        self._abandoned[mailbox] = self.loop.time() + self._expiry
        self._abandoned.move_to_end(mailbox)
        if self._sweep_timer is None:
            self._sweep_timer = self.loop.call_later(self._expiry, self._sweep)

    def close(self, mailbox: Mailbox) -> None:
        """Take a channel down, with its messages and its memberships."""
        self.mailboxes.pop(mailbox.channel, None)
        groups, mailbox.groups = mailbox.groups, None
        for name in groups or ():
            self.leave(name, mailbox.channel)
        mailbox.clear()

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = self.loop.time()
        while self._abandoned:
            mailbox, due = next(iter(self._abandoned.items()))
            if due > now:
                self._sweep_timer = self.loop.call_at(due, self._sweep)
                return
            del self._abandoned[mailbox]
            if not mailbox.waited_for and self.mailboxes.get(mailbox.channel) is mailbox:
                self.close(mailbox)

    # -- groups -------------------------------------------------------------------------------

    def join(self, name: str, mailbox: Mailbox) -> Group:
        """Make a channel a member; messages come once the group is live."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group()
            self._groups.add(name)
            group.live = self._groups.is_active(name)
        group.add(name, mailbox)
        return group

    def leave(self, name: str, channel: str) -> None:
        """Make a channel no member; harmless if it is none."""
        group = self.groups.get(name)
        if group is None:
            return
        mailbox = group.members.pop(channel, None)
        if mailbox is not None and mailbox.groups is not None:
            mailbox.groups.remove(name)
        if not group.members:
            del self.groups[name]
            self._groups.remove(name)

    async def group_live(self, name: str) -> None:
        """Return once what is sent to the group arrives."""
        await self._confirmed(self._groups, name)

    # -- from the multiplexer -----------------------------------------------------------------

    def _group_up(self, name: str) -> None:
        group = self.groups.get(name)
        if group is not None:
            group.live = True

    def _groups_down(self, error: Exception) -> None:
        for group in self.groups.values():
            group.live = False

    def _group_message(self, name: str, data: bytes) -> None:
        group = self.groups.get(name)
        if group is None:
            self.counters.dropped_unroutable += 1
            return
        self.counters.messages_in += 1
        try:
            _, body = unseal(data)
            delivery = Delivery(body, self.loop.time() + self._expiry)
        except (UnreadableEnvelope, msgspec.MsgspecError) as error:
            self._unreadable(name, error)
            return
        deliveries = 0
        for mailbox in group.members.values():
            if mailbox.put(delivery):
                deliveries += 1
            else:
                self._full(mailbox)
        self.counters.deliveries += deliveries

    def _channel_message(self, name: str, data: bytes) -> None:
        self.counters.messages_in += 1
        try:
            header, body = unseal(data)
            mailbox = self.mailboxes.get(header.get("to", ""))
            delivery = Delivery(body, self.loop.time() + self._expiry)
        except (UnreadableEnvelope, msgspec.MsgspecError) as error:
            self._unreadable(name, error)
            return
        if mailbox is None:
            self.counters.dropped_unroutable += 1
        elif mailbox.put(delivery):
            self.counters.deliveries += 1
        else:
            self._full(mailbox)

    def _full(self, mailbox: Mailbox) -> None:
        self.counters.dropped_full += 1
        now = self.loop.time()
        if now - mailbox.complained_at >= COMPLAIN_EVERY:
            mailbox.complained_at = now
            logger.info(
                "Channel %s has %d unread messages, its capacity: dropping newer ones",
                mailbox.channel,
                mailbox.capacity,
            )

    def _unreadable(self, name: str, error: Exception) -> None:
        self.counters.dropped_unreadable += 1
        now = self.loop.time()
        if now - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = now
            logger.warning("Dropped an unreadable message on %s: %s", name, error)

    async def _confirmed(self, subscription: ChannelSubscription, name: str) -> None:
        activation = subscription.activation(name)
        self._waits.append((self.loop.time() + self._wait, activation, name))
        if self._wait_timer is None:
            self._wait_timer = self.loop.call_later(self._wait, self._end_waits)
        try:
            await activation
        except BaseException:
            subscription.forget(name, activation)
            raise

    def _end_waits(self) -> None:
        """Fail what Redis has not confirmed in time: one timer for all, as joins come in storms."""
        self._wait_timer = None
        now = self.loop.time()
        while self._waits:
            due, activation, name = self._waits[0]
            if not activation.done():
                if due > now:
                    self._wait_timer = self.loop.call_at(due, self._end_waits)
                    return
                activation.set_exception(self._not_confirmed(name))
            self._waits.popleft()

    def _not_confirmed(self, name: str) -> NotConnected:
        cause = self.multiplexer.last_error
        error = NotConnected(
            f"{self.multiplexer.node} did not confirm {name!r} in {self._wait} s"
            + (f": {cause}" if cause is not None else "")
        )
        error.__cause__ = cause
        return error

    # -- look ---------------------------------------------------------------------------------

    def stats(self) -> LayerStats:
        """A snapshot; it walks over the mailboxes."""
        counters = self.counters
        return LayerStats(
            channels=len(self.mailboxes),
            groups=len(self.groups),
            memberships=sum(len(group.members) for group in self.groups.values()),
            messages_out=counters.messages_out,
            messages_in=counters.messages_in,
            deliveries=counters.deliveries,
            unread=sum(map(len, self.mailboxes.values())),
            drops={
                "full": counters.dropped_full,
                "expired": counters.dropped_expired,
                "unroutable": counters.dropped_unroutable,
                "unreadable": counters.dropped_unreadable,
            },
            multiplexer=self.multiplexer.stats(),
        )
