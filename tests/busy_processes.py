"""Writers and projectors that run as processes of their own, and are killed and started again (recovery/busy.py)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Busy", "busy"]

ROOT = Path(__file__).parents[1]


class Busy:
    """A process that can be killed and started again."""

    def __init__(self, what: str, url: str, chance: random.Random, events: int) -> None:
        self._what, self._url, self._chance, self._events = what, url, chance, events
        self.kills = 0
        self.start()

    def start(self) -> None:
        """Start it with another seed than the last time."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        arguments = [self._what, self._url, str(self._chance.randrange(2**32)), str(self._events)]
        command = [sys.executable, "-m", "tests.recovery.busy", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)

    def is_done(self) -> bool:
        """Whether it has come to its end, which no error is."""
        status = self._process.poll()
        assert status in (None, 0), f"the {self._what} ended with {status}"
        return status == 0

    def kill(self) -> None:
        """Kill it, and start another, unless it has ended by itself."""
        if not self.is_done():
            self._process.send_signal(signal.SIGKILL)
            self.kills += self._process.wait() == -signal.SIGKILL
            self.start()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def busy(what: str, url: str, chance: random.Random, events: int) -> Iterator[Busy]:
    """Yield a running process, which is gone after it."""
    process = Busy(what, url, chance, events)
    try:
        yield process
    finally:
        process.close()
