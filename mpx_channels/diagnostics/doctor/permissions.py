"""Check of the ACL: may this user do all that the layer does?

It is found out by doing. ``ACL DRYRUN`` would ask without doing, but needs a permission of its own
that a user with an ACL lacks, Redis 7, and knows nothing of commands that a server has disabled.
Redis looks at the ACL before anything else that could be wrong with a command, so any other error
means that it is allowed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from redis.exceptions import ResponseError

from mpx_channels.multiplexer import SentinelNode, escape_glob
from mpx_channels.multiplexer.slots import slot_of

from .examination import Check, Server, ServerCheck
from .findings import Finding, Level, ok
from .nodes import REACHED
from .probe import Probe, is_forbidden, is_unknown

__all__ = ["CHECKS", "HANDSHAKE", "NEEDED", "SINCE_7_2", "Use", "acl_rules"]


@dataclass(frozen=True, slots=True)
class Use:
    """What some commands are needed for; without them, it is as bad as ``level``."""

    what: str
    commands: tuple[str, ...]
    level: Level


# Every command that the layer sends, or that its scripts call, as ACL rules name them.
NEEDED = (
    Use("groups, channels and promises", ("subscribe", "unsubscribe", "publish", "ping"),
        Level.PROBLEM),
    Use("patterns and wildcard groups", ("psubscribe", "punsubscribe"), Level.WARNING),
    Use("plain channels (runworker)",
        ("evalsha", "eval", "blpop", "time", "lindex", "lpop", "llen", "rpush", "lpush", "pttl",
         "pexpire"), Level.WARNING),
    Use("mpx status and fleet_stats", ("pubsub|numsub", "pubsub|channels", "scan", "llen"),
        Level.WARNING),
    Use("flush", ("scan", "unlink"), Level.WARNING),
    Use("groups with a history",
        ("evalsha", "eval", "publish", "time", "info", "get", "set", "del", "hmget", "hget", "hset",
         "hdel", "xadd", "xlen", "xrange", "pexpire"), Level.WARNING),
    Use("presence",
        ("evalsha", "eval", "publish", "time", "hmget", "hlen", "zcard", "exists", "del", "zadd",
         "hdel", "zrem", "srem", "hset", "zrange", "pexpire", "zscore", "hget", "hexists", "sadd",
         "zrangebyscore", "hscan", "hkeys", "zrangebylex", "smembers"), Level.WARNING),
    Use("mpx listen to a plain channel", ("lrange", "time"), Level.INFO),
)  # fmt: skip

# What a cluster needs besides, with classic channels and with sharded ones; and what it does not.
IN_CLUSTER = (
    Use("finding a cluster's masters, and the number of partitions",
        ("cluster|slots", "eval", "get", "set"), Level.PROBLEM),
    Use("knowing which of a cluster's nodes is right", ("cluster|nodes",), Level.WARNING),
    Use("histories that move between the nodes of a cluster", ("cluster|myid",), Level.WARNING),
    Use("slots of a cluster that are on their way", ("asking",), Level.WARNING),
)  # fmt: skip
SHARDED = (
    Use("groups, channels and promises of a cluster", ("ssubscribe", "sunsubscribe", "spublish"),
        Level.PROBLEM),
    Use("counts of receivers, promises and requests of a cluster", ("pubsub|shardnumsub",),
        Level.WARNING),
    Use("mpx listen in a cluster", ("pubsub|shardchannels",), Level.INFO),
)  # fmt: skip
CLASSIC = (
    Use("counts of receivers, promises and requests of a cluster", ("pubsub|numsub",),
        Level.WARNING),
)  # fmt: skip
# What histories of a cluster ask besides: a rule for it would be refused by Redis before 7.2, and
# where it is forbidden they do as there.
SINCE_7_2 = ("cluster|myshardid",)
NOT_IN_CLUSTER = ("blpop",)

# What redis-py sends when it connects: the first for a database number in hosts, the second for a
# client_name. AUTH and HELLO are always allowed. That CLIENT SETINFO is refused it does not mind,
# and a rule for it would be refused by Redis before 7.2, which has no such command.
HANDSHAKE = ("select", "client|setname")
# What the engine asks behind Sentinels; where it may not, their word has to do.
ROLE = Use("knowing that what the Sentinels name is the master", ("role",), Level.WARNING)


def uses(cluster: bool = False, sharded: bool = True, sentinels: bool = False) -> tuple[Use, ...]:
    """What a layer uses on a server, behind Sentinels or not, or in a cluster."""
    if not cluster:
        return (*NEEDED, ROLE) if sentinels else NEEDED
    core = (*IN_CLUSTER[:1], *SHARDED[:1]) if sharded else IN_CLUSTER[:1]
    rest = (*IN_CLUSTER[1:], *(SHARDED[1:] if sharded else CLASSIC))
    common = [
        Use(each.what, tuple(c for c in each.commands if c not in NOT_IN_CLUSTER), each.level)
        for each in NEEDED
    ]
    return (*core, *common, *rest)


def commands(cluster: bool = False, sharded: bool = True, sentinels: bool = False) -> list[str]:
    """All commands of `uses`, each once."""
    every = (command for use in uses(cluster, sharded, sentinels) for command in use.commands)
    return list(dict.fromkeys(every))


def keys_rule(prefix: str) -> str:
    """The rule for the keys of a prefix."""
    return f"~{escape_glob(prefix)}:*"


def channels_rule(prefix: str) -> str:
    """The rule for the channels of a prefix."""
    return f"&{escape_glob(prefix)}:*"


def acl_rules(prefix: str, *, cluster: bool = False, sharded: bool = True) -> str:
    """The rules of a user that can do all that the layer does, and nothing else.

    For ``ACL SETUSER name on >password`` before it. Those for a cluster are for each of its nodes,
    and with ``sharded`` channels for Redis from 7.0 on.
    """
    connecting = HANDSHAKE[1:] if cluster else (*HANDSHAKE, *ROLE.commands)
    allowed = " ".join(f"+{command}" for command in (*commands(cluster, sharded), *connecting))
    return f"resetkeys {keys_rule(prefix)} resetchannels {channels_rule(prefix)} -@all {allowed}"


@dataclass(slots=True)
class Refusals:
    """What was refused, in the order of the trying."""

    commands: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)

    def add(self, command: str, error: ResponseError) -> None:
        """Sort it in by Redis' words, which differ by version."""
        text = str(error).lower()
        if is_unknown(error):
            refused = self.unknown
        elif not is_forbidden(error):
            return
        elif "the command" in text or "to run" in text:
            refused = self.commands
        elif "channel" in text:
            refused = self.channels
        else:
            refused = self.keys
        if command not in refused:
            refused.append(command)


