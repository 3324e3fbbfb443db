"""`mpx bench`. Nothing here is about how fast anything is."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from mpx_channels.diagnostics.bench import contest
from mpx_channels.diagnostics.bench.contenders import Contender
from mpx_channels.diagnostics.bench.contest import Result
from mpx_channels.diagnostics.bench.measures import FIGURES, Turn, percentile
from mpx_channels.diagnostics.subcommand import Refusal
from tests.conftest import RestartableServer, eventually, missing
from tests.warm import ROOT, start_cold

from ..conftest import PATIENCE, MakeProject, Project, ended
from ..schemas import check

SHORT = ("--seconds", "0.2", "--clients", "6", "--groups", "2")
LONG = ("--seconds", "60", "--clients", "6", "--groups", "2")
TITLES = ["publish", "fan-out", "round trip, p50", "round trip, p99", "joins"]


@pytest.fixture(params=["channels_redis", "channels_redis.core"])
def rival(request: pytest.FixtureRequest) -> str:
    """What can be named after --against."""
    if find_spec("channels_redis") is None:
        missing("channels_redis is not installed")
    return str(request.param)


def left(client: redis.Redis, prefix: str) -> list[bytes]:
    """Every name on the server that begins with the prefix."""
    pattern = f"{prefix}*"
    found: list[bytes] = [*client.scan_iter(match=pattern), *client.pubsub_channels(pattern)]
    return found


async def nothing_left(client: redis.Redis, prefix: str) -> None:
    # Redis may notice a moment later that a connection was closed.
    await eventually(lambda: not left(client, prefix))


async def measuring(client: redis.Redis, prefix: str) -> None:
    """Wait until clients are in their groups."""
    await eventually(lambda: client.pubsub_channels(f"{prefix}:bench-*:g:room-1"), PATIENCE)


async def test_a_table_in_a_pipe(project: Project, client: redis.Redis, prefix: str) -> None:
    done = project.run("bench", *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith('Measuring the layer "default" on redis://')
    assert (
        f"6 clients in 2 groups, up to 50 calls at once, under the prefix {prefix}:bench-"
        in (lines[1])
    )
    start = next(number for number, line in enumerate(lines) if line.startswith("publish"))
    table = lines[start - 1 : start + len(TITLES)]
    assert [line[: len(title)] for line, title in zip(table[1:], TITLES, strict=True)] == TITLES
    # Numbers end where the heading does.
    end = table[0].index("  unit")
    for line in table[1:]:
        assert line[end - 1].isdigit()
        assert line[end : end + 2] == "  "
    assert "One process is both ends" in done.stdout
    assert not {"\x1b", "━", "\r"} & set(done.stdout)
    await nothing_left(client, prefix)


async def test_json(project: Project, client: redis.Redis, prefix: str) -> None:
    told = project.json("bench", *SHORT)
    check("bench", told)
    assert told["settings"]["clients"] == 6
    assert told["prefix"].startswith(f"{prefix}:bench-")
    assert (told["times_better"], told["other_processes"]) == (None, 0)
    (ours,) = told["results"]
    for key in ("messages_published", "deliveries", "round_trips", "joins"):
        assert ours[key] > 0
    assert 0 < ours["round_trip_p50_seconds"] <= ours["round_trip_p99_seconds"]
    assert (ours["lost"], ours["drops"]) == (0, {})
    await nothing_left(client, prefix)


async def test_against(
    project: Project, client: redis.Redis, prefix: str, rival: str, tmp_path: Any
) -> None:
    told = project.json("bench", *SHORT, "--against", rival)
    check("bench", told)
    ours, theirs = told["results"]
    assert (ours["name"], theirs["name"]) == ("mpx_channels", rival)
    assert theirs["version"] == told["versions"]["channels_redis"]
    assert (theirs["deliveries"] > 0, theirs["lost"]) == (True, 0)
    for ratio in told["times_better"].values():
        assert ratio["least"] <= ratio["median"] <= ratio["most"]
    await nothing_left(client, prefix)


def test_against_with_keys_of_the_project(make_project: MakeProject, rival: str) -> None:
    project = make_project(symmetric_encryption_keys=["secret"], on_disconnect="chat.gone")
    done = project.run("bench", *SHORT, "--against", rival)
    assert (done.returncode, done.stderr) == (0, "")
    assert "times better" in done.stdout


def test_on_a_terminal(project: Project, rival: str) -> None:
    terminal = project.terminal("bench", *SHORT, "--against", rival)
    assert terminal.wait() == 0
    assert b"round 1 of 3: fan-out, mpx_channels" in terminal.output
    assert f"round 3 of 3: joins, {rival}".encode() in terminal.output
    screen = terminal.text
    assert "round 1 of 3" not in screen
    (line,) = [line for line in screen.splitlines() if line.startswith("publish")]
    assert line.endswith("━" * 24)


def test_the_package_to_compare_with_is_missing(project: Project) -> None:
    code = (
        "import sys; sys.modules['channels_redis'] = None\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)"
    )
    asking = ("mpx", "bench", *SHORT, "--against", "channels_redis")
    done = ended(project.python("-c", code, *asking))
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs the package channels_redis" in done.stderr
    assert done.stderr.rstrip().endswith("pip install channels_redis")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--clients", "0"), "--clients must be from 1 to 10,000, not 0"),
        (("--clients", "-3"), "not -3"),
        (("--clients", "10001"), "not 10001"),
        (("--clients", "many"), "invalid int value: 'many'"),
        (("--groups", "0"), "--groups must be from 1 to the number of --clients, 100, not 0"),
        (("--groups", "101"), "not 101"),
        (("--seconds", "0"), "--seconds must be from 0.1 to 120, not 0"),
        (("--seconds", "-1"), "not -1"),
        (("--seconds", "121"), "not 121"),
        (("--seconds", "nan"), "not nan"),
        (("--against", "rabbits"), "invalid choice: 'rabbits'"),
    ],
)
def test_wrong_numbers(project: Project, arguments: tuple[str, ...], told: str) -> None:
    done = project.run("bench", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_others_are_warned_of(project: Project) -> None:
    project.worker()
    done = project.run("bench", *SHORT)
    assert done.returncode == 0
    assert done.stderr.startswith("Warning: 1 other process is live under ")
    assert done.stderr.count("\n") == 1


def test_live_consumers_hear_nothing(project: Project, rival: str) -> None:
    # Its groups have the names that the room's have.
    worker = project.worker(groups={"room-0": 1, "room-1": 1, "probe": 1, "nobody-0": 1})
    assert project.run("bench", *SHORT, "--against", rival).returncode == 0
    project.run("send", "room-1", '{"type": "the.first"}')
    assert worker.read() == {"received": {"type": "the.first"}}


SLOW_LAYER = """
import asyncio
from mpx_channels.layer import MpxChannelLayer

