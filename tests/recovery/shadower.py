"""A process that follows: `python -m tests.recovery.shadower URL [POINT TIME]`, with a line once it follows.

It goes on for ever; with a point it ends itself as `kill -9` would, the given time that it passes there.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from consumers.shadow import StoreShadow
from ledger import Store

#: Small enough for many batches in a second's run.
BATCH_EVENTS = 40


def main(url: str, point: str = "", times: str = "0") -> None:
    """Follow until killed."""
    left = int(times)

    def at(place: str) -> None:
        nonlocal left
        left -= place == point
        if place == point and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    shadow = StoreShadow(Store(url), batch_events=BATCH_EVENTS, catch_up_events=BATCH_EVENTS, at=at)
    sys.stdout.write("began\n")
    sys.stdout.flush()
    while True:
        if not shadow.step().events:
            time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
