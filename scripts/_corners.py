"""The part of scripts/corners that needs .venv: a line for each session of nox, and its log if bad.

python scripts/_corners.py [NOX-ARGUMENT...]
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DEFAULT = ["-t", "ci"]
# Of a session that failed, so much of what it printed.
LAST_LINES = 80
# Corners at a time: one installs while another one's tests compute and a third's wait.
AT_ONCE = 3
# What each is told besides, lest there be more processes than the tests have patience for.
ENVIRONMENT = {**os.environ, "PYTEST_XDIST_AUTO_NUM_WORKERS": "2"}

NOX = [sys.executable, "-m", "nox", "--no-error-on-missing-interpreters", "--non-interactive"]


def main(arguments: list[str]) -> int:
    """Exit status: whether all that ran has passed."""
    chosen = arguments or DEFAULT
    listed = subprocess.run([*NOX, *chosen, "-l", "--json"], capture_output=True, text=True)
    if listed.returncode:
        print(listed.stderr, file=sys.stderr)
        return listed.returncode
    sessions = [entry["session"] for entry in json.loads(listed.stdout)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(run, sessions))
    failed = [session for session, well in zip(sessions, passed, strict=True) if not well]
    if failed:
        print(f"Corners that failed, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(session: str) -> bool:
    """Run a session and say in a line how it went; False if it failed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log, report = Path(folder, "log"), Path(folder, "report.json")
        with log.open("w") as output:
            subprocess.run(
                [*NOX, "-s", session, "--report", str(report)],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        printed = log.read_text(errors="replace")
        # There is no report if nox itself was killed.
        sessions = json.loads(report.read_text())["sessions"] if report.exists() else []
    took = time.monotonic() - started
    result = sessions[0]["result"] if sessions else "failed"
    if result == "success":
        summaries = re.findall(r"^=+ (\d+ .*?) in [\d.]+s.* =+$", printed, re.MULTILINE)
        says = f"{'; by themselves '.join(summaries) or 'passed'}, {took:.0f} s"
    elif result == "skipped":
        reasons = re.findall(r"^nox > Session .* skipped: (.*)$", printed, re.MULTILINE)
        says = f"skipped, {reasons[-1] if reasons else 'nox does not say why'}"
    else:
        last = "\n".join(printed.splitlines()[-LAST_LINES:])
        print(f"{last}\nCorner {session}: failed, {took:.0f} s", flush=True)
        return False
    print(f"Corner {session}: {says}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
