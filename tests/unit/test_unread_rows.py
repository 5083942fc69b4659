"""What a watch says of live rows that cannot be read."""

from __future__ import annotations

import polars as pl
import pytest
from live_tables import Clock

from console import live_tables
from console.live_tables import UNNAMED_SECONDS, UnreadRows
from ledger.importing.rejects import REJECT_SCHEMA


class Lines:
    """A log that keeps its warnings."""

    def __init__(self) -> None:
        self.said: list[dict[str, object]] = []

    def warning(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.said.append({"event": event} | values)

    info = error = warning


def rejects(*rows: str) -> pl.DataFrame:
    """Rows that cannot be read."""
    return pl.DataFrame([(1, "balance is none", None, None, row) for row in rows], schema=REJECT_SCHEMA, orient="row")


def test_each_row_is_named_once() -> None:
    """A row that is read in every round is one line, and another one is another."""
    log = Lines()
    unread = UnreadRows(log)
    unread.add(rejects("a", "b"))
    unread.add(rejects("a", "b", "c"))
    assert [line["row"] for line in log.said] == ["a", "b", "c"]


def test_more_rows_than_are_remembered_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many to name, the log says how many, once in a while, and goes on saying so."""
    monkeypatch.setattr(live_tables, "REMEMBERED_MAX", 2)
    log, clock = Lines(), Clock()
    unread = UnreadRows(log, clock=clock)
    unread.add(rejects("a", "b", "c", "d"))
    unread.add(rejects("a", "b", "c", "d"))
    assert [line.get("unnamed") for line in log.said] == [None, None, 2]
    clock.sleep(UNNAMED_SECONDS)
    unread.add(rejects("e"))
    assert [line.get("unnamed") for line in log.said] == [None, None, 2, 3]
