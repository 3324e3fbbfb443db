"""`mpx send`, `mpx resolve` and `mpx request`."""

from __future__ import annotations

import base64
import subprocess

import pytest
import redis

from .conftest import MakeProject, Project, ended
from .schemas import check

ASK = '{"type": "ask"}'


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence that it says."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_send_to_a_group(project: Project) -> None:
    first, second = project.worker(groups={"room": 2}), project.worker(groups={"room": 1})
    told = project.json("send", "room", '{"type": "chat", "text": "é", "n": [1, null]}')
    check("send", told)
    assert told == {"sent_to": "room", "kind": "group", "processes": 2}
    for worker in (first, second):
        assert worker.read() == {"received": {"type": "chat", "text": "é", "n": [1, None]}}
    done = project.run("send", "room", '{"type": "chat"}')
    assert done.stdout == "Sent to the group room: 2 processes received it.\n"
    done = project.run("send", "empty", '{"type": "chat"}')
    assert (done.returncode, done.stdout) == (
        0, "Sent to the group empty: no process received it.\n"
    )  # fmt: skip


def test_send_to_a_channel(project: Project) -> None:
    worker = project.worker()
    (channel,) = worker.channels
    told = project.json("send", channel, '{"type": "direct"}')
    check("send", told)
    assert told == {"sent_to": channel, "kind": "channel", "processes": 1}
    assert worker.read() == {"received": {"type": "direct"}}
    worker.stop()
    told = project.json("send", channel, '{"type": "direct"}', code=1)
    assert told["processes"] == 0
    done = project.run("send", channel, '{"type": "direct"}')
    assert done.returncode == 1
    assert "nobody received it" in done.stdout


def test_what_no_consumer_has_a_handler_for(project: Project) -> None:
    worker = project.worker(groups={"room": 1})
    chat = {"MPX_ASGI_APPLICATION": "example_project.asgi.application"}
    done = project.run("send", "room", '{"type": "chat.mesage"}', variables=chat)
    said = refused(done, 2)
    assert "no consumer of this project has a handler chat_mesage for 'chat.mesage'" in said
    assert "one has chat_message" in said
    assert "--force sends it" in said
    done = project.run("send", "room", '{"type": "odd"}', "--force", variables=chat)
    assert done.stdout == "Sent to the group room: 1 process received it.\n"
    done = project.run("send", "room", '{"type": "chat.message"}', variables=chat)
    assert done.stdout == "Sent to the group room: 1 process received it.\n"
    # What cannot be known is sent.
    nowhere = {"MPX_ASGI_APPLICATION": "no.such.application"}
    done = project.run("send", "room", '{"type": "other"}', variables=nowhere)
    assert done.stdout == "Sent to the group room: 1 process received it.\n"
    types = [worker.read()["received"]["type"] for _ in range(3)]
    assert types == ["odd", "chat.message", "other"]


PROGRAM = """
import django
from channels.consumer import AsyncConsumer, SyncConsumer
from mpx_channels.consumers import MpxConsumerMixin
from mpx_channels.diagnostics.handlers import unhandled

django.setup()
print(unhandled("known"))

class Stock(SyncConsumer):
    def known(self, event): ...

class Ours(MpxConsumerMixin, AsyncConsumer):
    async def famous(self, event): ...

print(unhandled("known"), unhandled("famous"), unhandled("unknown"))

class Own(AsyncConsumer):
    async def dispatch(self, message): ...

print(unhandled("unknown"))
"""


def test_which_types_are_handled(project: Project) -> None:
    done = ended(project.python("-c", PROGRAM))
    assert done.stdout.splitlines() == [
        "None",
        "None None no consumer of this project has a handler unknown for 'unknown'; one has known",
        "None",
    ], done.stderr


