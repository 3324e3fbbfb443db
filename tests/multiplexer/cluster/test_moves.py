"""Names that go from one registry to another with their slots, in whatever order things happen."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mpx_channels.multiplexer import registry as registry_module
from mpx_channels.multiplexer.registry import SHARDED, Command, Entry, Registry
from mpx_channels.multiplexer.slots import slot_of

MOVED = Exception("MOVED")
# Longer than any wait for the next attempt, and than the linger.
LONG = 10.0
NAMES = (b"{a}1", b"{a}2", b"{b}1")


class Ear:
    """A listener that counts its activations."""

    def __init__(self) -> None:
        self.told: Counter[bytes] = Counter()

    def deliver(self, name: str, data: bytes) -> None: ...

    def activated(self, entry: Entry) -> None:
        self.told[entry.name] += 1

    def refused(self, entry: Entry) -> None:
        raise AssertionError("refused")


Reply = Callable[[Registry], object]


class Server:
    """A master as our connection to it sees it, and the registry of that."""

    def __init__(self, linger: float) -> None:
        self.registry = Registry(linger)
        self.slots: set[int] = set()
        self.connected = True
        self.paused = False
        self.arriving: deque[Command | None] = deque()
        self.replies: deque[tuple[Reply, tuple[bytes, bytes] | None]] = deque()
        self.subscribed: set[bytes] = set()

    def process(self, now: float) -> None:
        """Take the next command: names of a slot that it does not have are another's."""
        if not self.arriving:
            return
        command = self.arriving.popleft()
        if command is None:
            self.replies.append((Registry.pong, None))
            return
        verb, *names = command.words
        (slot,) = {slot_of(name) for name in names}
        if slot not in self.slots:
            self.replies.append((partial(Registry.refuse, error=MOVED, now=now, moved=slot), None))
            return
        for name in names:
            if verb == b"SSUBSCRIBE":
                self.subscribed.add(name)
            else:
                self.subscribed.discard(name)
            self._say(verb.lower(), name)

    def lose(self, slot: int) -> None:
        """Another has it now: all its names are unsubscribed, unasked."""
        self.slots.discard(slot)
        for name in sorted(self.subscribed):
            if slot_of(name) == slot:
                self.subscribed.discard(name)
                self._say(b"sunsubscribe", name)

    def _say(self, verb: bytes, name: bytes) -> None:
        self.replies.append((partial(Registry.confirm, verb=verb, name=name), (verb, name)))

    def disconnect(self) -> None:
        self.connected = False
        self.arriving.clear()
        self.replies.clear()
        self.subscribed.clear()
        self.registry.disconnect()

    def may_be_subscribed(self, name: bytes) -> bool:
        """Whether it is, or is not any more and that is on its way to us."""
        return name in self.subscribed or any(
            said == (b"sunsubscribe", name) for _, said in self.replies
        )


class World:
    """Two masters, which have two slots, and what we believe of that."""

    def __init__(self, linger: float) -> None:
        self.servers = [Server(linger), Server(linger)]
        self.ears = [Ear(), Ear()]
        self.now = 0.0
        self.believed: dict[int, Server] = {}
        for name in NAMES:
            self.servers[0].slots.add(slot_of(name))
            self.believed[slot_of(name)] = self.servers[0]
        self.wanted: dict[tuple[bytes, int], Entry] = {}
        self.keeper: dict[Entry, Server] = {}

    def toggle(self, name: bytes, number: int) -> None:
        ear, entry = self.ears[number], self.wanted.pop((name, number), None)
        if entry is not None:
            self.keeper[entry].registry.remove(entry, ear, self.now)
            return
        keeper = self.believed[slot_of(name)]
        entry = self.wanted[name, number] = keeper.registry.add(SHARDED, name, ear)
        self.keeper[entry] = keeper

    def migrate(self, slot: int) -> None:
        """The other master has it from now on; we do not know."""
        source, target = sorted(self.servers, key=lambda server: slot not in server.slots)
        target.slots.add(slot)
        source.lose(slot)

    def learn(self) -> None:
        """Believe what is so, as `ClusterSubscribers.settle`."""
        for server in self.servers:
            for slot in server.slots:
                self.believed[slot] = server
        for source, target in (self.servers, self.servers[::-1]):
            moving = [
                entry
                for entry in source.registry.shards.values()
                if entry.wanted and self.believed[slot_of(entry.name)] is target
            ]
            source.registry.release(moving)
            target.registry.adopt(moving)
            self.keeper.update(dict.fromkeys(moving, target))

    def flush(self, server: Server) -> None:
        """The end of a turn of the loop, as the subscriber has it."""
        for entry, ear in server.registry.late_joiners():
            self.check_told(entry, server)
            ear.activated(entry)
        if server.connected and not server.paused:
            commands = server.registry.commands(self.now)
            for command in commands:
                assert len({slot_of(entry.name) for entry in command.entries}) == 1
                assert len(command.entries) <= registry_module.CHUNK
            # As they are written: entries may be others' when they arrive.
            server.arriving.extend(
                Command(each.kind, each.subscribe, list(each.entries)) for each in commands
            )

    def ping(self, server: Server) -> None:
        if server.connected:
            server.registry.ping()
            server.arriving.append(None)

    def receive(self, server: Server) -> None:
        if not server.replies:
            return
        reply, _ = server.replies.popleft()
        answer = reply(server.registry)
        if isinstance(answer, Entry):
            for ear in answer.not_notified():
                self.check_told(answer, server)
                ear.activated(answer)
        taken, server.registry.taken = server.registry.taken, []
        server.registry.put_off(taken, self.now)

    def check_told(self, entry: Entry, server: Server) -> None:
        assert self.keeper[entry] is server
        assert server.may_be_subscribed(entry.name), "told though the server has it not"

    def connect_or_break(self, server: Server) -> None:
        if server.connected:
            server.disconnect()
        else:
            server.connected = True

    def check(self) -> None:
        """What holds at any moment."""
        for (name, number), entry in self.wanted.items():
            keeper = self.keeper[entry]
            assert keeper.registry.shards[name] is entry
            assert self.ears[number] in entry
            if entry.active:
                assert keeper.may_be_subscribed(name), "active, and the server has it not"
        listeners = sum(server.registry.listeners() for server in self.servers)
        assert listeners == len(self.wanted)

    def settle(self) -> None:
        """Let everything come to rest: each name is where its slot is, and nowhere else."""
        for server in self.servers:
            server.connected, server.paused = True, False
        for _ in range(20):
            self.now += LONG
            self.learn()
            for server in self.servers:
                self.flush(server)
                while server.arriving:
                    server.process(self.now)
                while server.replies:
                    self.receive(server)
                    self.check()
        names = {name for name, _ in self.wanted}
        for server in self.servers:
            here = {name for name in names if slot_of(name) in server.slots}
            assert server.subscribed == here
            assert set(server.registry.shards) == here, "names were left behind"
            assert not server.registry.unanswered
            assert not server.registry.dirty
            assert server.registry.next_due() is None
        for (_, number), entry in self.wanted.items():
            assert entry.active
            assert entry.was_notified(self.ears[number]), "not told of its activation"


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "CHUNK", 2)


