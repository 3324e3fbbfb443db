"""Functions and classes, with the plugin; none of them mentions it."""

import unittest

import pytest
import steps
from django import test


@pytest.fixture(autouse=True)
def apart():
    steps.is_apart()


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/room", "/sync-room"])
async def test_talk(path):
    await steps.two_people_talk(path)


@pytest.mark.asyncio
async def test_leave():
    await steps.somebody_talks_and_leaves_without_a_word()


@pytest.mark.asyncio
@pytest.mark.parametrize("time", ["first", "second"])
async def test_nothing_left_over(time):
    await steps.nothing_is_left_over()


def test_send():
    steps.synchronous_code_sends()


def test_by_name(mpx_channel_layers, settings):
    assert mpx_channel_layers == settings.CHANNEL_LAYERS


class AsyncioTests(unittest.IsolatedAsyncioTestCase):
    async def test_talk(self):
        await steps.two_people_talk()


class DjangoTests(test.SimpleTestCase):
    async def test_talk(self):
        await steps.two_people_talk()
