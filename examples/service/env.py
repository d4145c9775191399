"""Runs the service's migrations, as Alembic's own template for async engines does."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from examples.service.models import Base
from rwriter.migrate import include_name


def run(connection: Connection) -> None:
    """Run what the command asked for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=include_name,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    """Connect to the service's database."""
    engine = create_async_engine(os.environ["SERVICE_DATABASE_URL"])
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(main())
