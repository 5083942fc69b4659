"""Scenes of a recovery that can be played again and again: a ledger, a damaged live table, and the approved plan."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from copies import stream_of
from ledgers import lose_event
from live_tables import Live
from recoveries import (
    COPY_FILE,
    REPORT,
    account_entries,
    approved,
    audit_is_whole,
    contents,
    damage,
    history,
    live_of,
    planned,
)
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from ledger import Store, fence
from ledger.importing.file_copy import FileCopy
from ledger.recovery_runs import Runs
from replay.recovery.healed import Healing
from replay.recovery.outcome import outcomes, totals
from replay.recovery.plan import Plan, run_of, write_plan

__all__ = ["End", "PostgresScene", "Scene", "SqliteScene"]

#: Processes are forked from one that has imported everything and done nothing, so that each begins at once.
_PROCESSES = multiprocessing.get_context("forkserver")
SECONDS_MAX = 120
KILLED = -9


class End(NamedTuple):
    """What counts of a run that is over: what others see, what the audit trail has of accounts, totals, and report."""

    status: str
    live: list[tuple[Any, ...]]
    entries: list[tuple[Any, ...]]
    totals: bytes
    report: bytes | None
    is_whole: bool
    is_fenced: bool


class Scene:
    """A scene; `reset` makes it what it was before anybody applied the plan."""

    def __init__(self, folder: Path, url: str, live_url: str, accounts: int) -> None:
        self.folder, self.url, self.live_url = folder, url, live_url
        #: How long the last process was at work that came to its end.
        self.seconds = 0.0
        with self.opened() as (store, live):
            live.table.create(live.engine)
            history(store, accounts)
            damage(store, live)
            copy = folder / COPY_FILE
            copy.write_bytes(b"".join(b"%s\n" % line for part in stream_of(store) for line in part if line))
            lose_event(store, "a00003", 3)
            healing = Healing(f"file {copy}", FileCopy(copy))
            self.plan: Plan = approved(store, planned(store, live_of(live), heal=healing))
            assert self.plan.heal
        write_plan(self.plan, folder / "plan.json")
        self.keep()

    @property
    def run(self) -> str:
        """The name of the run."""
        return run_of(self.plan)

    @contextmanager
    def opened(self) -> Iterator[tuple[Store, Live]]:
        """Yield the store and the live table."""
        with closing(Store(self.url)) as store, closing(Live(self.live_url, is_made=True)) as live:
            yield store, live

    def play(
        self, what: str, *, seconds: int = 0, point: tuple[str, int] | None = None, kill_after: float | None = None
    ) -> str:
        """Apply, resume or abort in a process of its own; return what it said, `killed` where it was.

        `point` is a failpoint and how often it must be reached, `kill_after` seconds from where it begins.
        """
        from tests.recovery.recoverer import Order, recover

        heard, said = _PROCESSES.Pipe(duplex=False)
        order = Order(what, self.url, self.live_url, str(self.folder), seconds, point)
        process = _PROCESSES.Process(target=recover, args=(order, said))
        process.start()
        said.close()
        words: list[str] = []
        try:
            words.append(heard.recv())
            began = time.monotonic()
            if kill_after is not None:
                time.sleep(kill_after)
                process.kill()
            words.append(heard.recv())
            self.seconds = time.monotonic() - began
        except EOFError:
            pass
        finally:
            heard.close()
            process.join(SECONDS_MAX)
        if process.exitcode == KILLED:
            return "killed"
        assert process.exitcode == 0, f"the process ended with {process.exitcode} after {words}"
        return words[-1]

    def end(self) -> End:
        """Return how things are."""
        with self.opened() as (store, live):
            recovery, report = Runs(store).get(self.run), self.folder / REPORT
            with store.snapshot() as connection:
                found = totals(outcomes(connection, self.run).values())
                state = fence.state(connection)
            return End(
                status="" if recovery is None else recovery.status,
                live=contents(live),
                entries=account_entries(store, self.run),
                totals=msgspec.json.encode(found),
                report=report.read_bytes() if report.exists() else None,
                is_whole=audit_is_whole(store),
                is_fenced=state is not None and state.is_up,
            )

    def keep(self) -> None:
        """Keep everything as it is now."""
        raise NotImplementedError

    def reset(self) -> None:
        """Make everything what it was when it was kept."""
        shutil.rmtree(self.folder / "recovery", ignore_errors=True)
        (self.folder / REPORT).unlink(missing_ok=True)


class SqliteScene(Scene):
    """Ledger and live table in two files."""

    def __init__(self, folder: Path, accounts: int) -> None:
        super().__init__(folder, f"sqlite:///{folder}/ledger.db", f"sqlite:///{folder}/live.db", accounts)

    def keep(self) -> None:
        """Copy the files, which nobody has open."""
        for name in ("ledger.db", "live.db"):
            shutil.copy(self.folder / name, self.folder / f"{name}.kept")

    def reset(self) -> None:
        """Copy them back, without the logs of a process that was killed."""
        super().reset()
        for name in ("ledger.db", "live.db"):
            for suffix in ("-wal", "-shm", "-journal"):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
            shutil.copy(self.folder / f"{name}.kept", self.folder / name)


class PostgresScene(Scene):
    """Ledger and live table in one database."""

    def __init__(self, folder: Path, url: str, accounts: int) -> None:
        self._kept = f"{make_url(url).database}_kept"
        super().__init__(folder, url, url, accounts)

    def keep(self) -> None:
        """Make a database like it."""
        self._copy(str(make_url(self.url).database), self._kept)

    def reset(self) -> None:
        """Make it again from that one."""
        super().reset()
        self._copy(self._kept, str(make_url(self.url).database))

    def _copy(self, old: str, new: str) -> None:
        server = create_engine(make_url(self.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            # A process that was killed may still be known to the server.
            connection.execute(text(f"DROP DATABASE IF EXISTS {new} WITH (FORCE)"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": old}
            )
            connection.execute(text(f"CREATE DATABASE {new} TEMPLATE {old}"))
        server.dispose()

    def drop(self) -> None:
        """Remove the copy."""
        server = create_engine(make_url(self.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {self._kept} WITH (FORCE)"))
        server.dispose()


_PROCESSES.set_forkserver_preload(["tests.recovery.recoverer"])
