"""The classes of a registry for a command that classifies without a service: read once, exact."""

from __future__ import annotations

import asyncio

from model.bundle import Bundle
from model.softmax import SoftmaxHead
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.classes.solver import Solver
from service.errors import RegistryError
from service.inference.engine import Engine
from service.registry.database import Database
from service.registry.log import ChangeLog

_PATIENCE = 600.0  # seconds; the largest head that is solved for takes a few


def read_snapshot(bundle: Bundle, engine: Engine, database: Database) -> Snapshot:
    """The newest snapshot of a bundle's registry, with exact rows.

    Raises:
        RegistryError: it belongs to another bundle, is damaged, or its rows cannot be solved for.
        StorageError: the database refuses.
    """
    manifest = bundle.manifest
    log = ChangeLog(
        database,
        bundle_id=manifest.bundle_id,
        dimension=manifest.head.dimension,
        vocabulary=manifest.vocabulary.names,
    )
    registrar = Registrar(bundle, engine, log)
    if not isinstance(bundle.head, SoftmaxHead):
        return registrar.snapshot
    solver = Solver(bundle, bundle.head, registrar, log)
    try:
        snapshot = asyncio.run(_solved(solver, registrar.snapshot.registry_version))
    finally:
        solver.close()
    if not snapshot.exact:
        raise RegistryError(f"the head of version {snapshot.registry_version} could not be solved")
    return snapshot


async def _solved(solver: Solver, version: int) -> Snapshot:
    solver.start()
    return await solver.wait_for(version, _PATIENCE)
