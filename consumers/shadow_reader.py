"""A process that reads and folds batches for a shadow; started by `consumers.shadow_process`.

Run as a script. What to follow and then a request for each batch come as pickles on standard input; answers go as
pickles to standard output, before each the names of the places that it passes. An error ends the process: the one
that asked makes the batch itself. The end of standard input ends it too, so that it does not outlive who asks.
"""

from __future__ import annotations

import gc
import os
import pickle
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

if __name__ == "__main__":
    # These packages import all that their users may want: twice as long to start.
    for package in ("ledger", "replay", "consumers"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(Path(__file__).parents[1] / package)]
    if sys.platform == "linux":
        # What one thread of this process hands to another stays in the cache of one core, and nobody has to be woken
        # on another: a batch takes a quarter less. Who is not bound to a core makes room. Chance decides, since
        # process ids repeat in containers of one image; where it may not be bound, it only takes longer.
        with suppress(OSError):
            os.sched_setaffinity(0, {secrets.choice(sorted(os.sched_getaffinity(0)))})
    # What it is sent was made of the class of this name.
    sys.modules["consumers.shadow_reader"] = sys.modules["__main__"]

from sqlalchemy.engine import URL

from consumers.shadow_reading import Reading, Taken
from ledger.shadows import Shadow
from ledger.store import Store
from replay.rows import Beside

__all__ = ["READY", "Followed", "Request"]

#: What it says once it takes requests.
READY = "ready"


class Followed(NamedTuple):
    """The store that is followed, the sizes of its batches and what is kept beside its rows.

    All are as `consumers.shadow_reading.Reading` takes them; what is kept beside rows is of a class of some module.
    """

    url: URL
    batch_events: int
    catch_up_events: int
    beside: Beside | None = None


class Request(NamedTuple):
    """The batch after `before`; `is_new` where that is none, or none that this process made: it begins from there."""

    shadow: Shadow
    before: Taken | None
    is_new: bool


def serve() -> None:
    """Answer requests until standard input ends."""
    followed = _heard()
    if not isinstance(followed, Followed):
        return
    store = Store(followed.url, create=False)
    reading = Reading(store, followed.batch_events, followed.catch_up_events, _say, followed.beside)
    # What is imported stays, and the collector need not walk it; nor the rows of a batch, again and again.
    gc.freeze()
    gc.set_threshold(100_000)
    _say(READY)
    last: Taken | None = None
    while isinstance(request := _heard(), Request):
        if request.is_new:
            reading.forget()
            last = request.before
        last = reading.made(request.shadow, last)
        _say(last)
    store.close()


def _heard() -> Followed | Request | None:
    try:
        heard: Followed | Request = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one.
    except EOFError:
        return None
    return heard


def _say(found: Taken | str | None) -> None:
    pickle.dump(found, sys.stdout.buffer, protocol=pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
