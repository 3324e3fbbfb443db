"""Names in Redis: from users' words and back."""

from __future__ import annotations

import pytest

from mpx_channels.channels.names import Names, channel_names, require_group_pattern
from mpx_channels.multiplexer import Multiplexer

PROCESS = "0123456789abcdef"


@pytest.mark.parametrize("prefix", ["asgi", "my*[app]?"])
def test_there_and_back(prefix: str) -> None:
    names = Names(prefix)
    assert names.group_of(names.group("room")) == "room"
    assert names.queue_of(names.queue("jobs")) == "jobs"
    assert names.group_pattern_of(names.group_pattern("ro*")) == "ro*"
    for name in (names.group(PROCESS), names.inbox(PROCESS), names.promise(PROCESS)):
        assert names.traffic_of(name) == PROCESS


def test_each_kind_has_names_of_its_own() -> None:
    names = Names("asgi")
    kinds = (names.group, names.inbox, names.promise, names.queue, names.wake)
    found = {kind("x") for kind in kinds} | {names.control}
    assert len(found) == len(kinds) + 1
    assert {name.split(":")[0] for name in found} == {"asgi"}


@pytest.mark.parametrize("host", ["example", "fe80::1", ""])
def test_the_name_that_a_process_is_alive_by(host: str) -> None:
    names = Names("asgi")
    assert names.alive_of(names.alive(PROCESS, 42, host)) == (PROCESS, 42, host)


@pytest.mark.parametrize("rest", ["", "0", "g:room", f"{PROCESS}", f"{PROCESS}:x:h", "0:1:host"])
def test_names_that_no_process_is_alive_by(rest: str) -> None:
    names = Names("asgi")
    assert names.alive_of(names.control + rest) is None


def test_a_control_channel_on_each_node() -> None:
    multiplexer = Multiplexer([f"redis://127.0.0.1:{port}" for port in (1, 2, 3)])
    controls = Names("asgi").controls(multiplexer)
    assert set(controls) == set(multiplexer.nodes)
    assert all(multiplexer.node_of(name) is node for node, name in controls.items())


def test_a_str_is_no_list_of_channels() -> None:
    assert channel_names(("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match="not the str 'abc'"):
        channel_names("abc")


@pytest.mark.parametrize("pattern", ["room-*", "[a-c]?", r"\*"])
def test_group_patterns(pattern: str) -> None:
    require_group_pattern(pattern, 100)


@pytest.mark.parametrize("pattern", ["", "room one", "x" * 100, None, "a:b"])
def test_what_is_no_group_pattern(pattern: object) -> None:
    with pytest.raises(TypeError, match="a group pattern must be"):
        require_group_pattern(pattern, 100)  # type: ignore[arg-type]
