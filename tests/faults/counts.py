"""The judgement: what was sent against what was received, and what was told in between."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from .kept import judge_kept
from .notices import Notice, Place, noticed
from .records import NOT_SENT, UNKNOWN, UNREPORTED, Gap, Problem, Receiver, Sent, Stream, Verdict

__all__ = ["Ledger", "Problem", "Verdict"]


class Ledger:
    """All that was sent, acknowledged, received and told, from the start of traffic to its end.

    ``members``: the groups of each receiver. ``queues``: the readers of each plain channel.
    ``kept``: the groups that have a history.
    """

    def __init__(
        self,
        run: int,
        members: Mapping[str, Iterable[str]],
        queues: Mapping[str, Iterable[str]],
        kept: Iterable[str] = (),
    ) -> None:
        self.run = run
        self.members = {receiver: set(groups) for receiver, groups in members.items()}
        self.queues = {queue: set(readers) for queue, readers in queues.items()}
        self.kept = set(kept)
        self.sent: dict[Stream, dict[int, Sent]] = defaultdict(dict)
        self.receivers: dict[str, Receiver] = defaultdict(Receiver)
        # When each receiver first got something of a group that was sent after `heal`.
        self.flowing: dict[tuple[str, str], float] = {}
        self.healed_at = inf
        # Processes that were killed, and when: what they would have reported next is missing.
        self.killed: dict[str, float] = {}
        # Links over which plain channels were read, and that were broken without a gap.
        self.reading_links_broken = 0
        # Plain channels and histories may have lost what they held: Redis lost it.
        self.data_lost = False
        # Histories may have lost their last messages: another server took over, or might have.
        self.failed_over = False
        self._strays: list[str] = []
        self._died: list[str] = []
        self._unhandled: list[str] = []

    # -- taking -------------------------------------------------------------------------------

    def take(self, worker: str, events: list[list[Any]]) -> None:
        """What a worker reports, in the order of its happening."""
        for event in events:
            match event:
                case ["got", receiver, run, by, to, number, position, at]:
                    self._got(receiver, run, (by, to), number, position, at)
                case ["sent", name, number, at]:
                    self.sent[worker, name][number] = Sent(at)
                case ["done", name, number, outcome, position, _]:
                    sent = self.sent[worker, name][number]
                    sent.outcome, sent.position = outcome, position
                case ["gap", receiver, reason, groups, recovered, _]:
                    to = self.receivers[receiver]
                    for group in groups:
                        to.notices[group].append(Notice(to.position, reason, recovered))
                case ["disconnect", receiver, at]:
                    to = self.receivers[receiver]
                    to.gaps.append(Gap(to.position, began_at=at))
                case ["reconnect", receiver, at]:
                    to = self.receivers[receiver]
                    if to.gaps:
                        to.gaps[-1].ended, to.gaps[-1].ended_at = to.position, at
                case ["died", receiver, error, _]:
                    self._died.append(f"{receiver} of {error}")
                case ["unhandled", text]:
                    self._unhandled.append(f"{worker}: {text}")
                case _:
                    raise ValueError(f"{worker} reports {event!r}")

    def heal(self, now: float) -> None:
        """The fault is over: from now on, all has to come back."""
        self.healed_at = now
        self.flowing.clear()

    def join(self, receiver: str, groups: Iterable[str], now: float) -> None:
        """A receiver that is new, and was in these groups by now."""
        self.members[receiver] = set(groups)
        self.receivers[receiver].joined_at = now

    def back(self, receiver: str, now: float) -> None:
        """All gaps of a receiver are over."""
        to = self.receivers[receiver]
        for gap in to.gaps:
            gap.ended, gap.ended_at = min(gap.ended, to.position), min(gap.ended_at, now)

    def leave(self, worker: str, now: float) -> None:
        """A process was killed: nothing has to reach it, and nobody knows what it got last."""
        self.killed[worker] = now
        for receiver in [receiver for receiver in self.members if _of(receiver) == worker]:
            del self.members[receiver]

    def _got(
        self,
        receiver: str,
        run: int,
        stream: Stream,
        number: int,
        position: str | None,
        at: float,
    ) -> None:
        if run != self.run:
            self._strays.append(f"{stream[0]} to {stream[1]} no. {number} of an earlier run")
            return
        to = self.receivers[receiver]
        to.position += 1
        to.got[stream].append((to.position, number))
        if stream[1] in self.kept:
            epoch, _, offset = (position or "none-0").partition("-")
            place = Place(to.position, epoch, int(offset), f"{stream[0]} no. {number}")
            to.add(stream[1], place)
        key = (receiver, stream[1])
        if key not in self.flowing:
            # Its sender may be about to report it; then it was sent just now.
            sent = self.sent[stream].get(number)
            if (sent.at if sent is not None else at) >= self.healed_at:
                self.flowing[key] = at

    # -- looking ------------------------------------------------------------------------------

    @property
    def all_flow(self) -> bool:
        """Whether every receiver got something of each of its groups since `heal`."""
        return all(
            (receiver, group) in self.flowing
            for receiver, groups in self.members.items()
            for group in groups
        )

    def missing(self) -> list[str]:
        """Where the last message of a stream has not arrived, though Redis has it."""
        missing = []
        for (by, to), sent in self.sent.items():
            number = max(sent)
            if by in self.killed or sent[number].outcome:
                continue
            readers = self._readers(to)
            there = [r for r in readers if self.receivers[r].last(by, to) == number]
            if to in self.queues:
                missing += [] if there else [f"{by} to {to}"]
            else:
                missing += [f"{by} to {to} at {r}" for r in readers if r not in there]
        return missing

    def _readers(self, name: str) -> list[str]:
        """Whoever gets what is sent to this name. Of a plain channel's, one gets each message."""
        if name in self.queues:
            return sorted(self.queues[name])
        return [receiver for receiver, groups in self.members.items() if name in groups]

    def judge(self, drops: Mapping[str, int]) -> Verdict:
        """The verdict. ``drops``: what each worker has counted as dropped."""
        verdict = Verdict()
        lost: dict[str, list[str]] = defaultdict(list)
        doubled, disordered, revenants, explained = [], [], [], 0
        for stream, sent in self.sent.items():
            by, to = stream
            taken: Counter[int] = Counter()
            for receiver in self._readers(to):
                got = self.receivers[receiver].got.get(stream, [])
                here = f"{by} to {to} at {receiver}"
                taken.update(number for _, number in got)
                doubled += [f"{here} no. {n}" for n in _doubled(n for _, n in got)]
                disordered += [f"{here} no. {n} after {m}" for n, m in _disordered(got)]
                if to not in self.queues:
                    missed, told = self._missed(receiver, stream, sent)
                    explained += told
                    lost[receiver.partition("/")[0]] += [f"{here} no. {n}" for n in missed]
            revenants += [
                f"{by} to {to} no. {n}: {sent[n].outcome}"
                for n in taken
                if n in sent and sent[n].error in NOT_SENT
            ]
            if to in self.queues:
                doubled += [f"{by} to {to} no. {n}" for n, times in taken.items() if times > 1]
        verdict.add("received twice", doubled)
        verdict.add("out of order", disordered)
        verdict.add("received though its sending had failed", revenants)
        verdict.add("received in the run after", self._strays)
        judge_kept(self, verdict)
        unannounced = []
        for worker, of_worker in lost.items():
            # A drop that was counted is told, too: it has no name, so the numbers must agree.
            unannounced += of_worker[drops.get(worker, 0) :]
        verdict.add("lost and not told", unannounced)
        self._judge_queues(verdict, sum(drops.values()))
        self._judge_senders(verdict)
        verdict.add("gap without an end", self._endless())
        verdict.add("reader died", self._died)
        verdict.add("unhandled in the event loop", self._unhandled)
        self._figures(verdict, explained, sum(drops.values()))
        return verdict

    def _missed(
        self, receiver: str, stream: Stream, sent: dict[int, Sent]
    ) -> tuple[list[int], int]:
        """Numbers that a receiver missed without being told; and how many it was told of."""
        to, group = self.receivers[receiver], stream[1]
        place = {number: position for position, number in to.got.get(stream, [])}
        numbers = sorted(place)
        missed, told = [], 0
        for number, message in sent.items():
            if number in place or message.outcome != "":
                continue
            at = bisect.bisect(numbers, number)
            after = place[numbers[at - 1]] if at else 0
            before = place[numbers[at]] if at < len(numbers) else inf
            if not after and message.at <= to.joined_at:
                continue
            if noticed(to.notices[group], after, before) and (
                group in self.kept or to.may_have_missed(message, after, before)
            ):
                told += 1
            else:
                missed.append(number)
        return missed, told

    def _judge_queues(self, verdict: Verdict, drops: int) -> None:
        lost = []
        for queue in self.queues:
            for (by, to), sent in self.sent.items():
                if to != queue:
                    continue
                taken = {
                    number
                    for receiver in self._readers(queue)
                    for _, number in self.receivers[receiver].got.get((by, to), [])
                }
                lost += [
                    f"{by} to {to} no. {number}"
                    for number, message in sent.items()
                    if message.outcome == ""
                    and number not in taken
                    and not any(0 <= at - message.at <= UNREPORTED for at in self.killed.values())
                ]
        verdict.figures["lost_of_queues"] = len(lost)
        # A link that breaks may take along the one message that was popped over it. A killed
        # process, too, may have had one.
        gaps: Counter[str] = Counter()
        for receiver, got in self.receivers.items():
            gaps[_of(receiver)] = max(gaps[_of(receiver)], len(got.gaps))
        if not self.data_lost:
            allowed = gaps.total() + self.reading_links_broken + len(self.killed) + drops
            verdict.add("lost from a plain channel", lost[allowed:])

    def _judge_senders(self, verdict: Verdict) -> None:
        unanswered, unexpected = [], []
        for (by, to), sent in self.sent.items():
            if by in self.killed:
                continue
            for number, message in sent.items():
                if message.outcome is None:
                    unanswered.append(f"{by} to {to} no. {number}")
                elif message.outcome and message.error not in NOT_SENT | UNKNOWN:
                    unexpected.append(f"{by} to {to} no. {number}: {message.outcome}")
        verdict.add("sending never ended", unanswered)
        verdict.add("sending failed strangely", unexpected)

    def _endless(self) -> list[str]:
        return [
            receiver
            for receiver, to in self.receivers.items()
            if _of(receiver) not in self.killed and any(gap.ended == inf for gap in to.gaps)
        ]

    def _figures(self, verdict: Verdict, explained: int, drops: int) -> None:
        all_sent = [message for sent in self.sent.values() for message in sent.values()]
        gaps = [gap for to in self.receivers.values() for gap in to.gaps if gap.ended < inf]
        verdict.figures.update(
            sent=len(all_sent),
            acknowledged=sum(message.outcome == "" for message in all_sent),
            refused=sum(message.error in NOT_SENT for message in all_sent),
            unknown=sum(message.error in UNKNOWN for message in all_sent),
            received=sum(to.position for to in self.receivers.values()),
            lost_in_gaps=explained,
            dropped=drops,
            gaps=len(gaps),
            recovered=sum(
                notice.recovered
                for to in self.receivers.values()
                for notices in to.notices.values()
                for notice in notices
            ),
            longest_gap=max((gap.ended_at - gap.began_at for gap in gaps), default=0.0),
        )
        if self.flowing and self.healed_at < inf:
            verdict.figures["recovery"] = max(self.flowing.values()) - self.healed_at


def _of(receiver: str) -> str:
    return receiver.partition("/")[0]


def _doubled(numbers: Iterable[int]) -> list[int]:
    return [number for number, times in Counter(numbers).items() if times > 1]


def _disordered(got: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Numbers that came after a higher one, and that."""
    found, highest, seen = [], 0, set()
    for _, number in got:
        if number < highest and number not in seen:
            found.append((number, highest))
        highest = max(highest, number)
        seen.add(number)
    return found
