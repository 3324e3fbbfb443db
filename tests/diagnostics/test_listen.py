"""`mpx listen`."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from mpx_channels.layer import MpxChannelLayer
from tests.conftest import RestartableServer
from tests.warm import Process

from .conftest import PATIENCE, MakeProject, Project
from .schemas import check

Listener = Process


@pytest.fixture
def layer(redis_url: str, prefix: str) -> Iterator[MpxChannelLayer]:
    """What sends, from here."""
    layer = MpxChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    layer.sync.close()


def listen(project: Project, *arguments: str) -> Listener:
    """Start it, and return when it listens."""
    process = project.start("listen", *arguments)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("Listening to "), line + process.stderr.read()
    return process


def line(process: Listener) -> str:
    """Its next line, which it has written at once."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def value(process: Listener) -> Any:
    """Its next line of JSON."""
    told = json.loads(line(process))
    check("listen", told)
    return told


def end(process: Listener) -> tuple[str, str]:
    """The rest of what it says, when Ctrl-C ends it."""
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, rest
    return rest


def test_everything_as_plain_lines(project: Project, layer: MpxChannelLayer) -> None:
    worker = project.worker(promise="answer")
    listener = listen(project)
    layer.sync.group_send(
        "room-1", {"type": "chat", "text": "é\x1b[31m\x9b"}, exclude=["specific.x!1"]
    )
    layer.sync.send(worker.channels[0], {"type": "direct", "data": b"\xff"})
    assert layer.sync.resolve("answer", [1, 2]) == 1
    group, direct, promise = (line(listener).split("  ") for _ in range(3))
    assert group[1:4] == ["group room-1", "chat", '{"text": "é\\u001b[31m\\u009b"}']
    assert group[4].endswith(" B")
    assert group[5] == "not to specific.x!1"
    assert direct[1:4] == [
        f"channel {worker.channels[0]}", "direct", '{"data": {"base64": "/w=="}}'
    ]  # fmt: skip
    assert promise[1:3] == ["promise answer", '{"value": [1, 2]}']
    # It was looked on, not taken away.
    assert worker.read()["received"]["type"] == "chat"
    assert end(listener) == ("", "")


def test_json_lines_and_a_limit(project: Project, layer: MpxChannelLayer) -> None:
    listener = listen(project, "--json", "--limit", "2", "--group", "a", "--group", "b")
    for group in ("a", "c", "b", "a"):
        layer.sync.group_send(group, {"type": "n", "nan": float("nan"), "of": group})
    first, second = value(listener), value(listener)
    assert first["message"] == {"type": "n", "nan": "nan", "of": "a"}
    assert (second["kind"], second["name"]) == ("group", "b")
    assert listener.communicate(timeout=PATIENCE) == ("", "")
    assert listener.returncode == 0


def test_a_pattern(project: Project, layer: MpxChannelLayer) -> None:
    listener = listen(project, "--json", "--pattern", "room-*")
    layer.sync.group_send("lobby", {"type": "n"})
    layer.sync.group_send("room-7", {"type": "n"})
    assert value(listener)["name"] == "room-7"
    end(listener)


def test_a_channel(project: Project, layer: MpxChannelLayer) -> None:
    worker = project.worker(groups={"room-1": 2})
    listener = listen(project, "--json", "--channel", worker.channels[1])
    for channel in worker.channels:
        layer.sync.send(channel, {"type": "n", "for": channel})
    assert value(listener)["name"] == worker.channels[1]
    end(listener)


def test_a_plain_channel_is_peeked_into(project: Project, layer: MpxChannelLayer) -> None:
    for number in range(3):
        layer.sync.send("jobs", {"type": "job", "n": number})
    done = project.run("listen", "--channel", "jobs", "--json", "--limit", "2")
    told = [json.loads(each) for each in done.stdout.splitlines()]
    for each in told:
        check("listen", each)
    assert [each["message"]["n"] for each in told] == [0, 1]
    assert "plain channel" in done.stderr
    assert done.returncode == 0
    done = project.run("listen", "--channel", "jobs")
    assert len(done.stdout.splitlines()) == 3
    assert "expires at" in done.stdout


def test_raw(project: Project, layer: MpxChannelLayer, client: redis.Redis, prefix: str) -> None:
    everything = listen(project, "--raw", "--json")
    news = listen(project, "--raw", "--channel", "news")
    weather = listen(project, "--raw", "--json", "--pattern", "weather-*")
    client.publish(f"{prefix}:x", "text")
    client.publish("news", b"one\n\xfftwo")
    client.publish("weather-rome", "sun")
    layer.sync.group_send("room", {"type": "n"})
    first = value(everything)
    assert (first["kind"], first["name"], first["data"]) == ("raw", f"{prefix}:x", "text")
    second = value(everything)
    assert (second["name"], second["encoding"]) == (f"{prefix}:g:room", "base64")
    assert base64.b64decode(second["data"]).startswith(b"\xc1\x01")
    assert line(news).split("  ")[1:] == ["raw news", r"b'one\n\xfftwo'", "8 B"]
    assert value(weather)["data"] == "sun"
    for process in (everything, news, weather):
        end(process)


