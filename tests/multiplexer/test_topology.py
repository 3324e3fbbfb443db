"""How to reach a node: URLs, options, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
from redis.credentials import CredentialProvider

from mpx_channels.multiplexer.topology import OWN_OPTIONS, Node


def new_node(url: Any, **options: Any) -> Node:
    return Node(url, connect_timeout=5.0, options=options)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://example.org", "redis://example.org:6379"),
        ("redis://:hush@example.org:7000/3?client_name=me", "redis://example.org:7000"),
        ("rediss://user:hush@example.org:7000", "rediss://example.org:7000"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://user:hush@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_addresses_for_people(url: str, address: str) -> None:
    assert str(new_node(url)) == address


def test_the_url_s_options_reach_redis_py() -> None:
    connection: Any = new_node("redis://user:hush@example.org:7000/3?client_name=me").connection()
    assert connection.host == "example.org"
    assert connection.port == 7000
    assert connection.db == 3
    assert connection.client_name == "me"
    assert (connection.username, connection.password) == ("user", "hush")


def test_options_win_over_the_url() -> None:
    connection: Any = new_node("redis://example.org/3?client_name=me", db=4).connection()
    assert connection.db == 4
    assert connection.client_name == "me"


@pytest.mark.parametrize(("options", "protocol"), [({}, 2), ({"protocol": 3}, 3)])
def test_resp2_unless_asked_otherwise(options: dict[str, Any], protocol: int) -> None:
    connection: Any = new_node("redis://example.org", **options).connection()
    assert int(connection.protocol) == protocol
    connection = new_node(f"redis://example.org?protocol={protocol}").connection()
    assert int(connection.protocol) == protocol


def test_each_connection_is_a_fresh_one() -> None:
    node = new_node("redis://example.org")
    assert node.connection() is not node.connection()


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://example.org", "redis://example.org:port", "redis://[::1", "//x"],
)
def test_bad_urls_are_named(url: str) -> None:
    with pytest.raises(ValueError, match="bad Redis URL"):
        new_node(url)


def test_no_password_in_the_complaint() -> None:
    with pytest.raises(ValueError, match="bad Redis URL") as caught:
        new_node("http://user:hush@example.org")
    assert "example.org" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("mark", ["/", "?", "#", "[", "]", "/a@b?"])
def test_no_part_of_a_password_that_is_not_encoded(mark: str) -> None:
    with pytest.raises(
        ValueError, match=r"'redis://user:\*\*\*@x:1/0': .*percent-encoded"
    ) as caught:
        new_node(f"redis://user:hush{mark}hush@x:1/0")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("hush@example.org", "***@example.org"),
        ("user:hush@example.org", "user:***@example.org"),
        ("redis://:hush@[::1", "redis://:***@[::1"),
        ("redis://x:y?password=hush&db=1", "redis://x:y?password=***&db=1"),
        ("redis://x:y?db=1&Password=hush", "redis://x:y?db=1&Password=***"),
        ("rediss://x:y?ssl_password=hush", "rediss://x:y?ssl_password=***"),
        ("redis://x:y/?password=hush@hush", "redis://x:***@***"),
    ],
)
def test_no_password_of_what_is_no_url(url: str, shown: str) -> None:
    with pytest.raises(ValueError, match="bad Redis URL") as caught:
        new_node(url)
    assert f"{shown!r}" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", [b"redis://example.org", None, 6379])
def test_urls_that_are_no_str(url: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        new_node(url)


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="colour"):
        new_node("redis://example.org", colour="red")
    with pytest.raises(TypeError, match="colour"):
        new_node("redis://example.org?colour=red")


def test_an_option_of_another_scheme_is_named() -> None:
    with pytest.raises(TypeError, match="ssl_ca_certs"):
        new_node("redis://example.org", ssl_ca_certs="ca.pem")
    new_node("rediss://example.org", ssl_ca_certs="ca.pem")


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_options_that_are_ours_are_refused_with_advice(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is not an option of the multiplexer: "):
        new_node("redis://example.org", **{name: 1})


@pytest.mark.parametrize(
    "query", ["socket_timeout=1", "decode_responses=1", "max_connections=7", "retry_on_timeout=1"]
)
def test_options_that_are_ours_are_passed_over_in_urls(query: str) -> None:
    """A URL may be shared with clients of another kind."""
    connection: Any = new_node(f"redis://example.org?{query}").connection()
    assert connection.socket_timeout is None
    assert connection.encoder.decode_responses is False


@pytest.mark.parametrize("options", [{"protocol": 4}, {"protocol": "four"}])
def test_values_that_redis_py_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="protocol"):
        new_node("redis://example.org", **options)


def test_combinations_that_redis_py_refuses() -> None:
    with pytest.raises(ValueError, match="credential_provider"):
        new_node("redis://example.org", password="hush", credential_provider=CredentialProvider())
