"""`python -m benchmarks [--events N]`: measure everything in turn and write RESULTS.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import topics
from benchmarks.report import EVENTS_JUDGED_MIN, Result, render
from tests.kafka_broker import BrokerUnavailableError

HERE = Path(__file__).parent
ROOT = HERE.parent
GROWTH = 5
EVENTS_PER_ACCOUNT = 20
Measured = dict[str, Any]


def main() -> None:
    """Measure and report; exit status 1 where a target is missed at full size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--events", type=int, default=1_000_000, help="transaction rows of the smaller ledger")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are compared")
    parser.add_argument("--data", type=Path, default=HERE / "data", help="scratch folder, emptied at the end")
    parser.add_argument(
        "--output", type=Path, help="default: RESULTS.md here where the targets are judged, else only printed"
    )
    options = parser.parse_args()
    shutil.rmtree(options.data, ignore_errors=True)
    load_before = os.getloadavg()[0]
    try:
        results = _measure(options.data, options.events, options.runs)
    finally:
        shutil.rmtree(options.data, ignore_errors=True)
    text = render(results, events=options.events, runs=options.runs, now=datetime.now(UTC), load_before=load_before)
    print(text)
    is_judged = options.events >= EVENTS_JUDGED_MIN
    output = options.output or (HERE / "RESULTS.md" if is_judged else None)
    if output:
        output.write_text(text)
    sys.exit(1 if is_judged and any(result.is_met is False for result in results) else 0)


def _measure(data: Path, events: int, runs: int) -> list[Result]:
    accounts = max(events // EVENTS_PER_ACCOUNT, 10)
    small = _generated(data / "small", accounts, events)
    imports, imports_peer = _in_turn([("import_ours", small), ("import_peer", small)], runs)
    assert imports[0]["settings"] == imports_peer[0]["settings"], "the databases are not set alike"
    rebuilds, rebuilds_peer = _in_turn([("rebuild_ours", small), ("rebuild_peer", small)], runs)
    large = _generated(data / "large", accounts, events * GROWTH)
    _run("import_ours", large)
    small_again, grown = _in_turn([("rebuild_ours", small), ("rebuild_ours", large)], runs)
    return [
        Result.faster("import of a CSV with validation", imports, imports_peer, times_min=4.0),
        Result.below("import: peak memory", imports, bytes_max=1e9),
        Result.faster("rebuild from the store", rebuilds, rebuilds_peer, times_min=6.0),
        Result.faster("rebuild at 5x the events, the library's rate as above", grown, rebuilds_peer, times_min=6.0),
        Result.cost("rebuild: cost per event at 5x the events", grown, small_again, times_max=1.2),
        Result.memory("rebuild: peak memory at 5x the events", grown, small_again, times_max=1.2),
        *_measure_topics(small, large, runs),
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
