"""Renders the templates. Every text in them is escaped twice: for HTML, and its control characters for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rwriter._values.escape import escape
from rwriter.admin._query import metadata_text, with_owner
from rwriter.admin._texts import laid_out, lines


def _shown(value: Any) -> Any:
    """Return what an expression of a template is shown as. The HTML of a macro stays, everything else is a text."""
    if value is None:
        return ""
    if isinstance(value, Markup):
        return value
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return escape(str(value))


def _thousands(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _first_line(text: str) -> str:
    # what comes below it, a DETAIL, may quote the row
    return text.partition("\n")[0]


def _preformatted(text: str) -> Markup:
    return Markup.escape(lines(text))


def _body(text: str) -> Markup:
    return Markup.escape(laid_out(text))


_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("rwriter.admin"),
    autoescape=True,
    auto_reload=False,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_ENVIRONMENT.filters |= {
    "body": _body,
    "facts": metadata_text,
    "first_line": _first_line,
    "of_owner": with_owner,
    "preformatted": _preformatted,
    "thousands": _thousands,
}


def render(name: str, **values: Any) -> str:
    """Return the page that template ``name`` makes of ``values``."""
    return _ENVIRONMENT.get_template(name).render(values)
