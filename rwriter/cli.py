"""The command line: ``rwriter migrate``, ``current``, ``check`` and ``demo``."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import logging
import sys
from typing import Annotated, Final, NoReturn, TypeAlias

import typer
from sqlalchemy.exc import ArgumentError

from rwriter import migrate as migrations
from rwriter._failures import fix_for, server_message, sqlstate_of
from rwriter.errors import RwriterError
from rwriter.migrate import SCHEMA_VARIABLE, URL_VARIABLE
from rwriter.schema import HEAD_REVISION

USAGE_ERROR: Final = 2

_URL_FORM = "postgresql://user:password@host:5432/database"
_FIXES = {
    "28": fix_for,
}

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    # plain lines: they end up in the logs of deployments
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