class SlowLayer(MpxChannelLayer):
    async def receive(self, channel):
        await asyncio.sleep(0.02)
        return await super().receive(channel)
"""


def test_lost_messages_are_told(make_project: MakeProject, tmp_path: Path) -> None:
    # The readers of the bench are prompt, and those lose nothing.
    (tmp_path / "slow_layer.py").write_text(SLOW_LAYER)
    project = make_project(start_cold, capacity=3)
    project.python_path.append(str(tmp_path))
    project.layers["default"]["BACKEND"] = "slow_layer.SlowLayer"
    done = project.run("bench", "--seconds", "0.1", "--clients", "3", "--groups", "1")
    assert (done.returncode, done.stderr) == (1, "")
    line = r"^mpx_channels lost (\d+) of (\d+) deliveries \(full: (\d+)\)\.$"
    told = re.search(line, done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    lost, due, full = map(int, told.groups())
    assert 0 < lost == full < due


@pytest.fixture
def narrow_user(client: redis.Redis, prefix: str) -> Iterator[str]:
    """A user with the rights that docs/layer.md says are enough; its password is its name."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    client.acl_setuser(
        name,
        enabled=True,
        passwords=[f"+{name}"],
        channels=[f"{prefix}:*"],
        reset_channels=True,
        commands=["+subscribe", "+unsubscribe", "+publish", "+ping"],
    )
    yield name
    client.acl_deluser(name)


def test_the_documented_rights_are_enough(
    make_project: MakeProject, redis_url: str, narrow_user: str
) -> None:
    url = redis_url.replace("//", f"//{narrow_user}:{narrow_user}@")
    project = make_project(hosts=[url])
    done = project.run("bench", *SHORT)
    assert (done.returncode, done.stderr) == (0, "")
    assert narrow_user not in done.stdout
    told = project.json("bench", *SHORT)
    check("bench", told)
    assert told["other_processes"] == 0


def test_a_right_that_the_other_layer_needs_is_missing(
    make_project: MakeProject, redis_url: str, narrow_user: str
) -> None:
    url = redis_url.replace("//", f"//{narrow_user}:{narrow_user}@")
    done = make_project(hosts=[url]).run("bench", *SHORT, "--against", "channels_redis.core")
    assert done.returncode == 1
    assert "channels_redis.core failed at letting the clients in" in done.stderr
    assert "no permissions" in done.stderr.lower()
    assert done.stderr.count("\n") == 1


