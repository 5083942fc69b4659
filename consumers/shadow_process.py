"""Reading and folding for a shadow in a process of its own, which does not wait for this one's interpreter."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from consumers.shadow_reader import READY, Followed, Request
from consumers.shadow_reading import Taken
from ledger.shadows import Shadow

if sys.platform == "linux":
    from fcntl import F_SETPIPE_SZ, fcntl

__all__ = ["ReadingProcess", "ReadingProcessGone"]

#: One thread, since this process and the database's have use for the other cores. The last two keep the C library from
#: giving memory back after every batch and asking for it again.
_ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",
    "POLARS_MAX_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}

#: What a pipe should hold: a batch of 5,000 events, so that one that is made waits for nobody.
PIPE_BYTES = 2**20

#: Batches that are asked for at once.
ASKED_MAX = 2


class ReadingProcessGone(Exception):
    """The process ended, by an error or by a hand: what it was asked for must be made elsewhere."""


class ReadingProcess:
    """A process that makes batches as `consumers.shadow_reading.Reading` does; `at` is called in this one.

    It takes a while to start, and nothing can be asked of it before `is_ready`. It makes a batch more than it was asked
    for, which waits until it is.
    """

    def __init__(self, followed: Followed, at: Callable[[str], None]) -> None:
        self._at = at
        self._last: Taken | None = None
        self._is_ready = False
        # How many batches it is making, and those that are made and were not asked for yet.
        self._asked = 0
        self._made: deque[Taken | None] = deque()
        script = Path(__file__).with_name("shadow_reader.py")
        # What this process can import the other can; its folder itself would put other modules in the way.
        path = os.pathsep.join([str(script.parents[1]), *(entry for entry in sys.path if entry)])
        self.process = subprocess.Popen(  # noqa: S603 - our own script, by this interpreter.
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": path},
        )
        if sys.platform == "linux":
            # Somebody who may not have so much only waits a little longer.
            with suppress(OSError):
                fcntl(self.process.stdout.fileno(), F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[union-attr]  # a pipe.
        # One that is gone already is noticed as soon as it is looked for.
        with suppress(ReadingProcessGone):
            self._send(followed)

    def is_ready(self) -> bool:
        """Say whether it has started; ReadingProcessGone if it has ended."""
        if not self._is_ready:
            # Nothing was asked yet, so nothing that it said can be in the buffer of the pipe.
            said = select.poll()
            said.register(self.process.stdout)  # type: ignore[arg-type]  # it has a pipe.
            self._is_ready = bool(said.poll(0)) and self._received() == READY
        return self._is_ready

    def made(self, shadow: Shadow, before: Taken | None) -> Taken | None:
        """Return what `Reading.made` does; ReadingProcessGone if the process has ended, as it does by any error.

        After whatever is raised it is good for nothing but to be closed.
        """
        if before is None or before is not self._last:
            self.settle()
            self._made.clear()
            self._ask(Request(shadow, before, is_new=True))
        # The one after it is begun while this one is handed over and written.
        while self._asked + len(self._made) < ASKED_MAX:
            self._ask(Request(shadow, None, is_new=False))
        self._last = self._made.popleft() if self._made else self._answer()
        return self._last

    def settle(self) -> None:
        """Wait for all that it is making; ReadingProcessGone as of `made`."""
        while self._asked:
            self._made.append(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            # Flushing what was asked of a process that is gone is not worth an error.
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]  # it has both pipes.

    def _ask(self, request: Request) -> None:
        self._send(request)
        self._asked += 1

    def _answer(self) -> Taken | None:
        while isinstance(said := self._received(), str):
            self._at(said)
        self._asked -= 1
        return cast("Taken | None", said)

    def _send(self, what: Followed | Request) -> None:
        try:
            pickle.dump(what, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)  # type: ignore[arg-type]  # a pipe.
            self.process.stdin.flush()  # type: ignore[union-attr]  # it has a pipe.
        except BrokenPipeError as error:
            raise ReadingProcessGone from error

    def _received(self) -> Any:
        try:
            return pickle.load(self.process.stdout)  # type: ignore[arg-type]  # noqa: S301 - our own script wrote it.
        except (EOFError, pickle.UnpicklingError) as error:
            raise ReadingProcessGone from error
