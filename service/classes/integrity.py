"""Whether a registry is whole and its rows are what the bundle makes of its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32, Row
from service.classes.class_table import KnownClass
from service.classes.replay import Replay
from service.classes.snapshot import Snapshot
from service.errors import RegistryDamagedError
from service.registry.audit import audit
from service.registry.log import ChangeLog

TOLERANCE = 1e-3
"""Largest distance between a stored row and a fresh one, as a share of its length; machines round differently."""

_MOST = 20


@dataclass(frozen=True, kw_only=True)
class IntegrityReport:
    """What a check found.

    Attributes:
        version: the last version.
        changes: changes in all versions.
        classes: classes in the table; 0 where the log is too damaged to be replayed.
        rows: registered rows that were computed anew.
        largest_difference: of a stored row from a fresh one, as a share of its length.
        findings: everything that is wrong; empty for a registry that is whole.
    """

    version: int
    changes: int
    classes: int
    rows: int
    largest_difference: float
    findings: tuple[str, ...]


def check_integrity(
    log: ChangeLog,
    bundle: Bundle,
    compute: Callable[[ClassEntry, Float32], Row],
    *,
    tolerance: float = TOLERANCE,
    track: Callable[[list[KnownClass]], Iterable[KnownClass]] = iter,
) -> IntegrityReport:
    """Audit the log, replay it step by step and at once, and compute every registered row anew.

    Args:
        log: of the bundle.
        bundle: version 0.
        compute: makes its row of a class and of the embeddings of its example photos, float32 [n, Z]; gives the rows
            to compare with.
        tolerance: see `TOLERANCE`.
        track: passes classes on as they are computed, to show progress.

    Raises:
        RegistryError: the registry belongs to another bundle, or there is none.
        StorageError: the database refuses.
    """
    with log.database.reading(whole=True) as connection:
        audited = audit(connection)
    findings = list(audited.findings)
    replay = Replay(bundle)
    try:
        loaded = replay.load(log)
        stepwise = replay.after(Snapshot.of_bundle(bundle), log.since(log.base, whole=True))
    except RegistryDamagedError as error:  # no classes to compare
        return IntegrityReport(
            version=audited.version,
            changes=audited.changes,
            classes=0,
            rows=0,
            largest_difference=0.0,
            findings=tuple(findings or [str(error)]),
        )
    if loaded.registry_version > 0 and not _same(loaded, stepwise):
        findings.append("the last changes give other classes than all changes one by one")
    registered = [known for known in loaded.classes if known.row_at is not None]
    largest = 0.0
    for known in track(registered):
        try:
            photos = log.embeddings(known.entry.examples)
        except RegistryDamagedError as error:
            findings.append(str(error))
            continue
        stored, fresh = loaded.row(known.entry.id), compute(known.entry, photos)
        scale = float(np.linalg.norm(fresh.weight)) + abs(fresh.bias)
        difference = float(np.linalg.norm(stored.weight - fresh.weight)) + abs(stored.bias - fresh.bias)
        relative = difference / scale if scale > 0 else difference
        largest = max(largest, relative)
        if not relative <= tolerance:
            findings.append(f"the row of {known.entry.id!r} is {relative:.2g} away from a fresh one")
    if len(findings) > _MOST:
        findings = [*findings[:_MOST], f"and {len(findings) - _MOST} more"]
    return IntegrityReport(
        version=loaded.registry_version,
        changes=audited.changes,
        classes=len(loaded),
        rows=len(registered),
        largest_difference=largest,
        findings=tuple(findings),
    )


def _same(one: Snapshot, other: Snapshot) -> bool:
    return (
        one.registry_version == other.registry_version
        and one.classes == other.classes
        and one.bias.tobytes() == other.bias.tobytes()
        and one.weight.tobytes() == other.weight.tobytes()
    )
