"""`mpx doctor` as a user runs it: the settings, the versions, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from pathlib import Path

import pytest
import redis

from mpx_channels.diagnostics.doctor.command import CHECKS
from mpx_channels.diagnostics.doctor.findings import Level
from mpx_channels.diagnostics.doctor.versions import (
    SUPPORTED,
    out_of_range,
    requirement,
)
from mpx_channels.diagnostics.pages import page
from tests.conftest import RestartableServer
from tests.proxy import Proxy, free_port

from ..conftest import ROOT, MakeProject, Project
from ..schemas import check
from .examine import examine, of, one


def test_all_checks_in_json(project: Project) -> None:
    told = project.json("doctor")
    check("doctor", told)
    # The others have nothing to say where there is no cluster, and no Sentinel.
    others = ("masters", "slots", "partitions", "sentinels")
    ids = [each.id for each in CHECKS if each.id not in others]
    assert list(dict.fromkeys(row["id"] for row in told["checks"])) == ids
    assert (told["problems"], told["warnings"], told["skipped"]) == (0, 0, 0)
    assert all(row["why"] for row in told["checks"])


def test_in_a_pipe(cold_project: Project, redis_url: str, prefix: str) -> None:
    done = cold_project.run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.match(rf"ok +Settings +{redis_url}; prefix '{prefix}', ", lines[0])
    assert re.fullmatch(r"ok +Group +a message to a group came back in .* ms", lines[17])
    assert lines[-1] == "All is well."
    assert "\x1b" not in done.stdout
    assert not re.search("[─-╿]", done.stdout)


def test_on_a_terminal(project: Project) -> None:
    terminal = project.terminal("doctor", columns=100, rows=60)
    terminal.wait_for("All is well.")
    assert terminal.wait() == 0
    assert re.search(r"^✔ Reachable +redis://\S+ answers$", terminal.text, re.MULTILINE)
    # In colours, and with a line that told what it was at.
    assert b"\x1b[32m" in terminal.output
    assert b"Reachable ..." in terminal.output
    assert "..." not in terminal.text
    # Long texts go on below where they began.
    assert re.search(r"^ {19}\S", terminal.text, re.MULTILINE)


def test_a_problem_on_a_terminal(make_project: MakeProject) -> None:
    terminal = make_project(hosts=[f"redis://127.0.0.1:{free_port()}"]).terminal("doctor", rows=60)
    assert terminal.wait() == 1
    assert re.search("^✘ Reachable +redis://.* cannot be reached", terminal.text, re.MULTILINE)
    assert re.search("^ +do +Start the server", terminal.text, re.MULTILINE)
    assert "Traceback" not in terminal.text


def test_a_dead_server_in_a_pipe(make_project: MakeProject) -> None:
    port = free_port()
    done = make_project(hosts=[f"redis://127.0.0.1:{port}"]).run("doctor")
    lines = done.stdout.splitlines()
    (folded,) = [line for line in lines if line.startswith("skipped")]
    assert re.match("skipped +Not looked at +'Reachable' has to be well first: Login, ", folded)
    assert "Neighbours" in folded
    assert lines[-2:] == [
        "1 problem, 19 not looked at.",
        f"More about what may be wrong: {page('troubleshooting')}",
    ]
    # redis-py's text has the address again.
    (found,) = [line for line in lines if line.startswith("problem")]
    assert found.count(str(port)) == 1
    assert found.endswith("the connection was refused")


def test_a_terminal_that_has_letters_only(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    terminal = project.terminal("doctor", rows=60)
    assert terminal.wait() == 0, terminal.text
    assert re.search("^o Reachable", terminal.text, re.MULTILINE)


def test_warnings_are_for_strict(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    with restartable_server.client() as client:
        client.config_set("tcp-keepalive", 0)
    project = make_project(hosts=[restartable_server.url])
    assert project.json("doctor")["warnings"] == 1
    told = project.json("doctor", "--strict", code=1)
    check("doctor", told)
    assert (told["problems"], told["warnings"]) == (0, 1)


# -- settings --------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_the_settings(make_project: MakeProject) -> None:
    project = make_project(capactiy=1, expiry=-1, hosts=["http://localhost"])
    told = project.json("doctor", code=1)
    check("doctor", told)
    rows = [row for row in told["checks"] if row["id"] == "settings"]
    assert [row["level"] for row in rows] == ["problem"] * 3
    found = " ".join(row["found"] for row in rows)
    assert "'capactiy'" in found
    assert "expiry" in found
    assert "http://localhost" in found
    done = project.run("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    assert "'capacity'" in done.stdout
    # What needs no server is looked at.
    assert re.search("^ok +Versions", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("config", [None, [1], {1: 2}])
def test_settings_of_a_wrong_kind(project: Project, config: object) -> None:
    project.layers["default"]["CONFIG"] = config
    done = project.run("doctor")
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert re.search("^problem +Settings", done.stdout)


def test_no_password_is_shown(make_project: MakeProject) -> None:
    at = f"127.0.0.1:{free_port()}"
    for hosts in ([f"redis://user:pass-word@{at}"], [f"http://user:pass-word@{at}"]):
        done = make_project(hosts=hosts, symmetric_encryption_keys=["pass-word"]).run("doctor")
        assert done.returncode == 1
        assert "pass-word" not in done.stdout + done.stderr


async def test_the_order_of_the_apps(redis_url: str, settings: object) -> None:
    for apps, level in (
        (["mpx_channels", "channels"], Level.OK),
        (["channels", "mpx_channels"], Level.WARNING),
        (["channels.apps.ChannelsConfig", "mpx_channels"], Level.WARNING),
        (["mpx_channels"], Level.OK),
    ):
        settings.INSTALLED_APPS = apps  # type: ignore[attr-defined]
        settings.ASGI_APPLICATION = "x.y"  # type: ignore[attr-defined]
        rows = await examine({"hosts": [redis_url]}, "system-checks")
        assert one(rows, "system-checks")[0] == level


async def test_no_application(redis_url: str, settings: object) -> None:
    settings.ASGI_APPLICATION = None  # type: ignore[attr-defined]
    rows = await examine({"hosts": [redis_url]}, "system-checks")
    assert Level.INFO in [row.finding.level for row in of(rows, "system-checks")]


def test_another_layer_is_wrong(project: Project) -> None:
    project.layers["other"] = {**project.layers["default"], "CONFIG": {"capactiy": 1}}
    told = project.json("doctor", code=1)
    (row,) = [row for row in told["checks"] if row["id"] == "system-checks"]
    assert (row["level"], told["problems"]) == ("problem", 1)
    assert "CHANNEL_LAYERS['other']" in row["found"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "nosuch"], "there is no layer 'nosuch'"),
        (["--layer", "memory"], "InMemoryChannelLayer"),
        (["--nosuch"], "unrecognized arguments"),
    ],
)
def test_wrong_usage(project: Project, arguments: list[str], words: str) -> None:
    project.layers["memory"] = {"BACKEND": "channels.layers.InMemoryChannelLayer"}
    done = project.run("doctor", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- versions --------------------------------------------------------------------------------------


def test_the_supported_versions_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for package, limits in SUPPORTED.items():
        assert re.search(rf'"{package}(\[\w+\])?{re.escape(requirement(*limits))}"', text)


def test_what_is_out_of_range() -> None:
    assert not out_of_range("5.2.0", (5, 2), (9,))
    assert not out_of_range("8.9.9", (5, 2), (9,))
    assert "too old" in out_of_range("5.1.9", (5, 2), (9,))
    assert "too new" in out_of_range("9.0.0b1", (5, 2), (9,))


def test_without_hiredis(cold_project: Project, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['hiredis'] = None\n")
    cold_project.python_path.append(str(tmp_path))
    told = cold_project.json("doctor")
    found = [row["found"] for row in told["checks"] if row["level"] == "warning"]
    assert found == ["hiredis is not installed, or cannot be imported"]


# -- in the midst ----------------------------------------------------------------------------------


async def test_the_server_goes_away(proxy: Proxy, make_project: MakeProject) -> None:
    def cut(data: bytes) -> bytes:
        if b"client-output-buffer-limit" in data:
            proxy.refuse()
            proxy.cut()
        return data

    proxy.to_server.rewrite = cut
    project = make_project(hosts=[proxy.url])
    process = project.start("doctor")
    output, errors = await asyncio.to_thread(process.communicate)
    assert (process.returncode, errors) == (1, ""), output
    assert re.search("^problem +Output buffer +the server went away", output, re.MULTILINE)
    assert re.search(
        "^skipped +Not looked at +the server went away during 'Output buffer': Timeout, .*Group",
        output,
        re.MULTILINE,
    )
    assert "Traceback" not in output


def test_interrupted(make_project: MakeProject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        terminal = make_project(hosts=[url]).terminal("doctor")
        terminal.wait_for("Reachable ...")
        terminal.press("\x03")
        assert terminal.wait() == 128 + signal.SIGINT
        assert "Traceback" not in terminal.text
        # The terminal's cursor is back.
        assert terminal.output.rindex(b"\x1b[?25h") > terminal.output.rindex(b"\x1b[?25l")


def test_the_checks_leave_the_server_as_it_was(
    project: Project, client: redis.Redis, prefix: str
) -> None:
    client.rpush(f"{prefix}:q:jobs", "99999999999999\x00")
    before = client.lrange(f"{prefix}:q:jobs", 0, -1)
    assert project.run("doctor").returncode == 0
    assert client.lrange(f"{prefix}:q:jobs", 0, -1) == before
    left = {key for key in client.keys(f"{prefix}:*") if b":w:" not in key}
    assert left == {f"{prefix}:q:jobs".encode()}
    client.delete(f"{prefix}:q:jobs")
