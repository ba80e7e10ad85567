"""The tables of the registry, for any database that SQLAlchemy speaks to; Alembic's migrations create them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

registry = sa.Table(
    "registry",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bundle_id", sa.String(64), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)
"""One row: whose registry this is, and the last version. Updating it is the lock under which versions are given."""

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("operation", sa.String(16), nullable=False),
    sa.Column("class_id", sa.String(64), nullable=False),
    sa.Column("document", sa.JSON(none_as_null=True)),
    sa.Column("weight", sa.LargeBinary),
    sa.Column("bias", sa.Double),
    sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("operation IN ('put', 'describe', 'remove')", name="known_operation"),
)
"""One row per version, never updated: `document` is the class as JSON, `weight` its row as little-endian float32."""
