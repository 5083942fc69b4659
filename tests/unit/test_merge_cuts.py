"""How two streams are cut: what is read for a cut, by whom, and that no row is lost or taken twice."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import polars as pl
import pytest

from replay.comparison.foreign_rows import LIVE_SCHEMA
from replay.comparison.merge import Merge
from replay.comparison.replayed import REPLAYED_SCHEMA

SECONDS_MAX = 30


def batches(
    schema: pl.Schema, numbers: range, *, height: int = 10, read: list[int] | None = None
) -> Iterator[pl.DataFrame]:
    """Yield rows of accounts of these numbers, and note the height of each batch that is asked for."""
    ids = [f"{number:06}" for number in numbers]
    for start in range(0, len(ids), height):
        part = ids[start : start + height]
        if read is not None:
            read.append(len(part))
        yield (
            pl.DataFrame({"account_id": part, "balance": [1] * len(part)})
            .join(schema.to_frame().drop("balance"), on="account_id", how="left")
            .select(schema.names())
        )


def test_a_cut_reads_no_more_than_it_needs() -> None:
    """Where batches come out even, no row is read of which the cut says nothing: a live table may be left after it."""
    read: dict[str, list[int]] = {"live": [], "replayed": []}
    merge = Merge(
        batches(LIVE_SCHEMA, range(100), read=read["live"]),
        batches(REPLAYED_SCHEMA, range(100), read=read["replayed"]),
    )
    cut = merge.cut(20)
    assert {side: sum(heights) for side, heights in read.items()} == {"live": 20, "replayed": 20}
    assert cut.until is not None
    assert cut.live["account_id"].to_list() == cut.replayed["account_id"].to_list()


@pytest.mark.parametrize("rows", [1, 7, 10, 20, 99, 100, 1000])
@pytest.mark.parametrize("live", [range(100), range(0, 100, 3), range(50, 130), range(0)])
def test_cuts_take_every_row_once(rows: int, live: range) -> None:
    """All cuts together have all rows of both sides, in order, and none has a row behind its end."""
    merge = Merge(batches(LIVE_SCHEMA, live), batches(REPLAYED_SCHEMA, range(100), height=9))
    taken: dict[str, list[str]] = {"live": [], "replayed": []}
    before, until = "", ""
    while until is not None:
        live_rows, replayed_rows, until = merge.cut(rows)
        for side, part in (("live", live_rows), ("replayed", replayed_rows)):
            ids = part["account_id"].to_list()
            assert all(each > before and (until is None or each <= until) for each in ids)
            taken[side] += ids
        before = until or before
    assert taken["live"] == [f"{number:06}" for number in live]
    assert taken["replayed"] == [f"{number:06}" for number in range(100)]


def test_both_sides_are_read_at_once() -> None:
    """While one side is waited for, the other is read."""
    here, there = Event(), Event()

    def meeting(own: Event, other: Event, rows: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        own.set()
        assert other.wait(SECONDS_MAX), "the other side was not read meanwhile"
        yield from rows

    merge = Merge(
        meeting(here, there, batches(LIVE_SCHEMA, range(5))), meeting(there, here, batches(REPLAYED_SCHEMA, range(5)))
    )
    assert merge.cut(10).until is None


@pytest.mark.parametrize("is_live", [True, False])
def test_an_error_of_either_side_ends_the_cut(is_live: bool) -> None:
    """What a side raises while it is read comes out of the cut, and then nothing is under way on the other."""
    done = Event()

    def failing() -> Iterator[pl.DataFrame]:
        raise ConnectionError("gone")
        yield pl.DataFrame()

    def slow(rows: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        yield from rows
        done.set()

    sound = slow(batches(REPLAYED_SCHEMA if is_live else LIVE_SCHEMA, range(5)))
    merge = Merge(failing(), sound) if is_live else Merge(sound, failing())
    with pytest.raises(ConnectionError, match="gone"):
        merge.cut(10)
    assert done.is_set()
