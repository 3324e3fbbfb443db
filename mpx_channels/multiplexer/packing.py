"""Commands as they stand on the wire."""

from __future__ import annotations

__all__ = ["pack", "pack_publish", "tail"]


def pack(*words: bytes) -> bytes:
    """A command in Redis' protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/).

    Ours, as it is one line: hiredis' takes twice as long for the usual command.
    """
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words])


def pack_publish(name: bytes, data: bytes) -> bytes:
    """A PUBLISH in Redis' protocol: the one command hot enough to be worth a template."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)


def tail(commands: list[bytes], size: int) -> list[bytes]:
    """Those packed commands at the end that are whole within the last `size` bytes."""
    first = len(commands)
    while first and len(commands[first - 1]) <= size:
        first -= 1
        size -= len(commands[first])
    return commands[first:]
