"""The commands of drift: compare live rows with a replay once or for ever, and what stands in the table of findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from console.consent import need_with
from console.run import Run, command
from console.source import STORE_OR_TOPIC, TopicName, need_one_live, need_source
from schemas.errors import UsageError

if TYPE_CHECKING:
    from replay.comparison.live_table import LiveTable

__all__ = ["register"]

From = Annotated[
    str, typer.Option("--from", metavar="SOURCE", help="Where the shadow's events come from: store or topic.")
]
Begin = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="WHERE",
        help="What a new shadow begins with: zero (default), checkpoint of an interrupted rebuild, or a generation's "
        "number.",
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Drop the shadow and begin it anew.")]
Named = Annotated[
    str, typer.Option("--shadow", metavar="NAME", help="Which shadow: each follows one source, and has its own rows.")
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen", metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz; a port alone is of this machine."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to the command line."""
    command(app, "drift")(drift)
    command(app, "watch")(watch)


def drift(
    run: Run,
    *,
    own: Annotated[
        bool, typer.Option("--own", help="Compare our own read model, even where accounts were imported.")
    ] = False,
    against: Annotated[
        str | None, typer.Option("--against", metavar="URL", help="Compare a table of another database.")
    ] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="NAME", help="The live table there.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Compare the live table that the TOML file names.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where each difference begins, and the evidence.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep a shadow, and compare for ever, until Ctrl-C or SIGTERM.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", min=1, help="End --watch after so many whole rounds.")
    ] = None,
    source: From = "store",
    topic: TopicName = None,
    start: Begin = None,
    restart: Restart = False,
    shadow: Named = "shadow",
    listen: Listen = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="Compare nothing; list what --watch has found and is open.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="List with --findings those too that are healed.")] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Compare nothing; drop the shadow of --shadow with its rows and findings."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --forget.")] = False,
) -> Answer:
    """Compare live account rows with a replay of the events at one position.

    Live are the rows of `import accounts`, or without those our own read model. With --watch
    it is our own read model, unless --live or --against names another table. With --explain the
    JSON document has `explained`: of the first accounts that differ, what the text says of each.
    """
    need_one_live(own=own, live=live, against=against, table=table)
    need_with("--watch", watch, {"--rounds": rounds, "--from": source != "store", "--topic": topic, "--start": start})
    need_with("--watch", watch, {"--restart": restart, "--listen": listen})
    need_with("--watch or --forget", watch or forget, {"--shadow": shadow != "shadow"})
    need_with("--findings", findings, {"--all": all_})
    need_with("--forget", forget, {"--yes": yes})
    compared: dict[str, object] = {"--watch": watch, "--own": own, "--against": against, "--live": live}
    compared["--explain"] = explain
    if forget:
        _need_alone("--forget", compared | {"--findings": findings})
        from console.forgetting import forget as forget_shadow

        return forget_shadow(run, shadow, is_sure=yes)
    if findings:
        _need_alone("--findings", compared)
        return _listed(run, with_healed=all_)
    foreign = _live_table(run, against, table) if live or against is not None else None
    if watch:
        from console.watching import Watch, watch_drift

        need_source(source, sources=STORE_OR_TOPIC, topic=topic)
        return watch_drift(run, Watch(source, topic, start, restart, foreign, rounds, listen, shadow), explain=explain)
    return _once(run, foreign, own=own, explain=explain)


def watch(
    run: Run,
    *,
    source: From = "store",
    topic: TopicName = None,
    start: Begin = None,
    restart: Restart = False,
    shadow: Named = "shadow",
    listen: Listen = None,
) -> Answer:
    """Keep a shadow beside live, and say the moment that live drifts, where, since when and why.

    Where orders were imported, it reconciles them with the ledger beside that. It goes on until
    Ctrl-C or SIGTERM. The TOML file says which live table is compared (without one our own read
    model is), how, and who is told: its tables are live, watch, reconcile and alerts.
    """
    from console.watching import Watch, watch_drift

    need_source(source, sources=STORE_OR_TOPIC, topic=topic)
    live = _live_table(run) if run.settings.live else None
    return watch_drift(run, Watch(source, topic, start, restart, live, None, listen, shadow, reconciles=True))


def _once(run: Run, foreign: LiveTable | None, *, own: bool, explain: bool) -> Answer:
    from console.drift_answers import compared_answer, explained
    from replay import drift as compare

    rejects = None
    with run.ledger_with_events() as store:
        with run.progress("comparing") as progress:
            if foreign is None:
                found = compare(store, live="read_model" if own else None, progress=progress)
            else:
                from console.live_tables import compare_once

                found, rejects = compare_once(run, store, foreign, progress)
        until, is_own = found.certificate.store_position, found.live == "read_model"
        told = explained(store, found.accounts, until=until, is_own=is_own) if explain else None
    return compared_answer(found, rejects, told=told)


def _listed(run: Run, *, with_healed: bool) -> Answer:
    from console.drift_answers import findings_answer
    from ledger import comparisons, findings

    with run.ledger() as store, store.snapshot() as connection:
        states: tuple[findings.State, ...] = ("suspected", "drift", "uncompared")
        found = findings.listed(connection, states=(*states, "healed") if with_healed else states)
        whole = {each.name: each.whole_at for each in comparisons.listed(connection)}
        return findings_answer(found, whole)


def _live_table(run: Run, against: str | None = None, table: str | None = None) -> LiveTable:
    from console.live_tables import live_table

    return live_table(run, against, table)


def _need_alone(alone: str, given: dict[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise UsageError(f"{alone} compares nothing, so {name} has no effect", next_step="leave one of them away")
