"""A process that follows: `python -m tests.recovery.shadower URL [process] [POINT TIME]`, with a line once it follows.

It goes on for ever; with a point it ends itself as `kill -9` would, the given time that it passes there. With `process`
its batches are made in a process of its own from then on, whose id is in the line.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

import consumers.shadow_batches
from consumers.shadow import StoreShadow
from ledger import Store

#: Small enough for many batches in a second's run.
BATCH_EVENTS = 40


def main(url: str, *options: str) -> None:
    """Follow until killed."""
    point, times = ([each for each in options if each != "process"] or ["", "0"])[:2]
    left = 0

    def at(place: str) -> None:
        nonlocal left
        left -= place == point
        if place == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    shadow = StoreShadow(Store(url), batch_events=BATCH_EVENTS, catch_up_events=BATCH_EVENTS, at=at)
    number = with_process(shadow) if "process" in options else ""
    left = int(times)
    sys.stdout.write(f"began {number}\n")
    sys.stdout.flush()
    while True:
        if not shadow.step().events:
            time.sleep(0.005)


def with_process(shadow: StoreShadow) -> int:
    """Have the batches made in a process, wait until it has started, and return its id."""
    consumers.shadow_batches.PROCESS_EVENTS_MIN = BATCH_EVENTS
    shadow.step()
    process = shadow._batches.process
    assert process is not None
    select.select([process.process.stdout], [], [])
    return process.process.pid


if __name__ == "__main__":
    main(*sys.argv[1:])
