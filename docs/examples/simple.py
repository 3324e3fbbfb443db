"""One subscription with a callback, and something to hear: prints a message every second.

python docs/examples/simple.py
"""

import asyncio
import contextlib
import os

from mpx_channels.multiplexer import Multiplexer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379")


def on_message(name: str, data: bytes) -> None:
    print(f"channel: {name}, message: {data.decode()}", flush=True)


async def main() -> None:
    async with Multiplexer(REDIS_URL) as multiplexer:
        subscription = multiplexer.new_channel_subscription(on_message)
        subscription.add("mychannel")
        await subscription.wait_for_activation("mychannel")

        while True:
            await multiplexer.publish("mychannel", b"Hello World!")
            await asyncio.sleep(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
