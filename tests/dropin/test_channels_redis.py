"""The tests of channels_redis, with our layer for theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sentinels import Sentinels

from .conftest import RunFile
from .sources import channels_redis_tests

VERSION = "4.3.0"

PRIVATE = "looks at a private part of their layer"
NO_PREFIX = "wants a random prefix, which their other layer does without: the bytes are of that one"
SPACES = "wants spaces in JSON, which nobody reads"

KNOWN_OF_CORE = {
    "test_groups_channel_full": "adds a plain channel to a group, which no process owns",
    "test_random_reset__client_prefix": PRIVATE,
    "test_default_group_key_format": PRIVATE,
    "test_custom_group_key_format": PRIVATE,
    "test_receive_buffer_respects_capacity": PRIVATE,
    "test_message_expiry__group_send__one_channel_expires_message": "wants a message after its "
    "expiry; fails with theirs, too",
}
KNOWN_OF_PUBSUB = {"test_loop_instance_channel_layer_reference": PRIVATE}

KNOWN: dict[str, dict[str, str]] = {
    "test_pubsub.py": {
        **KNOWN_OF_PUBSUB,
        "test_receive_on_non_owned_general_channel": "sends a str; the specification wants a dict",
    },
    "test_core.py": KNOWN_OF_CORE,
    "test_serializers.py": {
        "test_serialize[8-JSONSerializer": SPACES,
        "test_serialize[12-JSONSerializer": SPACES,
        "test_serialize[0-JSONSerializer": SPACES,
        "test_serialize[-1-JSONSerializer": SPACES,
    },
}

# With a Sentinel before the server.
KNOWN_OF_SENTINEL: dict[str, dict[str, str]] = {
    "test_sentinel.py": {
        **KNOWN_OF_CORE,
        "test_serialize": NO_PREFIX,
        "test_deserialize": NO_PREFIX,
    },
    "test_pubsub_sentinel.py": KNOWN_OF_PUBSUB,
}


@pytest.fixture(scope="module")
def sentinels(server: object) -> Iterator[Sentinels]:
    """Of the name and with the password that their tests have."""
    with Sentinels(master_name="sentinel", password="channels_redis") as running:
        yield running


@pytest.mark.parametrize("file", KNOWN)
def test_theirs_pass(file: str, cache: Path, run_file: RunFile) -> None:
    run_file(channels_redis_tests(cache, VERSION) / file, KNOWN[file], "-p", "no:django")


@pytest.mark.parametrize("file", KNOWN_OF_SENTINEL)
def test_theirs_pass_with_a_sentinel(
    file: str, cache: Path, run_file: RunFile, sentinels: Sentinels
) -> None:
    run_file(
        channels_redis_tests(cache, VERSION) / file,
        KNOWN_OF_SENTINEL[file],
        "-p",
        "no:django",
        redis_url=sentinels.master.url,
        sentinels=sentinels.host["sentinels"],
    )
