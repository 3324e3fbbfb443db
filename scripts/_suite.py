"""pytest on all cores. What fails there, and again, is tried by itself at the end.

python scripts/_suite.py ARGUMENT...

Tests of processes, servers and browsers may fail on a machine that is loaded. One that fails is
tried again at once, and the summary has it as RERUN. If it fails again, and few do, these run once
more when nothing else does, over servers of their own: that counts. One of which any of that is
often so is not in order.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

AT_ONCE = ["-n", "auto", "--dist", "worksteal", "--reruns", "1"]
# So many that fail are no coincidence.
MOST = 3
# pytest's exit status if tests have failed, and nothing else.
TESTS_FAILED = 1


def main(arguments: list[str]) -> int:
    """Exit status: that of pytest."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pytest", *arguments, "-o", f"cache_dir={cache}"]
        status = subprocess.call([*command, *AT_ONCE])
        failed = Path(cache, "v", "cache", "lastfailed")
        if status != TESTS_FAILED or not failed.exists():
            return status
        if len(names := json.loads(failed.read_text())) > MOST:
            return status
        print("Failed twice, and run once more by themselves:", *names, sep="\n", flush=True)
        return subprocess.call([*command, "--last-failed"])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
