"""What a recovery is about: the live rows, the copies of the stream, and the parts of the system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import make_url, select
from sqlalchemy.exc import ArgumentError

from console.archive_place import FOLDER
from console.live_tables import live_table
from console.words import live_rows
from ledger.importing.file_copy import FileCopy
from ledger.tables import IMPORTED_ACCOUNTS
from replay.comparison.live_table import LiveTable
from replay.recovery.check import Places, SystemState, check_system
from replay.recovery.copy_parts import archive_check, foreign_live, foreign_open, own_live
from replay.recovery.healed import Healing
from replay.recovery.own_target import OwnReadModel
from replay.recovery.planning import target_of
from replay.recovery.table_target import TableTarget
from schemas.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from console.run import Run
    from ledger.importing import Healed
    from ledger.store import Store
    from replay.certificate import Certificate
    from replay.drift import Drift
    from replay.recovery.plan import Plan

__all__ = [
    "Copies",
    "LiveRows",
    "has_copy",
    "has_imported",
    "healing_from",
    "names_live",
    "opened_target",
    "system_state",
    "table_of_plan",
    "wanted_table",
]

TOPIC, FILE = "topic", "file"


class LiveRows(NamedTuple):
    """The options that name live rows, at most one kind of which is given."""

    own: bool = False
    live: bool = False
    against: str | None = None
    table: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether any is."""
        return self.own or self.live or self.against is not None


class Copies(NamedTuple):
    """The options that name copies of the stream, None as configured."""

    topic: str | None = None
    archive: str | None = None


def wanted_table(run: Run, store: Store, rows: LiveRows) -> LiveTable | None:
    """Return the table that the options name, else the imported rows, else that of [live]; None for our read model."""
    if rows.live or rows.against is not None:
        return live_table(run, rows.against, rows.table)
    if rows.own:
        return None
    if has_imported(store):
        return _imported(store)
    return live_table(run) if names_live(run) else None


def names_live(run: Run) -> bool:
    """Whether [live] in the TOML file names a table, and not only how rows of one read."""
    return bool({"url", "table"} & run.settings.live.keys())


def table_of_plan(run: Run, store: Store, plan: Plan, rows: LiveRows) -> LiveTable | None:
    """Return the table that a plan is of, None for our own read model; RefusedError where the options name another.

    A plan has no password: where the table needs one, the options or `[live]` in the TOML file say it.
    """
    if rows.is_given:
        found = wanted_table(run, store, rows)
        if target_of(store, found) != plan.target:
            raise RefusedError(
                f"the plan is of other live rows: {_rows_of(plan)} in {plan.target.database}",
                where="the options",
                next_step="name the table that `recover plan` was given, or leave the options away",
            )
        return found
    if plan.target.kind == "read_model":
        return None
    if plan.target.kind == "imported":
        return _imported(store)
    if run.settings.live:
        found = live_table(run)
        if target_of(store, found) == plan.target:
            return found
    return live_table(run, plan.target.database, plan.target.table)


def _rows_of(plan: Plan) -> str:
    return live_rows(plan.target.kind, plan.target.table)


@contextmanager
def opened_target(store: Store, table: LiveTable | None) -> Iterator[TableTarget | OwnReadModel]:
    """Yield what a recovery corrects, closed in the end."""
    target = OwnReadModel(store) if table is None else TableTarget(table)
    try:
        yield target
    finally:
        target.close()


def healing_from(run: Run, source: str) -> Healing:
    """Return the copy that lost events come from: `topic`, `topic NAME`, `file PATH` (as a plan has it) or a path.

    UsageError where there is no such file or topic.
    """
    kind, _, name = source.partition(" ")
    if source == TOPIC or (kind == TOPIC and name and not Path(source).exists()):
        return _healing_from_topic(run, run.topic(name or None))
    path = Path(name if kind == FILE and name and not Path(source).exists() else source).absolute()
    if not path.is_file():
        raise UsageError(
            "there is no such file to heal from",
            where=str(path),
            next_step="name a file that `export events` wrote, or topic",
        )
    return Healing(source=f"{FILE} {path}", copy=FileCopy(path))


