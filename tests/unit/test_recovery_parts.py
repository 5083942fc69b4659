"""The small parts of a recovery: the pace of batches, the backup's lines, values of columns, sides of a change."""

from __future__ import annotations

import random
import string
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned import change
from sqlalchemy.types import BigInteger, DateTime, Float, Numeric, String

from ledger.importing import Mapping
from replay.recovery.backup import check_backup, read_backup, write_backup
from replay.recovery.batches import LARGEST, SMALLEST, Pace
from replay.recovery.rows import side, state_of
from replay.recovery.table_values import RawValues, Undecoded, is_comparable
from replay.recovery.targets import LiveRow, row_text, values_of_text
from schemas.errors import RefusedError, StoreError, UsageError


def test_a_batch_grows_towards_a_second_and_not_too_fast():
    """A quick batch is followed by one of at most twice the size, a slow one by no less than half of it."""
    pace = Pace()
    assert pace.size == 100
    pace.took(0.01, 100)
    assert pace.size == 200
    pace.took(100, 200)
    assert pace.size == 100
    pace.took(0.8, 100)
    assert pace.size == 125
    for _ in range(20):
        pace.took(0, pace.size)
    assert pace.size == LARGEST
    for _ in range(20):
        pace.took(1000, pace.size)
    assert pace.size == SMALLEST


def test_a_fixed_batch_stays_and_a_throttle_rests():
    """A size that was asked for does not change; a third of the time busy is two thirds of it at rest."""
    pace = Pace(batch=3, throttle=0.25)
    assert pace.took(1.0, 3) == pytest.approx(3.0)
    assert pace.size == 3
    assert Pace().took(1.0, 3) == 0


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"throttle": 0}, {"throttle": 1.5}])
def test_a_pace_that_is_none_is_refused(wrong):
    """No accounts a batch, no time at all, or more than there is."""
    with pytest.raises(UsageError):
        Pace(**wrong)


VALUES: dict[str, Any] = {
    "whole": 2**63,
    "text": 'quotes " and \u2028',
    "nothing": None,
    "yes": True,
    "real": 0.1,
    "endless": float("inf"),
    "decimal": Decimal("1.50"),
    "moment": datetime(2024, 3, 1, 12, 0, 0, 5, tzinfo=UTC),
    "day": date(2024, 3, 1),
    "hour": time(12, 30),
    "span": timedelta(days=-1, microseconds=3),
    "uuid": UUID(int=7),
    "bytes": b"\x00\xff",
    "no_text": Undecoded(b"\xff"),
    "object": {"decimal": "not one"},
    "list": [1, [2]],
}


def test_every_value_of_a_row_reads_back_as_it_was(tmp_path: Path):
    """Numbers, times, bytes and what else drivers give, in value and in type; a missing row is missing."""
    rows = [("a", LiveRow("a", VALUES, None)), ("b", None)]
    made = write_backup(tmp_path, rows)
    assert (made.accounts, made.rows) == (2, 1)
    found = dict(read_backup(tmp_path, {"a", "b"}))
    assert found == {"a": VALUES, "b": None}
    assert {name: type(value) for name, value in found["a"].items()} == {
        name: type(value) for name, value in VALUES.items()
    }
    assert dict(read_backup(tmp_path, {"b"})) == {"b": None}
    assert (tmp_path / "backup.jsonl.sha256").read_text() == f"{made.sha256}  backup.jsonl\n"


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data.replace(b"7", b"8"), lambda _: b""])
def test_a_backup_that_was_changed_is_not_taken(tmp_path, spoil):
    """One byte less, one byte other, or nothing at all."""
    made = write_backup(tmp_path, [("a", LiveRow("a", {"balance": 7}, None))])
    path = tmp_path / "backup.jsonl"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(StoreError):
        check_backup(tmp_path, made.sha256, made.accounts)


def test_a_value_that_cannot_be_kept_is_named(tmp_path):
    """The column is told, and what else could be done."""
    with pytest.raises(RefusedError, match="'odd'"):
        write_backup(tmp_path, [("a", LiveRow("a", {"odd": {1, 2}}, None))])


def _raw(kind: Any, dialect: str = "postgresql", **options: Any) -> RawValues:
    names = ("account_id", "balance", "frozen_amount", "status", "locked_at")
    types = dict.fromkeys(names, kind) | {"status": String()}
    return RawValues(Mapping(**options), types, dialect)


