"""The command of the archive: bring it up to date, compact it, clean it, check it, say what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.run import NO_TABLE, Run, command
from console.source import STORE_OR_TOPIC, ArchivePlace, TopicName, need_source
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.archive_answers import Beside, Did
    from ledger.store import Store
    from replay.archive.table import Archive, Snapshot

__all__ = ["register"]


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Append nothing; only say what --vacuum would delete.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Append nothing; read every byte of it, and look at every version.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Append nothing; say what it holds, up to where, and who needs it.")
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
    _need_alone(
        {"--check": check, "--status": status},
        {
            "--vacuum": vacuum,
            "--compact": compact,
            "--follow": follow,
            "--from topic": source != "store",
            "--dry-run": dry_run,
        },
    )
    _need_together(vacuum=vacuum, compact=compact, follow=follow, older_than=older_than, dry_run=dry_run, source=source)
    if check:
        return _checked(run, run.archive(archive))
    if status:
        return _held(run, run.archive(archive))
    if dry_run:
        return _dry_run(run, run.archive(archive), older_than)
    from console.archiving import TopicReading, from_store, from_topic

    opened = run.ledger_to_fill(dry_run=True) if source == "topic" else run.ledger_with_events()
    with opened as store:
        # A topic that cannot be archived is refused before there is a folder.
        reading = TopicReading.found(run, store, topic) if source == "topic" else None
        place = run.archive(archive, create=True)
        if reading is None:
            found = from_store(run, store, place, follow=follow)
        else:
            found = from_topic(run, place, reading, follow=follow)
        did: list[Did] = []
        if compact:
            did.append(_compacted(run, place))
        if vacuum:
            did.append(_vacuumed(place, store, older_than, dry_run=False))
    from console.archive_answers import appended_answer

    return appended_answer(found, did, place.snapshot())


def _need_alone(alone: dict[str, bool], others: dict[str, bool]) -> None:
    """UsageError where an option that only reads is given with another of these."""
    given = [name for name, is_given in alone.items() if is_given]
    if given and (len(given) > 1 or any(others.values())):
        raise UsageError(
            f"{given[0]} changes nothing, so it stands alone", next_step="run it without the other options"
        )


def _need_together(
    *, vacuum: bool, compact: bool, follow: bool, older_than: int | None, dry_run: bool, source: str
) -> None:
    """UsageError for options that leave one another without effect."""
    if follow and (vacuum or compact):
        raise UsageError("--follow never comes to an end", next_step="run --compact and --vacuum in a run of their own")
    if older_than is not None and not vacuum:
        raise UsageError("--older-than is about what --vacuum deletes", next_step="say --vacuum too")
    if dry_run and not vacuum:
        raise UsageError("--dry-run is about what --vacuum deletes", next_step="say --vacuum too")
    if dry_run and (compact or source != "store"):
        raise UsageError("--dry-run neither appends nor compacts", next_step="say --vacuum --dry-run by themselves")


def _compacted(run: Run, place: Archive) -> Did:
    from console.archive_answers import compacted
    from replay.archive.compaction import compact

    before = place.snapshot()
    with run.progress("compacting") as progress:
        after = compact(place, progress=progress)
    return compacted(before, after)


def _vacuumed(place: Archive, store: Store, older_than: int | None, *, dry_run: bool) -> Did:
    from console.archive_answers import vacuumed
    from replay.archive.vacuuming import KEPT_HOURS, vacuum

    hours = KEPT_HOURS if older_than is None else older_than
    found = vacuum(place, store, older_than_hours=hours, dry_run=dry_run)
    return vacuumed(found, older_than_hours=hours, dry_run=dry_run)


def _dry_run(run: Run, place: Archive, older_than: int | None) -> Answer:
    """Say what a vacuum would delete, of the archive as it is."""
    from console.archive_answers import vacuumed_answer
    from replay.archive.full_replay import snapshot_of
    from replay.archive.rebuild import refuse_other_ledger

    snapshot = snapshot_of(place)
    # The certificates that files are kept for are the ledger's.
    with run.ledger_with_events() as store:
        refuse_other_ledger(store, place, snapshot.held)
        return vacuumed_answer(snapshot, _vacuumed(place, store, older_than, dry_run=True))


def _checked(run: Run, place: Archive) -> Answer:
    from console.archive_answers import checked_answer
    from replay.archive.checking import check

    with run.progress("checking") as progress:
        found = check(place, progress=progress)
    return checked_answer(found, _beside(run, found.snapshot))


def _held(run: Run, place: Archive) -> Answer:
    from console.archive_answers import held_answer

    snapshot = place.snapshot()
    if snapshot is None or snapshot.state is None:
        raise UsageError(
            "there is no archive", where=place.location.url, next_step="make it with `ledger-replay archive`"
        )
    return held_answer(snapshot, _beside(run, snapshot))


def _beside(run: Run, snapshot: Snapshot) -> Beside | None:
    """Return what the ledger here says of an archive, None where none is here."""
    from console.archive_answers import Beside
    from console.archive_place import ask_ledger
    from replay.archive.vacuuming import certified

    state = snapshot.held

    def asked(store: Store) -> Beside:
        if state.source == "store" and store.ledger_id != state.ledger_id:
            run.warn("the ledger here is another than the archive's, so the two are not compared")
            return Beside(None, [])
        with store.snapshot() as connection:
            head = store.head(connection)
        return Beside(head if state.source == "store" else None, certified(store, snapshot.table_id))

    return ask_ledger(run, asked)
