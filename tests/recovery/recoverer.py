"""What a process does that applies, resumes or aborts a recovery, and that dies where it is told to."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from recoveries import NOW, around_of, work_on

from ledger import Store
from replay.comparison.live_table import LiveTable
from replay.recovery.applying import abort, apply, resume
from replay.recovery.failpoints import set_failpoints
from replay.recovery.plan import read_plan
from replay.recovery.table_target import TableTarget

__all__ = ["Order", "recover"]

#: A run has about so many batches.
BATCHES = 6


class Order(NamedTuple):
    """Apply, resume or abort `plan.json` of a folder, so many seconds after it was made; die at a point, if any."""

    what: str
    url: str
    live_url: str
    folder: str
    seconds: int
    point: tuple[str, int] | None


def recover(order: Order, said: Connection) -> None:
    """Do what is ordered, and say that it begins and how it ended."""
    what, url, live_url, folder, seconds, point = order
    if point is not None:
        _die_at(*point)
    live = LiveTable(url=live_url, table="accounts", settle_seconds=0, looks_min=1)
    plan = read_plan(Path(folder) / "plan.json")
    moment = NOW + timedelta(seconds=seconds)
    batch = len({each.account_id for each in plan.changes}) // BATCHES + 1
    with closing(Store(url, create=False)) as store, closing(TableTarget(live)) as target:
        own: dict[str, Any] = {"holder": str(os.getpid()), "now": lambda: moment, "batch": batch}
        work = work_on(store, plan, target, Path(folder), around=around_of(store, plan, Path(folder)), **own)
        said.send("began")
        if what == "abort":
            said.send(str(abort(work, reason="given up").not_restored))
        else:
            said.send((apply(work) if what == "apply" else resume(work)).status)


def _die_at(point: str, times: int) -> None:
    reached = [0]

    def look(name: str) -> None:
        reached[0] += name == point
        if reached[0] == times:
            os.kill(os.getpid(), signal.SIGKILL)

    set_failpoints(look)
