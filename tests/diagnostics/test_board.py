"""What `mpx top` keeps and draws, without a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from mpx_channels.diagnostics.board import GONE_FOR, Board, View
from mpx_channels.diagnostics.keys import KeyReader
from mpx_channels.diagnostics.screen import draw
from mpx_channels.diagnostics.snapshot import Rates, Snapshot
from mpx_channels.diagnostics.sparkline import Trace
from mpx_channels.layer import FleetStats, ProcessStats


def process(number: int, **known: Any) -> ProcessStats:
    return ProcessStats(
        process_id=f"{number:016}",
        **{"host": f"web-{number}", "pid": number, "at": 10.0, "started": 0.0, "round_trip": 0.001}
        | known,
    )


def snapshot(*processes: ProcessStats, rate: float = 1.0, **known: Any) -> Snapshot:
    stats = FleetStats(processes, **{"groups": {}, "queues": {}, "at": 10.0} | known)
    rates = {each.process_id: Rates(rate * each.pid, 0.0) for each in processes if not each.silent}
    return Snapshot("asgi", ("redis://here:6379",), stats, rates)


def screen(board: Board, view: View | None = None, width: int = 160, height: int = 40) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(draw(board, view or View(), width, height), crop=True)
    return [line.rstrip() for line in capture.get().splitlines()]


def hosts(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if line.startswith("web-")]


# -- bars -----------------------------------------------------------------------------------------


def test_bars() -> None:
    assert Trace(5, [0, 1, 4, 8, None]).bars(5) == "▁▂▅█ "
    assert Trace(5, [8]).bars(5) == "    █"
    assert Trace(5).bars(5) == "     "
    assert Trace(5, [0, 0]).bars(5) == "   ▁▁"
    assert Trace(5, [0.001, 8]).bars(5) == "   ▂█"
    assert Trace(5, [4]).bars(5, top=8) == "    ▅"
    assert Trace(5, range(10)).bars(5, ascii=True) == "=++*#"
    assert Trace(5, [1]).bars(0) == ""


def test_bars_of_several_lines() -> None:
    assert Trace(4, [0, 4, 8, None]).chart(4, 2) == [" ▁█ ", "▁██ "]
    assert Trace(4, [0.001, 8]).chart(4, 3) == ["   █", "   █", "  ▂█"]
    assert Trace(4, [1]).chart(0, 2) == ["", ""]
    trace = Trace(60, range(70))
    assert trace.chart(30, 1) == [trace.bars(30)]


def test_bars_stay_as_they_move() -> None:
    trace = Trace(60)
    before = ""
    for number in range(200):
        trace.add(float(number % 7))
        drawn = trace.bars(20, top=7)
        assert len(drawn) == 20
        if number > 63:
            # The latest is in the making, and the oldest fades. Three values share a bar.
            assert drawn[1:-1] == (before[2:] if number % 3 == 0 else before[1:-1])
        before = drawn


def test_a_peak_is_not_lost() -> None:
    trace = Trace(60, [1] * 60)
    trace.add(100)
    for _ in range(30):
        trace.add(1)
        assert "█" in trace.bars(10)


# -- the board ------------------------------------------------------------------------------------


def test_a_process_in_trouble_keeps_its_numbers_and_is_marked() -> None:
    board = Board(60)
    board.update(snapshot(process(1, consumers=7), process(2)), 0.0)
    board.update(snapshot(process(2), process(1, silent=True, at=None)), 1.0)
    board.update(snapshot(process(2), process(1, silent=True, at=None)), 4.0)
    (line,) = [line for line in screen(board) if line.startswith("web-1")]
    assert "silent 3s" in line
    assert " 7 " in line
    assert "1 silent" in screen(board)[1]
    board.update(snapshot(process(1), process(2)), 5.0)
    assert not any("silent" in line for line in screen(board))


def test_a_process_that_is_gone_stays_for_a_moment() -> None:
    board = Board(60)
    board.update(snapshot(process(1), process(2, silent=True, at=None)), 0.0)
    board.update(snapshot(), 1.0)
    assert [line.mark for line in board.lines] == ["gone", "gone"]
    assert "0 processes" in screen(board)[1]
    board.update(snapshot(), 1.0 + GONE_FOR - 0.1)
    assert len(board.lines) == 2
    board.update(snapshot(process(1)), 1.0 + GONE_FOR + 0.1)
    assert [line.mark for line in board.lines] == [""]
    assert set(board.traces) == {process(1).process_id}


def test_an_outage() -> None:
    board = Board(60)
    board.update(snapshot(process(1)), 0.0)
    board.update(snapshot(process(1)), 1.0)
    board.failed("no connection")
    since = board.error_since
    board.failed("still none")
    lines = screen(board)
    assert any("No answer since" in line and "still none" in line for line in lines)
    assert hosts(lines) == ["web-1"]
    assert board.error_since == since
    board.update(snapshot(process(1)), 3.0)
    assert not any("No answer" in line for line in screen(board))
    # A gap in the line, where nothing is known.
    assert board.total.messages_in.bars(60).rstrip().endswith("█  █")


# -- the screen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("height", [3, 10, 24, 60])
def test_it_fills_the_screen_and_no_more(width: int, height: int) -> None:
    board = Board(60)
    for number in range(3):
        groups = {f"group-{'x' * 90}-{n}": n for n in range(10)}
        processes = [process(n, host=f"web-{'y' * 40}-{n}", consumers=n) for n in range(1, 31)]
        board.update(
            snapshot(
                *processes, groups=groups, queues={"jobs": 3}, incomplete={"silent": "z" * 99}
            ),
            float(number),
        )
    board.failed("long " * 50)
    lines = screen(board, None, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert "q leave"[:width] in lines[-1] or height < 10


def test_it_draws_before_the_first_look() -> None:
    board = Board(60)
    assert "looking" in screen(board)[0]
    board.failed("no connection")
    assert any("no connection" in line for line in screen(board))


def bars(lines: list[str]) -> int:
    """How many lines the bars on top have."""
    return sum("█" in line for line in lines if not line.startswith("web-"))


def test_it_uses_the_room_that_processes_leave() -> None:
    board = Board(60)
    groups = {f"room-{number}": 50 - number for number in range(30)}
    for _ in range(3):
        board.update(snapshot(process(1), groups=groups), 0.0)
    high = screen(board, height=50)
    assert [sum("room-" in line for line in screen(board, height=each)) for each in (24, 50)] == [
        13, 30
    ]  # fmt: skip
    assert bars(high) == 5
    # A bar is two columns wide where there is room.
    assert max(line.count("█") for line in high if not line.startswith("web-")) == 4
    assert bars(screen(board, height=24)) == 1
    # Processes come first.
    for _ in range(3):
        board.update(snapshot(*map(process, range(40)), groups=groups), 0.0)
    many = screen(board, height=50)
    assert bars(many) == 1
    assert len(hosts(many)) >= 25


def test_groups_and_queues() -> None:
    board = Board(60)
    board.update(snapshot(process(1), groups={"room": 1234}, queues={"jobs": 5}), 0.0)
    lines = screen(board)
    assert any("room" in line and "1,234" in line and "jobs" in line for line in lines)


def test_who_is_present() -> None:
    board = Board(60)
    groups = {"room": 1234, "hall": 3}
    board.update(snapshot(process(1, present=7), groups=groups, present={"room": 7}), 0.0)
    lines = screen(board)
    assert any("consumers (present)" in line for line in lines)
    assert any("room" in line and "1,234 (7)" in line for line in lines)
    assert any("hall" in line and "3 (0)" in line for line in lines)


def test_sorting() -> None:
    board, view = Board(60), View()
    board.update(
        snapshot(process(1, consumers=5), process(2, consumers=9), process(3, consumers=1)), 0.0
    )
    assert hosts(screen(board, view)) == ["web-3", "web-2", "web-1"]  # in/s
    view.press("r")
    assert hosts(screen(board, view)) == ["web-1", "web-2", "web-3"]
    while view.sort.head != "consumers":
        view.press("<")
    assert hosts(screen(board, view)) == ["web-2", "web-1", "web-3"]
    assert "by consumers, largest first" in screen(board, view)[-1]
    while view.sort.head != "host":
        view.press("left")
    assert hosts(screen(board, view)) == ["web-1", "web-2", "web-3"]
    assert "by host, a-z" in screen(board, view)[-1]
    view.press("<")
    assert view.sort.head == "round trip"
    view.press(">")
    assert view.sort.head == "host"
    board.update(snapshot(process(1), process(2), process(3, silent=True, at=None)), 1.0)
    assert hosts(screen(board, view)) == ["web-3", "web-1", "web-2"]


def test_every_column_can_be_sorted_by() -> None:
    board, view = Board(60), View()
    board.update(snapshot(process(1, round_trip=None), process(2, silent=True, at=None)), 0.0)
    for _ in range(14):
        view.press(">")
        assert len(hosts(screen(board, view))) == 2


def test_scrolling() -> None:
    board, view = Board(60), View("pid")
    board.update(snapshot(*(process(n) for n in range(1, 31))), 0.0)

    def first_and_last() -> tuple[str, str]:
        shown = hosts(screen(board, view, 160, 16))
        return shown[0], shown[-1]

    assert first_and_last() == ("web-1", "web-8")
    assert "1-8 of 30" in screen(board, view, 160, 16)[-1]
    for keys, expected in (
        (["j"], ("web-2", "web-9")),
        (["down"], ("web-3", "web-10")),
        (["k", "up", "up"], ("web-1", "web-8")),
        (["page down"], ("web-9", "web-16")),
        ([" ", " ", " "], ("web-23", "web-30")),
        (["b"], ("web-15", "web-22")),
        (["G"], ("web-23", "web-30")),
        (["home"], ("web-1", "web-8")),
    ):
        for key in keys:
            view.press(key)
        assert first_and_last() == expected, keys
    view.press("end")
    board.update(snapshot(*(process(n) for n in range(1, 4))), 1.0)
    board.update(snapshot(*(process(n) for n in range(1, 4))), 9.0)
    assert first_and_last() == ("web-1", "web-3")


# -- keys -----------------------------------------------------------------------------------------


def test_keys() -> None:
    reader = KeyReader()
    assert reader.feed("qj\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1;5C<") == [
        "q", "j", "up", "down", "page up", "page down", "<",
    ]  # fmt: skip
    assert reader.feed("\x1b") == []
    assert reader.feed("[") == []
    assert reader.feed("D") == ["left"]
    assert reader.feed("\x1b") == []
    assert reader.feed("q") == ["q"]
