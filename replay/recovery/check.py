"""The state of the whole system before a recovery: every part of it, how bad it is, and what seems to be lost.

ok          everything is whole
minor       the log is whole; live rows are wrong, or something else has to be mended
major       the store is not whole, but partly, or there is a whole copy to replay from; or its disk is full, and
            nobody can say how it is before there is room
critical    nothing is whole that could be replayed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from ledger.importing.healing import Healed
from ledger.store import Store
from replay.archive.checking import Checked
from replay.certificate import Certificate
from replay.drift import Drift
from replay.engine import Progress
from replay.recovery.copy_parts import archive_part, live_part, topic_part
from replay.recovery.loss import Loss, points_wrong, wrong_accounts
from replay.recovery.parts import NO_ROOM, Part, PartName, failed_part, guarded
from replay.recovery.store_parts import (
    FreeBytes,
    Seen,
    accounts_part,
    disk_part,
    file_folder,
    free_bytes,
    has_room,
    heads_part,
    look,
    store_part,
)
from schemas import format_time
from schemas.errors import ConfigurationError, StoreError, UsageError

__all__ = ["Places", "Severity", "SystemState", "check_system"]

Severity = Literal["ok", "minor", "major", "critical"]

#: States of a part that leave nothing to mend.
_FINE = ("ok", "none")


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the parts of the system are; each is asked when its turn comes, and may raise whatever it likes.

    `folder` is that of backups, `store_folder` that of the store's file where it is one and there is no store, and
    `store_error` why there is none. `topic` replays the topic, beside the store or
    without one, `archive` checks the archive, `live` compares live rows with the log; each gives None where there is no
    such thing. `live_open` only opens the table of the live rows. `copies` try, by name, what a copy
    would bring back: a heal with `dry_run`. `free` says how many bytes may be written in a folder.
    """

    folder: Path
    store_folder: Path | None = None
    store_error: Exception | None = None
    topic: Callable[[Store | None], Certificate | None] | None = None
    archive: Callable[[Store | None], Checked | None] | None = None
    live: Callable[[Store], Drift | None] | None = None
    live_open: Callable[[], None] | None = None
    copies: Mapping[str, Callable[[Store], Healed]] = field(default_factory=dict)
    free: FreeBytes = free_bytes


