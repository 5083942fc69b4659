"""Vacuum: the files that nobody needs any more are deleted; what a certificate speaks of stays.

A compaction leaves the files that it replaced, and a killed run may leave one that never became part of the archive.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ledger import read_model
from ledger.store import Store
from replay.archive.table import Archive
from replay.certificate import Certificate

__all__ = ["KEPT_HOURS", "Certified", "Kept", "Vacuumed", "certified", "vacuum"]

#: Files are kept for so long at least, so that whoever reads an older version can go on.
KEPT_HOURS = 168


class Certified(NamedTuple):
    """A generation whose certificate is about a version of an archive's table."""

    generation: int
    table_version: int
    is_live: bool


class Kept(NamedTuple):
    """A file that is no part of the archive any more and stays: for certificates of generations, or for its age."""

    file: str
    bytes: int
    generations: list[int]


class Vacuumed(NamedTuple):
    """What a vacuum deleted (of a dry run: would delete), the bytes of it, and what stays beside the archive's own."""

    deleted: list[str]
    freed_bytes: int
    kept: list[Kept]


def vacuum(archive: Archive, store: Store, *, older_than_hours: int = KEPT_HOURS, dry_run: bool = False) -> Vacuumed:
    """Delete the files that no version needs that is younger than that, nor any certificate; say what stays and why.

    With `dry_run` nothing is deleted.
    """
    needed = certified(store)
    sizes = archive.files.sizes()
    deleted = archive.vacuum(
        keep_versions=[each.table_version for each in needed], retention_hours=older_than_hours, dry_run=dry_run
    )
    own = archive.snapshot()
    belonging = {file.name for file in own.files} if own is not None else set()
    generations: dict[str, list[int]] = {}
    for each in needed:
        for name in archive.names_at(each.table_version):
            generations.setdefault(name, []).append(each.generation)
    kept = sorted(sizes.keys() - belonging - set(deleted))
    return Vacuumed(
        deleted,
        sum(sizes.get(name, 0) for name in deleted),
        [Kept(name, sizes[name], generations.get(name, [])) for name in kept],
    )


def certified(store: Store) -> list[Certified]:
    """Return the kept generations that were rebuilt from an archive, and the version that each certificate is about."""
    with store.snapshot() as connection:
        generations = read_model.generations(connection)
    found: list[Certified] = []
    for each in generations:
        if each.certificate is None:
            continue
        certificate = msgspec.json.decode(each.certificate, type=Certificate)
        if certificate.source == "archive" and certificate.table_version is not None:
            found.append(Certified(each.generation, certificate.table_version, each.is_live))
    return found
