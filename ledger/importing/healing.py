"""What the store has lost, brought back from a copy of the event stream that others keep, such as a topic.

First everything is judged: a pass over the copy compares it with the store, batch by batch, and keeps on disk only
what the store has not; then that is judged by account, in groups of bounded size. Any contradiction ends it there,
with nothing written. Only then is everything brought back, in one transaction under the append lock, in which each
group is judged once more: somebody may have appended since, and what contradicts that takes everything back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger import bulk
from ledger.ahead import read_ahead
from ledger.importing.heads import LostHeads
from ledger.importing.judge import EventKey, Judge, read_events
from ledger.importing.lost import Lost, Refusal, contrary, lines_of, stored_events
from ledger.importing.result import Progress
from ledger.importing.staging import Spill, folder_for_staging
from ledger.store import GENESIS, Store
from ledger.tables import HEADS
from schemas.errors import RefusedError

__all__ = ["LISTED_MAX", "PLAN_SCHEMA", "Copy", "Healed", "Record", "Records", "Unread", "heal"]

#: How many of each kind of finding are listed; all are counted.
LISTED_MAX = 1_000

#: An event that comes back: what it is, where the copy has it, and why: `hole`, `tail`, `account`, `damaged` or `new`;
#: with `head` it is there, and the head of its account comes back.
PLAN_SCHEMA = pl.Schema(
    {
        "account_id": pl.String(),
        "version": pl.Int64(),
        "event": pl.String(),
        "transaction_id": pl.String(),
        "partition": pl.Int64(),
        "offset": pl.Int64(),
        "why": pl.String(),
    }
)
_RECORD_SCHEMA = pl.Schema(
    {
        "partition": pl.Int64(),
        "offset": pl.Int64(),
        "account_id": pl.String(),
        "version": pl.Int64(),
        "state": pl.Binary(),
    }
)
_EVENT_KEY = ["account_id", "version"]
_decode_key = msgspec.json.Decoder(EventKey).decode


class Records(NamedTuple):
    """Records of one partition of a copy: `values` are events in wire form, None for a record without a value.

    A key is the account's id, and only says where a record belongs that is no event.
    """

    partition: int
    offsets: list[int]
    keys: Sequence[bytes | None]
    values: list[bytes | None]


class Unread(msgspec.Struct, frozen=True):
    """What a copy could not give: a partition from an offset on, or before it where the reason is `deleted`."""

    partition: int
    offset: int
    reason: str
    details: str


class Copy(Protocol):
    """A copy of the stream; `where` names it in messages."""

    @property
    def where(self) -> str:
        """The name for messages."""
        ...

    def records(self) -> Iterator[Records | Unread]:
        """Yield everything that it has, once, and what cannot be read of it."""
        ...


class Record(msgspec.Struct, frozen=True):
    """One record of the copy that is not taken, and why; null where it does not say whose event it is.

    An account whose lost head is not proved is named by its last version; it has no partition and no offset.
    """

    account_id: str | None
    version: int | None
    partition: int | None
    offset: int | None
    reason: str


class Healed(msgspec.Struct, kw_only=True):
    """What came back, or in a dry run would.

    `restored` events, or heads, were lost or damaged, `imported` ones the store has not had; `unchanged` records say
    what it has. REFUSED with `conflicts` (then nothing was written), unless `skips_conflicts`: then the `conflicting`
    accounts were left out. INCOMPLETE with these, or where some record or partition could not be read (`poison`,
    `unread`) or nothing proves it (`unproved`), else OK. Lists are cut at `LISTED_MAX`. `plan` has the events
    (`PLAN_SCHEMA`) in a dry run, else None.
    """

    records: int = 0
    unchanged: int = 0
    restored: int = 0
    imported: int = 0
    conflicts: list[Record] = []
    conflicts_count: int = 0
    conflicting: set[str] = set()
    skips_conflicts: bool = False
    unproved: list[Record] = []
    unproved_count: int = 0
    poison: list[Record] = []
    poison_count: int = 0
    unread: list[Unread] = []
    plan: pl.DataFrame | None = None

    @property
    def verdict(self) -> str:
        """REFUSED, INCOMPLETE or OK."""
        if self.conflicts_count and not self.skips_conflicts:
            return "REFUSED"
        is_left = self.conflicts_count or self.unproved_count or self.poison_count or self.unread
        return "INCOMPLETE" if is_left else "OK"


class _Contradicted(Exception):
    """What was judged to be right is not any more, since others have appended."""

    def __init__(self, judged: Healed) -> None:
        super().__init__()
        self.judged = judged


def heal(
    store: Store,
    copy: Copy,
    *,
    dry_run: bool = False,
    skip_conflicts: bool = False,
    must_overlap: bool = False,
    progress: Progress | None = None,
) -> Healed:
    """Bring back from a copy the events that the store has lost, and append those that it never had.

    An event that an account's head is past is put back if the hash chain proves it, and so are the bytes of one that
    is damaged; one behind the head is appended if nothing is missing before it, so an empty store becomes the ledger
    again. A lost head is put back if the copy has just the events that are stored. All of it goes in, or nothing;
    with `skip_conflicts` the accounts of a conflict are left out whole, and all of the others goes in, or nothing.
    Memory is bounded by groups of accounts; what is lost waits on disk.

    RefusedError with `must_overlap` where the store has events, and nothing of the copy is one of them or was, while
    it has others to append: it may be of another ledger.
    """
    with folder_for_staging() as folder:
        lost = Spill(folder, "lost")
        with store.snapshot() as connection:
            heads = LostHeads(connection, folder)
            read = _compared(connection, copy, lost, heads, progress)
            read.skips_conflicts = skip_conflicts
            judged = _judged(store, connection, lost, heads, read, with_plan=dry_run)
            if skip_conflicts and judged.conflicts_count > read.conflicts_count:
                read = _and_conflicts(read, judged)
                judged = _judged(store, connection, lost, heads, read, with_plan=dry_run)
            if must_overlap and store.head(connection):
                _refuse_foreign(copy, read, judged)
        while not dry_run and judged.verdict != "REFUSED" and (judged.restored or judged.imported):
            try:
                judged = _written(store, lost, heads, read)
            except _Contradicted as meanwhile:
                judged = meanwhile.judged
                read = _and_conflicts(read, judged)
            else:
                break
    if judged.verdict == "REFUSED":
        judged.restored = judged.imported = 0
        judged.plan = pl.DataFrame(schema=PLAN_SCHEMA) if dry_run else None
    return judged


def _refuse_foreign(copy: Copy, read: Healed, judged: Healed) -> None:
    if judged.verdict != "REFUSED" and judged.imported and not (read.unchanged or judged.restored):
        raise RefusedError(
            f"not one of its {read.records:,} records is in this ledger: it may be another ledger's",
            where=copy.where,
            next_step="check --topic and --data; --accept-topic appends them all the same",
        )


def _written(store: Store, lost: Spill, heads: LostHeads, read: Healed) -> Healed:
    """Bring everything back in one transaction, judged once more; _Contradicted if a conflict has come up since."""
    with store.appending() as connection:
        judged = _judged(store, connection, lost, heads, read, is_written=True)
        if judged.conflicts_count > read.conflicts_count:
            raise _Contradicted(judged)
    return judged


def _and_conflicts(read: Healed, judged: Healed) -> Healed:
    """Return what was read with the conflicts that were found since, whose accounts are left out from now on."""
    return msgspec.structs.replace(
        read,
        conflicts=judged.conflicts,
        conflicts_count=judged.conflicts_count,
        conflicting=judged.conflicting,
    )


def _compared(connection: Connection, copy: Copy, lost: Spill, heads: LostHeads, progress: Progress | None) -> Healed:
    """Compare every record with the store, and keep those that it has not in `lost`."""
    found = Healed()
    for part in read_ahead(copy.records()):
        if isinstance(part, Unread):
            found.unread.append(part)
            # What is gone before a partition's first record says nothing of where a stream ends.
            if part.reason != "deleted":
                heads.cut()
            continue
        found.records += len(part.values)
        records = _keyed(part, found, heads)
        stored = stored_events(connection, records.select(_EVENT_KEY)).select(*_EVENT_KEY, stored="state")
        both = records.join(stored, on=_EVENT_KEY, how="left", maintain_order="left")
        # Bytes that are the store's own need no other look: most of a copy is that.
        is_same = (both["state"] == both["stored"]).fill_null(False)
        found.unchanged += int(is_same.sum())
        heads.add(both, is_same)
        _keep_others(connection, both.filter(~is_same), found, lost)
        if progress is not None:
            progress(found.records, None)
    return found


def _keyed(part: Records, found: Healed, heads: LostHeads) -> pl.DataFrame:
    """Return the records (`_RECORD_SCHEMA`) that say whose events they are, and note the others."""
    try:
        keys = [_decode_key(value) for value in part.values]  # type: ignore[arg-type]  # None raises as bad bytes do.
        offsets, values = part.offsets, part.values
    except (TypeError, ValueError, RecursionError):
        keys, offsets, values = [], [], []
        for offset, name, value in zip(part.offsets, part.keys, part.values, strict=True):
            try:
                keys.append(_decode_key(value))  # type: ignore[arg-type]  # the same.
                offsets.append(offset)
                values.append(value)
            except (TypeError, ValueError, RecursionError) as error:
                account_id = None if name is None else name.decode("utf-8", "replace")
                reason = _why_no_event(value, error)
                if account_id is None:
                    # It may be the last event of any account.
                    heads.cut()
                else:
                    heads.dispute(account_id)
                _note(found, "poison", Record(account_id, None, part.partition, offset, reason))
    columns = {
        "partition": [part.partition] * len(keys),
        "offset": list(offsets),
        "account_id": [key.account_id for key in keys],
        "version": [key.version for key in keys],
        "state": values,
    }
    return pl.DataFrame(columns, schema=_RECORD_SCHEMA)


def _why_no_event(value: bytes | None, error: Exception) -> str:
    return "a record without a value (a tombstone) is no event" if value is None else f"no event: {error}"


def _keep_others(connection: Connection, others: pl.DataFrame, found: Healed, lost: Spill) -> None:
    """Keep what the store has not, and note what contradicts it or cannot be read."""
    if others.is_empty():
        return
    events, bad = read_events(list(enumerate(others["state"].to_list())))
    for number, why, _ in bad:
        row, reason = others.row(number, named=True), why.replace("the line", "the record")
        _note(found, "poison", Record(row["account_id"], row["version"], row["partition"], row["offset"], reason))
    places = others.select("partition", "offset", "stored").with_row_index("position").cast({"position": pl.Int64})
    whole = events.join(places, on="position", how="left", maintain_order="left")
    columns = ("account_id", "version", "event", "transaction_id", "state", "partition", "offset", "is_stored")
    whole = whole.with_columns(is_stored=pl.col("stored").is_not_null())
    damaged = _without_contrary(connection, whole.filter("is_stored"), found)
    lost.add(pl.concat([whole.filter(~pl.col("is_stored")), damaged]).select(columns))


def _without_contrary(connection: Connection, others: pl.DataFrame, found: Healed) -> pl.DataFrame:
    """Return the records of events whose stored bytes are damaged, as it seems, and note those that contradict them."""
    if others.is_empty():
        return others
    before = others.select("account_id", version=pl.col("version") - 1)
    stored = stored_events(connection, pl.concat([others.select(_EVENT_KEY), before]).unique())
    links = {(account_id, version): link for account_id, version, _, link in stored.iter_rows()}
    columns = ("account_id", "version", "partition", "offset", "state", "stored")
    is_kept = []
    for account_id, version, partition, offset, state, own in others.select(columns).iter_rows():
        last = GENESIS if version == 1 else links.get((account_id, version - 1))
        reason = contrary(account_id, version, before=last, own=(own, links[account_id, version]), state=state)
        # Where the event before it is lost too, that one may come back and prove it.
        is_kept.append(last is None or not reason)
        if not is_kept[-1]:
            _note(found, "conflicts", Record(account_id, version, partition, offset, reason))
    return others.filter(pl.Series(is_kept, dtype=pl.Boolean))


def _judged(
    store: Store,
    connection: Connection,
    lost: Spill,
    heads: LostHeads,
    read: Healed,
    *,
    with_plan: bool = False,
    is_written: bool = False,
) -> Healed:
    """Judge what the store has not, group by group, and with `is_written` bring it back."""
    found = msgspec.structs.replace(
        read,
        conflicts=list(read.conflicts),
        conflicting=set(read.conflicting),
        unproved=list(read.unproved),
        poison=list(read.poison),
    )
    plans = [pl.DataFrame(schema=PLAN_SCHEMA)]
    for group in lost.groups():
        rows = lost.read(group)
        if rows is not None and found.skips_conflicts:
            rows = rows.filter(~pl.col("account_id").is_in(found.conflicting))
        if rows is not None:
            plan = _judge_group(store, connection, rows, found, is_written=is_written)
            if with_plan:
                plans.append(plan)
    plans.append(_judge_heads(store, connection, heads, found, is_written=is_written))
    if with_plan:
        found.plan = pl.concat(plans).sort("account_id", "version")
    return found


def _judge_group(
    store: Store, connection: Connection, rows: pl.DataFrame, found: Healed, *, is_written: bool
) -> pl.DataFrame:
    """Judge the records of some accounts and return the plan for them."""
    once = rows.sort(*_EVENT_KEY, "partition", "offset").unique(
        [*_EVENT_KEY, "state"], keep="first", maintain_order=True
    )
    found.unchanged += rows.height - once.height
    once = once.with_row_index("position").cast({"position": pl.Int64})
    is_twofold = once.select(pl.struct(_EVENT_KEY).is_duplicated()).to_series()
    _refuse(found, once.filter(is_twofold), "has two contents for this version", is_conflict=True)
    once = once.filter(~is_twofold)
    lost = Lost()
    damaged = once.filter("is_stored")
    for line in lines_of(damaged):
        lost.add(line)
    unknown = _with_heads(store, connection, once.filter(~pl.col("is_stored")), found)
    lines = lines_of(unknown)
    once = pl.concat([damaged, unknown])
    judge = Judge(store, connection, lines, lost)
    for line in lines:
        judge.take(line)
    back = lost.restore(store, connection, dry_run=not is_written)
    if is_written and judge.appended:
        store.append_rows(connection, judge.new)
    places = dict(zip(once["position"], zip(once["partition"], once["offset"], strict=True), strict=True))
    _note_refusals(found, [*judge.refused, *back.refused], places)
    found.unchanged += judge.unchanged + back.unchanged
    found.imported += len(judge.appended)
    found.restored += len(back.restored)
    why = [(line.number, reason) for line, reason in back.restored]
    why += [(line.number, "new") for line in judge.appended]
    table = pl.DataFrame(why, schema={"position": pl.Int64(), "why": pl.String()}, orient="row")
    return once.join(table, on="position", how="inner").select(list(PLAN_SCHEMA))


def _judge_heads(
    store: Store, connection: Connection, heads: LostHeads, found: Healed, *, is_written: bool
) -> pl.DataFrame:
    """Judge the accounts that have lost their heads and return the plan for them."""
    proved = []
    for head in heads.judged(store, connection):
        if found.skips_conflicts and head.account_id in found.conflicting:
            continue
        if head.reason:
            reason = f"account {head.account_id!r} has lost its head, and nothing proves where it ends: {head.reason}"
            _note(found, "unproved", Record(head.account_id, head.version, None, None, reason))
        else:
            proved.append(head)
    found.restored += len(proved)
    if is_written:
        rows = [(head.account_id, head.version, head.link) for head in proved]
        schema = {"account_id": pl.String(), "version": pl.Int64(), "chain": pl.Binary()}
        bulk.upsert_rows(connection, HEADS, pl.DataFrame(rows, schema=schema, orient="row"))
    plan = [
        (head.account_id, head.version, head.event, head.transaction_id, head.partition, head.offset, "head")
        for head in proved
    ]
    return pl.DataFrame(plan, schema=PLAN_SCHEMA, orient="row")


def _with_heads(store: Store, connection: Connection, rows: pl.DataFrame, found: Healed) -> pl.DataFrame:
    """Return the records less those behind the head of an account whose stored events are past its head.

    Such an account has lost its head, so nothing proves what its stream was, and nothing may be appended to it.
    """
    accounts = rows["account_id"].unique().to_list()
    stored = store.last_versions(connection, accounts, until=store.head(connection))
    heads = store.heads(connection, accounts).select("account_id", head="version")
    past = stored.join(heads, on="account_id", how="left").filter(pl.col("version") > pl.col("head").fill_null(0))
    if past.is_empty():
        return rows
    behind = rows.join(past.select("account_id", pl.col("head").fill_null(0)), on="account_id", how="left")
    is_unproved = (behind["version"] > behind["head"]).fill_null(False)
    kept = behind.filter(~is_unproved).drop("head")
    _refuse(found, behind.filter(is_unproved), "is of an account that has lost its head", is_conflict=False)
    return kept


def _refuse(found: Healed, rows: pl.DataFrame, why: str, *, is_conflict: bool) -> None:
    for row in rows.iter_rows(named=True):
        version, account_id = row["version"], row["account_id"]
        reason = f"the copy {why}" if is_conflict else f"version {version} of account {account_id!r} {why}"
        record = Record(account_id, version, row["partition"], row["offset"], reason)
        _note(found, "conflicts" if is_conflict else "unproved", record)


def _note_refusals(found: Healed, refused: list[Refusal], places: dict[int, tuple[int, int]]) -> None:
    for line, reason, is_conflict in refused:
        record = Record(line.account_id, line.version, *places[line.number], reason)
        _note(found, "conflicts" if is_conflict else "unproved", record)


def _note(found: Healed, kind: str, record: Record) -> None:
    count = f"{kind}_count"
    setattr(found, count, getattr(found, count) + 1)
    if kind == "conflicts" and record.account_id is not None:
        found.conflicting.add(record.account_id)
    listed = getattr(found, kind)
    if len(listed) < LISTED_MAX:
        listed.append(record)