def test_a_config_that_the_other_layer_cannot_use(
    make_project: MakeProject, server: Any, rival: str
) -> None:
    # An option of ours alone.
    host = {"host": "127.0.0.1", "port": server.port, "ssl": False}
    done = make_project(hosts=[host]).run("bench", *SHORT, "--against", rival)
    assert done.returncode == 1
    assert f"{rival} failed at letting the clients in: " in done.stderr
    assert "'ssl'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_server(make_project: MakeProject, restartable_server: RestartableServer) -> None:
    done = make_project(hosts=[restartable_server.url]).run("bench", *SHORT)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(restartable_server.port) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("against", [(), ("--against", "channels_redis")])
async def test_the_server_dies(
    make_project: MakeProject,
    restartable_server: RestartableServer,
    prefix: str,
    against: tuple[str, ...],
) -> None:
    restartable_server.start()
    project = make_project(hosts=[restartable_server.url])
    process = project.start("bench", *LONG, *against)
    with restartable_server.client() as watcher:
        await measuring(watcher, prefix)
    restartable_server.kill()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "the link to the server broke while it was measured: " in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("against", [None, "channels_redis", "channels_redis.core"])
async def test_interrupted(
    project: Project, client: redis.Redis, prefix: str, against: str | None
) -> None:
    chosen = ("--against", against) if against else ()
    process = project.start("bench", *LONG, *chosen)
    await measuring(client, prefix)
    if against == "channels_redis.core":
        await eventually(lambda: any(client.scan_iter(match=f"{prefix}*")), PATIENCE)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, "")
    assert "publish" not in output
    await nothing_left(client, prefix)


def test_interrupted_on_a_terminal(cold_project: Project) -> None:
    terminal = cold_project.terminal("bench", *LONG)
    terminal.wait_for(lambda text: b"round 1 of 60" in terminal.output)
    terminal.press("\x03")
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.text
    assert terminal.output.rindex(b"\x1b[?25h") > terminal.output.rindex(b"\x1b[?25l")


def test_percentiles_are_samples() -> None:
    laps = [number / 1000 for number in range(100, 0, -1)]
    assert (percentile(laps, 0.5), percentile(laps, 0.99)) == (0.05, 0.099)
    assert percentile([0.5], 0.99) == 0.5


def test_ratios_are_round_by_round() -> None:
    def turns(*rates: float) -> dict[str, list[Turn]]:
        laps = [[1 / rate] if rate else [] for rate in rates]
        return {
            "publish": [Turn(int(rate), 1.0) for rate in rates],
            "round trip": [Turn(laps=each) for each in laps],
        }

    figures = {figure.key: figure for figure in FIGURES}
    result = Result({"a": turns(100, 10, 30), "b": turns(50, 10, 10)})
    for key in ("publishes_per_second", "round_trip_p50_seconds"):
        ratio = result.ratio(figures[key], "a", "b")
        assert ratio is not None
        assert (ratio.median, ratio.least, ratio.most) == pytest.approx((2, 1, 3))
    assert result.figure("a", figures["publishes_per_second"]) == 30
    nothing = Result({"a": turns(10), "b": {"publish": [Turn()]}})
    assert nothing.ratio(figures["publishes_per_second"], "a", "b") is None


async def test_what_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Contender):
        name = "stuck"

        async def open(self) -> None:
            await asyncio.sleep(3600)

        async def close(self) -> None:
            """Has nothing."""

    monkeypatch.setattr(contest, "LIMIT", 0.05)
    with pytest.raises(Refusal, match="stuck did not finish within 0 s: letting the clients in"):
        await contest.Contest([Stuck(None, 1, 1, 1)], 1.0).run(lambda what: None)


# -- benchmarks/layer.py, which measures with the same --------------------------------------------


def test_the_benchmark_of_the_layer() -> None:
    if find_spec("channels_redis") is None:
        missing("channels_redis is not installed")
    command = [sys.executable, "-m", "benchmarks.layer", "--runs", "1", "--only", "burst", "one"]
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["scenario"] for row in rows] == ["burst of 200 sends", "2,000 joins of one group"]
    for row in rows:
        assert row["least"] == row["times_better"] == row["most"]
        assert row["times_better"] == pytest.approx(row["channels_redis"] / row["mpx_channels"])
