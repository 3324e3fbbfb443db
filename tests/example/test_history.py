"""The chat's memory as a person sees it: sockets, servers and Redis go away and come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from tests.conftest import RestartableServer, eventually
from tests.proxy import Proxy

from .conftest import Say, Site
from .pages import FAILED, IN_BROWSER, Visit, visit

try:
    from playwright.async_api import Browser, expect
except ImportError:
    Browser = expect = None

pytestmark = IN_BROWSER

MISSING = "Some messages may be missing here."
# The first message that the page sends never arrives.
LOSE_ONE = """
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
  if (window.lost || !("text" in JSON.parse(data))) send.call(this, data);
  else window.lost = data;
};
"""


async def connected(*visits: Visit) -> None:
    for each in visits:
        await expect(each.status).to_have_text("connected")


async def enter(browser: Browser, url: str, room: str, name: str = "Ann", **more: Any) -> Visit:
    entered = await visit(browser, url, room, name, **more)
    await connected(entered)
    return entered


def url_of(network: Proxy) -> str:
    return f"http://127.0.0.1:{network.port}"


# -- entering, and coming back ----------------------------------------------------------------


async def test_a_room_shows_its_last_50_messages(
    browser: Browser, shaky: Site, elsewhere: Say
) -> None:
    texts = [f"message {number}" for number in range(53)]
    await elsewhere("full", *texts)
    ann = await enter(browser, shaky.url, "full")
    await ann.sees(*texts[3:])
    await expect(ann.page.locator("article time").first).to_have_attribute(
        "datetime", "1970-01-01T00:00:00.000Z"
    )
    await expect(ann.notes).to_have_count(0)
    # Not read aloud: what comes now is.
    await expect(ann.page.get_by_role("log")).to_have_attribute("aria-live", "polite")
    await elsewhere("full", "and on")
    await ann.sees(*texts[3:], "and on")


async def test_a_page_whose_socket_was_away_resumes(
    browser: Browser, network: Proxy, elsewhere: Say
) -> None:
    empty = await enter(browser, url_of(network), "resumed", "Cyd")
    await elsewhere("resumed", "one", "two")
    ann = await enter(browser, url_of(network), "resumed")
    network.refuse()
    network.cut()
    for each in (ann, empty):
        await expect(each.status).to_have_text("reconnecting…")
    await expect(ann.page.get_by_text("The server is away.")).to_be_visible()
    # More than a page that enters anew would get.
    more = [f"message {number}" for number in range(60)]
    await elsewhere("resumed", *more)
    await ann.says("mine")
    await ann.sees("one", "two", pending=["mine"])
    await expect(ann.field).to_have_value("")

    await network.accept()
    await connected(ann, empty)
    await ann.sees("one", "two", *more, "mine", own=["mine"])
    await empty.sees("one", "two", *more, "mine")
    for each in (ann, empty):
        await expect(each.notes).to_have_count(0)
        await expect(each.page.get_by_text("is away")).to_be_hidden()


async def test_a_page_that_was_in_an_empty_room_resumes(
    browser: Browser, network: Proxy, elsewhere: Say
) -> None:
    ann = await enter(browser, url_of(network), "empty")
    network.refuse()
    network.cut()
    await expect(ann.status).to_have_text("reconnecting…")
    texts = [f"message {number}" for number in range(60)]
    await elsewhere("empty", *texts)
    await network.accept()
    await ann.sees(*texts)


async def test_a_page_whose_server_was_away_resumes(
    browser: Browser, shaky: Site, elsewhere: Say
) -> None:
    ann = await enter(browser, shaky.url, "restarted")
    await elsewhere("restarted", "before")
    await ann.sees("before")
    shaky.kill()
    await expect(ann.status).to_have_text("reconnecting…")
    await ann.says("mine")
    await elsewhere("restarted", "meanwhile")
    await ann.sees("before", pending=["mine"])
    shaky.start()
    await ann.sees("before", "meanwhile", "mine", own=["mine"])
    await expect(ann.notes).to_have_count(0)


async def test_the_position_is_kept_before_the_message_is_shown(
    browser: Browser, network: Proxy, elsewhere: Say
) -> None:
    # Its text cannot be shown: a page that had no position for it would get it again, and again.
    script = """
    const escape = CSS.escape;
    CSS.escape = (key) => { if (key === "poison") throw new Error(key); return escape(key); };
    """
    ann = await enter(browser, url_of(network), "poisoned", script=script)
    await elsewhere("poisoned", "poison", key="poison")
    await ann.hears({"key": "poison"})
    positions = [f["position"] for f in ann.received if "position" in f]
    network.cut()
    await eventually(lambda: sum("enter" in frame for frame in ann.sent) == 2)
    assert ann.sent[-1] == {"enter": positions[-1]}
    await connected(ann)
    await elsewhere("poisoned", "after it")
    await ann.sees("after it")


# -- what was typed ---------------------------------------------------------------------------


async def test_a_message_is_sent_again_under_its_key(
    browser: Browser, shaky: Site, elsewhere: Say
) -> None:
    ann = await enter(browser, shaky.url, "again", script=LOSE_ONE, clock=True)
    await ann.says("Hello")
    await ann.sees(pending=["Hello"])
    lost = await ann.page.evaluate("JSON.parse(window.lost)")
    await elsewhere("again", "in between")
    await ann.sees("in between", pending=["Hello"])
    await ann.page.clock.run_for(5_000)
    await ann.sees("in between", "Hello", own=["Hello"])
    assert ann.sent_keys == {lost["key"]}


async def test_a_message_is_sent_as_soon_as_the_page_is_back(
    browser: Browser, network: Proxy
) -> None:
    ann = await enter(browser, url_of(network), "back", clock=True)
    network.refuse()
    network.cut()
    await expect(ann.status).to_have_text("reconnecting…")
    # From now on, no timer of the page does anything.
    await ann.page.clock.pause_at(datetime.now(UTC) + timedelta(minutes=1))
    await ann.says("Hello")
    await network.accept()
    await ann.page.evaluate("dispatchEvent(new Event('online'))")
    await ann.sees("Hello", own=["Hello"])


async def test_an_own_message_is_known_by_its_key(
    browser: Browser, network: Proxy, elsewhere: Say
) -> None:
    ann = await enter(browser, url_of(network), "own", script=LOSE_ONE)
    await ann.says("Hello")
    lost = await ann.page.evaluate("JSON.parse(window.lost)")
    # It does arrive, and the socket is gone before the page hears of it; so another one brings it.
    network.refuse()
    network.cut()
    await expect(ann.status).to_have_text("reconnecting…")
    await elsewhere("own", "Hello", name="Ann", key=lost["key"])
    await elsewhere("own", "Hello", name="Ann")  # a stranger of the same name
    await network.accept()
    await ann.sees("Hello", "Hello", own=["Hello"])
    await ann.hears({"type": "sent"})
    assert ann.sent_keys == {lost["key"]}
    await ann.sees("Hello", "Hello", own=["Hello"])
    await expect(ann.page.locator("article b").first).to_have_text("You")


async def test_what_is_not_sent_is_given_back(browser: Browser, network: Proxy) -> None:
    ben = await enter(browser, url_of(network), "given-back", "Ben")
    ann = await enter(browser, url_of(network), "given-back", clock=True)
    # What Ann sends arrives, but she does not hear of it.
    network.to_client.freeze()
    await ann.says("Hello")
    await ann.sees(pending=["Hello"])
    await ann.page.clock.run_for(31_000)
    failed = ann.page.locator(FAILED)
    await expect(failed.get_by_role("alert")).to_have_text("Not sent.")
    await failed.get_by_role("button", name="Edit").click()
    await expect(failed).to_have_count(0)
    await expect(ann.field).to_have_value("Hello")
    await expect(ann.field).to_be_focused()
    # Unchanged, it is the same message.
    await ann.field.press("Enter")
    await ann.sees(pending=["Hello"])
    network.to_client.thaw()
    await ann.sees("Hello", own=["Hello"])
    await ben.sees("Hello")

    # In the field when it comes back after all, it need not be sent again.
    network.to_client.freeze()
    await ann.says("Hello again")
    await ann.page.clock.run_for(31_000)
    await ann.field.fill("A draft")
    await failed.get_by_role("button", name="Edit").click()
    await expect(ann.field).to_have_value("Hello again\nA draft")
    await ann.field.fill("Hello again")
    network.to_client.thaw()
    await ann.sees("Hello", "Hello again", own=["Hello", "Hello again"])
    await expect(ann.field).to_have_value("")
    assert len(ann.sent_keys) == 2


async def test_what_is_not_sent_can_be_tried_again(browser: Browser, network: Proxy) -> None:
    ben = await enter(browser, url_of(network), "tried", "Ben")
    ann = await enter(browser, url_of(network), "tried", clock=True)
    network.refuse()
    network.cut()
    await expect(ann.status).to_have_text("reconnecting…")
    await ann.says("Hello")
    await ann.page.clock.run_for(31_000)
    failed = ann.page.locator(FAILED)
    await expect(failed.get_by_role("alert")).to_have_text("Not sent.")
    await network.accept()
    await ann.page.evaluate("dispatchEvent(new Event('online'))")
    await connected(ann, ben)
    # Somebody was told that it was not sent: it is not, unless they say so.
    await expect(failed).to_have_count(1)
    assert ann.sent_keys == set()
    await failed.get_by_role("button", name="Try again").click()
    await ann.sees("Hello", own=["Hello"])
    await ben.sees("Hello")


async def test_what_is_refused_says_so(browser: Browser, shaky: Site) -> None:
    ann = await enter(browser, shaky.url, "refused")
    await ann.field.evaluate("field => field.maxLength = 3000")
    await ann.says("x" * 2001)
    failed = ann.page.locator(FAILED)
    await expect(failed.get_by_role("alert")).to_have_text(
        "Not sent. A message has at most 2,000 characters."
    )
    await failed.get_by_role("button", name="Edit").press("Enter")
    await expect(ann.field).to_have_value("x" * 2001)


async def test_without_a_secure_context_keys_are_random_too(browser: Browser, shaky: Site) -> None:
    ann = await enter(browser, shaky.url, "insecure", script="delete Crypto.prototype.randomUUID;")
    for text in ("one", "two"):
        await ann.says(text)
    await ann.sees("one", "two", own=["one", "two"])
    assert {len(key) for key in ann.sent_keys} == {32}
    assert len(ann.sent_keys) == 2


# -- Redis ------------------------------------------------------------------------------------


async def test_redis_is_killed_and_started_again(
    browser: Browser, shaky: Site, valkey: RestartableServer
) -> None:
    ann = await enter(browser, shaky.url, "killed")
    ben = await enter(browser, shaky.url, "killed", "Ben")
    await ann.says("before")
    await ben.sees("before")
    valkey.kill()
    for each in (ann, ben):
        await each.hears({"type": "redis", "away": True})
        await expect(each.status).to_have_text("Redis is away", timeout=1000)
        await expect(each.page.get_by_text("Redis is away. What you write")).to_be_visible()
    await ann.says("Hello")
    await ann.says("Ben")
    await ann.sees("before", own=["before"], pending=["Hello", "Ben"])

    valkey.start()
    await connected(ann, ben)
    # What was there is lost to Redis and may have been more, but the pages have it still.
    await ann.sees("before", "Hello", "Ben", own=["before", "Hello", "Ben"])
    await ben.sees("before", "Hello", "Ben")
    for each in (ann, ben):
        await expect(each.notes).to_have_text([MISSING])
        assert each.sockets == 1


async def test_redis_is_paused(browser: Browser, shaky: Site, valkey: RestartableServer) -> None:
    ann = await enter(browser, shaky.url, "paused")
    ben = await enter(browser, shaky.url, "paused", "Ben")
    await ann.says("before")
    await ann.sees("before", own=["before"])
    valkey.freeze()
    await ann.says("Hello")
    await ann.sees("before", own=["before"], pending=["Hello"])
    await expect(ann.status).to_have_text("Redis is away")
    await ben.says("Ann?")
    valkey.thaw()
    await connected(ann, ben)
    await ben.sees("before", "Hello", "Ann?", own=["Ann?"])
    await ann.sees("before", "Hello", "Ann?", own=["before", "Hello"])
    for each in (ann, ben):
        await expect(each.notes).to_have_count(0)
        assert each.sockets == 1


async def test_a_gap_that_is_recovered_shows_nothing(
    browser: Browser, shaky: Site, valkey: RestartableServer, elsewhere: Say
) -> None:
    ann = await enter(browser, shaky.url, "gap")
    await elsewhere("gap", "before")
    await ann.sees("before")
    with redis.Redis.from_url(valkey.url) as admin:
        # Whoever has lost a connection gets no other, and `elsewhere` goes on over what it has.
        admin.config_set("maxclients", 1)
        admin.client_kill_filter(_type="pubsub")
        await expect(ann.status).to_have_text("Redis is away")
        await elsewhere("gap", "meanwhile")
        await ann.sees("before")
        admin.config_set("maxclients", 10_000)
    await connected(ann)
    await ann.sees("before", "meanwhile")
    await expect(ann.notes).to_have_count(0)
    assert ann.sockets == 1


async def test_a_room_is_entered_when_redis_is_back(
    browser: Browser, shaky: Site, valkey: RestartableServer
) -> None:
    valkey.kill()
    ann = await visit(browser, shaky.url, "early")
    await expect(ann.status).to_have_text("Redis is away")
    await ann.says("Hello")
    await ann.sees(pending=["Hello"])
    valkey.start()
    await connected(ann)
    await ann.sees("Hello", own=["Hello"])
    assert ann.sockets == 1


async def test_a_socket_comes_back_to_another_history(
    browser: Browser, network: Proxy, valkey: RestartableServer, elsewhere: Say
) -> None:
    ann = await enter(browser, url_of(network), "other")
    await elsewhere("other", "before")
    await ann.sees("before")
    network.refuse()
    network.cut()
    await expect(ann.status).to_have_text("reconnecting…")
    valkey.kill()
    valkey.start()
    await elsewhere("other", "after")
    await network.accept()
    await ann.sees("before", "after")
    await expect(ann.notes).to_have_text([MISSING])
    note = ann.page.locator("article:has-text('before') + .note + article:has-text('after')")
    await expect(note).to_have_count(1)


async def test_what_there_is_after_a_failover_is_there_once(
    browser: Browser, shaky: Site, valkey: RestartableServer, elsewhere: Say
) -> None:
    ann = await enter(browser, shaky.url, "failover")
    await ann.says("one")
    await elsewhere("failover", "two")
    await ann.sees("one", "two", own=["one"])
    with valkey.client() as admin:
        # What a replica does that takes over, and it has everything.
        admin.replicaof("127.0.0.1", 1)
        admin.replicaof("NO", "ONE")
        for kind in ("normal", "pubsub"):
            admin.client_kill_filter(_type=kind, skipme=True)
    await expect(ann.notes).to_have_text([MISSING])
    await elsewhere("failover", "three")
    await ann.sees("one", "two", "three", own=["one"])


async def test_a_reload_loses_nothing(
    browser: Browser, shaky: Site, valkey: RestartableServer
) -> None:
    ann = await enter(browser, shaky.url, "reloaded")
    await ann.says("sent")
    await ann.sees("sent", own=["sent"])
    valkey.freeze()
    await ann.says("pending")
    await ann.sees("sent", own=["sent"], pending=["pending"])
    await ann.page.reload()
    await ann.sees(pending=["pending"])
    valkey.thaw()
    await connected(ann)
    await ann.sees("sent", "pending", own=["sent", "pending"])
    assert len(ann.sent_keys) == 2