def _healing_from_topic(run: Run, name: str) -> Healing:
    from consumers.healing import TopicCopy, topic_of_events

    kafka = run.kafka()
    return Healing(source=f"{TOPIC} {name}", copy=TopicCopy(kafka, topic_of_events(kafka, name)))


def system_state(
    run: Run,
    store: Store | None,
    live: LiveTable | None,
    *,
    is_own: bool,
    copies: Copies,
    error: Exception | None = None,
) -> SystemState:
    """Look at every part of the system; `error` says why there is no store, `live` is a table of other rows."""
    topic, heal = _topic(run, copies.topic)
    archive = run.archive(copies.archive)
    places = Places(
        folder=run.data,
        store_folder=_store_folder(run),
        store_error=error,
        topic=topic,
        archive=archive_check(archive),
        live=_live(live, is_own=is_own),
        live_open=foreign_open(live) if live is not None else None,
        copies={} if heal is None else {"the topic": heal},
    )
    with run.progress("checking") as progress:
        return check_system(store, places=places, now=run.now, progress=progress)


def _store_folder(run: Run) -> Path | None:
    """Return the folder of the store's file, None where it is none."""
    url = run.options.store or run.settings.store
    if url is None:
        return run.data
    try:
        found = make_url(url)
    except ArgumentError:
        # Opening the store has said so already.
        return None
    is_file = found.get_backend_name() == "sqlite" and found.database
    return Path(str(found.database)).parent if is_file else None


def _live(live: LiveTable | None, *, is_own: bool) -> Callable[[Store], Drift | None]:
    if live is not None and live.table != IMPORTED_ACCOUNTS.name:
        return foreign_live(live)
    return _read_model if is_own else own_live


def _read_model(store: Store) -> Drift | None:
    """Compare our own read model with the log, None where there is none."""
    from ledger import read_model
    from replay.drift import drift

    with store.snapshot() as connection:
        is_there = read_model.live(connection) is not None
    return drift(store, live="read_model") if is_there else None


def has_copy(run: Run, copies: Copies) -> bool:
    """Whether a topic or an archive is named, configured or there, that a lost ledger could be brought back from."""
    has_topic = run.options.bootstrap_servers is not None or run.settings.kafka.bootstrap_servers is not None
    has_archive = copies.archive is not None or run.settings.archive.url is not None
    return has_topic or has_archive or (run.data / FOLDER).exists()


def _topic(
    run: Run, name: str | None
) -> tuple[Callable[[Store | None], Certificate | None] | None, Callable[[Store], Healed] | None]:
    """Return what replays the topic and what would heal from it; nothing where no brokers are configured."""
    if run.options.bootstrap_servers is None and run.settings.kafka.bootstrap_servers is None:
        if name is not None:
            run.kafka()  # It says what is missing.
        return None, None
    from consumers.healing import heal_from_topic
    from replay.recovery.topic_check import topic_check

    kafka, wanted = run.kafka(), run.topic(name)

    def heal(store: Store) -> Healed:
        return heal_from_topic(store, kafka, wanted, dry_run=True, skip_conflicts=True)

    return topic_check(kafka, wanted), heal


def has_imported(store: Store) -> bool:
    """Whether `import accounts` has made a copy of live rows."""
    with store.snapshot() as connection:
        return connection.execute(select(IMPORTED_ACCOUNTS.c.account_id).limit(1)).first() is not None


def _imported(store: Store) -> LiveTable:
    """Return the imported rows as a table; nobody writes them meanwhile, so that one look is enough."""
    url = store.url.render_as_string(hide_password=False)
    return LiveTable(url=url, table=str(IMPORTED_ACCOUNTS.name), settle_seconds=0, looks_min=1)
