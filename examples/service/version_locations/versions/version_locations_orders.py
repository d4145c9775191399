"""The orders. Their foreign key is on rwriter's table, so that rwriter's revision runs first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "orders"
down_revision = "customers"
branch_labels = None
depends_on = "rwriter_0003"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.id"), nullable=False),
        sa.Column("request_id", sa.Uuid, sa.ForeignKey("requests.id", ondelete="SET NULL")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("orders")
