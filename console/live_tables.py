"""The live table of another system: what the options and the TOML file say of it, and comparing it once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from console.run import Progress, Run
from console.settings import FILE_NAME, Secret
from ledger.importing.rejects import Rejects
from replay.comparison.live_table import LiveTable
from replay.comparison.once import drift_once
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    import polars as pl

    from consumers.reactions import Log
    from ledger.store import Store
    from replay.drift import Drift

__all__ = ["UnreadRows", "compare_once", "live_table"]

#: Rows that cannot be read of which a watch remembers that it said so.
REMEMBERED_MAX = 1_000
#: How long after saying that there are more of them it is said again.
UNNAMED_SECONDS = 60.0


def live_table(run: Run, against: str | None = None, table: str | None = None) -> LiveTable:
    """Return the live table of `[live]` in the TOML file, or of the options with what the file says of it beside.

    ConfigurationError names file and key.
    """
    file = str(run.options.config or run.data / FILE_NAME)
    said = dict(run.settings.live)
    if against is not None and table is not None:
        # How rows of the old system read may stand under [import], which `import accounts` goes by.
        columns = {name: run.settings.imports[name] for name in _OF_IMPORT if name in run.settings.imports}
        said = columns | said | {"url": against, "table": table}
    elif not said:
        raise ConfigurationError("there is no [live] table", where=file, next_step="name the live table there")
    url = said.get("url")
    try:
        if isinstance(url, dict):
            said["url"] = msgspec.convert(url, Secret).read("[live] url")
        found = msgspec.convert(said, LiveTable)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"[live] is wrong: {error}", where=file) from error
    found.check(f"{file}, [live]")
    return found


def compare_once(run: Run, store: Store, live: LiveTable, progress: Progress | None) -> tuple[Drift, Rejects]:
    """Compare a live table with a replay of the store, and return where the rows are that could not be read."""
    with Rejects(run.reports / f"rejects-{live.table}.csv") as rejects:
        return drift_once(store, live, rejects=rejects.add, progress=progress), rejects


class UnreadRows:
    """Says of each live row that cannot be read why, once, though it is read in every round.

    Of more rows than it remembers it says only how many there are, and not more often than once in a while.
    """

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: set[tuple[str, str]] = set()
        self._unnamed = 0
        self._again_at = -math.inf

    def add(self, rows: pl.DataFrame) -> None:
        """Take in rows of a round (`REJECT_SCHEMA`)."""
        for reason, row in rows.select("reason", "row").iter_rows():
            if (reason, row) in self._said:
                continue
            if len(self._said) >= REMEMBERED_MAX:
                self._unnamed += 1
                continue
            self._said.add((reason, row))
            self._log.warning("live row cannot be read", reason=reason, row=row)
        if self._unnamed and self._clock() >= self._again_at:
            self._log.warning("more live rows cannot be read than are named", unnamed=self._unnamed)
            self._unnamed, self._again_at = 0, self._clock() + UNNAMED_SECONDS


#: Keys of a mapping that `[live]` has too.
_OF_IMPORT = ("columns", "statuses", "amount_scale", "timezone")
