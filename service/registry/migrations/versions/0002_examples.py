"""Embeddings of example photos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "example_embeddings",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("example_id", sa.String(64), primary_key=True),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("example_embeddings")
