"""What encryption costs: ours against Fernet, which channels_redis uses, and against none.

    python -m benchmarks.crypto [--runs N]

Microseconds for one message out (encode, encrypt, envelope) and in (the same, back), the best of
several runs; the message is a dict with a text of the given size.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import platform
import timeit
from collections.abc import Callable
from importlib.metadata import version

from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings

NAME = "asgi:g:room"
SIZES = {"100 B": 100, "1 KB": 1000, "100 KB": 100_000}


def best(work: Callable[[], object], runs: int) -> float:
    """Microseconds for one call."""
    timer = timeit.Timer(work)
    number, _ = timer.autorange()
    return min(timer.repeat(runs, max(1, number // 5))) / max(1, number // 5) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    if not settings.configured:
        settings.configure()
    from mpx_channels.messages.wrapping import Wrapping

    plain, ours = Wrapping(), Wrapping(keys=["a passphrase"])
    key = base64.urlsafe_b64encode(hashlib.sha256(b"a passphrase").digest())
    fernet = MultiFernet([Fernet(key)])
    print(
        f"Python {platform.python_version()}, cryptography {version('cryptography')}; "
        f"microseconds a message, best of {runs} runs\n"
    )
    print(f"{'':10}{'':6}{'none':>10}{'ours':>10}{'Fernet':>10}   {'Fernet costs':>16}")
    for title, size in SIZES.items():
        message = {"type": "chat.message", "text": "x" * size}

        def fernet_out(message: dict[str, str] = message) -> bytes:
            return fernet.encrypt(plain.encode(message))

        bare, sealed, token = plain.wrap(NAME, message), ours.wrap(NAME, message), fernet_out()

        def bare_in(data: bytes = bare) -> object:
            return plain.decode(plain.unwrap(NAME, data)[1])

        def ours_in(data: bytes = sealed) -> object:
            return ours.decode(ours.unwrap(NAME, data)[1])

        def fernet_in(token: bytes = token) -> object:
            return plain.decode(fernet.decrypt(token, 70))

        rows = {
            "out": (
                lambda message=message: plain.wrap(NAME, message),
                lambda message=message: ours.wrap(NAME, message),
                fernet_out,
            ),
            "in": (bare_in, ours_in, fernet_in),
        }
        for direction, works in rows.items():
            none, with_ours, with_fernet = (best(work, runs) for work in works)
            # Of encryption alone: what is left without the encoding.
            times = (with_fernet - none) / (with_ours - none)
            print(
                f"{title:10}{direction:6}{none:10.2f}{with_ours:10.2f}{with_fernet:10.2f}   "
                f"{times:10.1f} times"
            )
        print(f"{'':10}{'bytes':6}{len(bare):10,}{len(sealed):10,}{len(token):10,}")


if __name__ == "__main__":
    main()
