"""What all subcommands of `manage.py mpx` share: arguments, errors, exit codes, colours."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import signal
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import CommandError, call_command

from mpx_channels import __version__
from mpx_channels.diagnostics import subcommands
from tests.conftest import RestartableServer
from tests.proxy import free_port
from tests.warm import Warm, start_cold

from .conftest import PATIENCE, MakeProject, Project, ended

ASK = '{"type": "ask"}'


def refusal(project: Project, *arguments: str, code: int) -> str:
    """The one sentence on stderr."""
    done = project.run(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (sentence,) = done.stderr.splitlines()
    return sentence


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no subcommand 'nonsense': there are doctor, status, "),
        (["--layer", "other", "status"], "options such as --layer come after it"),
        (["sennd", "room"], "no subcommand 'sennd': did you mean 'send'?"),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["status", "more"], "unrecognized arguments: more"),
        (["send", "room"], "the following arguments are required: JSON"),
        (["status", "--layer"], "expected one argument"),
    ],
)
def test_wrong_arguments(project: Project, arguments: list[str], said: str) -> None:
    done = project.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")
    assert said in done.stderr


def test_without_a_subcommand_it_lists_them(project: Project) -> None:
    done = project.run()
    assert (done.returncode, done.stderr) == (0, "")
    for subcommand in subcommands():
        assert re.search(rf"^    {subcommand.name} +\w", done.stdout, re.MULTILINE)


def test_its_version_is_ours(project: Project) -> None:
    done = project.run("--version")
    assert (done.returncode, done.stdout) == (0, f"mpx-channels {__version__}\n")


def test_django_s_options_may_stand_anywhere(project: Project) -> None:
    settings = "--settings=tests.diagnostics.settings"
    for arguments in (["status", settings, "-v", "2"], [settings, "-v", "2", "status"]):
        done = project.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = ended(project.python("-m", "django", "mpx", "status", "--json"))
    assert json.loads(done.stdout)["processes"] == []


def test_it_is_listed_and_costs_other_commands_nothing(cold_project: Project) -> None:
    done = ended(cold_project.python("manage.py", "help"))
    assert "\n[mpx_channels]\n    mpx\n" in done.stdout
    program = (
        "import sys; from django.core.management import execute_from_command_line as execute; "
        "execute(['manage.py', 'check', '-v0']); "
        "print([name for name in sys.modules if name.startswith(('rich', 'mpx_channels.diag'))])"
    )
    assert ended(cold_project.python("-c", program)).stdout.endswith("\n[]\n")


# -- what is refused ------------------------------------------------------------------------------


def test_layers_that_are_not_ours(project: Project) -> None:
    ours = project.layers["default"]["BACKEND"]
    project.layers |= {
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        "theirs": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"},
        "nowhere": {"BACKEND": "no.such.Layer"},
        "misspelt": {"BACKEND": "mpx_channels.layer.MpxLayer"},
        "without": {},
        "none": None,
        "wrong": {"BACKEND": ours, "CONFIG": {"capactiy": 1, "expiry": "long"}},
    }
    for alias, said in {
        "memory": "is channels.layers.InMemoryChannelLayer",
        "theirs": "is channels_redis.pubsub.RedisPubSubChannelLayer",
        "nowhere": "cannot be imported: No module named 'no'",
        "misspelt": f'"MpxLayer" attribute/class; write "{ours}"',
        "without": "needs a BACKEND",
        "none": "must be a dict",
        "missing": "there is no layer 'missing' in CHANNEL_LAYERS: it has 'default', 'memory'",
    }.items():
        assert said in refusal(project, "status", "--layer", alias, code=2)
    sentence = refusal(project, "status", "--layer", "wrong", code=1)
    assert "did you mean 'capacity'?" in sentence
    assert "expiry must be" in sentence


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["listen"], ["send", "room", ASK], ["resolve", "name", "1"],
     ["request", "specific.x!1", ASK]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_no_server(make_project: MakeProject, arguments: list[str]) -> None:
    port = free_port()
    project = make_project(hosts=[f"redis://127.0.0.1:{port}"])
    sentence = refusal(project, *arguments, "--json", code=1)
    assert f"no connection to redis://127.0.0.1:{port} in 2.0 s: " in sentence


def test_traceback_and_verbosity(make_project: MakeProject) -> None:
    project = make_project(hosts=[f"redis://127.0.0.1:{free_port()}"])
    done = project.run("status", "--traceback")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "NotConnected" in done.stderr
    done = project.run("status", "-v", "2")
    assert "Cannot connect to redis://127.0.0.1" in done.stderr


def test_a_wrong_password_and_missing_permissions(
    make_project: MakeProject, restartable_server: RestartableServer
) -> None:
    restartable_server.start()
    with restartable_server.client() as client:
        client.execute_command("ACL", "SETUSER", "mute", "on", ">secret", "&*", "~*", "+@all",
                               "-publish")  # fmt: skip
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "&*", "~*", "+@all",
                               "-subscribe")  # fmt: skip
    for user, said in {
        "nobody:wrong": "invalid username-password pair",
        "mute:secret": "'publish'",
        "deaf:secret": "'subscribe'",
    }.items():
        project = make_project(hosts=[restartable_server.url.replace("//", f"//{user}@")])
        sentence = refusal(project, "send", "room", ASK, code=1)
        assert said in sentence
        assert "secret" not in sentence


def test_each_alias_has_its_server(project: Project, restartable_server: RestartableServer) -> None:
    restartable_server.start()
    project.layers["other"] = {
        "BACKEND": "mpx_channels.layer.MpxChannelLayer",
        "CONFIG": {**project.config, "hosts": [restartable_server.url]},
    }
    here, there = project.worker(), project.worker(layer="other")
    for alias, worker in (("default", here), ("other", there)):
        told = project.json("status", "--layer", alias)
        assert [each["pid"] for each in told["processes"]] == [worker.pid]


# -- colours --------------------------------------------------------------------------------------


def test_colours(project: Project) -> None:
    worker = project.worker()
    asking = ("request", worker.channels[0], ASK)
    assert "\x1b" not in project.run(*asking).stdout
    assert "\x1b[" in project.run(*asking, "--force-color").stdout
    json.loads(project.run(*asking, "--force-color", "--json").stdout)
    for arguments, environment, colours in (
        ((), {}, True),
        (("--no-color",), {}, False),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"TERM": "dumb"}, False),
        (("--json",), {}, False),
    ):
        output = on_a_terminal(project, environment, *asking, *arguments)
        assert (b"\x1b[32m" in output or b";32m" in output or b"\x1b[1;" in output) is colours


def test_a_table_in_a_pipe_is_not_cut_by_colours(project: Project) -> None:
    project.worker()
    plain, coloured = project.run("status"), project.run("status", "--force-color")
    assert "\x1b[1m" in coloured.stdout
    assert "round trip" in coloured.stdout
    assert [len(each.stdout.splitlines()) for each in (plain, coloured)] == [7, 7]


def on_a_terminal(project: Project, variables: dict[str, str], *arguments: str) -> bytes:
    """Run it to its end on a terminal, in another environment; return what it wrote."""
    terminal = project.terminal(*arguments, variables=variables)
    assert terminal.wait() == 0, terminal.output
    return terminal.output


def test_other_encodings_than_utf_8(project: Project, cold_project: Project) -> None:
    worker = project.worker(groups={"room": 1})
    variables = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments in (["send", "room", '{"type": "é"}'], ["resolve", "name", '"é"']):
        done = cold_project.run(*arguments, variables=variables)
        assert "Traceback" not in done.stderr
    assert worker.read() == {"received": {"type": "é"}}
    asking = ("request", worker.channels[0], '{"type": "é"}', "--timeout", "0.01")
    done = cold_project.run(*asking, variables=variables)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["status"], ["status", "--json"], ["doctor"]], ids=" ".join
)
def test_nobody_reads_any_more(cold_project: Project, arguments: list[str]) -> None:
    cold_project.worker()
    process = cold_project.start(*arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_any_time_end_it_quietly(
    make_project: MakeProject, signal_: signal.Signals
) -> None:
    # Nothing answers there, so that it is busy connecting.
    project = make_project(start_cold, hosts=[f"redis://127.0.0.1:{free_port()}"])
    program = (
        "import django, os, signal, sys, threading; django.setup(); "
        "from django.core.management import load_command_class; "
        "command = load_command_class('mpx_channels', 'mpx'); "
        "threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), int(sys.argv[2]))).start(); "
        "command.run_from_argv(['manage.py', 'mpx', 'status'])"
    )
    done = ended(project.python("-c", program, "0.5", str(int(signal_))))
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == (130 if signal_ is signal.SIGINT else 143)


def test_an_interrupt_before_the_loop_runs(
    project: Project, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = project.layers

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mpx_channels.management.commands.mpx.Session", interrupted)
    with pytest.raises(SystemExit) as ended:
        call_command("mpx", "status")
    assert ended.value.code == 130


# -- from Python ----------------------------------------------------------------------------------


@pytest.fixture
def configured(project: Project, settings: Any) -> Project:
    """The project, in this process."""
    from channels.layers import channel_layers

    settings.CHANNEL_LAYERS = project.layers
    channel_layers.backends.clear()
    return project


def status() -> Any:
    """What it tells Python."""
    out = io.StringIO()
    call_command("mpx", "status", json=True, stdout=out)
    return json.loads(out.getvalue())


def test_call_command(configured: Project) -> None:
    worker = configured.worker()
    (process,) = status()["processes"]
    assert process["pid"] == worker.pid
    out = io.StringIO()
    call_command("mpx", "send", worker.channels[0], ASK, stdout=out)
    assert "its process received it" in out.getvalue()
    assert not logging.getLogger("mpx_channels").handlers


async def test_call_command_from_a_thread_and_from_a_loop(configured: Project) -> None:
    assert (await asyncio.to_thread(status))["processes"] == []
    with pytest.raises(SynchronousOnlyOperation, match="to_thread"):
        status()


def test_errors_in_python(configured: Project) -> None:
    with pytest.raises(CommandError, match="did you mean 'send'"):
        call_command("mpx", "sennd")
    with pytest.raises(CommandError, match="no layer 'missing'") as refused:
        call_command("mpx", "status", layer="missing")
    assert refused.value.returncode == 2
    with pytest.raises(SystemExit) as ended:
        call_command("mpx", "resolve", "nobody", "1", stdout=io.StringIO())
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["status"], None),
        (["status", "--json"], None),
        (["doctor", "--json"], None),
        (["send", "room-1", '{"type": "hello"}'], None),
        (["send", "room-1", '{"type": "hello"}', "--json"], start_cold),
        (["listen", "--channel", "jobs"], None),
        (["listen", "--channel", "jobs", "--json"], None),
        (["bench", "--seconds", "0.1", "--clients", "1", "--groups", "1"], None),
    ],
)
def test_closed_and_full_outputs(
    make_project: MakeProject, warm: Warm, arguments: list[str], start: Any
) -> None:
    project = make_project(start or warm.start)
    assert project.run("send", "--channel", "jobs", '{"type": "job"}').returncode == 0
    usual = project.run(*arguments)
    closed = project.run(*arguments, redirected={1: None})
    assert (closed.returncode, closed.stderr) == (0, usual.stderr)
    closed = project.run(*arguments, redirected={2: None})
    assert closed.returncode == 0
    # What is said on stderr does not come to stdout instead.
    assert len(closed.stdout.splitlines()) == len(usual.stdout.splitlines())
    if os.path.exists("/dev/full"):
        full = project.run(*arguments, redirected={1: "/dev/full"})
        assert full.returncode == 1
        assert "No space left on device" in full.stderr.splitlines()[-1]
        assert "Traceback" not in full.stderr