async def try_everything(server: Server) -> tuple[Refusals, bool]:
    """Run each command of `uses`; also tells whether only patterns of the ACL are allowed."""
    prefix, cluster = server.config.prefix, server.config.cluster
    sharded = cluster and server.config.sharded_pubsub
    mark = f"mpx-doctor-{uuid.uuid4().hex[:8]}"
    if server.slots:
        mark = f"{{{_tag_there(server)}}}{mark}"
    queue, wake = (f"{prefix}:{kind}:{mark}" for kind in "qw")
    names = [f"{prefix}:{kind}:{mark}" for kind in "gprc"]
    refusals = Refusals()

    async def attempt(probe: Probe, command: str, *words: str | bytes) -> None:
        try:
            await probe(*command.upper().split("|"), *words)
        except ResponseError as error:
            refusals.add(command, error)

    probe = server.probe
    history = [f"{prefix}:{kind}:{mark}" for kind in "hms"]
    presence = [f"{prefix}:{kind}:{mark}" for kind in "uzk"]
    keys = [each for each in _on_keys(queue, wake) if not cluster or each[0] not in NOT_IN_CLUSTER]
    for command, words in (*keys, *_on_history(*history), *_on_presence(*presence)):
        await attempt(probe, command, *words)
    if isinstance(server.node, SentinelNode):
        await attempt(probe, "role")
    if cluster:
        for command in ("asking", "cluster|slots", "cluster|nodes", "cluster|myid"):
            await attempt(probe, command)
    # A proper message: who listens to all groups by a pattern counts what it cannot read.
    message = server.config.wrapping().wrap(names[0], {"type": "mpx.doctor"})
    for name in names:
        await attempt(probe, "publish", name, message)
        if sharded:
            await attempt(probe, "spublish", name, message)
    if sharded:
        await attempt(probe, "pubsub|shardnumsub", names[0])
        await attempt(probe, "pubsub|shardchannels", f"{escape_glob(prefix)}:g:?*")
    await attempt(probe, "pubsub|numsub", names[0])
    await attempt(probe, "pubsub|channels", f"{escape_glob(prefix)}:c:?*")
    # A connection that subscribes takes nothing else, and without UNSUBSCRIBE for ever.
    listening = Probe(server.node)
    try:
        await listening.open()
        for name in names:
            await attempt(listening, "subscribe", name)
            if sharded:
                await attempt(listening, "ssubscribe", name)
        await attempt(listening, "ping")
        only_literal = not await _free_pattern(listening, f"{escape_glob(prefix)}:g:{mark}*")
        if only_literal:
            # Redis compares patterns with the rules as they are written: this one is there. With
            # it comes all that is said under the prefix, so it is not the first choice.
            await attempt(listening, "psubscribe", f"{escape_glob(prefix)}:*")
        await attempt(listening, "punsubscribe")
        for name in names:
            await attempt(listening, "unsubscribe", name)
            if sharded:
                await attempt(listening, "sunsubscribe", name)
    finally:
        await listening.close()
    refused = "psubscribe" in (*refusals.commands, *refusals.unknown, *refusals.channels)
    return refusals, only_literal and not refused