def test_what_cannot_be_read_is_shown(
    make_project: MakeProject, layer: MpxChannelLayer, client: redis.Redis, prefix: str
) -> None:
    project = make_project(symmetric_encryption_keys=["a secret key"])
    as_json, as_lines = listen(project, "--json"), listen(project)
    assert project.run("send", "room", '{"type": "sealed"}').returncode == 0
    layer.sync.group_send("room", {"type": "open"})
    client.publish(f"{prefix}:g:room", b"\xff" * 300)
    assert value(as_json)["message"] == {"type": "sealed"}
    not_encrypted, foreign = value(as_json), value(as_json)
    assert "not an encrypted message" in not_encrypted["error"]
    assert base64.b64decode(foreign["data"]) == b"\xff" * 300
    lines = [line(as_lines) for _ in range(3)]
    assert "sealed" in lines[0]
    assert "unreadable: not an encrypted message" in lines[1]
    assert "\\xff'..." in lines[2]
    end(as_json)
    end(as_lines)


def test_the_server_dies_and_is_back(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    project = make_project(hosts=[restartable_server.url])
    listener = listen(project, "--json")
    assert listener.stderr is not None
    restartable_server.kill()
    assert value(listener)["event"] == "disconnected"
    assert "Lost the connection" in listener.stderr.readline()
    restartable_server.start()
    assert value(listener)["event"] == "connected"
    assert "Connected again" in listener.stderr.readline()
    assert project.run("send", "room", '{"type": "after"}').returncode == 0
    assert value(listener)["message"] == {"type": "after"}
    restartable_server.kill()
    assert value(listener)["event"] == "disconnected"
    out, errors = end(listener)
    assert out == ""
    assert "Traceback" not in errors


def test_a_reader_who_does_not_read_costs_messages_and_nothing_else(
    project: Project, layer: MpxChannelLayer
) -> None:
    listener = listen(project, "--json", "--group", "flood")
    filler = "x" * 4000
    for _ in range(15):
        layer.sync.group_send_many([("flood", {"type": "n", "filler": filler})] * 1000)
    assert listener.stderr is not None
    seen = [json.loads(line(listener))]
    while seen[-1]["event"] == "message":
        seen.append(json.loads(line(listener)))
    check("listen", seen[-1])
    assert seen[-1]["event"] == "dropped"
    assert len(seen) - 1 >= 10_000
    assert len(seen) - 1 + seen[-1]["messages"] == 15_000
    assert f"{seen[-1]['messages']:,} messages were dropped" in listener.stderr.readline()
    end(listener)


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_also_while_nobody_reads(
    cold_project: Project, layer: MpxChannelLayer, signal_: int, code: int
) -> None:
    listener = listen(cold_project, "--group", "flood")
    for _ in range(5):
        layer.sync.group_send_many([("flood", {"type": "n", "filler": "x" * 100_000})] * 10)
    listener.send_signal(signal_)
    # Not communicate(): it reads.
    assert listener.wait(PATIENCE) == code
    assert listener.stderr is not None
    assert listener.stderr.read() == ""


def test_head_ends_it(cold_project: Project, layer: MpxChannelLayer) -> None:
    listener = listen(cold_project)
    layer.sync.group_send("room", {"type": "n"})
    assert line(listener)
    assert listener.stdout is not None
    listener.stdout.close()
    # Without another message.
    assert listener.wait(PATIENCE) == 0
    assert listener.stderr is not None
    assert listener.stderr.read() == ""


def test_on_a_terminal(cold_project: Project, layer: MpxChannelLayer) -> None:
    terminal = cold_project.terminal("listen", columns=100)
    terminal.wait_for("Listening to all groups, channels of processes and promises")
    layer.sync.group_send("room-1", {"type": "chat", "text": "hello"})
    terminal.wait_for('group room-1  chat  {"text": "hello"}')
    assert b"\x1b[1;32mchat\x1b[0m" in terminal.output
    terminal.press("\x03")
    assert terminal.wait() == 0
    assert "Traceback" not in terminal.text


def test_a_user_who_may_not_have_patterns(
    make_project: MakeProject, restartable_server: RestartableServer, prefix: str
) -> None:
    restartable_server.start()
    with restartable_server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "plain", "on", ">secret", "resetchannels", f"&{prefix}:*",
            "allkeys", "allcommands",
        )  # fmt: skip
    project = make_project(hosts=[restartable_server.url.replace("//", "//plain:secret@")])
    done = project.run("listen")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"'{prefix}:g:*'" in done.stderr
    assert "&PATTERN" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    listener = listen(project, "--group", "room", "--json")
    assert project.run("send", "room", '{"type": "n"}').returncode == 0
    assert value(listener)["name"] == "room"
    end(listener)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--group", "a", "--pattern", "b"], "not allowed with"),
        (["--limit", "0"], "from 1 up"),
        (["--limit", "x"], "from 1 up"),
        (["--group", "a b"], "'a b'"),
        (["--pattern", "a b"], "'a b'"),
        (["--channel", "a b"], "'a b'"),
        (["--channel", "specific.x!1!2"], "'specific.x!1!2'"),
        (["--channel", "", "--raw"], "non-empty"),
    ],
)
def test_wrong_usage(project: Project, arguments: list[str], said: str) -> None:
    done = project.run("listen", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_not_in_the_way_of_the_others(project: Project, prefix: str) -> None:
    worker = project.worker()
    listener = listen(project)
    gone = f"specific.{'0' * 16}!1"
    told = project.json("send", "room-1", '{"type": "n"}')
    assert told["processes"] == 1
    assert project.json("send", gone, '{"type": "n"}', code=1)["processes"] == 0
    assert project.json("resolve", "nobody", "1", code=1)["resolved"] == 0
    told = project.json("status")
    by_pid = {each["pid"]: each for each in told["processes"]}
    assert by_pid[listener.pid]["consumers"] == 0
    assert told["groups"] == {"room-1": 1}
    os.kill(worker.pid, 0)
    end(listener)
