"""Worker processes that read ranges of positions side by side, handed back in order.

Up to a fixed position a store holds the same rows for every reader, since events are only appended, in the order
of their positions; so ranges may be read apart. What a worker fails to read, the caller reads again by itself, so
that a failure has one place to surface and costs time, never rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import polars as pl

from replay.range_reader import Answer, Request
from schemas import Decoded

__all__ = ["Range", "reading_ranges"]

#: Ranges asked of each worker ahead: one in work, one done.
AHEAD_RANGES = 2


#: One thread a worker, since there is one for each core. The last two keep the C library from giving memory back
#: after every range and asking for it again, which the kernel takes a tenth of the time for.
_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",
    "POLARS_MAX_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


class Range(NamedTuple):
    """The positions after `after` up to `until`, and the query that gives their events."""

    after: int
    until: int
    sql: str


class _Asked(NamedTuple):
    wanted: Range
    worker: subprocess.Popen[bytes]
    file: Path


@contextmanager
def reading_ranges(
    database: str, ranges: Iterable[Range], details: tuple[str, ...]
) -> Iterator[Iterator[tuple[Range, Decoded | None]]]:
    """Start workers and yield their answers: each range in order, None where the caller must read it.

    `database` is the path of an SQLite file. There are as many workers as cores; they start while the caller does
    something else.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledger-replay-")))
        workers = [_start(database, stack) for _ in range(max(2, os.cpu_count() or 1))]
        turns = zip(ranges, cycle(workers), count(), strict=False)
        asked = (_asked(wanted, worker, details, folder / f"{number}.arrow") for wanted, worker, number in turns)
        first = list(islice(asked, AHEAD_RANGES * len(workers)))
        yield _answers(deque(first), asked)


def _answers(asked: deque[_Asked], later: Iterator[_Asked]) -> Iterator[tuple[Range, Decoded | None]]:
    while asked:
        answer = _received(asked.popleft())
        asked.extend(islice(later, 1))
        yield answer


def _start(database: str, stack: ExitStack) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("range_reader.py")
    # What this process can import the worker can; its folder itself would put other modules in the way.
    path = os.pathsep.join([str(script.parents[1]), *(entry for entry in sys.path if entry)])
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": path}
    worker = subprocess.Popen(  # noqa: S603 - our own script, by this interpreter.
        [sys.executable, str(script), database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    stack.callback(_stop, worker)
    return worker


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    # Flushing what was asked of a worker that is gone is not worth an error.
    with suppress(BrokenPipeError):
        worker.communicate()


def _asked(wanted: Range, worker: subprocess.Popen[bytes], details: tuple[str, ...], file: Path) -> _Asked:
    request = Request(sql=wanted.sql, details=details, file=str(file))
    # A worker that is gone gives no answer either, and that is where it is noticed.
    with suppress(BrokenPipeError):
        worker.stdin.write(msgspec.json.encode(request) + b"\n")  # type: ignore[union-attr]  # it has a pipe.
        worker.stdin.flush()  # type: ignore[union-attr]
    return _Asked(wanted, worker, file)


def _received(asked: _Asked) -> tuple[Range, Decoded | None]:
    line = asked.worker.stdout.readline()  # type: ignore[union-attr]  # it has a pipe.
    if not line.endswith(b"\n"):
        return asked.wanted, None
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error is not None:
        return asked.wanted, None
    events = pl.read_ipc(asked.file)
    asked.file.unlink()
    return asked.wanted, Decoded(events, answer.poison)
