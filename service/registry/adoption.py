"""Taking a registry over with another bundle: every registered class is synthesised anew, in one new version."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from model.bundle import TRUNK, TRUNK_INT8, Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, TextError
from model.head import Float32, Row
from model.outside.names import clean_name
from model.text.description import ClassText
from service.errors import RegistryError
from service.registry.arrays import read_embeddings
from service.registry.change import Change
from service.registry.database import Database
from service.registry.log import NextVersion
from service.registry.tables import changes, registry

Compute = Callable[[ClassEntry, Float32], Row]
Describe = Callable[[ClassText], ClassText]
"""The text of a class with the vector that the new bundle's encoder makes of it."""
Track = Callable[[list[ClassEntry]], Iterable[ClassEntry]]


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What an adoption did.

    Attributes:
        version: the new version, of which the registry belongs to the new bundle.
        former: id of the bundle before.
        classes: how many classes were taken over.
        superseded: ids of registered classes that the new bundle has seen in training, which it keeps as it knows them.
        without_photos: ids of classes that lost example photos, as another trunk made their embeddings.
        left_out: ids of those among them that have no description either, so that nothing of them could be taken over.
    """

    version: int
    former: str
    classes: int
    superseded: tuple[str, ...]
    without_photos: tuple[str, ...]
    left_out: tuple[str, ...]


def adopt_registry(
    database: Database, bundle: Bundle, compute: Compute, *, describe: Describe | None = None, track: Track = iter
) -> Adoption:
    """Make a registry the bundle's own; nothing is changed where that fails.

    Args:
        database: with a registry of another bundle with the same attribute names in the same order.
        bundle: the new owner.
        compute: makes its row of a class and of the embeddings of its example photos, float32 [n, Z].
        describe: encodes texts anew; None where the bundle has no text encoder.
        track: passes classes on as they are computed, to show progress.

    Raises:
        RegistryError: there is no registry, it belongs to the bundle already, its vocabulary is another, a class does
            not fit the bundle, or somebody changed it meanwhile.
        StorageError: the database refuses.
    """
    with database.reading(whole=True) as connection:
        head = connection.execute(sa.select(registry)).one_or_none()
        if head is None:
            raise RegistryError(f"there is no registry in {database.name}; the service makes one when it starts")
        last = _last_documents(connection, int(head.base))
    identity = bundle.manifest.bundle_id
    if head.bundle_id == identity:
        raise RegistryError(f"the registry {database.name} belongs to the bundle {identity} already")
    _check_vocabulary(database, bundle, head.vocabulary)
    own = {entry.id: entry for entry in bundle.manifest.classes}
    superseded = tuple(i for i, (entry, _) in last.items() if entry and i in own and own[i].kind == "seen")
    kept = {i: found for i, found in last.items() if i not in superseded}
    made = [*_removals(kept, own), *_rewordings(kept, own)]
    wanted = [entry for i, (entry, bundled) in kept.items() if entry and not (bundled and i in own)]
    removed = sum(change.entry is None for change in made)
    files = bundle.manifest.files
    trunks = {files.get(TRUNK), files.get(TRUNK_INT8)} if bundle.manifest.head.photos else set()
    without_photos, left_out = [], []
    for former in track(wanted):
        entry = replace(former, examples=tuple(e for e in former.examples if e.trunk in trunks))
        if len(entry.examples) < len(former.examples):
            without_photos.append(entry.id)
        if entry.attributes is None and not entry.examples:
            left_out.append(entry.id)
            continue
        entry = _described_anew(entry, bundle, describe)
        embeddings = read_embeddings(database, entry.examples, bundle.manifest.head.dimension)
        try:
            row = compute(entry, embeddings)
        except AttributesError as error:
            raise RegistryError(f"the class {entry.id!r} does not fit the bundle {identity}: {error}") from None
        made.append(Change(operation="put", class_id=entry.id, entry=entry, row=row))
    version = _hand_over(database, bundle, head, made)
    return Adoption(
        version=version,
        former=str(head.bundle_id),
        classes=len(made) - removed,
        superseded=superseded,
        without_photos=tuple(without_photos),
        left_out=tuple(left_out),
    )


def _described_anew(entry: ClassEntry, bundle: Bundle, describe: Describe | None) -> ClassEntry:
    """The class with the vector of its text by the bundle's encoder."""
    if entry.text is None or entry.text.encoder == bundle.encoder_identity:
        return entry
    identity = bundle.manifest.bundle_id
    if describe is None:
        raise RegistryError(
            f"the class {entry.id!r} is described by text, and the bundle {identity} has no text encoder; remove the "
            "class first, or adopt the registry with a bundle that has one"
        )
    try:
        return replace(entry, text=describe(entry.text))
    except TextError as error:
        raise RegistryError(f"the text of the class {entry.id!r} does not fit the bundle {identity}: {error}") from None


def _hand_over(database: Database, bundle: Bundle, head: sa.Row[tuple[object, ...]], made: list[Change]) -> int:
    with database.writing(whole=True) as connection:
        now = connection.execute(sa.select(registry).with_for_update()).one()
        if (now.generation, now.version, now.bundle_id) != (head.generation, head.version, head.bundle_id):
            raise RegistryError("the registry was changed meanwhile; stop the services that use it and try again")
        values = {"bundle_id": bundle.manifest.bundle_id, "base": now.version}
        vocabulary = list(bundle.manifest.vocabulary.names)
        connection.execute(sa.update(registry).values(**values, vocabulary=vocabulary))
        appending = NextVersion(database, connection, version=int(now.version), position=int(now.position))
        return appending.append("adopt", made).version


def _last_documents(connection: sa.Connection, base: int) -> dict[str, tuple[ClassEntry | None, bool]]:
    """Of every class that was ever changed its description, None where gone, and whether the row is the bundle's."""
    last = sa.select(sa.func.max(changes.c.position)).where(changes.c.version > base).group_by(changes.c.class_id)
    query = sa.select(changes.c.class_id, changes.c.document, changes.c.row_position)
    return {
        row.class_id: (None if row.document is None else ClassEntry.from_json(row.document), row.row_position is None)
        for row in connection.execute(query.where(changes.c.position.in_(last)).order_by(changes.c.position))
    }


def _check_vocabulary(database: Database, bundle: Bundle, names: list[str]) -> None:
    own, names = (list(map(clean_name, them)) for them in (bundle.manifest.vocabulary.names, names))
    if names != own:
        different = [f"{a!r} for {b!r}" for a, b in zip(names, own, strict=False) if a != b]
        raise RegistryError(
            f"the registry {database.name} describes classes by {len(names)} attributes, the bundle "
            f"{bundle.manifest.bundle_id} by {len(own)} that are not the same"
            + (f": {', '.join(different[:5])}" if different else "")
        )


def _removals(kept: dict[str, tuple[ClassEntry | None, bool]], own: dict[str, ClassEntry]) -> list[Change]:
    """Classes that were removed and that the new bundle would bring back."""
    gone = [i for i, (entry, _) in kept.items() if entry is None and i in own and own[i].kind == "unseen"]
    return [Change(operation="remove", class_id=class_id) for class_id in gone]


def _rewordings(kept: dict[str, tuple[ClassEntry | None, bool]], own: dict[str, ClassEntry]) -> list[Change]:
    """Classes of either bundle's own of which only the words were changed: the row is the new bundle's."""
    return [
        Change(
            operation="describe",
            class_id=i,
            entry=replace(own[i], name=entry.name, description=entry.description, metadata=entry.metadata),
        )
        for i, (entry, bundled) in kept.items()
        if entry and bundled and i in own
    ]
