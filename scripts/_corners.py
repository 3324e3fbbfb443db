"""The part of scripts/corners that needs .venv: a line for each session of nox, and its log if bad.

python scripts/_corners.py [NOX-ARGUMENT...]
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULT = ["-t", "ci"]
# Of a session that failed, so much of what it printed.
LAST_LINES = 80

NOX = [sys.executable, "-m", "nox", "--no-error-on-missing-interpreters", "--non-interactive"]


def main(arguments: list[str]) -> int:
    """Exit status: whether all that ran has passed."""
    chosen = arguments or DEFAULT
    listed = subprocess.run([*NOX, *chosen, "-l", "--json"], capture_output=True, text=True)
    if listed.returncode:
        print(listed.stderr, file=sys.stderr)
        return listed.returncode
    failed = [entry["session"] for entry in json.loads(listed.stdout) if not run(entry["session"])]
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
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        printed = log.read_text(errors="replace")
        (result,) = json.loads(report.read_text())["sessions"]
    took = time.monotonic() - started
    if result["result"] == "success":
        summaries = re.findall(r"^=+ (\d+ .*?) in [\d.]+s.* =+$", printed, re.MULTILINE)
        print(f"Corner {session}: {summaries[-1] if summaries else 'passed'}, {took:.0f} s")
    elif result["result"] == "skipped":
        reasons = re.findall(r"^nox > Session .* skipped: (.*)$", printed, re.MULTILINE)
        print(f"Corner {session}: skipped, {reasons[-1] if reasons else 'nox does not say why'}")
    else:
        print("\n".join(printed.splitlines()[-LAST_LINES:]))
        print(f"Corner {session}: failed, {took:.0f} s")
        return False
    sys.stdout.flush()
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
