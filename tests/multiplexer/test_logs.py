"""Logging at a limited rate: what is logged at once, and what later."""

from __future__ import annotations

import asyncio
import logging
import re

import pytest

from mpx_channels.multiplexer import logs as logs_module
from mpx_channels.multiplexer.logs import LimitedLog, origin
from tests.inside import kinds_in

from ..conftest import eventually

LOGGER = logging.getLogger("mpx_channels.test")


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, LOGGER.name)


def test_the_first_of_a_kind_at_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, clock=clock)
    for kind in ("a", "b"):
        for number in range(3):
            log.warning(kind, "%s %d", kind, number)
    assert caplog.messages == ["a 0", "b 0"]


def test_the_next_one_tells_how_many(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no event loop."""
    log = LimitedLog(LOGGER, every=60, clock=clock)
    for number in range(42):
        log.info("a", "%d", number)
    clock.now += 59.9
    log.info("a", "%d", 42)
    assert caplog.messages == ["0"]
    clock.now += 30.1
    log.info("a", "%d", 43)
    assert caplog.messages == ["0", "43 (and 42 more in the last 90 s)"]
    # And from the beginning.
    log.info("a", "%d", 44)
    clock.now += 60
    log.info("a", "%d", 45)
    clock.now += 60
    log.info("a", "%d", 46)
    assert caplog.messages[2:] == ["45 (and 1 more in the last 60 s)", "46"]


async def test_the_latest_is_told_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, every=0.05)
    for number in range(5):
        log.warning("a", "%d", number)
    assert caplog.messages == ["0"]
    await eventually(lambda: len(caplog.messages) == 2)
    assert caplog.messages[1] == "4 (and 3 more in the last 1 s)"


async def test_one_that_was_held_back_alone_is_told_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = LimitedLog(LOGGER, every=0.05)
    log.warning("a", "first")
    log.warning("a", "second")
    log.warning("a", "second")
    await eventually(lambda: len(caplog.messages) == 2)
    assert caplog.messages == ["first", "second"]


async def test_whoever_goes_on_is_told_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = LimitedLog(LOGGER, every=0.2)
    loop = asyncio.get_running_loop()
    start = loop.time()
    count = 0
    while len(caplog.messages) < 4:
        log.warning("a", "%d", count)
        count += 1
        await asyncio.sleep(0.001)
    # One at once, then no more than one each time.
    assert loop.time() - start >= 3 * 0.2 * 0.9
    assert count > 4
    told = sum(int(number) for number in re.findall(r"and (\d+) more", caplog.text))
    assert told + len(caplog.messages) == count


def test_a_burst(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Counted by the text, so that another turn of the same story is not held back by the first."""
    log = LimitedLog(LOGGER, burst=2, clock=clock)
    for number in range(5):
        log.warning("a", "down %d", number)
        log.info("a", "up %d", number)
    log.warning("a", "away")
    assert caplog.messages == ["down 0", "up 0", "down 1", "up 1", "away"]
    clock.now += 60
    log.warning("a", "down %d", 5)
    assert caplog.messages[-1] == "down 5 (and 6 more in the last 60 s)"


async def test_the_last_line_is_how_things_stand(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, every=0.05, burst=1)
    for number in range(3):
        log.warning("a", "down %d", number)
        log.info("a", "up %d", number)
    await eventually(lambda: len(caplog.messages) == 3)
    assert caplog.messages == ["down 0", "up 0", "up 2 (and 3 more in the last 1 s)"]
    assert caplog.records[2].levelno == logging.INFO


async def test_flush(caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER)
    for number in range(3):
        log.warning("a", "a%d", number)
    log.warning("b", "b")
    log.flush()
    assert caplog.messages == ["a0", "b", "a2 (and 1 more in the last 1 s)"]
    log.flush()
    assert len(caplog.messages) == 3
    # No timer is left of it.
    assert kinds_in(log)["a"].timer is None


def test_a_loop_that_ended_loses_no_count(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, clock=clock)

    async def complain() -> None:
        for number in range(3):
            log.warning("a", "%d", number)

    asyncio.run(complain())
    clock.now += 61
    asyncio.run(complain())
    assert caplog.messages == ["0", "0 (and 2 more in the last 61 s)"]


def test_kinds_are_bounded(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, clock=clock)
    log.warning("first", "first")
    log.warning("first", "first")
    log.warning("first", "first")
    for number in range(2 * logs_module.MOST_KINDS):
        log.warning(number, "%d", number)
    assert len(kinds_in(log)) == logs_module.MOST_KINDS
    # What the forgotten one held back was told.
    assert "first (and 1 more in the last 1 s)" in caplog.messages


def test_a_level_that_is_off_costs_and_counts_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log = LimitedLog(LOGGER, clock=clock)
    caplog.set_level(logging.WARNING, LOGGER.name)
    log.info("a", "quiet")
    log.debug("a", "quiet")
    assert not kinds_in(log)
    log.warning("a", "loud")
    assert caplog.messages == ["loud"]


def test_tracebacks_are_shown_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, clock=clock)
    for _ in range(3):
        try:
            raise LookupError("on purpose")
        except LookupError as error:
            log.error(origin(error), "failed", exc_info=error)
    assert [record.exc_info is not None for record in caplog.records] == [True]
    log.flush()
    assert not caplog.records[1].exc_info


def test_records_name_the_line_that_logs(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    log = LimitedLog(LOGGER, clock=clock)
    log.warning("a", "here")
    log.error("a", "and here")
    for record in caplog.records:
        assert record.funcName == "test_records_name_the_line_that_logs"
        assert record.name == LOGGER.name


def test_origins() -> None:
    def caught(error: type[Exception], line: int) -> BaseException:
        try:
            if line == 1:
                raise error("one")
            raise error("two")
        except Exception as caught:
            return caught

    first = origin(caught(ValueError, 1))
    assert first == origin(caught(ValueError, 1))
    assert first != origin(caught(KeyError, 1))
    assert first != origin(caught(ValueError, 2))
    assert origin(ValueError()) == origin(ValueError()) != origin(KeyError())
