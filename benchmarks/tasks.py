"""What is measured, each in a process of its own: `python -m benchmarks.tasks NAME FOLDER`.

A folder holds `transactions.csv`, and then what the tasks make of it: `ours/ledger.db` and `peer.db`. The last line
of output is one JSON object: `seconds` (the measured part alone), `events`, `check` (what ours and the peer's must
agree on), `peak_bytes` and `cpu_seconds` (of the whole process), and `settings`. Tasks on a topic (`benchmarks.topics`)
also say `processes`, how many others did the work; their memory and processor time are added.
"""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from eventsourcing.persistence import StoredEvent

from benchmarks import archives, comparisons, following, following_topics, peer, reconciling, topics
from ledger.store import Store

__all__ = ["TASKS", "main"]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSERT_EVENTS = 1_000
PAGE_EVENTS = 10_000


def import_ours(folder: Path) -> dict[str, Any]:
    """Import the CSV, with validation, into a new ledger."""
    from ledger.importing import FileSource, import_transactions

    shutil.rmtree(folder / "ours", ignore_errors=True)
    store = Store.at(folder / "ours")
    start = perf_counter()
    done = import_transactions(
        store, FileSource(folder / "transactions.csv"), now=NOW, rejects=folder / "rejects.jsonl"
    )
    seconds = perf_counter() - start
    assert done.rejected == 0, f"{done.rejected} rows of a generated file were rejected"
    with store.snapshot() as connection:
        settings = {name: str(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in peer.PRAGMAS}
    store.close()
    return {"seconds": seconds, "events": done.events, "check": done.events, "settings": settings}


def import_peer(folder: Path) -> dict[str, Any]:
    """Insert the same events, ready made and in the same order, through the library's recorder."""
    for path in folder.glob("peer.db*"):
        path.unlink()
    recorder = peer.recorder(folder / "peer.db")
    seconds, events = 0.0, 0
    for ready in _ready_events(folder):
        start = perf_counter()
        recorder.insert_events(ready)
        seconds += perf_counter() - start
        events += len(ready)
    return {"seconds": seconds, "events": events, "check": events, "settings": peer.pragmas(recorder)}


def rebuild_ours(folder: Path) -> dict[str, Any]:
    """Rebuild balances and account status from the store into a new generation of the read model."""
    from replay import rebuild

    store = Store.at(folder / "ours")
    start = perf_counter()
    done = rebuild(store, now=NOW)
    seconds = perf_counter() - start
    assert done.verdict == "COMPLETE", f"{done.verdict} on a whole ledger"
    with store.snapshot() as connection:
        totals = connection.exec_driver_sql(
            "SELECT count(*), sum(balance), sum(frozen), sum(pending_credit), sum(pending_debit),"
            f" sum(status <> 'active') FROM ledger_accounts WHERE generation = {done.generation}"
        ).one()
    store.close()
    return {"seconds": seconds, "events": done.certificate.events, "check": list(totals), "settings": {}}


def rebuild_peer(folder: Path) -> dict[str, Any]:
    """Keep the same sums in a loop over the library's notifications and a mapper, in memory only."""
    recorder = peer.recorder(folder / "peer.db")
    start = perf_counter()
    events, (sums, statuses) = peer.add_up(recorder, PAGE_EVENTS)
    seconds = perf_counter() - start
    totals = [sum(column) for column in zip(*sums.values(), strict=True)]
    check = [len(sums), *totals, sum(status != "active" for status in statuses.values())]
    return {"seconds": seconds, "events": events, "check": check, "settings": {}}


def _ready_events(folder: Path) -> Iterator[list[StoredEvent]]:
    """Yield the events of our ledger as the library's own, as many as one call takes."""
    store = Store.at(folder / "ours")
    with store.snapshot() as connection:
        for batch in store.read(connection, batch_events=INSERT_EVENTS):
            rows = batch.select("account_id", "version", "state").iter_rows()
            yield [StoredEvent(account_id, version, "event", state) for account_id, version, state in rows]
    store.close()


TASKS: dict[str, Callable[[Path], dict[str, Any]]] = (
    {task.__name__: task for task in (import_ours, import_peer, rebuild_ours, rebuild_peer)}
    | topics.TASKS
    | archives.TASKS
    | following.TASKS
    | following_topics.TASKS
    | comparisons.TASKS
    | reconciling.TASKS
)


def main() -> None:
    """Run one task and print what it measured."""
    name, folder = sys.argv[1:]
    measured = TASKS[name](Path(folder))
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = own.ru_maxrss
    measured["cpu_seconds"] = own.ru_utime + own.ru_stime
    if processes := measured.pop("processes", 0):
        # What the system keeps of ended processes is the peak of the largest and the time of all.
        peak += processes * others.ru_maxrss
        measured["cpu_seconds"] += others.ru_utime + others.ru_stime
    # Linux counts it in KiB, macOS in bytes.
    measured["peak_bytes"] = peak if sys.platform == "darwin" else peak * 1024
    print(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
