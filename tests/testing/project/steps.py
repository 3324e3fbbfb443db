"""What the cases do."""

import asyncio

from asgi import application
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings

prefixes = set()


def is_apart():
    """No test has had this prefix, and the rest of CONFIG is the project's."""
    layer = get_channel_layer()
    assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] == layer.prefix
    assert layer.prefix not in prefixes
    assert layer.prefix == get_channel_layer("same names").prefix
    assert layer.prefix != get_channel_layer("other names").prefix
    assert (layer.capacity, get_channel_layer("same names").capacity) == (7, 1000)
    assert type(get_channel_layer("in memory")).__name__ == "InMemoryChannelLayer"
    prefixes.add(layer.prefix)


async def two_people_talk(path="/room"):
    ann, ben = (WebsocketCommunicator(application, path) for _ in range(2))
    for communicator in (ann, ben):
        assert (await communicator.connect())[0]
    await ann.send_to("Hello")
    for communicator in (ann, ben):
        assert await communicator.receive_from() == "Hello"
    layer = get_channel_layer()
    await layer.group_send("room", {"type": "room.said", "text": "of the test"})
    for communicator in (ann, ben):
        assert await communicator.receive_from() == "of the test"
        await communicator.disconnect()


async def somebody_talks_and_leaves_without_a_word():
    """Tests forget to disconnect."""
    communicator = WebsocketCommunicator(application, "/room")
    assert (await communicator.connect())[0]
    await communicator.send_to("Hello")
    assert await communicator.receive_from() == "Hello"


async def nothing_is_left_over():
    """A message to a plain channel waits for its reader: not for one in another test."""
    layer = get_channel_layer()
    await layer.send("jobs", {"type": "job", "of": layer.prefix})
    assert await layer.receive("jobs") == {"type": "job", "of": layer.prefix}
    await layer.send("jobs", {"type": "job", "of": layer.prefix})


def synchronous_code_sends():
    layer = get_channel_layer()
    layer.sync.send("jobs", {"type": "job", "of": layer.prefix})

    async def read():
        return await layer.receive("jobs")

    assert asyncio.run(read()) == {"type": "job", "of": layer.prefix}
    layer.sync.send("jobs", {"type": "job", "of": layer.prefix})
