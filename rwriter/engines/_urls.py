"""Reads a database URL as libpq does: several hosts, sockets, TLS, ``options``, keepalives, and ``pgbouncer=true``."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from rwriter._validation import one_of
from rwriter._values.variables import URL_FORM

DRIVER: Final = "postgresql+asyncpg"

DEFAULT_PORT: Final = 5432

_PLAIN_SCHEMES: Final = ("postgresql", "postgres")
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OPTIONAL_SSL_MODES: Final = ("disable", "allow", "prefer")
_SESSION_ATTRIBUTES: Final = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
_YES: Final = ("true", "1", "on", "yes")
_NO: Final = ("false", "0", "off", "no")

_DRIVER_OPTIONS: Final = frozenset(("passfile", "krbsrvname", "gsslib", "prepared_statement_cache_size"))
_TLS_VERSIONS: Final = ("ssl_min_protocol_version", "ssl_max_protocol_version")
_DSN_OPTIONS: Final = frozenset(
    ("sslcert", "sslkey", "sslcrl", "sslpassword", *_TLS_VERSIONS, "sslnegotiation", "service")
)
"""What the driver reads from a URL of its own alone."""

_SETTINGS: Final = frozenset(("application_name", "options", "client_encoding"))
_TCP_OPTIONS: Final = frozenset(
    ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
)
_IGNORED: Final = frozenset(("sslcompression", "sslsni", "fallback_application_name", "load_balance_hosts"))

# libpq's wishes that this driver cannot meet: where they may go unmet, they are dropped
_UNMET: Final = {
    "channel_binding": ("prefer", "disable"),
    "gssencmode": ("prefer", "disable"),
    "gssdelegation": ("0",),
    "require_auth": (),
    "requirepeer": (),
}

_HOSTS = re.compile(r"^(?P<head>[^:/?#]+://(?:[^@/?#]*@)?)(?P<hosts>[^@/?#]*)(?P<tail>(?:[/?#].*)?)$", re.DOTALL)
_HOST = re.compile(r"^(?P<host>\[[^\]]+\]|[^:\[\]]*)(?::(?P<port>\d*))?$")


class DatabaseUrl(NamedTuple):
    """A database URL as the library reads it."""

    url: URL
    """For SQLAlchemy's asyncpg dialect."""
    arguments: dict[str, Any]
    """Of ``asyncpg.connect``."""
    pgbouncer: bool
    connect_timeout: float | None
    """Seconds."""
    tcp: dict[str, int]
    """libpq's ``keepalives*`` and ``tcp_user_timeout``: seconds, a count, and milliseconds for the last."""

    def __repr__(self) -> str:
        # the URL hides its password; an argument may be one
        return f"DatabaseUrl(url={self.url!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("url", self.url)]


def connect_arguments(url: str | URL) -> tuple[URL, dict[str, Any]]:
    """Return a URL for SQLAlchemy's asyncpg dialect and the arguments of ``asyncpg.connect`` that go with it.

    Raises ``ValueError`` as ``read_url``.
    """
    return read_url(url)[:2]


def read_url(url: str | URL) -> DatabaseUrl:
    """Return what libpq would read from ``url``, and ``pgbouncer=true`` beside it.

    Accepts ``postgres://``, ``postgresql://`` and ``postgresql+asyncpg://``. Raises ``ValueError`` for any other URL
    and for an option that cannot be met, which it names; the message quotes no part that could be the password.
    """
    parsed, hosts = _parse(url)
    query = {name: value if isinstance(value, str) else ",".join(value) for name, value in parsed.query.items()}
    named = _hosts_in(query)
    if service := os.environ.get("PGSERVICE"):
        # the driver takes it from a URL alone
        query.setdefault("service", service)
    # of hosts named in the query the port is that of the URL; of several in the URL each has its own
    port = (parsed.port if named else None) or _default_port()
    arguments: dict[str, Any] = _addresses(named or hosts, port)
    _drop_unmet(query)
    if (attributes := query.pop("target_session_attrs", None)) is not None:
        one_of("target_session_attrs", attributes, _SESSION_ATTRIBUTES)
        arguments["target_session_attrs"] = attributes
    if settings := {name: query.pop(name) for name in sorted(_SETTINGS & query.keys())}:
        arguments["server_settings"] = settings
    _set_tls(arguments, query)
    pgbouncer = _switch("pgbouncer", query.pop("pgbouncer", "false"))
    timeout = _number("connect_timeout", query.pop("connect_timeout", "0"))
    tcp = {name: _number(name, query.pop(name)) for name in sorted(_TCP_OPTIONS & query.keys())}
    for name in _IGNORED:
        query.pop(name, None)
    for name, part in (("user", "username"), ("password", "password"), ("dbname", "database")):
        if (value := query.pop(name, None)) is not None:
            parsed = parsed.set(**{part: value})  # type: ignore[arg-type]
    if unknown := sorted(query.keys() - _DRIVER_OPTIONS):
        msg = f"the database URL has options that the driver does not know: {', '.join(unknown)}"
        raise ValueError(msg)
    return DatabaseUrl(parsed.set(query=query), arguments, pgbouncer, float(timeout) or None, tcp)


