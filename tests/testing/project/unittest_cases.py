"""Test classes of all kinds, with the mixin; run by Django's test runner."""

import unittest

import steps
from django import test

from mpx_channels.testing import ChannelLayersMixin


class AsyncioTests(ChannelLayersMixin, unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        steps.is_apart()

    async def test_talk(self):
        await steps.two_people_talk()

    async def test_talk_to_threads(self):
        await steps.two_people_talk("/sync-room")

    async def test_leave(self):
        await steps.somebody_talks_and_leaves_without_a_word()

    async def test_left_over(self):
        await steps.nothing_is_left_over()

    async def test_nothing_left_over(self):
        await steps.nothing_is_left_over()


class PlainTests(ChannelLayersMixin, unittest.TestCase):
    def setUp(self):
        steps.is_apart()

    def test_send(self):
        steps.synchronous_code_sends()

    def test_send_again(self):
        steps.synchronous_code_sends()


class DjangoTests(ChannelLayersMixin, test.TestCase):
    def setUp(self):
        steps.is_apart()

    async def test_talk(self):
        await steps.two_people_talk()

    async def test_talk_to_threads(self):
        await steps.two_people_talk("/sync-room")

    async def test_leave(self):
        await steps.somebody_talks_and_leaves_without_a_word()

    async def test_left_over(self):
        await steps.nothing_is_left_over()

    def test_send(self):
        steps.synchronous_code_sends()


class SimpleTests(ChannelLayersMixin, test.SimpleTestCase):
    async def test_talk(self):
        steps.is_apart()
        await steps.two_people_talk()
