"""Chat rooms over WebSocket, without Django: a subscription per client, one connection for all.

    pip install mpx-channels daphne
    python docs/examples/websocket.py

Then open http://127.0.0.1:7778 twice. A client says

    +tea         join the room tea
    -tea         leave it
    !tea Hello   say Hello to everybody in tea
    ?            which rooms am I in?

HOST, PORT and REDIS_URL in the environment change where it listens and which Redis it uses.
Run it on several ports to see rooms span processes.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from mpx_channels.multiplexer import ChannelSubscription, MpxError, Multiplexer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379")
PREFIX = "room:"

PAGE = b"""<!doctype html><title>Rooms</title>
<p><input placeholder="+tea  -tea  !tea Hello  ?" size="40" autofocus></p>
<pre></pre>
<script>
  const log = text => document.querySelector("pre").prepend(text + "\\n");
  const socket = new WebSocket(`ws://${location.host}`);
  socket.onopen = () => log("connected");
  socket.onmessage = event => log(event.data);
  socket.onclose = () => log("closed");
  document.querySelector("input").onchange = event => {
    socket.send(event.target.value);
    event.target.value = "";
  };
</script>
"""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

multiplexer = Multiplexer(REDIS_URL)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await multiplexer.start()  # does nothing from the second client on
        await Client(send).serve(receive)
    else:
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE})


class Client:
    """One WebSocket and its subscription.

    The callbacks are coroutine functions, so they run one at a time and in order. A client that
    reads slowly fills its own queue, at most; nobody else waits for it.
    """

    def __init__(self, send: Send) -> None:
        self.send = send
        self.subscription: ChannelSubscription = multiplexer.new_channel_subscription(
            self.on_message, self.on_disconnect, self.on_activation
        )

    async def serve(self, receive: Receive) -> None:
        async with self.subscription:  # however it ends, the subscription is closed
            while (event := await receive())["type"] != "websocket.disconnect":
                if event["type"] == "websocket.connect":
                    await self.send({"type": "websocket.accept"})
                else:
                    await self.obey(event.get("text") or "")

    async def obey(self, text: str) -> None:
        command, room = text[:1], text[1:].strip()
        if command == "+":
            self.subscription.add(PREFIX + room)
        elif command == "-":
            self.subscription.remove(PREFIX + room)
        elif command == "!":
            room, _, words = room.partition(" ")
            try:
                await multiplexer.publish(PREFIX + room, words.encode())
            except MpxError as error:
                await self.tell(f"*not sent: {error}*")
        elif command == "?":
            rooms = sorted(name.removeprefix(PREFIX) for name in self.subscription.channels)
            await self.tell(f"*in: {', '.join(rooms) or 'no room'}*")
        else:
            await self.tell("*begin with + - ! or ?*")

    async def tell(self, text: str) -> None:
        await self.send({"type": "websocket.send", "text": text})

    async def on_message(self, name: str, data: bytes) -> None:
        await self.tell(f"{name.removeprefix(PREFIX)}: {data.decode(errors='replace')}")

    async def on_activation(self, name: str) -> None:
        await self.tell(f"*activated: {name.removeprefix(PREFIX)}*")

    async def on_disconnect(self, error: Exception) -> None:
        await self.tell("*disconnected: messages may be missed until rooms are activated again*")


def main() -> None:
    from daphne.server import Server

    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "7778")
    Server(
        application,
        endpoints=[f"tcp:port={port}:interface={host}"],
        ready_callable=lambda: print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True),
    ).run()


if __name__ == "__main__":
    main()