class MovesMachine(RuleBasedStateMachine):
    """Whatever can happen, in any order."""

    @initialize(linger=st.sampled_from([0.0, 1.0]))
    def begin(self, linger: float) -> None:
        self.world = World(linger)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 1))
    def toggle(self, name: bytes, number: int) -> None:
        self.world.toggle(name, number)

    @rule(name=st.sampled_from(NAMES))
    def migrate(self, name: bytes) -> None:
        self.world.migrate(slot_of(name))

    @rule()
    def learn(self) -> None:
        self.world.learn()

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        self.world.flush(self.world.servers[which])

    @rule(which=st.integers(0, 1))
    def ping(self, which: int) -> None:
        self.world.ping(self.world.servers[which])

    @rule(which=st.integers(0, 1))
    def process(self, which: int) -> None:
        self.world.servers[which].process(self.world.now)

    @rule(which=st.integers(0, 1))
    def receive(self, which: int) -> None:
        self.world.receive(self.world.servers[which])

    @rule(which=st.integers(0, 1))
    def pause(self, which: int) -> None:
        server = self.world.servers[which]
        server.paused = not server.paused

    @rule(which=st.integers(0, 1))
    def connect_or_break(self, which: int) -> None:
        self.world.connect_or_break(self.world.servers[which])

    @rule(seconds=st.sampled_from([0.4, 1.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


def test_any_order(small_chunks: None) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        MovesMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_name_that_comes_back_before_it_was_unsubscribed_is_active_at_once() -> None:
    """Nothing could be written meanwhile."""
    world = World(0.0)
    world.toggle(b"{a}1", 0)
    server, other = world.servers
    world.flush(server)
    server.process(0)
    world.receive(server)
    entry = world.wanted[b"{a}1", 0]
    assert world.ears[0].told == {b"{a}1": 1}
    server.registry.release([entry])
    other.registry.adopt([entry])
    assert not entry.active
    other.registry.release([entry])
    server.registry.adopt([entry])
    assert entry.active
    world.flush(server)
    assert world.ears[0].told == {b"{a}1": 2}
    assert not server.arriving
    assert not other.registry.shards


def test_an_error_for_a_name_that_was_taken_away_is_not_taken_for_anothers() -> None:
    """What the server said by itself was taken for the answer to our SUNSUBSCRIBE."""
    world = World(0.0)
    server = world.servers[0]
    for name in (b"{a}1", b"{b}1"):
        world.toggle(name, 0)
    for _ in range(2):
        world.flush(server)
        server.process(0)
        world.receive(server)
    world.toggle(b"{a}1", 0)
    world.flush(server)  # SUNSUBSCRIBE is on its way
    world.migrate(slot_of(b"{a}1"))
    world.receive(server)
    world.toggle(b"{b}1", 1)
    world.ping(server)
    world.flush(server)
    server.process(0)
    world.receive(server)  # MOVED
    assert server.registry.unanswered  # the PING is
    world.settle()


def test_moved_names_are_asked_for_again_a_little_later() -> None:
    world = World(0.0)
    server = world.servers[0]
    world.toggle(b"{a}1", 0)
    world.migrate(slot_of(b"{a}1"))
    world.flush(server)
    server.process(0)
    world.receive(server)
    assert server.registry.commands(0) == []
    due = server.registry.next_due()
    assert due is not None
    assert [each.words for each in server.registry.commands(due)] == [(b"SSUBSCRIBE", b"{a}1")]