def _tag_there(server: Server) -> str:
    """A hash tag of a slot that the server has: it refuses keys of others."""
    tags = map(str, count())
    return next(tag for tag in tags if any(slot_of(tag.encode()) in span for span in server.slots))


async def _free_pattern(probe: Probe, pattern: str) -> bool:
    try:
        await probe("PSUBSCRIBE", pattern)
    except ResponseError:
        return False
    return True


def _on_keys(queue: str, wake: str) -> Iterable[tuple[str, Sequence[str]]]:
    """Commands on keys, in an order that leaves none behind."""
    return (
        ("eval", ("return 1", "2", queue, wake)),
        # Of no script: that it is unknown means that we may ask for it.
        ("evalsha", ("0" * 40, "1", queue)),
        ("time", ()),
        ("rpush", (queue, "")),
        ("pexpire", (queue, "1000")),
        ("lpush", (queue, "")),
        ("pttl", (queue,)),
        ("lindex", (queue, "0")),
        ("llen", (queue,)),
        ("lrange", (queue, "0", "0")),
        ("lpop", (queue,)),
        ("blpop", (queue, wake, "0.01")),
        ("unlink", (queue,)),
        ("scan", ("0", "COUNT", "1")),
    )


def _on_history(stream: str, meta: str, server: str) -> Iterable[tuple[str, Sequence[str]]]:
    """As `_on_keys`, for what a history is made of."""
    return (
        ("info", ("replication",)),
        ("set", (server, "")),
        ("get", (server,)),
        ("hset", (meta, "e", "")),
        ("hget", (meta, "e")),
        ("hmget", (meta, "e")),
        ("hdel", (meta, "e")),
        ("xadd", (stream, "1-0", "d", "")),
        ("xlen", (stream,)),
        ("xrange", (stream, "-", "+")),
        ("del", (stream, meta, server)),
        ("unlink", (stream, meta, server)),
    )


