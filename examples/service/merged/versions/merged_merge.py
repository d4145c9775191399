"""One history of the service's and rwriter's, as `alembic merge heads` writes it."""

from __future__ import annotations

revision = "merge"
down_revision = ("customers", "rwriter_0003")
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change nothing."""


def downgrade() -> None:
    """Change nothing."""
