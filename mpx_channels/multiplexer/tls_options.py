"""The options of TLS, and the files that they name."""

from __future__ import annotations

import inspect
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection, SSLConnection

from .exceptions import NotConnected

__all__ = [
    "Trouble",
    "file_troubles",
    "refuse_tls_options",
    "tls_options",
    "unverified",
    "wants_tls",
]

# Options that name files, of redis-py's connections and, without "ssl_", of its contexts.
FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


class Trouble(NamedTuple):
    """What is wrong, and what to do about it."""

    found: str
    todo: str

    def error(self) -> NotConnected:
        """As an exception, of one sentence."""
        return NotConnected(f"{self.found}: {self.todo}")


def wants_tls(options: Mapping[str, Any]) -> bool:
    """What ``ssl`` says among options; raises `ValueError` for what is neither True nor False."""
    tls = options.get("ssl", False)
    if not isinstance(tls, bool):
        raise ValueError(
            f"ssl must be True or False, not {tls!r}: further keys (ssl_ca_certs, ...) say more"
        )
    return tls


def refuse_tls_options(options: Mapping[str, Any], todo: str) -> None:
    """Raise `TypeError` for options of TLS where none is spoken: they would be without effect."""
    given = [key for key, value in options.items() if key.startswith("ssl_") and value is not None]
    if given:
        raise TypeError(f"{', '.join(given)} without TLS: {todo}")


def tls_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of redis-py's TLS connections, with what its older versions do without.

    Host names are checked unless that is turned off, and a file with certificate and key need be
    named once. Raises `ValueError` for a key without a certificate, and for values that would be
    taken for something else.
    """
    given = dict(options)
    version = given.get("ssl_min_version")
    if isinstance(version, str) and version.isdigit():
        given["ssl_min_version"] = version = int(version)  # of a URL, with an older redis-py
    if version is not None and version not in tuple(ssl.TLSVersion):
        raise ValueError(
            "ssl_min_version must be one of ssl.TLSVersion, such as ssl.TLSVersion.TLSv1_3, and "
            f"not {version!r}"
        )
    for option in FILES:
        if not isinstance(given.get(option), str | bytes | os.PathLike | None):
            raise ValueError(f"{option} must be the path of a file, not {given[option]!r}")
    _require_ciphers(given.get("ssl_ciphers"))
    if not isinstance(given.get("ssl_check_hostname", True), bool):
        raise ValueError(
            f"ssl_check_hostname must be True or False, not {given['ssl_check_hostname']!r}"
        )
    if given.get("ssl_keyfile") and not given.get("ssl_certfile"):
        raise ValueError("ssl_keyfile is the key of a certificate: name that with ssl_certfile")
    if given.get("ssl_certfile") and not given.get("ssl_keyfile"):
        given["ssl_keyfile"] = given["ssl_certfile"]
    reqs = given.get("ssl_cert_reqs", "required")
    if reqs in (None, "none", ssl.CERT_NONE):
        # No certificate is looked at, and so no name in it.
        if given.get("ssl_check_hostname"):
            given["ssl_check_hostname"] = False
    elif not _CHECKS_NAMES:
        given.setdefault("ssl_check_hostname", True)
    return given


def _require_ciphers(ciphers: object) -> None:
    if ciphers is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(ciphers)  # type: ignore[arg-type]
    except (ssl.SSLError, TypeError):
        raise ValueError(
            f"ssl_ciphers must be a list of ciphers as OpenSSL writes it, not {ciphers!r}: see "
            "openssl ciphers"
        ) from None


def _checks_names() -> bool:
    parameter = inspect.signature(SSLConnection).parameters.get("ssl_check_hostname")
    return parameter is not None and parameter.default is True


_CHECKS_NAMES = _checks_names()


def file_troubles(connection: AbstractConnection) -> Iterator[Trouble]:
    """What is wrong with the files that this connection's TLS needs; none of them is asked for."""
    context = getattr(connection, "ssl_context", None)
    if context is None:
        return
    named = {option: getattr(context, option.removeprefix("ssl_"), None) for option in FILES}
    missing = False
    for option, path in named.items():
        if not path:
            continue
        try:
            if option == "ssl_ca_path":
                os.listdir(path)
            else:
                with open(path, "rb"):
                    pass
        except OSError as error:
            missing = True
            yield Trouble(
                f"the file {str(path)!r} cannot be read ({error.strerror})",
                f"correct {option} in hosts, or let the user of this process read it",
            )
    if not missing:
        yield from _unfit_files(named, getattr(context, "password", None))
    if text := getattr(context, "ca_data", None):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, TypeError, ValueError):
            yield Trouble(
                "the text in ssl_ca_data is no certificate",
                "correct it in hosts, or name the file of the authority as ssl_ca_certs",
            )


def _unfit_files(named: Mapping[str, Any], password: Any) -> Iterator[Trouble]:
    ca, certificate = named["ssl_ca_certs"], named["ssl_certfile"]
    key = named["ssl_keyfile"] or certificate
    if ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=ca)
        except ssl.SSLError as error:
            yield Trouble(
                f"the file {str(ca)!r} has no certificate in it ({error.reason})",
                "name a file of PEM certificates as ssl_ca_certs in hosts",
            )
    if certificate:
        try:
            # Without a password OpenSSL would ask for it, on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                certificate, key, password=password or (lambda: "")
            )
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                yield Trouble(
                    f"the key in {str(key)!r} is not that of the certificate in "
                    f"{str(certificate)!r}",
                    "correct ssl_certfile and ssl_keyfile in hosts",
                )
            else:
                yield Trouble(
                    f"the certificate in {str(certificate)!r} cannot be used with the key in "
                    f"{str(key)!r} ({error.reason or 'not PEM, or its password is wrong'})",
                    "name PEM files as ssl_certfile and ssl_keyfile in hosts, and the key's "
                    "password, if it has one, as ssl_password",
                )


def unverified(connection: AbstractConnection) -> str:
    """The option that lets any certificate pass; empty if there is none such."""
    context = getattr(connection, "ssl_context", None)
    if context is None:
        return ""
    if getattr(context, "cert_reqs", ssl.CERT_REQUIRED) == ssl.CERT_NONE:
        return "ssl_cert_reqs"
    return "" if getattr(context, "check_hostname", True) else "ssl_check_hostname"
