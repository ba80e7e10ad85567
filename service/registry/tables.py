"""The tables of the registry, for any database that SQLAlchemy speaks to; Alembic's migrations create them.

A version has any number of changes. Changes are numbered through, over all versions: their `position`. The last change
of a class says all about it, as it holds the whole description and names the change that brought its row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


class Moment(sa.TypeDecorator[datetime]):
    """A time; None where what is stored is none, so that it hides no other row."""

    impl = sa.DateTime
    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """See SQLAlchemy."""
        inner = self.impl_instance.result_processor(dialect, coltype)
        if inner is None:
            return None

        def read(value: Any) -> datetime | None:
            try:
                return inner(value)
            except (TypeError, ValueError):
                return None

        return read


registry = sa.Table(
    "registry",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bundle_id", sa.String(64), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("base", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.String(32), nullable=False),
    sa.Column("vocabulary", sa.JSON(none_as_null=True), nullable=False),
    sa.CheckConstraint("id = 1", name="one_row"),
)
"""One row, locked while a version is made: whose registry this is, the last version and the last position.

Versions up to `base` were made for another bundle. `generation` changes when a backup takes the registry's place;
`vocabulary` is a list of attribute names.
"""

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("operation", sa.String(16), nullable=False),
    sa.Column("source", sa.BigInteger),
    sa.Column("changes", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("made_at", Moment(timezone=True), nullable=False),
    sa.Column("author", sa.String(64)),
    sa.CheckConstraint(
        "operation IN ('put', 'describe', 'remove', 'batch', 'rollback', 'adopt')", name="known_version"
    ),
)
"""One row per version, never updated. `source` is the version that a rollback returned to; `digest` covers the
version's changes and the digest before it. `author` is a key's id or an address, and no part of the digest."""

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False, index=True),
    sa.Column("operation", sa.String(16), nullable=False),
    sa.Column("class_id", sa.String(64), nullable=False),
    sa.Column("document", sa.JSON(none_as_null=True)),
    sa.Column("row_position", sa.BigInteger),
    sa.CheckConstraint("operation IN ('put', 'describe', 'remove')", name="known_change"),
    sa.Index("ix_changes_class_id", "class_id", "position", "version"),
)
"""One row per change, never updated: `document` is the class as JSON, none where it was removed. Without a
`row_position` the class has the row that the bundle brought."""

head_rows = sa.Table(
    "head_rows",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("weight", sa.LargeBinary, nullable=False),
    sa.Column("bias", sa.Double, nullable=False),
)
"""What the registering process computed, by the position of its change, never updated: a row of the head, its weight as
little-endian float32."""

example_embeddings = sa.Table(
    "example_embeddings",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("example_id", sa.String(64), primary_key=True),
    sa.Column("embedding", sa.LargeBinary, nullable=False),
)
"""Embeddings of example photos, by the position of the change that brought them, never updated: little-endian float32.
The document of that change has the digest of each."""
