"""Run by Alembic: migrates the connection that `service.registry.database` hands over."""

from __future__ import annotations

from alembic import context

from service.registry.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
