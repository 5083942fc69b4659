"""Commands that write the read model: project, rebuild, and the generations it keeps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from console.answer import Answer
from console.run import Run, command
from schemas.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "project")(project)
    command(app, "rebuild")(rebuild)
    group = typer.Typer(no_args_is_help=True, help="List the rebuilt sets of read-model rows, or make one live.")
    command(group, "list")(list_generations)
    command(group, "promote")(promote)
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
    with run.ledger() as store, _stopped_by_signals(stop, only_if=follow), run.progress("projecting") as progress:
        found = bring_forward(store, follow=follow, should_stop=stop.is_set, progress=progress)
    parked = [f"not certified: {account_id}; `rebuild` says why" for account_id in found.parked]
    return Answer(
        verdict=found.verdict,
        fields={"position": found.position, "generation": found.generation, "parked": found.parked},
        summary=[f"{found.verdict}: generation {found.generation} is live at position {found.position:,}"],
        notes=first_few(parked, "accounts") + ([count(len(parked), "account") + " not certified"] if parked else []),
    )


@contextmanager
def _stopped_by_signals(stop: threading.Event, *, only_if: bool) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a follower after the batch in hand, with its answer."""
    if not only_if:
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def rebuild(
    run: Run,
    *,
    source: Annotated[str, typer.Option("--from", metavar="SOURCE", help="Where events come from: store.")] = "store",
    until: Annotated[
        int | None, typer.Option("--until", metavar="POS", help="Stop after this position (default: the newest).")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it live after it verifies.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start from zero even where an interrupted run could go on.")
    ] = False,
    projections: Annotated[
        bool, typer.Option("--projections", help="Fold transactions and relations too, and certify them.")
    ] = False,
) -> Answer:
    """Replay every event from zero into a new generation of the read model."""
    from console.words import certificate_lines
    from projections import RELATIONS, TRANSACTIONS
    from replay import rebuild as replay_all

    if source != "store":
        raise UsageError(f"there is no source {source!r}", next_step="use --from store")
    with run.ledger() as store, run.progress("rebuilding") as progress:
        found = replay_all(
            store,
            until=until,
            promote=promote,
            checkpoint_folder=run.data / "checkpoints",
            restart=restart,
            progress=progress,
            now=run.now,
            projections=(TRANSACTIONS, RELATIONS) if projections else (),
        )
    if found.promoted:
        ending = f"generation {found.generation} is live now"
    elif promote:
        ending = f"generation {found.generation} was written and not promoted, since it is {found.verdict}"
    else:
        ending = f"generation {found.generation} was written; `generations promote {found.generation}` makes it live"
    return Answer(
        verdict=found.verdict,
        fields={"certificate": found.certificate, "generation": found.generation, "promoted": found.promoted},
        summary=certificate_lines(found.certificate),
        notes=[ending],
    )


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
) -> Answer:
    """Make a generation live at the newest event; with an older one, this is the way back."""
    from replay import promote_generation

    with run.ledger() as store:
        position = promote_generation(store, generation)
    return Answer(
        verdict="OK",
        fields={"generation": generation, "position": position, "promoted": True},
        summary=[f"generation {generation} is live at position {position:,}"],
    )
