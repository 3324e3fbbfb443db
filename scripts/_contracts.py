"""Checks which part may import which: import-linter, by what pyproject.toml says.

It has a command and no module, and commands of a .venv are not found where that was moved.
"""

import sys

from importlinter.cli import lint_imports

if __name__ == "__main__":
    sys.exit(lint_imports(no_cache=True))