def test_send_to_a_plain_channel(make_project: MakeProject) -> None:
    project = make_project(capacity=2)
    told = project.json("send", "--channel", "jobs", '{"type": "job"}')
    check("send", told)
    assert told == {"sent_to": "jobs", "kind": "channel", "processes": None}
    done = project.run("send", "jobs", '{"type": "job"}', "--channel")
    assert "In the queue of the plain channel jobs" in done.stdout
    assert "capacity" in refused(project.run("send", "jobs", '{"type": "job"}', "--channel"), 1)


def test_the_message_may_come_from_stdin(project: Project) -> None:
    worker = project.worker(groups={"room": 1}, promise="answer")
    text = "x" * 200_000
    done = project.run("send", "room", "-", input=f'{{"type": "long", "text": "{text}é"}}\n')
    assert done.returncode == 0, done.stderr
    assert worker.read()["received"]["text"] == f"{text}é"
    done = project.run("resolve", "answer", "-", input='{"a": 1}')
    assert done.returncode == 0, done.stderr
    assert worker.read() == {"promised": {"a": 1}}
    done = project.run("send", "room", "-", input="")
    assert done.returncode == 2
    assert "is not JSON" in done.stderr
    done = project.run("send", "room", "-", input=b"\xff", text=False)
    assert done.returncode == 2
    assert b"is not JSON" in done.stderr


def test_ctrl_c_while_stdin_is_read(cold_project: Project) -> None:
    terminal = cold_project.terminal("send", "room", "-")
    terminal.wait_for("Ctrl-D")
    terminal.press('{"type":\r')
    terminal.press("\x03")
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.text


def test_json_that_is_typed(project: Project) -> None:
    terminal = project.terminal("send", "room", "-")
    terminal.wait_for("Ctrl-D")
    terminal.press('{"type":\r"t"}\r\x04')
    assert terminal.wait() == 0
    assert "no process received it" in terminal.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "room", "{"], "'{' is not JSON"),
        (["send", "room", "[" * 100_000], "is not JSON"),
        (["send", "room", "[1]"], "a message is a JSON object, not '[1]'"),
        (["send", "room", "{}"], 'needs a "type"'),
        (["send", "room", '{"type": 3}'], 'needs a "type"'),
        (["send", "room", '{"type": ""}'], 'needs a "type"'),
        (["send", "a room", ASK], "'a room'"),
        (["send", "", ASK], "''"),
        (["send", "a!b!c", ASK], "'a!b!c'"),
        (["send", "x" * 100, ASK], "xxx"),
        (["send", "room", '{"type": "t", "a": [{"b": 123456789012345678901}]}'], "['a'][0]['b']"),
        (["send", "room", '{"type": "t", "a": "\\ud800"}'], "message['a'] cannot be sent"),
        (["resolve", "a name", "1"], "'a name'"),
        (["resolve", "name", "nothing"], "'nothing' is not JSON"),
        (["request", "a channel", ASK, "--channel"], "'a channel'"),
        (["request", "x!1", '{"type": "t", "mpx_reply_to": 1}'], "mpx_reply_to"),
    ],
)
def test_wrong_usage(project: Project, arguments: list[str], said: str) -> None:
    text = refused(project.run(*arguments), 2)
    assert said in text
    assert len(text) < 500


