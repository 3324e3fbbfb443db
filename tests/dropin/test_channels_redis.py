"""The tests of channels_redis, with our layer for theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import RunFile
from .sources import channels_redis_tests

VERSION = "4.3.0"

PRIVATE = "looks at a private part of their layer"
ONE_HOST = "several hosts are not supported yet"
SPACES = "wants spaces in JSON, which nobody reads"

KNOWN: dict[str, dict[str, str]] = {
    "test_pubsub.py": {
        "test_receive_on_non_owned_general_channel": "sends a str; the specification wants a dict",
        "test_loop_instance_channel_layer_reference": PRIVATE,
    },
    "test_core.py": {
        "test_groups_channel_full": "adds a plain channel to a group, which no process owns",
        "test_random_reset__client_prefix": PRIVATE,
        "test_default_group_key_format": PRIVATE,
        "test_custom_group_key_format": PRIVATE,
        "test_receive_buffer_respects_capacity": PRIVATE,
        "test_groups_multiple_hosts": ONE_HOST,
        "test_groups_multiple_hosts_performance": ONE_HOST,
        "test_message_expiry__group_send__one_channel_expires_message": "wants a message after its "
        "expiry; fails with theirs, too",
    },
    "test_serializers.py": {
        "test_serialize[8-JSONSerializer": SPACES,
        "test_serialize[12-JSONSerializer": SPACES,
        "test_serialize[0-JSONSerializer": SPACES,
        "test_serialize[-1-JSONSerializer": SPACES,
    },
}


@pytest.mark.parametrize("file", KNOWN)
def test_theirs_pass(file: str, cache: Path, run_file: RunFile) -> None:
    run_file(channels_redis_tests(cache, VERSION) / file, KNOWN[file], "-p", "no:django")
