"""What imports answer: counts, what was not taken and why, and in a dry run the profile or the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.answer import Answer
from console.words import count, first_few

if TYPE_CHECKING:
    import polars as pl

    from console.run import Run
    from consumers.intake import Ended
    from consumers.orders_import import TakenOrders
    from ledger.importing import ColumnProfile, Healed, Imported
    from ledger.importing.healing import Record

__all__ = ["absent_rows", "healed_answer", "imported_answer", "orders_answer", "taken_answer", "warn_of_input"]


def absent_rows(rows: int, *, is_replaced: bool, dry_run: bool) -> list[str]:
    """What became of the rows of earlier imports that were not in this one."""
    if not rows:
        return []
    earlier = f"{count(rows, 'row')} of earlier imports {'is' if rows == 1 else 'are'} not in this one"
    if is_replaced:
        return [f"{earlier}: {'would be ' if dry_run else ''}dropped"]
    return [f"{earlier} and stay for `drift` to compare; --replace drops them"]


def imported_answer(
    run: Run,
    found: Imported,
    *,
    dry_run: bool,
    timezone: str = "UTC",
    fields: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Answer:
    """Return the answer of an import of rows, or of events from a file."""
    warn_of_input(run, found.naive_times, found.ignored_columns, timezone)
    did = "would be imported" if dry_run else "imported"
    summary = [f"{count(found.imported, 'row')} {did}, {found.unchanged:,} unchanged, {found.rejected:,} rejected"]
    if found.events:
        summary.append(f"{count(found.events, 'event')} {'would be ' if dry_run else ''}appended")
    rejects = [f"the rejected rows, with line and reason: {found.rejects}"] if found.rejects else []
    document: dict[str, Any] = {
        "imported": found.imported,
        "restored": found.restored,
        "unchanged": found.unchanged,
        "rejected": found.rejected,
        "rejects": str(found.rejects) if found.rejects else None,
        "events": found.events,
        **(fields or {}),
        "dry_run": dry_run,
    }
    table = None
    if found.profile is not None:
        document["profile"] = found.profile
        table = _profile(found.profile)
    verdict = "REJECTS" if found.rejected else "OK"
    return Answer(verdict=verdict, fields=document, table=table, summary=summary, notes=[*notes, *rejects])


def healed_answer(found: Healed, *, topic: str, dry_run: bool) -> Answer:
    """Return the answer of an import of events from a topic; in a dry run its table is the plan."""
    would = "would be " if dry_run else ""
    if found.verdict == "REFUSED":
        summary = [f"REFUSED, nothing written: {count(found.conflicts_count, 'record')} in conflict with the ledger"]
    else:
        summary = [
            f"{count(found.restored, 'lost event')} {would}put back, {found.imported:,} {would}appended that the "
            f"ledger does not have, {count(found.unchanged, 'record')} unchanged"
        ]
    skipped = sorted(found.conflicting) if found.skips_conflicts else []
    notes = [
        *_records("conflicts", found.conflicts, found.conflicts_count),
        *first_few([f"left out whole, since it has conflicts: {account_id}" for account_id in skipped], "accounts"),
        *_refused(found),
        *_records("not taken, since nothing proves it", found.unproved, found.unproved_count),
        *_headless(found),
        *_records("not taken", found.poison, found.poison_count),
        *(f"not read: partition {part.partition} at offset {part.offset:,}: {part.details}" for part in found.unread),
    ]
    document = {
        "restored": found.restored,
        "imported": found.imported,
        "events": found.restored + found.imported,
        "unchanged": found.unchanged,
        "records": found.records,
        "conflicts": found.conflicts,
        "conflicts_count": found.conflicts_count,
        "skipped": skipped,
        "unproved": found.unproved,
        "unproved_count": found.unproved_count,
        "poison": found.poison,
        "poison_count": found.poison_count,
        "unread": found.unread,
        "topic": topic,
        "dry_run": dry_run,
    }
    return Answer(
        verdict=found.verdict,
        fields=document,
        table=found.plan,
        table_name="plan",
        shown=None if found.plan is None else _by_account(found.plan),
        summary=summary,
        notes=notes,
    )


def taken_answer(run: Run, ended: Ended, *, rejects: Path, topic: str, timezone: str, dry: Imported | None) -> Answer:
    """Return the answer of an import of rows from a topic; `dry` is what a dry run found."""
    taken = ended.taken
    warn_of_input(run, taken.naive_times, sorted(taken.ignored_columns), timezone)
    would = "would be " if dry else ""
    summary = [
        f"{count(taken.imported, 'row')} {would}imported, {taken.unchanged:,} unchanged, {taken.rejected:,} rejected",
        *([f"{count(taken.events, 'event')} {would}appended"] if taken.events else []),
    ]
    deleted = [
        f"deleted at the source, kept here: {each.transaction_id or 'a row'} (record {each.place}): {each.what}"
        for each in taken.deletions
    ]
    more = taken.deletions_count - len(deleted)
    named = taken.rejected + taken.deletions_count
    notes = [
        *first_few(deleted, "deletions"),
        *([f"{count(more, 'more deletion')} like that, not listed"] if more else []),
        *(f"not read: partition {part.partition} at offset {part.offset:,}: {part.details}" for part in ended.unread),
        *([f"the rejected and deleted rows, with partition:offset and reason: {rejects}"] if named else []),
    ]
    document: dict[str, Any] = {
        "imported": taken.imported,
        "unchanged": taken.unchanged,
        "rejected": taken.rejected,
        "rejects": str(rejects) if named else None,
        "events": taken.events,
        "records": taken.records,
        "deletions": taken.deletions,
        "deletions_count": taken.deletions_count,
        "tombstones": taken.tombstones,
        "topic": topic,
        "offsets": {str(partition): offset for partition, offset in sorted(ended.offsets.items())},
        "began_at": {str(partition): offset for partition, offset in sorted(ended.began_at.items())},
        "unread": ended.unread,
        "dry_run": dry is not None,
    }
    table = None
    if dry is not None and dry.profile is not None:
        document["profile"] = dry.profile
        table = _profile(dry.profile)
    return Answer(verdict=ended.verdict, fields=document, table=table, summary=summary, notes=notes)


def orders_answer(taken: TakenOrders, *, topic: str) -> Answer:
    """Return the answer of an import of orders from their topic."""
    parked = [
        f"parked: partition {each.partition}, offset {each.position:,} ({each.order_id or 'no order'}): {each.reason}"
        for each in taken.parked
    ]
    held = f"an open transaction holds back {count(taken.held_back, 'offset')}"
    conflicts = f"{count(taken.conflicts, 'event')} parked: another one says the same version in another way"
    before = None if taken.replaced is None else taken.replaced.topic or "files"
    forgotten = f"what came from {before if before == 'files' else f'the topic {before!r}'} before is forgotten"
    notes = [
        *([forgotten] if before else []),
        *first_few(parked, "records"),
        *([conflicts] if taken.conflicts else []),
        *([f"not read yet: {held}"] if taken.held_back else []),
    ]
    document = {
        "imported": taken.imported,
        "unchanged": taken.unchanged,
        "rejected": taken.rejected,
        "rejects": None,
        "events": taken.imported,
        "parked": taken.parked,
        "conflicts": taken.conflicts,
        "topic": topic,
        "offsets": {str(partition): offset for partition, offset in sorted(taken.offsets.items())},
        "held_back": taken.held_back,
        "replaced": before,
    }
    summary = [
        f"{count(taken.imported, 'event')} of orders imported, {taken.unchanged:,} unchanged, {taken.rejected:,} parked"
    ]
    return Answer(verdict=taken.verdict, fields=document, summary=summary, notes=notes)


def warn_of_input(run: Run, naive_times: int, ignored_columns: Sequence[str], timezone: str) -> None:
    """Say on stderr what was assumed about rows."""
    if naive_times:
        run.warn(f"{count(naive_times, 'time')} without a zone, taken in {timezone}")
    if ignored_columns:
        run.warn(f"columns that mean nothing here: {', '.join(ignored_columns)}")


def _refused(found: Healed) -> list[str]:
    if found.verdict != "REFUSED":
        return []
    accounts = count(len(found.conflicting), "account")
    return [f"next: see which side is right; --skip-conflicts leaves {accounts} out whole and takes all the others"]


def _headless(found: Healed) -> list[str]:
    if not any(record.partition is None for record in found.unproved):
        return []
    return [
        "next: a new ledger (--data FOLDER, where there is none yet) takes all that the topic has of an account "
        "without a head; or bring back a backup of the store"
    ]


def _records(what: str, listed: Sequence[Record], counted: int) -> list[str]:
    lines = [
        f"{what}: {_place(record)}({record.account_id or 'no account'} version {record.version or 'unknown'}): "
        f"{record.reason}"
        for record in listed
    ]
    more = counted - len(lines)
    return [*first_few(lines, "records"), *([f"{count(more, 'more record')} like that, not listed"] if more else [])]


def _by_account(plan: pl.DataFrame) -> pl.DataFrame:
    """Return a plan with a row for each account, since one that is lost whole would fill every screen by itself."""
    import polars as pl

    return (
        plan.group_by("account_id")
        .agg(
            first_version=pl.col("version").min(),
            last_version=pl.col("version").max(),
            events=pl.len(),
            why=pl.col("why").unique().sort().str.join(", "),
        )
        .sort("account_id")
    )


def _place(record: Record) -> str:
    if record.partition is None or record.offset is None:
        return ""
    return f"partition {record.partition}, offset {record.offset:,} "


def _profile(columns: list[ColumnProfile]) -> pl.DataFrame:
    import polars as pl

    rows = [
        {
            "column": each.column,
            "rows": each.rows,
            "empty": each.empty,
            "distinct": each.distinct,
            "min": each.min,
            "max": each.max,
            "values": ", ".join(f"{value} {times:,}" for value, times in (each.values or {}).items()),
        }
        for each in columns
    ]
    return pl.DataFrame(rows)
