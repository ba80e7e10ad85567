"""The registry, its versions, its log of changes, and the rows that came with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "registry",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("bundle_id", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("base", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.String(32), nullable=False),
        sa.Column("vocabulary", sa.JSON(none_as_null=True), nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.create_table(
        "versions",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("operation", sa.String(16), nullable=False),
        sa.Column("source", sa.BigInteger),
        sa.Column("changes", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "operation IN ('put', 'describe', 'remove', 'batch', 'rollback', 'adopt')", name="known_version"
        ),
    )
    op.create_table(
        "changes",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("operation", sa.String(16), nullable=False),
        sa.Column("class_id", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True)),
        sa.Column("row_position", sa.BigInteger),
        sa.CheckConstraint("operation IN ('put', 'describe', 'remove')", name="known_change"),
    )
    op.create_index("ix_changes_version", "changes", ["version"])
    op.create_index("ix_changes_class_id", "changes", ["class_id", "position", "version"])
    op.create_table(
        "head_rows",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("weight", sa.LargeBinary, nullable=False),
        sa.Column("bias", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop every table."""
    for table in ("head_rows", "changes", "versions", "registry"):
        op.drop_table(table)
