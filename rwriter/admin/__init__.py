"""A page for people who would rather look: requests, dead letters and usage, behind the service's own sign-in.

``pip install 'rwriter[admin]'``. Plain HTML made on the server: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

try:
    from rwriter.admin._guard import Authorize
    from rwriter.admin._mount import mount
except ModuleNotFoundError as exc:
    missing = str(exc.name).partition(".")[0]
    if missing not in {"starlette", "jinja2", "markupsafe"}:
        raise
    msg = f"rwriter.admin needs {missing}: pip install 'rwriter[admin]'"
    raise ModuleNotFoundError(msg, name=exc.name) from exc

__all__ = ("Authorize", "mount")
