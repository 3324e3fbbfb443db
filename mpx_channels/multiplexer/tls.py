"""What is wrong with TLS, in a sentence that names the host and what to do.

OpenSSL, asyncio and redis-py each have words of their own for it, and for some of it none: a server
that wants a certificate of ours resets the connection, and one that speaks no TLS is silent. So for
a server that was never reached this looks closer, over a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, ResponseError

from .exceptions import NotConnected
from .providers import NoCredentials
from .tls_options import Trouble, file_troubles

__all__ = ["host_and_port", "look_closer", "trouble_of"]

# Seconds that looking closer may take.
PATIENCE = 1.0

# OpenSSL's numbers (X509_V_ERR_...) for what is wrong with a server's certificate.
NOT_YET, EXPIRED, REVOKED = 9, 10, 23
UNTRUSTED = (2, 18, 19, 20, 21)
OTHER_NAME = (62, 64)
# What a server says of our certificate, as the ends of OpenSSL's names for it.
OURS_IS_MISSING = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")
OURS_IS_REFUSED = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_DECRYPT_ERROR",
)
NO_COMMON_VERSION = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")
# What comes of a server's plain answer to a TLS greeting; one is that of newer OpenSSLs.
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


def host_and_port(host: object, port: object) -> str:
    """A host and port as in a URL: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def trouble_of(
    error: BaseException, connection: AbstractConnection, *, stood: bool = False
) -> Trouble | None:
    """What this error of a connection says of TLS; None if it says nothing.

    ``stood``: the connection did. What can come after that is what the server says to our
    certificate, as it may do so when we think that we are through.
    """
    at = _where(connection)
    for each in _chain(error):
        if stood and not _is_about_ours(each):
            continue
        if isinstance(each, ssl.SSLCertVerificationError):
            # A folder of authorities that is not there is no error of OpenSSL's.
            return next(file_troubles(connection), None) or _of_their_certificate(each, at)
        if isinstance(each, ssl.SSLError):
            return next(file_troubles(connection), None) or _of_openssl(each, at, connection)
        if isinstance(each, FileNotFoundError | PermissionError | IsADirectoryError):
            return next(file_troubles(connection), None)
    return None


async def look_closer(error: BaseException, connection: AbstractConnection) -> Trouble | None:
    """As `trouble_of`, and if that says nothing, by asking the server.

    For an error in connecting. Takes no more than a second, and never raises what it meets.
    """
    if (found := trouble_of(error, connection)) is not None:
        return found
    host, port = getattr(connection, "host", None), getattr(connection, "port", None)
    if not (isinstance(host, str) and host and port) or not _may_be_tls(error):
        return None
    at = _where(connection)
    try:
        async with asyncio.timeout(PATIENCE):
            context = _context(connection)
            if context is None:
                if await _speaks_tls(host, int(port)):
                    return Trouble(
                        f"{at} speaks TLS and is spoken to without",
                        "write rediss:// (or 'ssl': True) in hosts",
                    )
            elif await _speaks_plainly(host, int(port)):
                return _no_tls(at)
            elif (refusal := await _refusal(host, int(port), context)) is not None:
                return _of_openssl(refusal, at, connection)
    except ssl.SSLCertVerificationError as refused:
        return _of_their_certificate(refused, at)
    except (OSError, TimeoutError, ValueError):
        pass
    return None


# -- in words ---------------------------------------------------------------------------------


def _where(connection: AbstractConnection) -> str:
    return host_and_port(getattr(connection, "host", "?"), getattr(connection, "port", "?"))


def _of_their_certificate(error: ssl.SSLCertVerificationError, at: str) -> Trouble:
    code = getattr(error, "verify_code", None)
    if code in UNTRUSTED:
        return Trouble(
            f"the certificate of {at} was signed by nobody whom this machine trusts",
            "name the file of its authority as ssl_ca_certs in hosts",
        )
    if code == EXPIRED:
        return Trouble(f"the certificate of {at} has expired", "give the server a new one")
    if code == NOT_YET:
        return Trouble(
            f"the certificate of {at} is not valid yet",
            "see whether this machine's clock is right, and from when on the certificate is valid",
        )
    if code in OTHER_NAME:
        return Trouble(
            f"the certificate of {at} is one for other names",
            "write one of these into hosts, or give the server a certificate for this one (behind "
            "Sentinels and in a cluster it is the name or address that those announce)",
        )
    if code == REVOKED:
        return Trouble(f"the certificate of {at} was revoked", "give the server a new one")
    return Trouble(
        f"the certificate of {at} is refused ({getattr(error, 'verify_message', error)})",
        "give the server one that is in order",
    )


