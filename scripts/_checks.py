"""The part of scripts/lint and scripts/test that needs .venv: what can be done at once, at once.

python scripts/_checks.py                    lint, types and docs
python scripts/_checks.py SCRIPT...          the same beside another one, whose output comes last
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

PYTHON = str(Path(".venv", "bin", "python"))
CHECKS = [
    ["-m", "ruff", "check"],
    ["-m", "ruff", "format", "--check"],
    ["-m", "mypy"],
    ["scripts/_contracts.py"],
    ["-m", "sphinx", "-W", "-q", "docs", "docs/_build/html"],
]


def check(command: list[str]) -> tuple[str, bool, str]:
    """The check's name, whether all is well, and what it said."""
    done = subprocess.run(
        [PYTHON, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    name = " ".join(word for word in command[:3] if word != "-m")
    return name, done.returncode == 0, done.stdout


def main(beside: list[str]) -> int:
    """Exit status: that of the program beside, or else whether all is well."""
    program = subprocess.Popen([PYTHON, *beside]) if beside else None
    failed = []
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        for ended in as_completed([pool.submit(check, command) for command in CHECKS]):
            name, is_well, said = ended.result()
            if not is_well:
                failed.append(name)
            # In the midst of a progress report, no more than has to be read.
            if not is_well or not beside:
                print(f"\n{name}:\n{said.rstrip()}" if said else f"\n{name}: fine", flush=True)
    status = program.wait() if program else 0
    if failed:
        besides = "Besides, these" if beside else "These"
        print(f"{besides} found something, see above: {', '.join(failed)}", file=sys.stderr)
    return status or bool(failed)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
