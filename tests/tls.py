"""Certificates of an authority of the tests' own, and real servers and Sentinels that show them."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import trustme

from .proxy import free_port
from .servers import START_TIMEOUT, OtherServer, tls_program

__all__ = ["MASTER", "Certificates", "TlsSentinel", "TlsServer"]

MASTER = "chat-master"
# What a server's certificate is for, unless a test wants it otherwise. This machine answers to
# others, too, such as 127.0.0.2.
NAMES = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """Files of certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self._other = trustme.CA()
        # The authority that has signed all but `stranger`.
        self.ca = self._path("ca.pem", self._authority.cert_pem)
        self.other_ca = self._path("other.pem", self._other.cert_pem)
        self.server = self._issued("server", self._authority, *NAMES)
        self.elsewhere = self._issued("elsewhere", self._authority, "redis.example.com")
        past = (datetime.datetime(2020, 1, 1), datetime.datetime(2021, 1, 1))  # noqa: DTZ001
        self.expired = self._issued("expired", self._authority, *NAMES, life=past)
        future = (datetime.datetime(2220, 1, 1), datetime.datetime(2221, 1, 1))  # noqa: DTZ001
        self.not_yet = self._issued("not-yet", self._authority, *NAMES, life=future)
        self.client = self._issued("client", self._authority, "client")
        self.stranger = self._issued("stranger", self._other, "client")

    def options(self, *, shows: str = "", wants_ours: bool = False) -> dict[str, str]:
        """What they are in the configuration of a server; as `TlsServer` has it."""
        return {
            "tls-cert-file": shows or self.server,
            "tls-key-file": shows or self.server,
            "tls-ca-cert-file": self.ca,
            "tls-auth-clients": "yes" if wants_ours else "no",
        }

    def _path(self, name: str, *blobs: Any) -> str:
        path = self.folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    def _issued(
        self, name: str, by: trustme.CA, *names: str, life: tuple[Any, Any] | None = None
    ) -> str:
        """A file with certificate and key."""
        times = {} if life is None else {"not_before": life[0], "not_after": life[1]}
        issued = by.issue_cert(*names, **times)
        return self._path(f"{name}.pem", issued.private_key_pem, *issued.cert_chain_pems)


class TlsServer(OtherServer):
    """A server that speaks TLS only; ``host`` is its entry of ``hosts``.

    ``shows``: the file of its certificate. ``wants_ours``: whether it takes only clients that have
    one. ``version``: of TLS, that it speaks; all that it can if there is none.
    """

    def __init__(
        self,
        certificates: Certificates,
        *,
        shows: str = "",
        wants_ours: bool = False,
        version: str = "",
        port: int | None = None,
        arguments: tuple[str, ...] = (),
        **config: Any,
    ) -> None:
        self.certificates = certificates
        tls = {
            "port": 0,
            "tls-port": (port := port or free_port()),
            **certificates.options(shows=shows, wants_ours=wants_ours),
            **({"tls-protocols": version} if version else {}),
            **config,
        }
        super().__init__(tls_program(), port=port, config=tls)
        self._command += arguments

    @property
    def url(self) -> str:
        return f"rediss://localhost:{self.port}"

    @property
    def host(self) -> dict[str, Any]:
        return {"address": self.url, "ssl_ca_certs": self.certificates.ca}

    @property
    def refused(self) -> int:
        """How many connections have failed in the handshake of TLS, as its log has it."""
        return (self.data_dir / "log").read_text().count("Error accepting a client connection")

    def _answers(self) -> bool:
        # Whether it takes our certificate, and whether anybody should take its, is for the tests.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 1.0) as plain,
                context.wrap_socket(plain),
            ):
                return True
        except ssl.SSLError:
            return True
        except OSError:
            return False


class TlsSentinel:
    """A Sentinel that speaks TLS only, and watches over a master that does, too."""

    def __init__(
        self,
        certificates: Certificates,
        *,
        master: TlsServer,
        shows: str = "",
        wants_ours: bool = False,
        lines: tuple[str, ...] = (),
    ) -> None:
        self.certificates = certificates
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="mpx-sentinel-"))
        shows = shows or certificates.server
        self._lines = [
            "port 0",
            f"tls-port {self.port}",
            f"tls-cert-file {shows}",
            f"tls-key-file {shows}",
            f"tls-ca-cert-file {certificates.ca}",
            f"tls-auth-clients {'yes' if wants_ours else 'no'}",
            "tls-replication yes",  # so that it asks its master in TLS
            "bind 127.0.0.1",
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {MASTER} 60000",
            *lines,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> dict[str, Any]:
        """The entry of ``hosts``."""
        ca = {"ssl": True, "ssl_ca_certs": self.certificates.ca}
        return {
            "sentinels": [("127.0.0.1", self.port)],
            "master_name": MASTER,
            "sentinel_kwargs": dict(ca),
            **ca,
        }

    def __enter__(self) -> Self:
        config = self._folder / "sentinel.conf"
        config.write_text("\n".join(self._lines) + "\n")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["redis-server", config, "--sentinel"],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self._folder / "log").read_text()
                    self.__exit__()
                    raise RuntimeError(f"the Sentinel does not start:\n{said}") from None
                time.sleep(0.01)
            else:
                return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