@pytest.mark.parametrize(
    ("kind", "scale", "dialect", "wanted"),
    [
        (BigInteger(), None, "postgresql", 1250),
        (BigInteger(), 0, "postgresql", 1250),
        (Numeric(), None, "postgresql", Decimal(1250)),
        (Numeric(), 2, "postgresql", Decimal("12.50")),
        (Numeric(), 2, "sqlite", "12.50"),
        (Numeric(), None, "sqlite", 1250),
        (Float(), 2, "mysql", 12.5),
        (String(), None, "postgresql", "1250"),
        (String(), 2, "postgresql", "12.50"),
    ],
)
def test_points_are_written_as_the_column_has_them(kind, scale, dialect, wanted):
    """Whole numbers, decimals and texts, by the mapping's scale."""
    found = _raw(kind, dialect, amount_scale=scale).of({"balance": 1250})
    assert found == {"balance": wanted}
    assert type(found["balance"]) is type(wanted)


def test_points_that_a_column_of_integers_cannot_keep_are_refused():
    """Half a unit is no integer."""
    raw = _raw(BigInteger(), amount_scale=2)
    assert raw.of({"balance": 1200}) == {"balance": 12}
    with pytest.raises(UsageError):
        raw.of({"balance": 1250})


@pytest.mark.parametrize(
    ("kind", "dialect", "wanted"),
    [
        (String(), "postgresql", "2024-07-01T12:00:00.000005Z"),
        (DateTime(timezone=True), "postgresql", datetime(2024, 7, 1, 12, 0, 0, 5, tzinfo=UTC)),
        (DateTime(), "mysql", datetime.fromisoformat("2024-07-01T14:00:00.000005")),
        (DateTime(), "sqlite", "2024-07-01 14:00:00.000005"),
    ],
)
def test_a_time_is_written_as_the_column_has_it(kind, dialect, wanted):
    """Text with its zone, a moment with one, or the local time of the mapping's zone."""
    raw = _raw(kind, dialect, timezone="Europe/Berlin")
    assert raw.of({"locked_at": "2024-07-01T12:00:00.000005Z"}) == {"locked_at": wanted}
    assert raw.of({"locked_at": None}) == {"locked_at": None}


def test_a_status_is_written_in_their_words():
    """The first word that the mapping reads as it; ours where it has none."""
    raw = _raw(BigInteger(), statuses={"on": "active", "up": "active", "done": "completed"})
    assert [raw.of({"status": each})["status"] for each in ("active", "locked")] == ["on", "locked"]


def test_only_what_compares_with_itself_guards_a_row():
    """Floats do not outside of SQLite, and neither does text that is none, or a list."""
    assert is_comparable(None, "mysql")
    assert is_comparable(Decimal(1), "mysql")
    assert is_comparable(0.5, "sqlite")
    assert not is_comparable(0.5, "mysql")
    assert not is_comparable(Undecoded(b"\xff"), "sqlite")
    assert not is_comparable([1], "postgresql")


def _row(**values: Any) -> LiveRow:
    return LiveRow("a", values, {"balance": 5, "frozen": 0, "status": "active", "locked_at": None} | values)


def test_a_row_is_before_or_after_its_changes_or_neither():
    """Every column that the plan names counts, and no other."""
    changes = [
        change(account_id="a", field="balance", from_=5, to=9),
        change(account_id="a", field="frozen", from_=0, to=1),
    ]
    assert state_of(changes, _row())[0] == "from"
    assert state_of(changes, _row(status="locked"))[0] == "from"
    assert state_of(changes, _row(balance=9, frozen=1))[0] == "to"
    assert state_of(changes, _row(balance=9))[0] == "other"
    assert state_of(changes, None) == ("other", "its live row is gone")
    assert "cannot be read" in state_of(changes, LiveRow("a", {}, None, "bad"))[1]


def test_a_row_that_is_made_or_taken_away_is_compared_whole():
    """Without a row it is before the one and after the other; with another one it is neither."""
    text = row_text({"balance": 5, "frozen": 0, "status": "active", "locked_at": None})
    made = [change(account_id="a", field="row", from_=None, to=text)]
    gone = [change(account_id="a", field="row", from_=text, to=None)]
    assert (state_of(made, None)[0], state_of(made, _row())[0]) == ("from", "to")
    assert (state_of(gone, None)[0], state_of(gone, _row())[0]) == ("to", "from")
    assert (state_of(made, _row(balance=1))[0], state_of(gone, _row(balance=1))[0]) == ("other", "other")
    assert side(made, "from") is None


@given(
    st.fixed_dictionaries(
        {"balance": st.integers(), "frozen": st.integers(), "status": st.text(), "locked_at": st.none()}
    )
)
def test_a_row_as_text_is_the_row(values):
    """What stands in a plan reads back as it was."""
    assert values_of_text(row_text(values)) == values


def test_random_rows_are_kept(tmp_path):
    """Many rows in one file, each found by its account."""
    chance = random.Random(5)
    rows = {f"a{number}": {"text": "".join(chance.choices(string.printable, k=9))} for number in range(500)}
    made = write_backup(tmp_path, [(name, LiveRow(name, raw, None)) for name, raw in rows.items()])
    assert made.bytes == (tmp_path / "backup.jsonl").stat().st_size
    assert dict(read_backup(tmp_path, rows)) == rows