async def check_permissions(server: Server) -> list[Finding]:
    """What is missing, by what it is needed for, and the rules that add it."""
    refusals, server.only_literal_patterns = await try_everything(server)
    config = server.config
    prefix, user = config.prefix, server.user
    of_this = (config.cluster, config.sharded_pubsub, isinstance(server.node, SentinelNode))
    findings = []
    for kind, refused, rule in (
        ("channels", refusals.channels, channels_rule(prefix)),
        ("keys", refusals.keys, keys_rule(prefix)),
    ):
        if refused:
            core = set(refused) & {"publish", "subscribe", "spublish", "ssubscribe"}
            findings.append(
                Finding(
                    Level.PROBLEM if core else Level.WARNING,
                    f"the user {user!r} may not use the {kind} of the prefix {prefix!r} "
                    f"({', '.join(refused)})",
                    _why_names(kind),
                    f"ACL SETUSER {user} {rule}",
                )
            )
    findings += _missing(
        f"the user {user!r} may not",
        refusals.commands,
        uses(*of_this),
        lambda rules: f"ACL SETUSER {user} {rules}",
    )
    findings += _missing(
        "the server does not know",
        refusals.unknown,
        uses(*of_this),
        lambda rules: "Look for rename-command in the server's configuration; no ACL helps here.",
    )
    if refusals.commands or refusals.keys or refusals.channels:
        findings.append(
            Finding(
                Level.INFO,
                "the rules of a user that may do all that the layer does, and nothing else:",
                todo=f"ACL SETUSER {user} "
                + acl_rules(prefix, cluster=config.cluster, sharded=config.sharded_pubsub),
            )
        )
    elif not findings:
        findings.append(ok(f"{user!r} may run all {len(commands(*of_this))} commands of the layer"))
    if server.only_literal_patterns and "psubscribe" not in (
        *refusals.commands,
        *refusals.channels,
    ):
        wildcards = ""
        if not (config.cluster and config.sharded_pubsub):
            tag = "{*}" if config.cluster else ""
            wildcards = f"&{escape_glob(prefix)}:g:{tag}PATTERN for the wildcard group PATTERN, "
        findings.append(
            Finding(
                Level.INFO,
                f"patterns are refused unless the ACL of {user!r} has them word for word",
                "Redis lets a user with channel rules subscribe to no other patterns, so wildcard "
                "groups and pattern subscriptions fail.",
                f"If they are used, add each: ACL SETUSER {user} {wildcards}&PATTERN for a pattern "
                "of Redis channels.",
            )
        )
    return findings


def _missing(
    found: str, refused: list[str], needed: Sequence[Use], todo: Callable[[str], str]
) -> list[Finding]:
    """A finding for each use that lacks commands; a command is named once."""
    findings = []
    named: set[str] = set()
    for use in needed:
        missing = [name for name in use.commands if name in refused and name not in named]
        if missing:
            named.update(missing)
            uses = [each.what for each in needed if set(missing) & set(each.commands)]
            rules = " ".join(f"+{name}" for name in missing)
            findings.append(
                Finding(
                    use.level,
                    f"{found}: {', '.join(missing)}",
                    f"Needed for {', and for '.join(uses)}.",
                    todo(rules),
                )
            )
    return findings


def _why_names(kind: str) -> str:
    return f"All names of the layer in Redis begin with the prefix: without {kind} no messages."


CHECKS: tuple[Check, ...] = (
    ServerCheck(
        "permissions",
        "ACL permissions",
        "A command that the server refuses is a feature that fails, perhaps days later.",
        REACHED,
        run=check_permissions,
    ),
)


def _on_presence(members: str, order: str, groups: str) -> Iterable[tuple[str, Sequence[str]]]:
    """As `_on_keys`, for what presence needs besides that."""
    return (
        ("hlen", (members,)),
        ("hexists", (members, "a")),
        ("hkeys", (members,)),
        ("hscan", (members, "0")),
        ("exists", (members,)),
        ("zadd", (order, "0", "a")),
        ("zcard", (order,)),
        ("zscore", (order, "a")),
        ("zrange", (order, "0", "0")),
        ("zrangebyscore", (order, "0", "0")),
        ("zrangebylex", (order, "-", "+")),
        ("zrem", (order, "a")),
        ("sadd", (groups, "a")),
        ("smembers", (groups,)),
        ("srem", (groups, "a")),
        ("unlink", (members, order, groups)),
    )
