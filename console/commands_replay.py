"""Commands that write the read model: project, rebuild, and the generations it keeps."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.answer import Answer
from console.consent import Yes, need_with, need_yes
from console.run import NO_TABLE, Run, command, without_subcommand
from console.source import (
    AcceptTopic,
    ArchivePlace,
    Source,
    TopicName,
    Workers,
    archive_position,
    need_source,
    store_position,
    topic_position,
)
from console.stopping import stopped_by_signals

if TYPE_CHECKING:
    from ledger.store import Store
    from replay import Rebuild
    from replay.certificate import Position

__all__ = ["register"]


#: What a person should know who is about to let a rebuild go live.
_PROMOTED = ("only where it is COMPLETE; the generation that is live stays, and `generations promote` goes back to it",)

#: What to do where a rebuild is INCOMPLETE, by its source.
_WHAT_NEXT = {
    "store": "`verify` names what is missing; bring it back (`import events` from a copy, or a backup of the store), "
    "then rebuild again",
    "topic": "what is damaged on a topic stays so: where the store is whole, rebuild from it, and publish to a new "
    "topic",
    "archive": "`archive --check` names every damaged file; where accounts are held back, mend the ledger and archive "
    "again; or rebuild from the store",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "project", formats=NO_TABLE)(project)
    command(app, "rebuild", formats=NO_TABLE)(rebuild)
    group = typer.Typer(help="List the rebuilt sets of read-model rows, or make one live.")
    without_subcommand(group)(list_generations)
    command(group, "list")(list_generations)
    command(group, "promote", formats=NO_TABLE)(promote)
    app.add_typer(group, name="generations")


def project(
    run: Run,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for ever, until Ctrl-C.")] = False,
) -> Answer:
    """Bring our own live read model to the newest event."""
    from console.words import count, first_few
    from consumers import project as bring_forward

    stop = threading.Event()
    with run.ledger() as store, stopped_by_signals(stop, only_if=follow), run.progress("projecting") as progress:
        found = bring_forward(store, follow=follow, should_stop=stop.is_set, progress=progress)
    parked = [f"not certified: {account_id}; `verify` says why" for account_id in found.parked]
    return Answer(
        verdict=found.verdict,
        fields={"position": found.position, "generation": found.generation, "parked": found.parked},
        summary=[f"{found.verdict}: generation {found.generation} is live at position {found.position:,}"],
        notes=first_few(parked, "accounts") + ([count(len(parked), "account") + " not certified"] if parked else []),
    )


def rebuild(
    run: Run,
    *,
    source: Source = "store",
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="POS", help="Stop after a position (default: the newest): 1200, of a topic 0:120,1:98."
        ),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it live after it verifies.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start from zero even where an interrupted run could go on.")
    ] = False,
    projections: Annotated[
        bool, typer.Option("--projections", help="Fold transactions and relations too, and certify them.")
    ] = False,
    topic: TopicName = None,
    accept_topic: AcceptTopic = False,
    workers: Workers = None,
    archive: ArchivePlace = None,
    yes: Yes = False,
) -> Answer:
    """Replay every event from zero into a new generation of the read model."""
    from console.words import certificate_lines
    from projections import RELATIONS, TRANSACTIONS

    need_source(source, archive=archive, topic=topic, accept_topic=accept_topic, workers=workers)
    need_with("--promote", promote, {"--yes": yes})
    if promote:
        need_yes("make a new generation of the read model and let it go live", _PROMOTED, is_sure=yes)
    shared: dict[str, Any] = {
        "promote": promote,
        "now": run.now,
        "projections": (TRANSACTIONS, RELATIONS) if projections else (),
    }
    resumable: dict[str, Any] = {"checkpoint_folder": run.data / "checkpoints", "restart": restart}
    if source == "topic":
        more = {"accept_topic": accept_topic, "workers": workers or run.settings.kafka.workers}
        found = _from_topic(run, topic, topic_position(until, "--until"), more | resumable | shared)
    elif source == "archive":
        found = _from_archive(run, archive, archive_position(until, "--until"), shared)
    else:
        from replay import rebuild as from_store

        end = store_position(until, "--until")
        with run.ledger_with_events() as store, run.progress("rebuilding") as progress:
            found = from_store(store, until=end, progress=progress, **resumable, **shared)
    return Answer(
        verdict=found.verdict,
        fields={"certificate": found.certificate, "generation": found.generation, "promoted": found.promoted},
        summary=certificate_lines(found.certificate),
        notes=_rebuilt(found, is_promotion_wanted=promote),
    )


def _from_topic(run: Run, topic: str | None, until: dict[int, int] | None, shared: dict[str, Any]) -> Rebuild:
    from replay.topic import rebuild_from_topic

    kafka, name = run.kafka(), run.topic(topic)
    # A topic needs no ledger to be read: the database may be what is lost. Then no generation is kept either, since
    # a ledger of nothing but a generation would answer for events that it has not.
    with run.ledger_to_fill(dry_run=True) as store, run.watch() as watch:
        return _kept(store, rebuild_from_topic(store, kafka, name, until=until, watch=watch, **shared))


def _from_archive(run: Run, archive: str | None, until: Position | None, shared: dict[str, Any]) -> Rebuild:
    from replay.archive.rebuild import rebuild_from_archive

    # As for a topic: the archive alone is enough to be read.
    with run.ledger_to_fill(dry_run=True) as store:
        found = _kept(store, rebuild_from_archive(store, run.archive(archive), until=until, **shared))
        with store.snapshot() as connection:
            head = store.head(connection)
    if found.generation is not None and found.certificate.store_position > head:
        at = found.certificate.store_position
        run.warn(f"the archive is at position {at:,}, the store's head is {head:,}: the store has lost events")
    return found


def _kept(store: Store, found: Rebuild) -> Rebuild:
    """Return what a rebuild gave: without a generation where there is no ledger with events to keep it in."""
    with store.snapshot() as connection:
        is_kept = store.head(connection) > 0 or not store.heads(connection).is_empty()
    return found if is_kept else dataclasses.replace(found, generation=None)


def _rebuilt(found: Rebuild, *, is_promotion_wanted: bool) -> list[str]:
    """What became of the generation, and what to do next; an INCOMPLETE one cannot be made live."""
    if found.generation is None:
        makes = ": `import events --from topic` makes one of the topic" if found.certificate.source == "topic" else ""
        return [f"no ledger with events is here to keep it in{makes}"]
    written = f"generation {found.generation} was written"
    if found.promoted:
        return [f"generation {found.generation} is live now"]
    if found.verdict != "COMPLETE":
        but = "not promoted" if is_promotion_wanted else "cannot be promoted"
        return [f"{written} and {but}, since it is {found.verdict}", _WHAT_NEXT[found.certificate.source]]
    live = f"{written}; `generations promote {found.generation}` makes it live"
    return [live if found.certificate.source == "store" else f"{live} where the store has the same events"]


def list_generations(run: Run) -> Answer:
    """List the generations that are kept, oldest first."""
    import polars as pl

    from replay import generations

    with run.ledger() as store:
        found = generations(store)
    schema = {
        "generation": pl.Int64(),
        "position": pl.Int64(),
        "created_at": pl.String(),
        "made_by": pl.String(),
        "is_live": pl.Boolean(),
    }
    rows = [
        (each.generation, each.position, each.created_at, "rebuild" if each.certificate else "project", each.is_live)
        for each in found
    ]
    notes = [] if found else ["there is none yet: `rebuild` or `project` makes one"]
    return Answer(
        verdict="OK", table=pl.DataFrame(rows, schema=schema, orient="row"), table_name="generations", notes=notes
    )


def promote(
    run: Run,
    *,
    generation: Annotated[int, typer.Argument(metavar="GENERATION", help="Its number in `generations list`.")],
    yes: Yes = False,
) -> Answer:
    """Make a generation live at the newest event; with an older one, this is the way back."""
    from replay import generations, promote_generation

    with run.ledger() as store:
        known = generations(store)
        # One that is not there is refused, not asked about.
        if any(each.generation == generation for each in known):
            stays = [f"generation {each.generation}, live now, stays" for each in known if each.is_live]
            need_yes(f"let generation {generation} go live, brought to the newest event", stays, is_sure=yes)
        position = promote_generation(store, generation)
    return Answer(
        verdict="OK",
        fields={"generation": generation, "position": position, "promoted": True},
        summary=[f"generation {generation} is live at position {position:,}"],
    )
