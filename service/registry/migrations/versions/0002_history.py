"""Versions of many changes, rows in a table of their own, digests, and what adoption and replicas need."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

from service.registry.change import GENESIS, digest_change, digest_version

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move every logged change into the new tables; the position of an old change is its version."""
    connection = op.get_bind()
    op.rename_table("changes", "old_changes")
    _create()
    with op.batch_alter_table("registry") as table:
        table.add_column(sa.Column("position", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("base", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("generation", sa.String(32), nullable=False, server_default=""))
        table.add_column(sa.Column("vocabulary", sa.JSON(none_as_null=True)))
    connection.execute(
        sa.text("UPDATE registry SET position = version, generation = :generation"), {"generation": uuid.uuid4().hex}
    )
    for statement in (
        "INSERT INTO head_rows (position, weight, bias) "
        "SELECT version, weight, bias FROM old_changes WHERE operation = 'put'",
        # The row of a described class is that of its last put since it was last removed, or else the bundle's.
        "INSERT INTO changes (position, version, operation, class_id, document, row_position) "
        "SELECT version, version, operation, class_id, document, CASE operation "
        "WHEN 'put' THEN version WHEN 'describe' THEN (SELECT MAX(p.version) FROM old_changes p "
        "WHERE p.class_id = c.class_id AND p.operation = 'put' AND p.version < c.version) END "
        "FROM old_changes c",
    ):
        connection.execute(sa.text(statement))
    _digest(connection)
    op.drop_table("old_changes")


def _create() -> None:
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


def _digest(connection: sa.Connection) -> None:
    json = sa.JSON(none_as_null=True)
    before = GENESIS
    for version, operation, class_id, document, weight, bias, made_at in connection.execute(
        sa.text(
            "SELECT version, operation, class_id, document, weight, bias, made_at FROM old_changes ORDER BY version"
        ).columns(
            sa.column("version", sa.BigInteger),
            sa.column("operation", sa.String),
            sa.column("class_id", sa.String),
            sa.column("document", json),
            sa.column("weight", sa.LargeBinary),
            sa.column("bias", sa.Double),
            sa.column("made_at", sa.DateTime(timezone=True)),
        )
    ).all():
        row_position = connection.scalar(
            sa.text("SELECT row_position FROM changes WHERE position = :position"), {"position": version}
        )
        change = digest_change(
            position=version,
            operation=operation,
            class_id=class_id,
            document=document,
            row_position=row_position,
            stored=None if weight is None else (weight, bias),
        )
        before = digest_version(before, version=version, operation=operation, source=None, changes=[change])
        connection.execute(
            sa.text(
                "INSERT INTO versions (version, operation, changes, digest, made_at) "
                "VALUES (:version, :operation, 1, :digest, :made_at)"
            ).bindparams(sa.bindparam("made_at", type_=sa.DateTime(timezone=True))),
            {"version": version, "operation": operation, "digest": before, "made_at": made_at},
        )


def downgrade() -> None:
    """Refuse: versions of many changes have no place in the older form."""
    raise NotImplementedError("a registry cannot go back to the form without history")
