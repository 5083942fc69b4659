"""The command of the archive: bring it up to date, compact it, check it, delete what nobody needs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from console.answer import Answer
from console.run import NO_TABLE, Run, command
from console.source import STORE_OR_TOPIC, ArchivePlace, TopicName, need_source
from console.stopping import stopped_by_signals
from schemas.errors import UsageError

if TYPE_CHECKING:
    from consumers.archiver import Archived
    from ledger.store import Store
    from ledger.topics import KnownTopic
    from replay.archive.table import Archive, State
    from replay.certificate import Position
    from replay.topic.connection import Connection
    from replay.topic.metadata import Topic

__all__ = ["register"]

#: An archive is a copy, so there are two ways out.
_MEND = "put the damaged files back from a copy, or move the archive away and make it again with `archive`"


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "archive", formats=NO_TABLE)(archive)


def archive(
    run: Run,
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store or topic.")
    ] = "store",
    compact: Annotated[
        bool, typer.Option("--compact", help="Then sort it by account: questions about one take milliseconds.")
    ] = False,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Then delete files that no certificate and no newer version needs.")
    ] = False,
    older_than: Annotated[
        int | None,
        typer.Option("--older-than", metavar="HOURS", min=0, help="Keep what was needed so lately (default: 168)."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Append nothing; read every byte of it, and look at every version.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for ever, until Ctrl-C.")] = False,
    archive: ArchivePlace = None,
    topic: TopicName = None,
) -> Answer:
    """Bring the archive up to date with the store or a topic, each event exactly once.

    It is a Delta Lake table of the same events, which replays them many times as fast. It goes on
    where it stopped; what is damaged, and what follows a hole, is named and waits until mended.
    """
    need_source(source, sources=STORE_OR_TOPIC, topic=topic)
    _need_together(check=check, vacuum=vacuum, compact=compact, follow=follow, older_than=older_than, source=source)
    if check:
        return _checked(run, run.archive(archive))
    opened = run.ledger_to_fill(dry_run=True) if source == "topic" else run.ledger_with_events()
    with opened as store:
        reading = _found_topic(run, store, topic) if source == "topic" else None
        place = run.archive(archive, create=True)
        found = _from_store(run, store, place, follow=follow) if reading is None else _from_topic(run, place, reading)
        did: dict[str, Any] = {}
        if compact:
            did |= _compacted(run, place)
        if vacuum:
            from replay.archive.vacuuming import KEPT_HOURS
            from replay.archive.vacuuming import vacuum as delete

            hours = KEPT_HOURS if older_than is None else older_than
            did["deleted"] = delete(place, store, older_than_hours=hours)
    return _answer(found, did, place)


def _need_together(
    *, check: bool, vacuum: bool, compact: bool, follow: bool, older_than: int | None, source: str
) -> None:
    """UsageError for options that leave one another without effect."""
    if check and (vacuum or compact or follow or source != "store"):
        raise UsageError("--check changes nothing, so it stands alone", next_step="run it without the other options")
    if follow and (vacuum or compact):
        raise UsageError("--follow never comes to an end", next_step="run --compact and --vacuum in a run of their own")
    if follow and source == "topic":
        raise UsageError("--follow goes on with the store only", next_step="run `archive --from topic` every so often")
    if older_than is not None and not vacuum:
        raise UsageError("--older-than is about what --vacuum deletes", next_step="say --vacuum too")


def _from_store(run: Run, store: Store, place: Archive, *, follow: bool) -> Archived:
    from consumers.archiver import archive_store

    stop = threading.Event()
    with stopped_by_signals(stop, only_if=follow), run.progress("archiving") as progress:
        return archive_store(
            place, store, now=lambda: run.now, follow=follow, should_stop=stop.is_set, progress=progress
        )


class _Reading(NamedTuple):
    """A topic that can be archived, and what a store knows of it."""

    store: Store
    kafka: Connection
    topic: Topic
    known: KnownTopic | None


def _found_topic(run: Run, store: Store, name: str | None) -> _Reading:
    from replay.topic.rebuild import found_topic

    kafka = run.kafka()
    return _Reading(store, kafka, *found_topic(store, kafka, run.topic(name)))


def _from_topic(run: Run, place: Archive, reading: _Reading) -> Archived:
    from consumers.archiver import archive_topic
    from replay.topic.rebuild import published_of, topic_watermark

    store, kafka, topic, known = reading
    now = run.now if run.options.now else None
    with run.progress("archiving") as progress:
        return archive_topic(
            place,
            kafka,
            topic,
            ledger_id=_ledger_id(store, place),
            published=published_of(store, known),
            watermark=lambda: None if known is None else topic_watermark(store, known, now),
            waiting=lambda words: run.warn(words) if words else None,
            progress=progress,
        )


def _ledger_id(store: Store, place: Archive) -> str:
    """Return whose events they are: where no ledger is here, whoever the archive was made for."""
    with store.snapshot() as connection:
        is_empty = store.head(connection) == 0 and store.heads(connection).is_empty()
    snapshot = place.snapshot() if is_empty else None
    return store.ledger_id if snapshot is None or snapshot.state is None else snapshot.state.ledger_id


def _compacted(run: Run, place: Archive) -> dict[str, Any]:
    from replay.archive.compaction import compact

    before = place.snapshot()
    with run.progress("compacting") as progress:
        after = compact(place, progress=progress)
    files = [0 if snapshot is None else len(snapshot.files) for snapshot in (before, after)]
    return {"files_before": files[0], "files_after": files[1]}


def _answer(found: Archived, did: dict[str, Any], place: Archive) -> Answer:
    from console.words import count, position_text

    state, newest = found.state, place.snapshot()
    where = f"position {position_text(state.position)} of the {state.source}"
    events = count(state.events, "event")
    lines = [f"{found.verdict}: {count(found.appended, 'event')} appended; the archive holds {events}, up to {where}"]
    if "files_before" in did:
        files = count(did["files_before"], "data file")
        lines.append(f"compacted: {files} before, {did['files_after']:,} after")
    if "deleted" in did:
        lines.append(f"{count(len(did['deleted']), 'data file')} deleted that nobody needs any more")
    return Answer(
        verdict=found.verdict,
        fields={
            "appended": found.appended,
            "position": _as_json(state.position),
            "table_version": found.version if newest is None else newest.version,
            "events": state.events,
            "watermark": state.watermark,
            "parked": state.parked,
            "poison": state.poison,
            "unread": found.unread,
            **did,
        },
        summary=lines,
        notes=_held_back(state, found.unread),
    )


def _checked(run: Run, place: Archive) -> Answer:
    from console.words import count, damaged_lines, first_few, position_text
    from replay.archive.checking import check

    with run.progress("checking") as progress:
        found = check(place, progress=progress)
    state = found.state
    files = count(found.files, "data file")
    notes = damaged_lines(found.damaged)
    miscounted = [
        f"not whole: {each.account_id} has {count(each.events, 'event')} of {count(each.versions, 'version')} from "
        f"{each.first_version:,} to {each.last_version:,}"
        for each in found.miscounted
    ]
    notes += first_few(miscounted, "accounts")
    if not found.damaged and found.events != state.events:
        notes.append(f"{count(found.events, 'event')} are there, and it should have {state.events:,}")
    if notes:
        notes.append(_MEND)
    return Answer(
        verdict=found.verdict,
        fields={
            "checked": found.files,
            "damaged": found.damaged,
            "miscounted": [each._asdict() for each in found.miscounted],
            "events": found.events,
            "position": _as_json(state.position),
            "table_version": found.version,
            "watermark": state.watermark,
            "parked": state.parked,
            "poison": state.poison,
        },
        summary=[
            f"{found.verdict}: {files} and {count(found.events, 'event')} checked, up to position "
            f"{position_text(state.position)} of the {state.source}; {count(len(found.damaged), 'file')} damaged"
        ],
        notes=[*notes, *_held_back(state, ())],
    )


def _held_back(state: State, unread: Sequence[str]) -> list[str]:
    """Return by name what an archive does not have yet, and what to do about it."""
    from console.words import first_few

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
