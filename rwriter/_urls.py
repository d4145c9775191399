"""Reads a database URL as libpq does: several hosts, ``sslmode``, ``application_name``, ``target_session_attrs``."""

from __future__ import annotations

import re
import ssl
from typing import Any, Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from rwriter._validation import one_of

URL_FORM: Final = "postgresql://user:password@host:5432/database"
"""The form of URL that messages and help pages tell the user to write."""

DRIVER: Final = "postgresql+asyncpg"

_PLAIN_SCHEMES: Final = ("postgresql", "postgres")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OPTIONAL_SSL_MODES: Final = ("disable", "allow", "prefer")
_SESSION_ATTRIBUTES: Final = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
_DRIVER_OPTIONS: Final = frozenset(
    ("host", "port", "target_session_attrs", "passfile", "krbsrvname", "gsslib", "prepared_statement_cache_size")
)
_SEVERAL_HOSTS = re.compile(r"^(?P<head>[^:/]+://(?:[^@/]*@)?)(?P<hosts>[^@/?]*,[^@/?]*)(?P<tail>(?:[/?].*)?)$")


def connect_arguments(url: str | URL) -> tuple[URL, dict[str, Any]]:
    """Return a URL for SQLAlchemy's asyncpg dialect and the connect arguments that libpq would read from ``url``.

    Accepts ``postgres://``, ``postgresql://`` and ``postgresql+asyncpg://``, libpq's ``host1:5432,host2:5432`` and its
    ``sslmode``, ``application_name`` and ``target_session_attrs``. Raises ``ValueError`` for any other URL; the message
    quotes no part that could be the password.
    """
    parsed = _parse(url)
    query = dict(parsed.query)
    arguments: dict[str, Any] = {}
    if (mode := query.pop("sslmode", None)) is not None:
        arguments["ssl"] = _ssl(mode, query)
    if (name := query.pop("application_name", None)) is not None:
        arguments["server_settings"] = {"application_name": name}
    query.pop("connect_timeout", None)
    one_of("target_session_attrs", query.get("target_session_attrs", "any"), _SESSION_ATTRIBUTES)
    if unknown := sorted(query.keys() - _DRIVER_OPTIONS):
        msg = f"the database URL has options that the driver does not know: {', '.join(unknown)}"
        raise ValueError(msg)
    return parsed.set(query=query), arguments


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(_spread_hosts(url) if isinstance(url, str) else url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message may quote a part of the URL, and that part may be the password
        msg = f"the database URL cannot be read: write {URL_FORM}, with %XX for special characters"
        raise ValueError(msg) from None
    if parsed.drivername in _PLAIN_SCHEMES:
        return parsed.set(drivername=DRIVER)
    if parsed.drivername != DRIVER:
        msg = f"the database URL must begin postgresql:// or {DRIVER}://, not {parsed.drivername}://"
        raise ValueError(msg)
    return parsed


def _ssl(mode: str | tuple[str, ...], query: dict[str, Any]) -> str | ssl.SSLContext:
    one_of("sslmode", mode, _SSL_MODES)
    root = query.pop("sslrootcert", None)
    if root is None or mode in _OPTIONAL_SSL_MODES:
        return str(mode)
    try:
        context = ssl.create_default_context(cafile=root)
    except OSError as exc:
        msg = f"sslrootcert cannot be read: {exc}"
        raise ValueError(msg) from exc
    context.check_hostname = mode == "verify-full"
    return context


def _spread_hosts(url: str) -> str:
    # libpq writes several hosts with commas; SQLAlchemy wants one host= for each
    match = _SEVERAL_HOSTS.match(url)
    if match is None:
        return url
    hosts = [host if ":" in host else f"{host}:5432" for host in match["hosts"].split(",")]
    tail = match["tail"] or "/"
    return match["head"] + tail + ("&" if "?" in tail else "?") + "&".join(f"host={host}" for host in hosts)
