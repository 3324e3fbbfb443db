"""The configuration of docs/nginx.md, in a real nginx before two real servers."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, missing
from tests.proxy import free_port
from tests.tls import Certificates

from .pages import DOCS, ROOT, blocks

try:
    from websockets.asyncio import client
    from websockets.exceptions import InvalidStatus
except ImportError:
    client = None  # type: ignore[assignment]

# On Debian it is where only root's shell looks.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
APPLICATION = "tests.docs.behind:application"

AROUND = """\
user {user};
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{site}
}}
"""


def site(**instead: str) -> str:
    """What the page has, with other words for what only its readers have."""
    (text,) = (block.text for block in blocks(DOCS / "nginx.md") if block.language == "nginx")
    for old, new in {
        "listen 443 ssl": instead["listen"],
        "chat.example.com": "localhost",
        "# ssl_certificate and ssl_certificate_key": instead["certificate"],
        "/srv/chat/static/": instead["static"],
        "127.0.0.1:8001": instead["one"],
        "127.0.0.1:8002": instead["other"],
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def port(tmp_path: Path, certificates: Certificates, redis_url: str) -> Iterator[int]:
    """Where nginx listens."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    if client is None:
        missing("uvicorn[standard] is not installed")
    port, *behind = (free_port() for _ in range(3))
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "site.css").write_text("main {}")
    (tmp_path / "nginx.conf").write_text(
        AROUND.format(
            user=getpass.getuser(),
            site=site(
                listen=f"listen 127.0.0.1:{port} ssl",
                certificate=f"ssl_certificate {certificates.server}; "
                f"ssl_certificate_key {certificates.server};",
                static=f"{tmp_path}/static/",
                one=f"127.0.0.1:{behind[0]}",
                other=f"127.0.0.1:{behind[1]}",
            ),
        )
    )
    config = json.dumps({"hosts": [redis_url], "prefix": f"nginx-{port}"})
    environment = os.environ | {"MPX_CONFIG": config, "PYTHONPATH": str(ROOT)}
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level", "error", APPLICATION]
    uvicorn += ["--proxy-headers", "--forwarded-allow-ips", "127.0.0.1", "--port"]
    nginx = [NGINX, "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log"]
    subprocess.run([*nginx, "-t"], check=True, capture_output=True)
    running = [
        subprocess.Popen([*uvicorn, str(each)], env=environment, cwd=ROOT) for each in behind
    ]
    # It asks a server that was not there no more for ten seconds.
    for each in behind:
        wait_for(each)
    running.append(subprocess.Popen([*nginx, "-g", "daemon off;"]))
    wait_for(port)
    yield port
    for process in reversed(running):
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Return when somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


async def test_a_site_behind_it(port: int, certificates: Certificates) -> None:
    trusts = ssl.create_default_context(cafile=certificates.ca)
    origin = f"https://localhost:{port}"
    url = f"wss://localhost:{port}/"

    guests = []
    for _ in range(4):
        websocket = await client.connect(url, ssl=trusts, origin=origin)
        guests.append((websocket, json.loads(await websocket.recv())))
    assert len({server for _, (server, _, _) in guests}) == 2
    assert {(address, scheme) for _, (_, address, scheme) in guests} == {("127.0.0.1", "wss")}
    await guests[0][0].send('"hello"')
    async with asyncio.timeout(PATIENCE):
        assert {await websocket.recv() for websocket, _ in guests} == {'"hello"'}
    with pytest.raises(InvalidStatus) as refused:
        await client.connect(url, ssl=trusts, origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403
    for websocket, _ in guests:
        await websocket.close()

    def static() -> bytes:
        with urllib.request.urlopen(f"{origin}/static/site.css", context=trusts) as answer:
            body: bytes = answer.read()
        return body

    assert await asyncio.to_thread(static) == b"main {}"
