"""The words for a package that an extra brings, and that is not installed."""

from __future__ import annotations

from typing import NoReturn


def refuse_missing(exc: ModuleNotFoundError, what: str, extra: str, *packages: str) -> NoReturn:
    """Raise ``ModuleNotFoundError`` that names the extra to install, or ``exc`` where another module is missing.

    ``packages`` are those that the extra brings; left out, whatever is missing is one of them.
    """
    missing = str(exc.name).partition(".")[0]
    if packages and missing not in packages:
        raise exc
    msg = f"{what} needs {missing}: pip install 'rwriter[{extra}]'"
    raise ModuleNotFoundError(msg, name=exc.name) from exc
