"""Who made a version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; versions made before have no author."""
    op.add_column("versions", sa.Column("author", sa.String(64)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("versions", "author")
