"""Vacuum: the files that nobody needs any more are deleted; what a certificate speaks of stays.

A compaction leaves the files that it replaced, and a killed run may leave one that never became part of the archive.
Such a one looks like that of a run which is about to commit it, so it has to grow old first, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from ledger import read_model
from ledger.store import Store
from replay.archive.table import Archive
from replay.certificate import Certificate

__all__ = ["KEPT_HOURS", "Certified", "Cleaned", "Kept", "Vacuumed", "certified", "cleaned", "vacuum"]

#: Files are kept for so long at least, so that whoever reads an older version can go on.
KEPT_HOURS = 168

#: A file that is younger and was never committed may be one that another process is about to commit.
RECENT_HOURS = 24

_Reason = Literal["certificate", "retention", "recent"]


class Cleaned(NamedTuple):
    """The data files that were deleted, and those that would have been if they were not so young."""

    deleted: list[str]
    recent: list[str]


class Certified(NamedTuple):
    """A generation whose certificate is about a version of an archive's table."""

    generation: int
    table_version: int
    is_live: bool


class Kept(NamedTuple):
    """A file that is no part of the archive and stays: for certificates of generations, or for its age.

    Of the age there are two kinds: `retention` is what was said, and `recent` a file that may be committed yet.
    """

    file: str
    bytes: int
    reason: _Reason
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
    own = archive.snapshot()
    needed = [] if own is None else certified(store, own.table_id)
    sizes = archive.files.sizes()
    deleted, recent = cleaned(
        archive,
        keep_versions=[each.table_version for each in needed],
        retention_hours=older_than_hours,
        dry_run=dry_run,
    )
    own = archive.snapshot()
    belonging = {file.name for file in own.files} if own is not None else set()
    generations: dict[str, list[int]] = {}
    for each in needed:
        for name in archive.names_at(each.table_version):
            generations.setdefault(name, []).append(each.generation)

    def why(name: str) -> _Reason:
        return "certificate" if name in generations else "recent" if name in recent else "retention"

    kept = sorted(sizes.keys() - belonging - set(deleted))
    return Vacuumed(
        deleted,
        sum(sizes.get(name, 0) for name in deleted),
        [Kept(name, sizes[name], why(name), generations.get(name, [])) for name in kept],
    )


def certified(store: Store, table_id: str) -> list[Certified]:
    """Return the kept generations that were rebuilt from an archive, and the version that each certificate is about.

    One made anew in the archive's place is another, with another table.
    """
    with store.snapshot() as connection:
        generations = read_model.generations(connection)
    found: list[Certified] = []
    for each in generations:
        if each.certificate is None:
            continue
        certificate = msgspec.json.decode(each.certificate, type=Certificate)
        if certificate.table_id == table_id and certificate.table_version is not None:
            found.append(Certified(each.generation, certificate.table_version, each.is_live))
    return found


def cleaned(archive: Archive, *, keep_versions: Sequence[int], retention_hours: int, dry_run: bool = False) -> Cleaned:
    """Delete the files that no version of the table needs which is younger than that, or among `keep_versions`.

    A version that the table's log does not have any more keeps nothing. A young file that was not committed since it
    was written stays, whatever is said.
    """
    times = archive.files.times()
    unused = times.keys() & _unused(archive, keep_versions, retention_hours)
    recent = _uncommitted(archive, {name: times[name] for name in unused})
    unused -= recent
    if unused:
        # Looked at again, as others may have committed some since they were looked for.
        unused &= _unused(archive, keep_versions, retention_hours)
    if unused and not dry_run:
        # What was written again since is going to be committed again.
        after = archive.files.times()
        unused = {name for name in unused if after.get(name) == times[name]}
        archive.files.delete(sorted(unused))
    return Cleaned(sorted(unused), sorted(recent))


def _unused(archive: Archive, keep_versions: Sequence[int], retention_hours: int) -> set[str]:
    """Return the files that the client would delete, by the newest version; some of them are gone already."""
    found = archive.snapshot()
    if found is None:
        return set()
    kept = sorted({found.version, *(version for version in keep_versions if archive.has(version, found.version))})
    with archive.location.reached():
        # By itself the client would delete what is not committed yet, and move the table on under whoever commits.
        unused = found.table.vacuum(
            retention_hours=retention_hours,
            dry_run=True,
            enforce_retention_duration=False,
            full=True,
            keep_versions=kept,
        )
    return {Path(name).name for name in unused}


def _uncommitted(archive: Archive, times: Mapping[str, datetime]) -> set[str]:
    """Return the young files among some that no commit has added since they were written last."""
    since = datetime.now(UTC) - timedelta(hours=RECENT_HOURS)
    found = {name: written for name, written in times.items() if written > since}
    if not found:
        return set()
    first = min(found.values())
    # Both times are by the clock of the place, so they can be compared.
    entries = {version: made for version, made in archive.files.log_times().items() if made >= first}
    with ThreadPoolExecutor() as threads:
        added = threads.map(lambda version: _added_by(archive, version), entries)
        committed = [(name, made) for made, names in zip(entries.values(), added, strict=True) for name in names]
    return found.keys() - {name for name, made in committed if name in found and found[name] <= made}


def _added_by(archive: Archive, version: int) -> set[str]:
    """Return the names of the files that an entry of the log adds; none where it cannot be read."""
    try:
        actions = [msgspec.json.decode(line) for line in (archive.files.log_entry(version) or b"").splitlines()]
        return {action["add"]["path"] for action in actions if "add" in action}
    except (msgspec.MsgspecError, KeyError, TypeError):
        return set()
