"""The registry and its log of changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("bundle_id", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.create_table(
        "changes",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("operation", sa.String(16), nullable=False),
        sa.Column("class_id", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True)),
        sa.Column("weight", sa.LargeBinary),
        sa.Column("bias", sa.Double),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("operation IN ('put', 'describe', 'remove')", name="known_operation"),
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("changes")
    op.drop_table("registry")
