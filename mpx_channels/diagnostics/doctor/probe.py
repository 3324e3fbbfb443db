"""One connection to one server, for a command at a time: to ask what the layer never asks."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from mpx_channels.diagnostics.pages import page
from mpx_channels.multiplexer.exceptions import describe
from mpx_channels.multiplexer.providers import NoCredentials
from mpx_channels.multiplexer.tls import look_closer
from mpx_channels.multiplexer.topology import Node

__all__ = ["PATIENCE", "Forbidden", "Probe", "cause_of", "is_forbidden", "is_unknown"]

# Seconds that a server has for one answer.
PATIENCE = 2.0
# What comes unasked to a connection that has subscribed to something.
MESSAGES = (b"message", b"pmessage")
# What redis-py says of a connection that the server closed.
CLOSED = ("connection lost", "connection closed", "closed the connection", "reset by peer")


# Answers that are about the server's state, and not about the command.
PASSING = ("BUSY", "LOADING", "MASTERDOWN", "READONLY", "OOM", "MISCONF", "NOREPLICAS")


class Forbidden(Exception):
    """The ACL, or a managed server, keeps a command from us; ``rule`` would allow it.

    ``said``: what the server said, if it neither lacks the command nor has an ACL for it. Managed
    ones have words of their own.
    """

    def __init__(self, rule: str, unknown: bool, said: str = "") -> None:
        super().__init__(rule)
        self.rule = rule
        self.unknown = unknown
        self.said = said

    @property
    def command(self) -> str:
        """The command, as people write it."""
        return self.rule.removeprefix("+").replace("|", " ").upper()


class Probe:
    """A connection of its own to a node, as the layer's would be made."""

    def __init__(self, node: Node) -> None:
        self._connection = node.connection()

    @property
    def user(self) -> str | None:
        """The user name that the settings have, if any."""
        name = getattr(self._connection, "username", None)
        return name if isinstance(name, str) else None

    @property
    def has_credentials(self) -> bool:
        """Whether the settings have a password, or something that provides one."""
        names = ("password", "credential_provider")
        return any(getattr(self._connection, name, None) for name in names)

    @property
    def has_provider(self) -> bool:
        """Whether they have something that provides one."""
        return getattr(self._connection, "credential_provider", None) is not None

    @property
    def protocol(self) -> str:
        """The version of Redis' protocol that is spoken."""
        return str(getattr(self._connection, "protocol", "?"))

    @property
    def address(self) -> str | None:
        """The host's name or address; None for a Unix socket."""
        host = getattr(self._connection, "host", None)
        return host if isinstance(host, str) else None

    async def open(self) -> None:
        """Connect and log in; raises what redis-py and the operating system raise."""
        try:
            async with asyncio.timeout(PATIENCE):
                # redis-py has no annotations here.
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await self.close()
            raise

    async def why(self, error: BaseException) -> tuple[str, str]:
        """Why it could not be opened, in words, and what to do; asks the server, if need be."""
        return await look_closer(error, self._connection) or cause_of(error)

    async def __call__(self, *words: str | bytes) -> Any:
        """The answer to a command; raises `ResponseError` for one that is an error.

        It must be a command with one answer. What ends the connection (`OSError`, `RedisError`,
        `TimeoutError`) is raised as it is.
        """
        async with asyncio.timeout(PATIENCE):
            await self._connection.send_command(*words)
            while True:
                answer = await self._connection.read_response(
                    disconnect_on_error=False, push_request=True
                )
                if not (isinstance(answer, list) and answer and answer[0] in MESSAGES):
                    return answer

    async def ask(self, rule: str, *words: str | bytes) -> Any:
        """As calling it, for a command that the layer can do without: may raise `Forbidden`."""
        try:
            return await self(*words)
        except ResponseError as error:
            if is_forbidden(error) or is_unknown(error):
                raise Forbidden(rule, is_unknown(error)) from error
            if isinstance(error, AuthenticationError) or str(error).startswith(PASSING):
                raise
            raise Forbidden(rule, False, describe(error)) from error

    async def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        await self._connection.disconnect(nowait=True)


