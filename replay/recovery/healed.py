"""What lost events would make of their accounts, before anything comes back.

The accounts are taken as they are, events and heads byte by byte, into a store of their own in a temporary folder.
That one is healed from the copy, so what a replay of it says is what a replay will say after the healing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import polars as pl
from sqlalchemy import BigInteger, LargeBinary, Text, select
from sqlalchemy.types import TypeEngine

from ledger import bulk
from ledger.importing.healing import Copy, Healed, Records, Unread, heal
from ledger.importing.judge import EventKey
from ledger.store import Store
from ledger.tables import EVENTS, HEADS
from replay.recovery.plan import Heal, Left

__all__ = ["FilteredCopy", "Healing", "Patient", "healed_accounts", "is_of_copy"]

#: A stored event as it is; the casts let damage through that is of another type than its column.
_EVENTS = pl.Schema(
    {
        "id": pl.Int64(),
        "originator_id": pl.String(),
        "originator_version": pl.Int64(),
        "topic": pl.String(),
        "state": pl.Binary(),
        "chain": pl.Binary(),
    }
)
_TYPES: tuple[TypeEngine[Any], ...] = (BigInteger(), Text(), BigInteger(), Text(), LargeBinary(), LargeBinary())
_COPY_PART = "the copy, partition "
_decode_key = msgspec.json.Decoder(EventKey).decode


@dataclass(frozen=True)
class Healing:
    """Where lost events would come from: the copy, and `source`, its name in the plan (`topic NAME`, `file PATH`)."""

    source: str
    copy: Copy


class FilteredCopy:
    """A copy of the stream narrowed to some accounts; what cannot be read may be of any of them, so it stays.

    With `heal` it has just the events that these name, so that nothing else comes back; of an account whose head comes
    back, all up to there, which prove it.
    """

    def __init__(self, copy: Copy, account_ids: Sequence[str], heal: Sequence[Heal] | None = None) -> None:
        self.where = copy.where
        self._copy = copy
        self._wanted = frozenset(account_ids)
        self._events = None if heal is None else {(each.account_id, each.version) for each in heal}
        self._ends = {each.account_id: each.version for each in heal or () if each.why == "head"}

    @classmethod
    def of_plan(cls, copy: Copy, heal: Sequence[Heal]) -> FilteredCopy:
        """Return a copy narrowed to what a plan names."""
        return cls(copy, [each.account_id for each in heal], heal)

    def records(self) -> Iterator[Records | Unread]:
        """Yield the records of these accounts, and everything that could not be read."""
        for part in self._copy.records():
            yield part if isinstance(part, Unread) else self._of_accounts(part)

    def _of_accounts(self, records: Records) -> Records:
        kept = [place for place, value in enumerate(records.values) if self._is_wanted(value)]
        return Records(
            records.partition,
            [records.offsets[place] for place in kept],
            [records.keys[place] for place in kept],
            [records.values[place] for place in kept],
        )

    def _is_wanted(self, value: bytes | None) -> bool:
        try:
            return value is None or self._is_named(_decode_key(value))
        except (ValueError, RecursionError):
            return True

    def _is_named(self, key: EventKey) -> bool:
        if self._events is None:
            return key.account_id in self._wanted
        return (key.account_id, key.version) in self._events or key.version <= self._ends.get(key.account_id, 0)


@dataclass
class Patient:
    """What a copy would bring back, what it cannot, and a store with these accounts as they are after that."""

    heal: list[Heal] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    store: Store | None = None

    @property
    def account_ids(self) -> list[str]:
        """The accounts that something comes back of, in order."""
        return sorted({each.account_id for each in self.heal})


@contextmanager
def healed_accounts(store: Store, healing: Healing, accounts: Sequence[str] | None) -> Iterator[Patient]:
    """Yield what healing would come to, of all accounts or some; nothing is written but in a temporary folder.

    Accounts that the copy contradicts, or cannot prove, are left with the reason.
    """
    copy = healing.copy if accounts is None else FilteredCopy(healing.copy, accounts)
    judged = heal(store, copy, dry_run=True, skip_conflicts=True)
    found = Patient(left=_left(judged))
    rows = [] if judged.plan is None else judged.plan.select("account_id", "version", "why").rows()
    found.heal = [Heal(account_id=row[0], version=row[1], why=row[2]) for row in sorted(rows)]
    if not found.heal:
        yield found
        return
    with TemporaryDirectory(prefix="ledger-recovery-") as folder:
        found.store = _taken(store, Path(folder), found.account_ids)
        try:
            heal(found.store, FilteredCopy.of_plan(healing.copy, found.heal), skip_conflicts=True)
            yield found
        finally:
            found.store.close()


def is_of_copy(left: Left) -> bool:
    """Whether something unreadable is a part of the copy, and no live row."""
    return left.kind == "unreadable" and left.reason.startswith(_COPY_PART)


def _left(judged: Healed) -> list[Left]:
    records = [*judged.conflicts, *judged.unproved, *judged.poison]
    left = [Left(kind="parked", account_id=each.account_id or "", reason=each.reason) for each in records]
    counted = judged.conflicts_count + judged.unproved_count + judged.poison_count
    if counted > len(records):
        more = f"{counted - len(records):,} more records of the copy are not taken"
        left.append(Left(kind="parked", account_id="", reason=more))
    unread = (f"{_COPY_PART}{each.partition} from offset {each.offset}: {each.details}" for each in judged.unread)
    return left + [Left(kind="unreadable", account_id="", reason=each) for each in unread]


def _taken(store: Store, folder: Path, account_ids: Sequence[str]) -> Store:
    """Return a new store in a folder with the events and heads of some accounts, as they are."""
    taken = Store.at(folder)
    try:
        with store.snapshot() as source, taken.writing() as connection:
            columns = [EVENTS.c[name].cast(kind) for name, kind in zip(_EVENTS, _TYPES, strict=True)]
            statement = select(*columns).order_by(EVENTS.c.id)
            events = bulk.select_rows(source, statement, _EVENTS, key=EVENTS.c.originator_id, keys=account_ids)
            bulk.insert_rows(connection, EVENTS, events.sort("id"))
            bulk.insert_rows(connection, HEADS, store.heads(source, account_ids))
    except BaseException:
        taken.close()
        raise
    return taken
