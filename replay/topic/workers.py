"""Worker processes that replay partitions side by side, a partition at a time each.

Partitions are independent of each other until they are merged, so nothing is shared but the checkpoint folder. What
a worker fails at, this process does itself from the partition's checkpoint, so that a failure has one place to
surface.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from replay.topic.client import open_reader
from replay.topic.partition import Assignment, Outcome, Report, State, replay_partition

__all__ = ["WORKERS_EVENTS_MIN", "replay_partitions"]

#: Records from which worker processes are faster: they take about as long to start as to replay these.
WORKERS_EVENTS_MIN = 100_000

#: A reason after which the other partitions are not tried: they are at the same brokers.
UNREACHABLE = "unreachable"

_ANSWER = msgspec.json.Decoder(State | Outcome)


class _Line(NamedTuple):
    """What a worker said about its partition, None where it ended without an outcome."""

    worker: int
    found: State | Outcome | None


def replay_partitions(assignments: list[Assignment], *, workers: int, report: Report) -> dict[int, Outcome]:
    """Return the outcome of each assignment, by partition; the longest are begun first.

    Once brokers are out of reach, what is not begun yet is not tried either.
    """
    events = sum(each.until - each.first for each in assignments)
    waiting = deque(sorted(assignments, key=lambda each: each.first - each.until))
    outcomes: dict[int, Outcome] = {}
    if events < WORKERS_EVENTS_MIN:
        failed = list(waiting)
    else:
        failed = []
        for assignment, outcome in _by_workers(waiting, min(workers, len(assignments)), report):
            if outcome is None:
                failed.append(assignment)
            else:
                outcomes[assignment.partition] = outcome
    for outcome in _by_ourselves(failed, report, is_lost=_is_lost(outcomes)):
        outcomes[outcome.partition] = outcome
    return outcomes


def _is_lost(outcomes: dict[int, Outcome]) -> bool:
    return any(outcome.reason == UNREACHABLE for outcome in outcomes.values())


def _by_ourselves(assignments: list[Assignment], report: Report, *, is_lost: bool) -> Iterator[Outcome]:
    if not assignments:
        return
    with ExitStack() as stack:
        spill = Path(stack.enter_context(TemporaryDirectory(prefix="ledger-replay-")))
        reader = None
        for assignment in assignments:
            if is_lost:
                yield _not_tried(assignment)
                continue
            if reader is None:
                reader = stack.enter_context(open_reader(assignment.connection, assignment.topic))
            outcome = replay_partition(assignment, reader, spill, report)
            is_lost = outcome.reason == UNREACHABLE
            yield outcome


def _by_workers(
    waiting: deque[Assignment], workers: int, report: Report
) -> Iterator[tuple[Assignment, Outcome | None]]:
    """Yield each assignment with its outcome, None where its worker ended without one."""
    said: SimpleQueue[_Line] = SimpleQueue()
    with ExitStack() as stack:
        processes = [_start(number, said.put, stack) for number in range(workers)]
        busy: dict[int, Assignment] = {}
        for number, process in enumerate(processes):
            busy[number] = waiting.popleft()
            _ask(process, busy[number])
        is_lost = False
        while busy:
            number, found = said.get()
            if isinstance(found, State):
                report(found)
                continue
            if number not in busy:
                continue
            yield busy.pop(number), found
            is_lost = is_lost or (found is not None and found.reason == UNREACHABLE)
            if waiting and found is not None and not is_lost:
                busy[number] = waiting.popleft()
                _ask(processes[number], busy[number])
        for assignment in waiting:
            yield assignment, _not_tried(assignment) if is_lost else None


def _not_tried(assignment: Assignment) -> Outcome:
    details = "not tried, since no broker answered for another partition"
    return Outcome(
        partition=assignment.partition, position=assignment.first, parked=[], reason=UNREACHABLE, details=details
    )


def _start(number: int, say: Callable[[_Line], None], stack: ExitStack) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("worker.py")
    # What this process can import the worker can; its folder itself would put other modules in the way.
    path = os.pathsep.join([str(script.parents[2]), *(entry for entry in sys.path if entry)])
    worker = subprocess.Popen(  # noqa: S603 - our own script, by this interpreter.
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": path},
    )
    listener = threading.Thread(target=_listen, args=(number, worker, say), daemon=True)
    listener.start()
    stack.callback(_stop, worker, listener)
    return worker


def _stop(worker: subprocess.Popen[bytes], listener: threading.Thread) -> None:
    worker.kill()
    worker.wait()
    listener.join()
    for pipe in (worker.stdin, worker.stdout):
        # Flushing what was asked of a worker that is gone is not worth an error.
        with suppress(BrokenPipeError):
            pipe.close()  # type: ignore[union-attr]  # it has both pipes.


def _ask(worker: subprocess.Popen[bytes], assignment: Assignment) -> None:
    # A worker that is gone gives no answer either, and that is where it is noticed.
    with suppress(BrokenPipeError):
        worker.stdin.write(msgspec.json.encode(assignment) + b"\n")  # type: ignore[union-attr]  # it has a pipe.
        worker.stdin.flush()  # type: ignore[union-attr]


def _listen(number: int, worker: subprocess.Popen[bytes], say: Callable[[_Line], None]) -> None:
    for line in worker.stdout:  # type: ignore[union-attr]  # it has a pipe.
        if line.endswith(b"\n"):
            say(_Line(number, _ANSWER.decode(line)))
    say(_Line(number, None))
