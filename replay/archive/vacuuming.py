"""Vacuum: the files that nobody needs any more are deleted; what a certificate speaks of stays.

A compaction leaves the files that it replaced, and a killed run may leave one that never became part of the archive.
"""

from __future__ import annotations

import msgspec

from ledger import read_model
from ledger.store import Store
from replay.archive.table import Archive
from replay.certificate import Certificate

__all__ = ["KEPT_HOURS", "certified_versions", "vacuum"]

#: Files are kept for so long at least, so that whoever reads an older version can go on.
KEPT_HOURS = 168


def vacuum(archive: Archive, store: Store, *, older_than_hours: int = KEPT_HOURS, dry_run: bool = False) -> list[str]:
    """Delete the files that no version needs that is younger than that, nor any certificate; return their names."""
    kept = certified_versions(store)
    return archive.vacuum(keep_versions=kept, retention_hours=older_than_hours, dry_run=dry_run)


def certified_versions(store: Store) -> list[int]:
    """Return the versions of the archive that certificates of the kept generations are about."""
    with store.snapshot() as connection:
        texts = [found.certificate for found in read_model.generations(connection) if found.certificate is not None]
    certificates = [msgspec.json.decode(text, type=Certificate) for text in texts]
    versions = (found.table_version for found in certificates if found.source == "archive")
    return sorted({version for version in versions if version is not None})