def _is_about_ours(error: BaseException) -> bool:
    reason = getattr(error, "reason", None)
    return isinstance(reason, str) and reason.endswith((*OURS_IS_MISSING, *OURS_IS_REFUSED))


def _of_openssl(error: ssl.SSLError, at: str, connection: AbstractConnection) -> Trouble:
    # None of errors that OpenSSL has no number for.
    reason = getattr(error, "reason", None) or ""
    has_one = bool(getattr(getattr(connection, "ssl_context", None), "certfile", None))
    if reason.endswith(NO_TLS):
        return _no_tls(at)
    if reason.endswith(OURS_IS_MISSING) and not has_one:
        return Trouble(
            f"{at} wants a certificate of ours and has got none",
            "name its file as ssl_certfile, and that of its key as ssl_keyfile, in hosts",
        )
    if reason.endswith((*OURS_IS_REFUSED, *OURS_IS_MISSING)) and has_one:
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return Trouble(
            f"{at} refuses our certificate ({said})",
            "name one as ssl_certfile in hosts that an authority of the server has signed "
            "(its tls-ca-cert-file) and that has not expired",
        )
    if reason.endswith(NO_COMMON_VERSION):
        return Trouble(
            f"{at} and we have no version of TLS in common",
            "see ssl_min_version in hosts, and the server's tls-protocols",
        )
    return Trouble(
        f"no TLS with {at} ({reason or error})",
        "see whether that port speaks TLS (rediss:// in hosts) or not (redis://)",
    )


def _no_tls(at: str) -> Trouble:
    return Trouble(
        f"{at} speaks no TLS",
        "write redis:// (without 'ssl': True) in hosts, or the port on which the server speaks TLS",
    )


# -- looking closer ---------------------------------------------------------------------------


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it was raised for. What a credential provider met was not this server."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        if isinstance(current, NoCredentials):
            break
        current = current.__cause__ or current.__context__
    return chain


def _may_be_tls(error: BaseException) -> bool:
    """Whether a connection may have ended so because one end speaks TLS otherwise."""
    if isinstance(error, NotConnected | AuthenticationError | ResponseError):
        return False
    clear = (ConnectionRefusedError, AuthenticationError, FileNotFoundError)
    if any(isinstance(each, clear) for each in _chain(error)):
        return False
    text = str(error).lower()
    return isinstance(error, TimeoutError) or any(
        words in text
        for words in ("reset", "closed", "lost", "timeout", "broken pipe", "eof", "protocol error")
    )


def _context(connection: AbstractConnection) -> ssl.SSLContext | None:
    made = getattr(connection, "ssl_context", None)
    context = made.get() if made is not None else None
    return context if isinstance(context, ssl.SSLContext) else None


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        # With words of TLS it was refused.
        return "ALERT" in (getattr(error, "reason", None) or "")
    await _closed(writer)
    return True


async def _speaks_plainly(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"PING\r\n")
        return (await reader.read(1)) in (b"+", b"-")
    except OSError:
        return False  # it has no use for what is no TLS
    finally:
        await _closed(writer)


async def _refusal(host: str, port: int, context: ssl.SSLContext) -> ssl.SSLError | None:
    """What the server says to our certificate, if it says something. It does so after our part of
    the handshake, and who has written by then gets a reset and never reads it.

    Raises what is wrong with its own.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        try:
            await reader.read(1)
        finally:
            await _closed(writer)
    except ssl.SSLCertVerificationError:
        raise  # it is ours that refuses
    except ssl.SSLError as error:
        return error
    return None


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
