"""The judgement of groups with a history, beyond what holds for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .notices import misplaced
from .records import UNKNOWN, Verdict

if TYPE_CHECKING:
    from .counts import Ledger

__all__ = ["judge_kept"]


def judge_kept(ledger: Ledger, verdict: Verdict) -> None:
    """What is promised of groups with a history, beyond what holds for all."""
    strange, wrong, needless, unsettled = [], [], [], []
    for receiver, to in ledger.receivers.items():
        for group, places in to.places.items():
            here = f"{group} at {receiver}"
            strange += [f"{here}: {each}" for each in misplaced(places, to.notices[group])]
        for (by, group), got in to.got.items():
            if group not in ledger.kept:
                continue
            at = {place.count: place.text for place in to.places[group]}
            sent = ledger.sent[by, group]
            wrong += [
                f"{by} to {group} no. {number} at {at[count]}, not {sent[number].position}"
                for count, number in got
                if number in sent and sent[number].position not in (None, at[count])
            ]
        needless += [
            f"{group} at {receiver}: {notice.reason}"
            for group in ledger.kept
            for notice in to.notices[group]
            if not notice.recovered
        ]
    for (by, group), stream in ledger.sent.items():
        if group in ledger.kept and by not in ledger.killed:
            unsettled += [
                f"{by} to {group} no. {number}: {sent.outcome}"
                for number, sent in stream.items()
                if sent.error in UNKNOWN
            ]
    verdict.add("positions that do not follow", strange)
    verdict.add("not at the position that its sender was told", wrong)
    if not ledger.data_lost and not ledger.failed_over:
        verdict.add("told to be lost, but Redis has it", needless)
        verdict.add("outcome not found out", unsettled)
