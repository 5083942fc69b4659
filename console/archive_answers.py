"""What `archive` answers: what was appended, compacted and deleted, what an archive holds, what a check of it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from console.answer import Answer
from console.words import count, damaged_lines, first_few, position_text, size
from replay.certificate import COMPLETE, INCOMPLETE

if TYPE_CHECKING:
    from consumers.archiver import Archived
    from replay.archive.checking import Checked
    from replay.archive.state import State
    from replay.archive.table import Snapshot
    from replay.archive.vacuuming import Certified, Kept, Vacuumed
    from replay.certificate import Position

__all__ = ["Beside", "appended_answer", "checked_answer", "compacted", "held_answer", "vacuumed", "vacuumed_answer"]

#: An archive is a copy, so there are two ways out.
_MEND = "put the damaged files back from a copy, or move the archive away and make it again with `archive`"


class Beside(NamedTuple):
    """What the ledger beside an archive says of it: its head, None where that is of another, and who needs it."""

    head: int | None
    generations: Sequence[Certified]


class Did(NamedTuple):
    """Something that was done to an archive: its fields of the document, and its lines."""

    fields: dict[str, Any]
    lines: list[str]


def appended_answer(found: Archived, did: Sequence[Did], newest: Snapshot | None) -> Answer:
    """Return the answer of a run that appended, and may have done more."""
    state = found.state
    where = f"position {position_text(state.position)} of the {state.source}"
    events = count(state.events, "event")
    first = f"{found.verdict}: {count(found.appended, 'event')} appended; the archive holds {events}, up to {where}"
    fields = {
        "appended": found.appended,
        "position": _as_json(state.position),
        "table_version": found.version if newest is None else newest.version,
        "events": state.events,
        "watermark": state.watermark,
        "parked": state.parked,
        "poison": state.poison,
        "unread": found.unread,
    }
    for each in did:
        fields |= each.fields
    return Answer(
        verdict=found.verdict,
        fields=fields,
        summary=[first, *(line for each in did for line in each.lines)],
        notes=_held_back(state),
    )


def compacted(before: Snapshot | None, after: Snapshot | None) -> Did:
    """Return what a compaction did."""
    files = [0 if snapshot is None else len(snapshot.files) for snapshot in (before, after)]
    line = f"compacted: {count(files[0], 'data file')} before, {files[1]:,} after"
    return Did({"files_before": files[0], "files_after": files[1]}, [line])


def vacuumed(found: Vacuumed, *, older_than_hours: int, dry_run: bool) -> Did:
    """Return what a vacuum deleted, or would delete, and what stays, each with the reason."""
    did = "would be deleted" if dry_run else "deleted"
    files = count(len(found.deleted), "data file")
    lines = [f"{files} ({size(found.freed_bytes)}) {did} that nobody needs any more"]
    by_reason: dict[str, list[int]] = {}
    for each in found.kept:
        by_reason.setdefault(_reason(each, older_than_hours), []).append(each.bytes)
    lines += [
        f"kept: {count(len(sizes), 'unused data file')} ({size(sum(sizes))}), {reason}"
        for reason, sizes in by_reason.items()
    ]
    kept = [
        {
            "file": each.file,
            "bytes": each.bytes,
            "reason": each.reason,
            "generations": each.generations,
        }
        for each in found.kept
    ]
    fields = {"dry_run": dry_run, "deleted": found.deleted, "freed_bytes": found.freed_bytes, "kept": kept}
    return Did(fields, lines)


def vacuumed_answer(snapshot: Snapshot, did: Did) -> Answer:
    """Return the answer of a dry run of a vacuum, which is not about what the archive lacks."""
    return Answer(verdict="OK", fields={**did.fields, "table_version": snapshot.version}, summary=did.lines)


def _reason(kept: Kept, older_than_hours: int) -> str:
    if kept.reason == "recent":
        return "written in the last 24 hours and not committed: another process may be about to"
    if kept.reason == "retention":
        return f"not older than {count(older_than_hours, 'hour')} (--older-than)"
    names = ", ".join(map(str, kept.generations))
    word = "generation" if len(kept.generations) == 1 else "generations"
    return f"which the certificate of {word} {names} is about"


def held_answer(snapshot: Snapshot, beside: Beside | None) -> Answer:
    """Return the answer that says what an archive holds; no data file was read for it."""
    state = snapshot.held
    is_whole = state.concluded and not (state.parked or state.poison or state.unread)
    verdict = COMPLETE if is_whole else INCOMPLETE
    waiting = f", {len(state.parked):,} of them held back," if state.parked else ""
    held = f"{count(state.events, 'event')} of {count(state.accounts, 'account')}{waiting}"
    files = f"{count(len(snapshot.files), 'data file')} ({size(_bytes(snapshot))})"
    first = f"{verdict}: the archive holds {held} in {files}"
    return Answer(
        verdict=verdict,
        fields=_holdings(snapshot, beside),
        summary=[first, *_holding_lines(snapshot, beside)],
        notes=[*_unfinished(state), *_held_back(state)],
    )


def checked_answer(found: Checked, beside: Beside | None) -> Answer:
    """Return the answer of a check, with what the archive held then."""
    snapshot, state, damaged = found.snapshot, found.state, len(found.damaged)
    notes = damaged_lines(found.damaged)
    miscounted = [
        f"not whole: {each.account_id} has {count(each.events, 'event')} of {count(each.versions, 'version')} from "
        f"{each.first_version:,} to {each.last_version:,}"
        for each in found.miscounted
    ]
    notes += first_few(miscounted, "accounts")
    if not damaged and found.events != state.events:
        notes.append(f"{count(found.events, 'event')} are there, and it should have {state.events:,}")
    if notes:
        notes.append(_MEND)
    notes += _unfinished(state, " once that is mended" if notes else "")
    files = f"{count(found.files, 'data file')} checked, {damaged:,} of them damaged"
    whole = f"in the {found.files - damaged:,} that are whole" if damaged else "in them"
    first = f"{found.verdict}: {files}; {found.events:,} of {count(state.events, 'event')} {whole}"
    return Answer(
        verdict=found.verdict,
        fields={
            "checked": found.files,
            "damaged": found.damaged,
            "miscounted": [each._asdict() for each in found.miscounted],
            **_holdings(snapshot, beside),
            "events": found.events,
        },
        summary=[first, *_holding_lines(snapshot, beside)],
        notes=[*notes, *_held_back(state)],
    )


def _bytes(snapshot: Snapshot) -> int:
    return sum(file.bytes for file in snapshot.files)


def _holdings(snapshot: Snapshot, beside: Beside | None) -> dict[str, Any]:
    state = snapshot.held
    head = None if beside is None else beside.head
    return {
        "files": len(snapshot.files),
        "bytes": _bytes(snapshot),
        "events": state.events,
        "accounts": state.accounts,
        "source": state.source,
        "topic": state.topic,
        "ledger_id": state.ledger_id,
        "position": _as_json(state.position),
        "store_position": head,
        "table_version": snapshot.version,
        "watermark": state.watermark,
        "generations": [] if beside is None else [each._asdict() for each in beside.generations],
        "parked": state.parked,
        "poison": state.poison,
        "unread": state.unread,
    }


def _holding_lines(snapshot: Snapshot, beside: Beside | None) -> list[str]:
    """Return up to where an archive holds its source, how far that has gone since, and which generations need it."""
    from schemas import format_time

    state = snapshot.held
    of = f"topic {state.topic}" if state.source == "topic" else "store"
    watermark = "not known" if state.watermark is None else format_time(state.watermark)
    lines = [f"it is at position {position_text(state.position)} of the {of}; the watermark is {watermark}"]
    if beside is None:
        return lines
    if beside.head is not None and isinstance(state.position, int):
        lines.append(_lag(beside.head, state.position))
    needed = [f"{each.generation} (table version {each.table_version})" for each in beside.generations]
    if needed:
        word = "generation" if len(needed) == 1 else "generations"
        lines.append(f"needed by the certificate of {word} {', '.join(needed)}")
    return lines


def _lag(head: int, position: int) -> str:
    if head == position:
        return "the store has nothing more"
    if head < position:
        return f"the store's head is {head:,}: the store has lost events, or was put back from a backup"
    return f"the store's head is {head:,}, {count(head - position, 'position')} further: `archive` brings them in"


def _unfinished(state: State, when: str = "") -> list[str]:
    """Return that the last run was killed, where it was, and what to do about it."""
    return [] if state.concluded else [f"the last run did not come to its end: run `archive` again{when}"]


def _held_back(state: State) -> list[str]:
    """Return by name what an archive does not have yet, and what to do about it."""
    unread = [
        f"partition {each.partition}, offset {each.offset}: {each.reason}: {each.details}" for each in state.unread
    ]
    poison = [
        f"cannot read the event at position {each.position:,}"
        + ("" if each.partition is None else f" of partition {each.partition}")
        + f": {each.reason}"
        for each in state.poison
    ]
    parked = [
        f"held back: {each.account_id} from version {each.version:,}, {each.reason}: {each.details}"
        for each in state.parked
    ]
    notes = [*unread, *first_few(poison, "unreadable events"), *first_few(parked, "accounts")]
    if parked or poison:
        notes.append("`verify` says why; mend the ledger (`import events`, or a backup), then archive again")
    return notes


def _as_json(position: Position) -> int | dict[str, int]:
    if isinstance(position, int):
        return position
    return {str(partition): offset for partition, offset in sorted(position.items())}
