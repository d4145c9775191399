"""A page for people who would rather look: requests, dead letters and usage, behind the service's own sign-in.

``pip install 'rwriter[admin]'``. Plain HTML made on the server: no script, nothing loaded from elsewhere.
"""

from __future__ import annotations

from rwriter._values.extras import refuse_missing

try:
    from rwriter.admin._guard import Authorize
    from rwriter.admin._mount import mount
except ModuleNotFoundError as _exc:  # underscored: it would be a public name
    refuse_missing(_exc, "rwriter.admin", "admin", "starlette", "jinja2", "markupsafe")

__all__ = ("Authorize", "mount")
