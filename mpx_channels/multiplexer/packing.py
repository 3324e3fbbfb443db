"""Commands as they stand on the wire."""

from __future__ import annotations

__all__ = ["key_of", "pack", "pack_publish", "pack_spublish", "tail", "unpack"]

# Which word of a command is its key, or its first one.
_KEY_AT = {
    b"PUBLISH": 1,
    b"SPUBLISH": 1,
    b"EVAL": 3,
    b"EVALSHA": 3,
    b"GET": 1,
    b"HGET": 1,
    b"HKEYS": 1,
    b"LLEN": 1,
    b"LRANGE": 1,
    b"SMEMBERS": 1,
    b"UNLINK": 1,
}


def pack(*words: bytes) -> bytes:
    """A command in Redis' protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/).

    Ours, as it is one line: hiredis' takes twice as long for the usual command.
    """
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words])


def pack_publish(name: bytes, data: bytes) -> bytes:
    """A PUBLISH in Redis' protocol: the one command hot enough to be worth a template."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(data), data)


def pack_spublish(name: bytes, data: bytes) -> bytes:
    """As `pack_publish`, in a cluster: to those who subscribe at the nodes of the name's slot."""
    return b"*3\r\n$8\r\nSPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(name),
        name,
        len(data),
        data,
    )


def key_of(*words: bytes) -> bytes | None:
    """The key of a command, or None if it has none, or is none that we send to keys."""
    if words[:2] == (b"PUBSUB", b"SHARDNUMSUB"):
        return words[2]
    at = _KEY_AT.get(words[0])
    if at is None or len(words) <= at or (at == 3 and words[2] == b"0"):
        return None
    return words[at]


def unpack(command: bytes, most: int = 4) -> list[bytes]:
    """The first words of a packed command."""
    words: list[bytes] = []
    at = command.index(b"\r\n") + 2
    while len(words) < most and at < len(command):
        end = command.index(b"\r\n", at)
        size = int(command[at + 1 : end])
        words.append(command[end + 2 : end + 2 + size])
        at = end + 4 + size
    return words


def tail(commands: list[bytes], size: int) -> list[bytes]:
    """Those packed commands at the end that are whole within the last `size` bytes."""
    first = len(commands)
    while first and len(commands[first - 1]) <= size:
        first -= 1
        size -= len(commands[first])
    return commands[first:]
