"""The campaign as a program.

python -m tests.faults                      the short selection, once
python -m tests.faults --list               what there is
python -m tests.faults --case NAME ...      these
python -m tests.faults --minutes 30         all, by chance and again, for so long
python -m tests.faults --seed N             the same chances again
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

from .campaign import SEEDS, Campaign, chosen, for_minutes
from .cases import CASES
from .report import Report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--case", nargs="+", metavar="NAME", choices=sorted(CASES), help="play these cases only")
    add("--seed", type=int, help="of all that is left to chance")
    add("--minutes", type=float, metavar="N", help="go on for so long")
    add("--processes", type=int, metavar="N", help="processes, instead of each case's own number")
    add("--json", action="store_true", help="a line of JSON for each case, and one at the end")
    add("--list", action="store_true", help="print the cases and end")
    return parser.parse_args()


async def main(asked: argparse.Namespace) -> int:
    """Exit status: 0 if all was as it should be, 1 if not."""
    seed = asked.seed if asked.seed is not None else random.randrange(SEEDS)
    if asked.minutes is not None:
        cases = for_minutes(asked.minutes, asked.case or CASES, seed)
        total = asked.minutes * 60
    else:
        names = asked.case or [name for name, case in CASES.items() if case.short]
        cases = chosen(names, seed)
        total = len(names)
    report = Report(seed, as_json=asked.json, total=total)
    started = time.monotonic()
    async with Campaign(long=asked.minutes is not None, processes=asked.processes) as campaign:
        try:
            for case, case_seed in cases:
                elapsed = time.monotonic() - started
                report.begins(case, elapsed if asked.minutes else report.verdicts)
                report.ended(case, case_seed, await campaign.play(case, case_seed))
        except asyncio.CancelledError:
            # Ctrl-C: what was found until then is said.
            report.finish([])
            raise
        return report.finish(await campaign.close())


if __name__ == "__main__":
    asked = arguments()
    if asked.list:
        for case in CASES.values():
            print(f"{case.name:24}{'' if case.short else '(long runs) '}{case.line}")
        sys.exit(0)
    try:
        sys.exit(asyncio.run(main(asked)))
    except KeyboardInterrupt:
        sys.exit(130)
