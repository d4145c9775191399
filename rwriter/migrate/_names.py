"""Says which tables are rwriter's: to Alembic, in a service's own history and in rwriter's."""

from __future__ import annotations

import re
from typing import Any, Final

from rwriter.schema import PARTITIONED_TABLES, TABLES, VERSION_TABLE

_PARTITION: Final = re.compile(rf"({'|'.join(PARTITIONED_TABLES)})_[0-9]{{8}}")


def include_name(name: str | None, type_: str, _parents: Any = None) -> bool:
    """Return False for rwriter's tables in any schema, its version table included, and True for everything else.

    For ``context.configure(include_name=...)`` in a service's own ``env.py``: autogenerate and ``alembic check`` then
    propose nothing about them. Join it to a function of your own with ``and``.
    """
    return type_ != "table" or not (name == VERSION_TABLE or name in TABLES or _is_partition(name))


def include_object(_object: Any, name: str | None, type_: str, _reflected: bool = False, _to: Any = None) -> bool:
    """Return False for rwriter's tables where the service's models share a ``MetaData`` with them.

    For ``context.configure(include_object=...)``, beside ``include_name``, which Alembic asks about the database alone.
    """
    return include_name(name, type_)


def _is_partition(name: str | None) -> bool:
    return name is not None and _PARTITION.fullmatch(name) is not None


def is_ours(name: str | None, type_: str, _parents: Any = None) -> bool:
    """Return True for rwriter's own tables in a shared schema: Alembic's ``include_name``."""
    return type_ != "table" or name in TABLES


def is_our_object(_object: Any, name: str | None, type_: str, _reflected: bool = False, _to: Any = None) -> bool:
    """Return True for rwriter's own tables in a shared ``MetaData``: Alembic's ``include_object``."""
    return is_ours(name, type_)
