"""A page for people who would rather look: requests, dead letters and usage, behind the service's own sign-in.

``pip install 'rwriter[admin]'``. Plain HTML made on the server: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

try:
    from rwriter.admin._guard import Authorize
    from rwriter.admin._mount import mount
except ModuleNotFoundError as _exc:  # underscores: these would be public names
    _missing = str(_exc.name).partition(".")[0]
    if _missing not in {"starlette", "jinja2", "markupsafe"}:
        raise
    _msg = f"rwriter.admin needs {_missing}: pip install 'rwriter[admin]'"
    raise ModuleNotFoundError(_msg, name=_exc.name) from _exc

__all__ = ("Authorize", "mount")