def _reason(error: OSError) -> str:
    """What the system says, without what redis-py makes of it: that has the address again."""
    return error.strerror or describe(error)


def is_forbidden(error: ResponseError) -> bool:
    """Whether an ACL refused the command."""
    return isinstance(error, NoPermissionError) or str(error).startswith("NOPERM")


def is_unknown(error: ResponseError) -> bool:
    """Whether the server does not know the command: renamed, disabled or too new for it."""
    text = str(error).lower()
    return text.startswith(("unknown command", "unknown subcommand", "err unknown"))


def cause_of(error: BaseException) -> tuple[str, str]:
    """Why a server cannot be reached, in words, and what to do about it."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    text = describe(error)
    if isinstance(error, NoCredentials):
        return text, "Correct the provider, or see that what it asks is there."
    if "no Sentinel knows" in text:
        # And what each of them said, which are words that mean something else below.
        return text, (
            "Start the Sentinels, or correct sentinels, master_name and sentinel_kwargs in hosts; "
            f"what their user needs: {page('acl', 'sentinel')}"
        )
    if "refused the command" in text:
        return text, "See 'ACL permissions' above, and the server's log."
    # What was raised last hides what it was raised for.
    for each in reversed(chain):
        if isinstance(each, ConnectionRefusedError):
            return "the connection was refused", (
                "Start the server, or correct the host and port in hosts."
            )
        if isinstance(each, socket.gaierror):
            return f"the host's name cannot be resolved ({_reason(each)})", (
                "Correct the host in hosts, or the name service of this machine."
            )
        if isinstance(each, ssl.SSLError):
            return f"no TLS with this server ({_reason(each)})", (
                "Use rediss:// for a port that speaks TLS and redis:// for one that does not, and "
                "name the authority of its certificate with ssl_ca_certs."
            )
        if isinstance(each, FileNotFoundError | PermissionError):
            return f"the socket cannot be opened ({_reason(each)})", (
                "Correct the path in hosts, and let the user of this process read and write it."
            )
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE:g} s", (
            "See whether a firewall drops the packets, whether the address is right, whether the "
            "server hangs, and whether that port speaks TLS (rediss://) or not (redis://)."
        )
    if "max number of clients" in text:
        return f"the server takes no more clients ({text})", (
            "Raise maxclients of the server (CONFIG SET maxclients), or find who holds so many "
            "connections (CLIENT LIST)."
        )
    if any(words in text.lower() for words in CLOSED):
        return f"the server closed the connection ({text})", (
            "See its log. It does so at once when it is full (maxclients), when it was told to "
            "talk to its own machine only (protected-mode), and when that port speaks TLS (then "
            "it takes rediss:// in hosts)."
        )
    if "permission" in text or "NOPERM" in text:
        return f"the ACL forbids what the connection begins with ({text})", (
            "Add +select to the user for a database number in hosts, +client|setname for a "
            "client_name."
        )
    if isinstance(error, ResponseError) and re.search(r"\bSELECT\b|DB index", text):
        return f"the server has no such database ({text})", (
            "Take its number out of hosts, or choose a lower one. Clusters have number 0 only, and "
            "so have some services."
        )
    if isinstance(error, ResponseError) and re.search(r"\bCLIENT\b|Client name", text):
        return f"the server does not take the client_name ({text})", (
            "Take it out of hosts, or choose one without spaces."
        )
    if any(isinstance(each, AuthenticationError) for each in chain):
        return f"the server refuses the login ({text})", "Correct the password in hosts."
    if isinstance(error, RedisError | OSError):
        return text, "See the server's log; something other than Redis may listen there."
    return f"{type(error).__name__}: {text}", "Correct the options of hosts."
