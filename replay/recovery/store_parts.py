"""The store's own parts: can it be read, is it whole, is it what earlier certificates vouch for, and is there room."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
from sqlalchemy import func, select

from ledger import read_model
from ledger.read_model import Generation
from ledger.store import Store
from ledger.tables import EVENTS
from replay.certificate import COMPLETE, Certificate
from replay.engine import Progress
from replay.full_replay import replayed
from replay.recovery.loss import Missing, count_missing
from replay.recovery.parts import MAKE_ROOM, Part, counted, few
from replay.store_source import StoreSource

__all__ = [
    "FreeBytes",
    "Seen",
    "accounts_part",
    "disk_part",
    "file_folder",
    "free_bytes",
    "has_room",
    "heads_part",
    "look",
    "store_part",
]

FreeBytes = Callable[[Path], int]

#: Accounts that the details of a part name; the certificate, and `recover plan`, have all.
LISTED_MAX = 100

#: Lines of SQLite's own check that are asked for.
DAMAGE_LINES_MAX = 20

#: What one row may take: in a backup as JSON, and in a new generation with its index. Both are more than measured.
BACKUP_ROW_BYTES = 600
GENERATION_ROW_BYTES = 400

#: With less than this a disk is full: SQLite needs some room only to open a file that nobody has open.
ROOM_BYTES_MIN = 1 << 20

#: What is written in one transaction is in the write-ahead log first.
LOG_FACTOR = 2

_MEND = "see `verify`; bring lost events back with `import events`, from a topic or an export, or put a backup back"


class Seen(NamedTuple):
    """What one replay of the store has shown: its certificate, and what is missing of it."""

    certificate: Certificate
    missing: Missing

    @property
    def position(self) -> int:
        """The head of the store."""
        return self.certificate.store_position


def look(store: Store, progress: Progress | None) -> Seen:
    """Replay the store from zero and count what is missing."""
    with StoreSource.snapshot(store) as source:
        with replayed(source, progress=progress) as replay:
            certificate = replay.certificate
        return Seen(certificate, count_missing(store, source.connection, certificate))


def store_part(store: Store, seen: Seen) -> Part:
    """Say whether the store can be read and whether everything in it is there: versions, chain and heads."""
    certificate, missing = seen
    damaged = _file_damage(store)
    details = {
        "position": seen.position,
        "events": certificate.events,
        "events_missing": missing.events,
        "events_damaged": missing.damaged,
        "heads_missing": missing.heads,
        "file_damage": damaged,
    }
    if certificate.accounts == 0:
        return Part(name="store", state="lost", words="the store holds no event", next_step=_MEND, details=details)
    lacks = [
        *([counted(missing.events, "event is missing", "events are missing")] if missing.events else []),
        *([counted(missing.damaged, "event cannot be read", "events cannot be read")] if missing.damaged else []),
        *(
            [counted(missing.heads, "account has lost its head", "accounts have lost their heads")]
            if missing.heads
            else []
        ),
        *([f"the file is damaged: {damaged[0]}"] if damaged else []),
    ]
    if certificate.verdict == COMPLETE and not lacks:
        words = f"all {certificate.events:,} events of {certificate.accounts:,} accounts are there and whole"
        return Part(name="store", state="ok", words=words, details=details)
    is_partly = len(certificate.parked) < certificate.accounts
    return Part(
        name="store",
        state="degraded" if is_partly else "lost",
        words="; ".join(lacks or [counted(len(certificate.parked), "account is not whole", "accounts are not whole")]),
        next_step=_MEND if certificate.verdict != COMPLETE else "put the ledger into a new file, or a backup back",
        details=details,
    )


def _file_damage(store: Store) -> list[str]:
    """Return what SQLite finds wrong with its own file; of PostgreSQL the replay has read what there is to read."""
    if not store.is_sqlite:
        return []
    with store.snapshot() as connection:
        found = connection.exec_driver_sql(f"PRAGMA quick_check({DAMAGE_LINES_MAX})").scalars().all()
    return [line for line in map(str, found) if line != "ok"]


def accounts_part(seen: Seen) -> Part:
    """Say which accounts are parked."""
    parked, accounts = seen.certificate.parked, seen.certificate.accounts
    details = {"accounts": accounts, "parked": len(parked), "named": [each.account_id for each in parked[:LISTED_MAX]]}
    if not parked:
        return Part(name="accounts", state="ok", words=f"none of {accounts:,} accounts is parked", details=details)
    return Part(
        name="accounts",
        state="degraded" if len(parked) < accounts else "lost",
        words=f"{len(parked):,} of {accounts:,} accounts {'is' if len(parked) == 1 else 'are'} parked: "
        f"{few([each.account_id for each in parked])}",
        next_step="heal their events; what cannot be healed waits for a person's decision in the plan",
        details=details,
    )


def heads_part(store: Store, seen: Seen, progress: Progress | None) -> Part:
    """Hold the store against what an earlier rebuild from it vouched for.

    The newest certificate that was COMPLETE counts. Where its digest does not come out any more, the rows of that
    generation and of the live one name the accounts that had another stream then; what the store itself knows to be
    missing is no news, and events that were healed stand at later positions. Where the rows are gone as well, there are
    fewer events and accounts than were certified: so many are missing at least.
    """
    with store.snapshot() as connection:
        kept = read_model.generations(connection)
    vouched = [(each, found) for each in kept if (found := _of_store(each)) is not None]
    if not vouched:
        words = "no earlier certificate of this store is kept, so nothing vouches for accounts that are gone whole"
        return Part(name="heads", state="none", words=words, next_step="`rebuild` makes one for the next time")
    generation, certificate = max(vouched, key=lambda each: each[1].store_position)
    position = certificate.store_position
    details: dict[str, Any] = {
        "generation": generation.generation,
        "position": position,
        "head": seen.position,
        "accounts": 0,
    }
    if position <= seen.position and _digest_at(store, seen, position, progress) == certificate.digest:
        words = f"the store is what generation {generation.generation} was certified for, at position {position:,}"
        return Part(name="heads", state="ok", words=words, details=details)
    numbers = {generation.generation, *(each.generation for each in kept if each.is_live)}
    changed = _changed_since(store, sorted(numbers))
    own = {each.account_id for each in seen.certificate.parked}
    changed = changed.filter(~pl.col("account_id").is_in(list(own)))
    fewer = _fewer(store, seen, certificate)
    details |= {
        "accounts": changed.height,
        "named": changed["account_id"].head(LISTED_MAX).to_list(),
        "events_missing": max(int(changed["missing"].sum()), fewer.events),
        "accounts_missing": fewer.accounts,
    }
    if changed.is_empty() and position <= seen.position and not any(fewer):
        words = "every account has the stream that earlier certificates vouch for, less what the store misses itself"
        return Part(name="heads", state="ok", words=words, details=details)
    return Part(
        name="heads",
        state="degraded",
        words=_changed_words(changed["account_id"].to_list(), fewer, position, seen.position),
        next_step="the store was put back from an older backup, or somebody changed it: bring the events back from a "
        "topic, an export or a newer backup",
        details=details,
    )


class _Fewer(NamedTuple):
    """How many events and accounts there are at least too few."""

    events: int
    accounts: int


def _fewer(store: Store, seen: Seen, certificate: Certificate) -> _Fewer:
    """Return how much less there is than was certified, less what the store itself knows to be missing."""
    with store.snapshot() as connection:
        stored = connection.execute(select(func.count()).select_from(EVENTS)).scalar_one()
    return _Fewer(
        events=max(0, certificate.events - stored - seen.missing.events),
        accounts=max(0, certificate.accounts - seen.certificate.accounts),
    )


def _changed_words(accounts: list[str], fewer: _Fewer, position: int, head: int) -> str:
    named = (
        [counted(len(accounts), "account", "accounts") + f" had another stream: {few(accounts)}"] if accounts else []
    )
    past = [f"position {position:,} was vouched for, and the store ends at {head:,}"] if position > head else []
    less = [
        *([counted(fewer.events, "event", "events")] if fewer.events else []),
        *([counted(fewer.accounts, "account", "accounts")] if fewer.accounts else []),
    ]
    lacks = [f"{' and '.join(less)} fewer than were vouched for"] if less else []
    return "; ".join([*past, *named, *lacks])


def _of_store(generation: Generation) -> Certificate | None:
    """Return the certificate of a whole rebuild from the store, None for any other generation."""
    if generation.certificate is None:
        return None
    found = msgspec.json.decode(generation.certificate, type=Certificate)
    return found if found.source == "store" and found.verdict == COMPLETE else None


def _digest_at(store: Store, seen: Seen, position: int, progress: Progress | None) -> str:
    if position == seen.position:
        return seen.certificate.digest
    with StoreSource.snapshot(store) as source, replayed(source, until=position, progress=progress) as replay:
        return replay.certificate.digest


def _changed_since(store: Store, generations: list[int]) -> pl.DataFrame:
    """Return the accounts whose rows know an event that the store has not: `account_id`, `missing` (events at its end).

    Rows without a chain know only how far they are.
    """
    keys = ["account_id", "version"]
    with store.snapshot() as connection:
        rows = pl.concat([read_model.rows(connection, number).select(*keys, "chain") for number in generations])
        known = rows.unique()
        stored = store.read_keys(connection, known.select(keys).unique()).select(*keys, stored="chain")
        heads = store.heads(connection).select("account_id", head="version")
    both = known.join(stored, on=keys, how="left").join(heads, on="account_id", how="left")
    is_other = pl.col("stored").is_null() | (pl.col("chain") != pl.col("stored")).fill_null(value=False)
    lacks = (pl.col("version") - pl.col("head").fill_null(0)).clip(lower_bound=0)
    return both.filter(is_other).group_by("account_id").agg(missing=lacks.max()).sort("account_id")


def disk_part(store_folder: Path | None, folder: Path, accounts: int | None, free: FreeBytes) -> Part:
    """Say whether there is room for a backup of every live row and for a new generation of the read model.

    `store_folder` is that of the store's file, None of a server, `folder` that of backups.
    """
    if accounts is None:
        return _disk_alone([folder] if store_folder is None else [folder, store_folder], free)
    backup, generation = accounts * BACKUP_ROW_BYTES, LOG_FACTOR * accounts * GENERATION_ROW_BYTES
    wanted: dict[Path, int] = {_there(folder): backup}
    if store_folder is not None:
        place = _there(store_folder)
        shared = next((each for each in wanted if each.stat().st_dev == place.stat().st_dev), place)
        wanted[shared] = wanted.get(shared, 0) + generation
    found = {place: free(place) for place in wanted}
    details = {
        "backup_bytes": backup,
        "generation_bytes": generation,
        "free_bytes": {str(place): bytes_ for place, bytes_ in found.items()},
    }
    short = [place for place, needed in wanted.items() if found[place] < needed]
    if short:
        lacks = [f"{place} has {found[place]:,} bytes free, {wanted[place]:,} may be needed" for place in short]
        return Part(name="disk", state="degraded", words="; ".join(lacks), next_step=MAKE_ROOM, details=details)
    if store_folder is None:
        words = f"there is room for the backup; whether the database server has {generation:,} bytes nobody here knows"
        next_step = "look at the disk of the database server"
        return Part(name="disk", state="unknown", words=words, next_step=next_step, details=details)
    return Part(name="disk", state="ok", words="there is room for a backup and a new generation", details=details)


def _disk_alone(folders: list[Path], free: FreeBytes) -> Part:
    """Say whether there is any room where nobody knows how much is needed."""
    found = {place: free(place) for place in dict.fromkeys(map(_there, folders))}
    details = {"free_bytes": {str(place): bytes_ for place, bytes_ in found.items()}}
    words = "; ".join(f"{place} has {bytes_:,} bytes free" for place, bytes_ in found.items())
    if any(bytes_ < ROOM_BYTES_MIN for bytes_ in found.values()):
        return Part(name="disk", state="degraded", words=words, next_step=MAKE_ROOM, details=details)
    words += "; how much is needed nobody knows without the store"
    return Part(name="disk", state="unknown", words=words, details=details)


def has_room(folder: Path, free: FreeBytes) -> bool:
    """Whether the disk of a folder is not full, as far as that can be asked."""
    try:
        return free(_there(folder)) >= ROOM_BYTES_MIN
    except OSError:
        # The part of the disk says why; what else is wrong stays as it is said.
        return True


def file_folder(store: Store) -> Path | None:
    """Return the folder of the store's file, None of a server."""
    return Path(str(store.url.database)).parent if store.is_sqlite else None


def _there(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def free_bytes(folder: Path) -> int:
    """Return how many bytes may still be written where a folder is."""
    return shutil.disk_usage(folder).free
