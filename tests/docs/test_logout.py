"""The project of the page on closing sockets: signals, sessions, and a database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .pages import DOCS, ROOT, blocks

PROGRAM = """
import asyncio, sys
from django.conf import settings

url, folder = sys.argv[1:]
settings.configure(
    SECRET_KEY="of a test",
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/db.sqlite3"}},
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "accounts.apps.AccountsConfig",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    CHANNEL_LAYERS={
        "default": {"BACKEND": "mpx_channels.layer.MpxChannelLayer", "CONFIG": {"hosts": [url]}}
    },
)
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from asgiref.sync import sync_to_async
from channels import auth
from channels.auth import AuthMiddlewareStack
from channels.layers import get_channel_layer
from django.contrib.auth import authenticate, login, logout, update_session_auth_hash
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.db import IntegrityError
from django.http import HttpRequest
from accounts import sockets
from tests.consumers.socket import Socket

sockets.LOOK_EVERY = SELDOM = 3600
look, looks = sockets.is_logged_in, 0


async def counted(*who):
    global looks
    found = await look(*who)
    looks += 1
    return found


sockets.is_logged_in = counted


@sync_to_async
def log_in():
    request = HttpRequest()
    request.session = SessionStore()
    login(request, authenticate(username="ann", password="secret"))
    request.session.save()
    return request


async def tab(request):
    cookie = f"sessionid={request.session.session_key}".encode()
    app = AuthMiddlewareStack(sockets.UserConsumer.as_asgi())

    async def application(*arguments):
        await app(*arguments)

    return await Socket(application, headers=[(b"cookie", cookie)]).connect()


async def let_in(request):
    # It has looked, and will not again: it could see that the session is gone before it is told.
    before = looks
    opened = await tab(request)
    while looks == before:
        await asyncio.sleep(0.01)
    return opened


async def closed(*tabs):
    codes = []
    for each in tabs:
        codes.append((await each.next())["code"])
        await each.disconnect()
    return codes


async def main():
    layer = get_channel_layer()
    user = await User.objects.acreate_user("ann", password="secret")
    one, other = await log_in(), await log_in()

    tabs = [await let_in(one), await let_in(one), await let_in(other)]
    while await layer.group_size(sockets.user_group(user.pk)) < 3:
        pass
    while await layer.group_size(sockets.session_group(one.session.session_key)) < 2:
        pass
    await sync_to_async(logout)(one)
    assert await closed(*tabs[:2]) == [4001, 4001]
    assert await layer.group_size(sockets.user_group(user.pk)) == 1
    one = await log_in()
    tabs = [tabs[2], await let_in(one)]
    while await layer.group_size(sockets.session_group(one.session.session_key)) < 1:
        pass

    @sync_to_async
    def change():
        user = User.objects.get()
        user.set_password("secret")  # with another salt
        user.save()
        update_session_auth_hash(one, user)
        one.session.save()

    one.user = user
    await change()
    assert await closed(*tabs) == [4002, 4002]
    sockets.LOOK_EVERY = 0.2
    back = await tab(one)  # whose browser changed it is let in
    gone = await tab(other)
    assert await closed(gone) == [4004]

    await Session.objects.all().adelete()  # as clearsessions does
    assert await closed(back) == [4003]

    one = await log_in()
    back = await tab(one)
    await auth.logout({"user": user, "session": one.session})  # as a consumer does
    assert await closed(back) == [4003]

    sockets.LOOK_EVERY = SELDOM
    one = await log_in()
    back = await let_in(one)
    while await layer.group_size(sockets.session_group(one.session.session_key)) < 1:
        pass
    await User.objects.acreate_user("bob")
    user.is_active, user.username = False, "bob"
    try:
        await user.asave()
    except IntegrityError:
        pass  # nobody is blocked, and no tab closed
    else:
        raise AssertionError
    await sync_to_async(logout)(one)
    assert await closed(back) == [4001]

    one = await log_in()
    back = await let_in(one)
    while await layer.group_size(sockets.session_group(one.session.session_key)) < 1:
        pass
    user = await User.objects.aget(username="ann")
    user.is_active = False
    await user.asave()
    assert await closed(back) == [4002]
    await layer.close()


asyncio.run(main())
"""


def test_signals(tmp_path: Path, redis_url: str) -> None:
    package = tmp_path / "accounts"
    package.mkdir()
    (package / "__init__.py").touch()
    for block in blocks(DOCS / "logout.md"):
        if block.caption is not None:
            (tmp_path / block.caption).write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, redis_url, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        timeout=180,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