@pytest.mark.parametrize("timeout", ["-1", "0", "nan", "inf", "soon"])
def test_timeouts_are_seconds(project: Project, timeout: str) -> None:
    done = project.run("request", "specific.x!1", ASK, f"--timeout={timeout}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"a number of seconds above 0, not '{timeout}'" in done.stderr


def test_a_message_that_is_too_large(make_project: MakeProject) -> None:
    project = make_project(max_message_size=1024)
    text = refused(project.run("send", "room", f'{{"type": "t", "x": "{"x" * 1024}"}}'), 2)
    assert "max_message_size (1024 bytes)" in text


def test_resolve(project: Project) -> None:
    first, second = project.worker(promise="answer"), project.worker(promise="answer")
    told = project.json("resolve", "answer", "[1, 2]")
    check("resolve", told)
    assert told == {"promise": "answer", "resolved": 2}
    assert first.read() == second.read() == {"promised": [1, 2]}
    done = project.run("resolve", "answer", '"again"')
    assert done.stdout == "Settled the promise answer: 2 waited for it.\n"
    done = project.run("resolve", "nobody", "null")
    assert (done.returncode, done.stdout) == (
        1, "Nobody waits for the promise nobody: the value reached nobody.\n"
    )  # fmt: skip
    check("resolve", project.json("resolve", "nobody", "null", code=1))


def test_request(project: Project) -> None:
    worker = project.worker()
    (channel,) = worker.channels
    told = project.json("request", channel, ASK)
    check("request", told)
    assert told["channel"] == channel
    assert told["answer"]["pid"] == worker.pid
    assert base64.b64decode(told["answer"]["data"]["base64"]) == b"\x00"
    done = project.run("request", channel, ASK)
    assert f'"pid": {worker.pid}' in done.stdout
    assert "answered in " in done.stdout


def test_requests_that_fail(project: Project) -> None:
    worker = project.worker()
    (channel,) = worker.channels
    done = project.run("request", channel, '{"type": "fail"}')
    assert "the consumer is not in the mood" in refused(done, 1)
    done = project.run("request", channel, '{"type": "slow"}', "--timeout", "0.2", "--json")
    assert f"no answer from '{channel}' in 0.2 s" in refused(done, 1)
    nobody = channel.replace("!", "!nobody")
    assert "nobody has the channel" in refused(project.run("request", nobody, ASK), 1)
    worker.stop()
    assert "no process has the channel" in refused(project.run("request", channel, ASK), 1)


def test_a_request_that_no_consumer_has_a_handler_for(project: Project) -> None:
    worker = project.worker()
    (channel,) = worker.channels
    chat = {"MPX_ASGI_APPLICATION": "example_project.asgi.application"}
    fail = '{"type": "fail"}'
    said = refused(project.run("request", channel, fail, variables=chat), 2)
    assert "no consumer of this project has a handler fail for 'fail'" in said
    assert "--force sends it" in said
    done = project.run("request", channel, fail, "--force", variables=chat)
    assert "the consumer is not in the mood" in refused(done, 1)
    assert worker.read() == {"received": {"type": "fail"}}


def test_a_request_to_a_name_that_may_be_a_group(project: Project, client: redis.Redis) -> None:
    worker = project.worker(groups={"room-1": 1})
    said = refused(project.run("request", "room-1", ASK), 2)
    assert "'room-1' has no ! in it, so it is a group" in said
    assert "--channel" in said
    assert not client.keys(f"{project.config['prefix']}:*")
    done = project.run("request", "room-1", ASK, "--channel", "--timeout", "1")
    assert "may still wait there for a worker" in refused(done, 1)
    assert client.keys(f"{project.config['prefix']}:q:*")
    worker.stop()


def test_ctrl_c_while_an_answer_is_waited_for(project: Project) -> None:
    worker = project.worker()
    terminal = project.terminal("request", worker.channels[0], '{"type": "slow"}')
    assert worker.read() == {"received": {"type": "slow"}}
    terminal.press("\x03")
    assert terminal.wait() == 130
    assert terminal.text == "^C"


def test_encrypted_layers_talk(make_project: MakeProject) -> None:
    project = make_project(symmetric_encryption_keys=["a secret key"])
    worker = project.worker(groups={"room": 1}, promise="answer")
    assert project.json("send", "room", '{"type": "sealed"}')["processes"] == 1
    assert worker.read() == {"received": {"type": "sealed"}}
    assert project.json("request", worker.channels[0], ASK)["answer"]["pid"] == worker.pid
    assert worker.read() == {"received": {"type": "ask"}}
    assert project.json("resolve", "answer", "1")["resolved"] == 1


def test_on_a_terminal(project: Project) -> None:
    worker = project.worker()
    terminal = project.terminal("request", worker.channels[0], ASK)
    assert terminal.wait() == 0
    assert f'"pid": {worker.pid}' in terminal.text
    assert b"\x1b[" in terminal.output