def _parse(url: str | URL) -> tuple[URL, list[tuple[str, int | None]]]:
    """Return the URL with its first host, and all hosts where SQLAlchemy's own reading of them is not enough."""
    hosts: list[tuple[str, int | None]] = []
    try:
        if isinstance(url, str):
            url, hosts = _take_hosts(url)
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # SQLAlchemy's message may quote a part of the URL, and that part may be the password
        msg = f"the database URL cannot be read: write {URL_FORM}, with %XX for special characters"
        raise ValueError(msg) from None
    if parsed.drivername in _PLAIN_SCHEMES:
        return parsed.set(drivername=DRIVER), hosts
    if parsed.drivername != DRIVER:
        msg = f"the database URL must begin postgresql:// or {DRIVER}://, not {parsed.drivername}://"
        raise ValueError(msg)
    return parsed, hosts


def _take_hosts(url: str) -> tuple[str, list[tuple[str, int | None]]]:
    """Return ``url`` with one plain host, and every host it names where there are several, or the path of a socket."""
    match = _HOSTS.match(url)
    if match is None or not ("," in match["hosts"] or "%" in match["hosts"]):
        return url, []
    hosts = [_address(text) for text in match["hosts"].split(",")]
    host, port = next(((host, port) for host, port in hosts if "/" not in host), ("", None))
    plain = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return match["head"] + plain + match["tail"], hosts


def _address(text: str) -> tuple[str, int | None]:
    match = _HOST.match(unquote(text))
    if match is None:
        raise ValueError(text)
    return match["host"].strip("[]"), int(match["port"]) if match["port"] else None


def _hosts_in(query: dict[str, str]) -> list[tuple[str, int | None]]:
    """Take libpq's ``host=a,b&port=1,2``, or SQLAlchemy's ``host=a:1&host=b:2``, out of ``query``."""
    if not ("host" in query or "hostaddr" in query):
        return []
    hostaddr = query.pop("hostaddr", "")
    names = (hostaddr or query.pop("host")).split(",")
    query.pop("host", None)
    ports = [_number("port", port) if port else None for port in query.pop("port", "").split(",")]
    if len(ports) not in {1, len(names)}:
        msg = f"the database URL has {len(names)} hosts and {len(ports)} ports: give one port, or one for each"
        raise ValueError(msg)
    ports = ports * len(names) if len(ports) == 1 else ports
    read = [_host_in_list(name) for name in names]
    return [(host, own if own is not None else port) for (host, own), port in zip(read, ports, strict=True)]


def _host_in_list(text: str) -> tuple[str, int | None]:
    # a socket's folder, or a bare IPv6 address: its colons are no port's
    if "/" in text or (text.count(":") > 1 and "]" not in text):
        return text, None
    return _address(text)


def _default_port() -> int:
    port = os.environ.get("PGPORT", "")
    return int(port) if port.isdecimal() else DEFAULT_PORT


def _addresses(hosts: list[tuple[str, int | None]], default_port: int) -> dict[str, Any]:
    if not hosts:
        return {}
    names = [host or "localhost" for host, _ in hosts]
    ports = [port or default_port for _, port in hosts]
    return {"host": names, "port": ports} if len(hosts) > 1 else {"host": names[0], "port": ports[0]}


def _drop_unmet(query: dict[str, str]) -> None:
    for name, harmless in _UNMET.items():
        wish = query.pop(name, None)
        if wish is not None and wish not in harmless:
            msg = f"the driver cannot meet {name}={wish}: remove {name} from the database URL"
            raise ValueError(msg)


def _set_tls(arguments: dict[str, Any], query: dict[str, str]) -> None:
    mode, root = query.pop("sslmode", None), query.pop("sslrootcert", None)
    if mode is not None:
        one_of("sslmode", mode, _SSL_MODES)
    dsn = {name: query.pop(name) for name in sorted(_DSN_OPTIONS & query.keys())}
    if dsn:
        # client certificates and the like: the driver makes its TLS context of a URL alone
        dsn |= {name: value for name, value in (("sslmode", mode), ("sslrootcert", root)) if value is not None}
        arguments["dsn"] = "postgresql://?" + urlencode(dsn)
    elif root is not None and (mode or "prefer") not in _OPTIONAL_SSL_MODES:
        arguments["ssl"] = _context(root, check_hostname=mode == "verify-full" or root == "system")
    elif mode is not None:
        arguments["ssl"] = mode
    if root == "system" and mode != "verify-full":
        msg = "sslrootcert=system needs sslmode=verify-full"
        raise ValueError(msg)


def _context(root: str, *, check_hostname: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if root == "system" else root)
    except OSError as exc:
        msg = f"sslrootcert cannot be read: {exc}"
        raise ValueError(msg) from exc
    context.check_hostname = check_hostname
    return context


def _switch(name: str, value: str) -> bool:
    one_of(name, value.lower(), _YES + _NO)
    return value.lower() in _YES


def _number(name: str, value: str, read: Callable[[str], int] = int) -> int:
    try:
        return read(value)
    except ValueError:
        msg = f"{name} in the database URL must be a whole number, not {value!r}"
        raise ValueError(msg) from None
