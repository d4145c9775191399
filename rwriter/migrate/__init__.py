"""Upgrades the schema to head, names its revision, compares its tables, and adopts those of the daemon.

The scripts are the checkout's ``migrations/`` or, in an installed wheel, the copy in the package.
"""

from rwriter._values.variables import SCHEMA_VARIABLE, URL_VARIABLE
from rwriter.migrate._adoption import is_adopted
from rwriter.migrate._commands import (
    Period,
    Target,
    adopt,
    alembic_config,
    check,
    current,
    downgrade,
    run_with_connection,
    upgrade,
    upgrade_sql,
    variant,
    versions_path,
)
from rwriter.migrate._comparison import SchemaDrift, additions_spared, declared, quiet_reflection
from rwriter.migrate._names import include_name, include_object, is_our_object, is_ours

__all__ = (
    "SCHEMA_VARIABLE",
    "URL_VARIABLE",
    "Period",
    "SchemaDrift",
    "Target",
    "additions_spared",
    "adopt",
    "alembic_config",
    "check",
    "current",
    "declared",
    "downgrade",
    "include_name",
    "include_object",
    "is_adopted",
    "is_our_object",
    "is_ours",
    "quiet_reflection",
    "run_with_connection",
    "upgrade",
    "upgrade_sql",
    "variant",
    "versions_path",
)