class SystemState(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: `parts` in the order of `PartName`, and the certificate of the store's replay where there is one.

    `untried` are the copies of which nobody knows what they would bring back, by name, with the reason.
    """

    severity: Severity
    checked_at: str
    parts: list[Part]
    loss: Loss
    certificate: Certificate | None = None
    untried: dict[str, str] = {}

    def part(self, name: PartName) -> Part:
        """Return one part."""
        return next(each for each in self.parts if each.name == name)


def check_system(
    store: Store | None, *, places: Places, now: datetime, progress: Progress | None = None
) -> SystemState:
    """Look at every part of the system; nothing is written, and whatever fails is a part that says so.

    Without a store `places.store_error` says why. The store is replayed once, once more up to where the newest
    certificate was made, and once for the live rows.
    """
    return _Check(store, places, progress).state(now)


class _Check:
    """One check: what it has seen so far."""

    def __init__(self, store: Store | None, places: Places, progress: Progress | None) -> None:
        self._places = places
        self._progress = progress
        self._error: Exception | None = places.store_error
        self._store_folder = places.store_folder if store is None else file_folder(store)
        self._seen: Seen | None = None
        self._drift: Drift | None = None
        if store is not None:
            try:
                self._seen = look(store, progress)
            except Exception as error:  # noqa: BLE001 - it is what the store's part says.
                self._error = error
        # What cannot be replayed is not asked again by the other parts.
        self._store = store if self._seen is not None else None

    def state(self, now: datetime) -> SystemState:
        """Look at the parts one after the other, and judge them."""
        parts = [
            self._of_store("store", store_part),
            self._of_store("heads", lambda store, seen: heads_part(store, seen, self._progress)),
            self._of_store("accounts", lambda _, seen: accounts_part(seen)),
            guarded("topic", self._topic),
            guarded("archive", self._archive),
            guarded("live", self._live),
            guarded("disk", self._disk),
        ]
        untried: dict[str, str] = {}
        healable = {} if _is_whole(parts) else self._healable(untried)
        return SystemState(
            severity=_severity(parts),
            checked_at=format_time(now),
            parts=parts,
            loss=self._loss(parts, healable),
            certificate=None if self._seen is None else self._seen.certificate,
            untried=untried,
        )

    def _of_store(self, name: PartName, part: Callable[[Store, Seen], Part]) -> Part:
        store, seen = self._store, self._seen
        if store is not None and seen is not None:
            return guarded(name, lambda: part(store, seen))
        if name != "store":
            return Part(name=name, state="unknown", words="the store cannot be read, so nobody knows")
        error = self._error or StoreError("there is no store", next_step="check --data and --store")
        is_full = self._store_folder is not None and not has_room(self._store_folder, self._places.free)
        found = failed_part(name, error, is_full=is_full)
        is_gone = isinstance(error, UsageError) and not isinstance(error, ConfigurationError)
        return msgspec.structs.replace(found, state="lost") if is_gone else found

    def _topic(self) -> Part:
        ask = self._places.topic
        if ask is None:
            return Part(name="topic", state="none", words="no topic is configured")
        found = ask(self._store)
        if found is None:
            return Part(name="topic", state="none", words="there is no topic yet", next_step="`publish` makes it")
        return topic_part(found, self._seen)

    def _archive(self) -> Part:
        ask = self._places.archive
        found = None if ask is None else ask(self._store)
        if found is None:
            return Part(name="archive", state="none", words="there is no archive")
        return archive_part(found, self._seen)

    def _live(self) -> Part:
        if self._places.live is None:
            return Part(name="live", state="none", words="there are no live rows")
        if self._store is None:
            if self._places.live_open is not None:
                self._places.live_open()
            return Part(name="live", state="unknown", words="there is no log that live rows could be compared with")
        self._drift = self._places.live(self._store)
        if self._drift is None:
            return Part(name="live", state="none", words="there are no live rows")
        return live_part(self._drift)

    def _disk(self) -> Part:
        known = [] if self._seen is None else [self._seen.certificate.accounts]
        known += [] if self._drift is None else [self._drift.compared]
        return disk_part(self._store_folder, self._places.folder, max(known, default=None), self._places.free)

    def _healable(self, untried: dict[str, str]) -> dict[str, int]:
        """Return how many events each copy would bring back, and note those that could not be tried."""
        found: dict[str, int] = {}
        if self._store is None:
            return found
        for name, ask in self._places.copies.items():
            try:
                healed = ask(self._store)
            except Exception as error:  # noqa: BLE001 - it is said, and the other copies are tried.
                untried[name] = failed_part("topic", error).words
            else:
                found[name] = healed.restored + healed.imported
        return found

    def _loss(self, parts: Sequence[Part], healable: Mapping[str, int]) -> Loss:
        by_name = {part.name: part for part in parts}
        seen, found = self._seen, self._drift
        beside = [by_name[name] for name in ("topic", "archive") if not _is_whole(parts)]
        copies = [f"the {part.name}" for part in beside if part.state == "ok"]
        from_copies = [name for name, events in healable.items() if events]
        return Loss(
            accounts=None if seen is None else seen.certificate.accounts,
            parked=None if seen is None else len(seen.certificate.parked),
            events_missing=None
            if seen is None
            else seen.missing.events + by_name["heads"].details.get("events_missing", 0),
            events_damaged=None if seen is None else seen.missing.damaged,
            heads_missing=None if seen is None else seen.missing.heads,
            accounts_missing=None if seen is None else by_name["heads"].details.get("accounts_missing", 0),
            events_healable=max(healable.values(), default=None),
            healable_from=[*from_copies, *(name for name in copies if self._store is None or name == "the archive")],
            drifted=None if found is None else wrong_accounts(found),
            points_wrong=None if found is None else points_wrong(found),
        )


def _is_whole(parts: Sequence[Part]) -> bool:
    """Whether nothing says that the store lacks anything: itself, earlier certificates, or copies that have more."""
    says = all(part.state in _FINE for part in parts if part.name in ("store", "heads"))
    return says and not any(part.details.get("beyond_store") for part in parts)


def _severity(parts: Sequence[Part]) -> Severity:
    by_name = {part.name: part for part in parts}
    if not _is_whole(parts):
        has_copy = any(by_name[name].state == "ok" for name in ("topic", "archive"))
        is_partly = by_name["store"].state in ("ok", "degraded")
        # A full disk is no loss, and putting a backup in place would make it one.
        is_kept = by_name["store"].details.get(NO_ROOM, False)
        return "major" if is_partly or has_copy or is_kept else "critical"
    # What a database server's disk has free is never known.
    is_fine = all(part.state in _FINE or (part.name, part.state) == ("disk", "unknown") for part in parts)
    return "ok" if is_fine else "minor"
