"""The judgement itself: what it finds, and what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from .counts import Ledger, Verdict

BY, GROUP, KEPT, QUEUE, HERE = "w1", "group", "kept", "queue", "w2/0"
LOST = "ConnectionLost: the connection broke"


class Book:
    """A ledger of one sender and one receiver, with a clock that ticks with each event."""

    def __init__(self) -> None:
        self.ledger = Ledger(
            7, {HERE: [GROUP, KEPT]}, {QUEUE: [f"w2/{QUEUE}", f"w3/{QUEUE}"]}, [KEPT]
        )
        self.now = 0.0

    def take(self, worker: str, *event: Any) -> None:
        self.now += 1
        self.ledger.take(worker, [[*event, self.now]])

    def send(self, *numbers: int, to: str = GROUP, outcome: str | None = "") -> None:
        for number in numbers:
            self.take(BY, "sent", to, number)
            if outcome is not None:
                self.take(BY, "done", to, number, outcome, None)

    def get(self, *numbers: int, to: str = GROUP, at: str = HERE, run: int = 7) -> None:
        for number in numbers:
            self.take(at.partition("/")[0], "got", at, run, BY, to, number, None)

    def keep(self, *numbers: int, epoch: str = "a", outcome: str = "") -> None:
        """Send to a group with a history; the offsets are the numbers."""
        for number in numbers:
            self.take(BY, "sent", KEPT, number)
            position = None if outcome else f"{epoch}-{number}"
            self.take(BY, "done", KEPT, number, outcome, position)

    def get_kept(self, *numbers: int, epoch: str = "a", ahead: int = 0) -> None:
        for number in numbers:
            position = f"{epoch}-{number + ahead}"
            self.take("w2", "got", HERE, 7, BY, KEPT, number, position)

    def told(self, *kinds: str) -> None:
        for kind in kinds:
            self.take("w2", kind, HERE)
            if kind == "disconnect":
                self.gap("reconnect")

    def gap(self, reason: str, group: str = GROUP, *, recovered: bool = False) -> None:
        self.take("w2", "gap", HERE, reason, [group], recovered)

    def judge(self, **drops: int) -> Verdict:
        return self.ledger.judge(drops)


@pytest.fixture
def book() -> Book:
    return Book()


def found(verdict: Verdict) -> dict[str, int]:
    return {problem.what: problem.count for problem in verdict.problems}


def test_all_is_well(book: Book) -> None:
    book.send(1, 2, 3)
    book.get(1, 2, 3)
    book.send(1, 2, to=QUEUE)
    book.get(1, to=QUEUE, at=f"w2/{QUEUE}")
    book.get(2, to=QUEUE, at=f"w3/{QUEUE}")
    verdict = book.judge()
    assert found(verdict) == {}
    assert verdict.figures["sent"] == verdict.figures["received"] == 5


def test_twice(book: Book) -> None:
    book.send(1, 2)
    book.get(1, 1, 2, 1)
    assert found(book.judge()) == {"received twice": 1}


def test_a_plain_channel_s_message_at_two_readers(book: Book) -> None:
    book.send(1, to=QUEUE)
    book.get(1, to=QUEUE, at=f"w2/{QUEUE}")
    book.get(1, to=QUEUE, at=f"w3/{QUEUE}")
    assert found(book.judge()) == {"received twice": 1}


def test_out_of_order(book: Book) -> None:
    book.send(1, 2, 3)
    book.get(2, 3, 1)
    assert found(book.judge()) == {"out of order": 1}


@pytest.mark.parametrize("got", [[2, 3], [1, 3], [1, 2], []])
def test_lost(book: Book, got: list[int]) -> None:
    book.send(1, 2, 3)
    book.get(*got)
    assert found(book.judge()) == {"lost and not told": 3 - len(got)}


def test_lost_in_a_gap(book: Book) -> None:
    book.send(1)
    book.get(1)
    book.send(2, 3)
    book.told("disconnect")
    book.send(4)
    book.told("reconnect")
    book.send(5)
    book.get(5)
    verdict = book.judge()
    assert found(verdict) == {}
    assert verdict.figures["lost_in_gaps"] == 3


def test_what_came_within_a_gap_does_not_end_it(book: Book) -> None:
    """Groups come back one after the other."""
    book.send(1, 2, 3, 4)
    book.get(1)
    book.told("disconnect")
    book.get(3)
    book.told("reconnect")
    book.get(4)
    assert found(book.judge()) == {}


def test_sent_after_the_gap(book: Book) -> None:
    """All that the receiver subscribed to arrives again: so it was told."""
    book.send(1)
    book.get(1)
    book.told("disconnect", "reconnect")
    book.send(2, 3)
    book.get(3)
    assert found(book.judge()) == {"lost and not told": 1}


def test_lost_elsewhere_than_in_the_gap(book: Book) -> None:
    book.send(1, 2, 3, 4, 5, 6)
    book.get(1, 3)
    book.told("disconnect", "reconnect")
    book.get(4, 6)
    assert found(book.judge()) == {"lost and not told": 2}


def test_a_gap_that_does_not_end(book: Book) -> None:
    book.send(1)
    book.told("disconnect")
    assert found(book.judge()) == {"gap without an end": 1}


def test_what_was_dropped_was_counted(book: Book) -> None:
    book.send(1, 2, 3)
    book.get(1)
    assert found(book.judge(w2=2)) == {}
    assert found(book.judge(w2=1)) == {"lost and not told": 1}
    assert found(book.judge(w1=2)) == {"lost and not told": 2}


@pytest.mark.parametrize("error", ["NotConnected", "BacklogFull", "CommandRefused"])
def test_what_was_not_sent_does_not_arrive(book: Book, error: str) -> None:
    book.send(1, outcome=f"{error}: for some reason")
    assert found(book.judge()) == {}
    book.get(1)
    assert found(book.judge()) == {"received though its sending had failed": 1}


def test_what_nobody_knows_may_arrive_or_not(book: Book) -> None:
    book.send(1, 2, outcome=LOST)
    book.get(1)
    verdict = book.judge()
    assert found(verdict) == {}
    assert verdict.figures["unknown"] == 2


def test_senders(book: Book) -> None:
    book.send(1, outcome=None)
    book.send(2, outcome="KeyError: 2")
    assert found(book.judge()) == {"sending never ended": 1, "sending failed strangely": 1}


def test_of_another_run(book: Book) -> None:
    book.get(1, run=6)
    assert found(book.judge()) == {"received in the run after": 1}


def test_lost_from_a_plain_channel(book: Book) -> None:
    book.send(1, 2, 3, to=QUEUE)
    book.get(1, to=QUEUE, at=f"w2/{QUEUE}")
    assert found(book.judge()) == {"lost from a plain channel": 2}
    # A link that breaks may take one along.
    book.told("disconnect", "reconnect")
    assert found(book.judge()) == {"lost from a plain channel": 1}
    book.ledger.reading_links_broken = 1
    assert found(book.judge()) == {}
    book.ledger.reading_links_broken = 0
    book.ledger.data_lost = True
    assert found(book.judge()) == {}


def test_who_was_killed_owes_nothing(book: Book) -> None:
    book.send(1, 2)
    book.get(1)
    book.told("disconnect")
    book.ledger.leave("w2", book.now)
    assert found(book.judge()) == {}


def test_who_joins_has_missed_what_was_before(book: Book) -> None:
    book.send(1)
    book.get(1)
    book.ledger.join("w4/0", [GROUP], book.now)
    book.send(2, 3)
    book.get(2, 3)
    book.get(3, at="w4/0")
    assert found(book.judge()) == {"lost and not told": 1}


def test_other_news(book: Book) -> None:
    book.take("w2", "died", HERE, "KeyError")
    book.ledger.take("w2", [["unhandled", "Task exception was never retrieved"]])
    assert found(book.judge()) == {"reader died": 1, "unhandled in the event loop": 1}


def test_missing(book: Book) -> None:
    book.send(1, 2)
    book.send(1, to=QUEUE)
    book.get(1)
    assert book.ledger.missing() == [f"w1 to {GROUP} at {HERE}", f"w1 to {QUEUE}"]
    book.get(2)
    book.get(1, to=QUEUE, at=f"w3/{QUEUE}")
    assert book.ledger.missing() == []
    book.send(3, outcome=LOST)
    assert book.ledger.missing() == []


def test_flowing_again(book: Book) -> None:
    book.ledger.members[HERE] = {GROUP}
    book.send(1)
    book.get(1)
    book.ledger.heal(book.now)
    assert not book.ledger.all_flow
    book.send(2)
    book.get(1)  # of before
    assert not book.ledger.all_flow
    book.get(2)
    assert book.ledger.all_flow


def test_kept(book: Book) -> None:
    book.keep(1, 2, 3)
    book.get_kept(1)
    book.told("disconnect", "reconnect")
    book.gap("reconnect", KEPT, recovered=True)
    book.get_kept(2, 3)
    verdict = book.judge()
    assert found(verdict) == {}
    assert verdict.figures["recovered"] == 1


@pytest.mark.parametrize("recovered", [True, None])
def test_kept_and_lost(book: Book, recovered: bool | None) -> None:
    """What is told of the link is no excuse, nor what is said to be recovered."""
    book.keep(1, 2, 3)
    book.get_kept(1)
    book.told("disconnect", "reconnect")
    if recovered:
        book.gap("reconnect", KEPT, recovered=True)
    book.get_kept(3)
    problems = {"lost and not told": 1, "positions that do not follow": 1}
    assert found(book.judge()) == problems
    book.ledger.data_lost = True
    assert found(book.judge()) == problems


def test_kept_and_said_to_be_lost(book: Book) -> None:
    """Only where Redis may have lost it."""
    book.keep(1, 2, 3)
    book.get_kept(1)
    book.gap("epoch", KEPT)
    book.get_kept(3)
    assert found(book.judge()) == {"told to be lost, but Redis has it": 1}
    book.ledger.data_lost = True
    assert found(book.judge()) == {}


def test_another_epoch(book: Book) -> None:
    book.ledger.failed_over = True
    book.keep(1, 2)
    book.get_kept(1, 2)
    book.keep(3, epoch="b")
    book.get_kept(3, epoch="b")
    assert found(book.judge()) == {"positions that do not follow": 1}


def test_what_follows_upon_a_failover(book: Book) -> None:
    """What the new server has of the old one comes behind the notice."""
    book.ledger.failed_over = True
    book.keep(1, 2, 3)
    book.get_kept(1)
    book.gap("failover", KEPT)
    book.get_kept(2)
    book.keep(4, epoch="b")
    book.get_kept(4, epoch="b")
    assert found(book.judge()) == {}
    book.keep(5, 6, epoch="b")
    book.get_kept(6, epoch="b")
    assert found(book.judge()) == {"lost and not told": 1, "positions that do not follow": 1}


def test_positions(book: Book) -> None:
    book.keep(1, 2)
    book.get_kept(1, 2, ahead=1)
    assert found(book.judge()) == {"not at the position that its sender was told": 2}


def test_kept_and_never_settled(book: Book) -> None:
    book.keep(1, outcome=LOST)
    assert found(book.judge()) == {"outcome not found out": 1}
    book.ledger.failed_over = True
    assert found(book.judge()) == {}


def test_a_plain_group_is_told_twice(book: Book) -> None:
    """That the link broke, and that something was missed."""
    book.send(1, 2, 3)
    book.get(1)
    for kind in ("disconnect", "reconnect"):
        book.take("w2", kind, HERE)
    book.get(3)
    assert found(book.judge()) == {"lost and not told": 1}
