"""Files for a reconciliation: whichever way a row is read, it means the same and is refused for the same reason."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.importing import FileSource, Mapping
from ledger.importing.order_rows import decide_orders
from projections.orders import ORDER_STATE, ORDERS
from replay.reconcile_files import _ORDERS, FromFile, _read, ledger_of_file, orders_of_file
from replay.reconcile_sides import LedgerSide, OrderSide
from schemas import ORDER_SCHEMA

NOW = datetime(2026, 1, 1, tzinfo=UTC)
START = datetime(2025, 3, 1, tzinfo=UTC)
MOMENT = pl.Datetime("us", "UTC")

Row = dict[str, Any]

#: Each example writes and reads files.
HEAVY = settings(max_examples=settings.default.max_examples // 4)

_IDS = st.sampled_from(["a", "b", "ключ ß", "", "x" * 255, "y" * 256, "ß" * 255, "n\x00l", " blank "])
_TEXTS = st.sampled_from([None, "", "o1", "o2", "n\x00l", "заказ", "z" * 300])
_MOMENTS = st.sampled_from([START + timedelta(days=day, microseconds=day) for day in range(3)])
_METADATA = st.sampled_from(
    [
        None,
        "",
        '{"order_id": "o1"}',
        '{"order_id":"o 2"}',
        '{"order_id": ""}',
        '{"order_id": 7}',
        '{"order_id": "q\\"uote"}',
        '{"order_id": "o1", "order_id": "o2"}',
        '{"x": {"order_id": "o1"}}',
        '{"order_id": "o1"} ',
        "[]",
        "{",
    ]
)

_TRANSACTION = st.fixed_dictionaries(
    {
        "transaction_id": st.one_of(st.sampled_from([f"t{number}" for number in range(40)]), _IDS),
        "account_id": _IDS.filter(bool),
        "type": st.sampled_from(["debit", "credit", "Debit", " credit", "", None]),
        "status": st.sampled_from(["completed", "pending", "frozen", "cancelled", "failed ", "done", None]),
        "amount": st.sampled_from([1, 5, 2**63 - 1, 0, -3, None]),
        "related_transaction_id": _TEXTS,
        "business_code": _TEXTS,
        "order_id": _TEXTS,
        "metadata": _METADATA,
        "created_at": st.one_of(_MOMENTS, st.none()),
        "updated_at": st.one_of(st.none(), _MOMENTS),
    }
)
_ORDER = st.fixed_dictionaries(
    {
        "order_id": st.one_of(st.sampled_from([f"o{number}" for number in range(40)]), _IDS),
        "account_id": st.one_of(st.none(), _IDS),
        "points_amount": st.sampled_from([0, 10, 2**63 - 1, -1, None]),
        "status": st.sampled_from(["pending", "completed", "cancelled", "completed ", "paid", None]),
        "created_at": st.one_of(_MOMENTS, st.none()),
        "direction": st.sampled_from([None, "spend", "earn", "Earn"]),
        "refunded_points": st.sampled_from([None, 0, 3, -3]),
        "updated_at": st.one_of(st.none(), _MOMENTS),
    }
)

#: A row that is good, so that files have more than rejects.
_GOOD_TRANSACTION: Row = {
    "account_id": "a",
    "type": "debit",
    "status": "completed",
    "amount": 5,
    "related_transaction_id": None,
    "business_code": "order.payment",
    "order_id": "o1",
    "metadata": None,
    "created_at": START,
    "updated_at": None,
}
_GOOD_ORDER: Row = {
    "account_id": "a",
    "points_amount": 10,
    "status": "completed",
    "created_at": START,
    "direction": None,
    "refunded_points": None,
    "updated_at": None,
}


def _mostly_good(rows: st.SearchStrategy[Row], good: Row) -> st.SearchStrategy[list[Row]]:
    """Files of rows of which each has at most two columns that are drawn, or all."""
    names = st.lists(st.sampled_from(list(good)), max_size=2)
    mild = st.builds(lambda row, some: {**row, **{name: good[name] for name in good if name not in some}}, rows, names)
    return st.lists(st.one_of(mild, mild, rows), min_size=1, max_size=12)


def _frame(rows: list[Row]) -> pl.DataFrame:
    whole = {"amount", "points_amount", "refunded_points"}
    schema = {
        name: pl.Int64() if name in whole else MOMENT if name.endswith("_at") else pl.String() for name in rows[0]
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _written(folder: str, rows: list[Row], ending: str, kinds: dict[str, pl.DataType] | None = None) -> FileSource:
    path = Path(folder) / f"rows.{ending}"
    if ending == "parquet":
        _frame(rows).cast(kinds or {}).write_parquet(path)
    else:
        texts = [{name: v.isoformat() if isinstance(v, datetime) else v for name, v in row.items()} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    return FileSource(path)


def _ledger(rows: list[Row], ending: str, **kinds: pl.DataType) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    with tempfile.TemporaryDirectory() as folder:
        source = _written(folder, rows, ending, kinds)
        side, said = ledger_of_file(source, mapping=Mapping(), rejects=Path(folder) / "rejects.csv", now=NOW)
        return _rows(side), _refused(said)


def _orders(rows: list[Row], ending: str, **kinds: pl.DataType) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    with tempfile.TemporaryDirectory() as folder:
        source = _written(folder, rows, ending, kinds)
        side, said = orders_of_file(source, mapping=Mapping(), rejects=Path(folder) / "rejects.csv", now=NOW)
        return _rows(side), _refused(said)


def _rows(side: LedgerSide | OrderSide) -> list[tuple[Any, ...]]:
    frame = side.transactions if isinstance(side, LedgerSide) else side.orders
    return frame.sort(frame.columns[:3]).rows()


def _refused(said: FromFile) -> list[tuple[Any, ...]]:
    if said.rejects is None:
        return []
    found = pl.read_csv(said.rejects, infer_schema=False).select("line", "reason", "column")
    assert found.height == said.rejected
    return sorted(found.rows())


@HEAVY
@given(_mostly_good(_TRANSACTION, _GOOD_TRANSACTION))
def test_transactions_of_typed_columns_are_those_of_text(rows):
    """A Parquet file with types and a file of text give the same transactions, and refuse the same rows alike."""
    expected = _ledger(rows, "jsonl")
    assert _ledger(rows, "parquet") == expected
    codes = pl.Categorical()
    assert _ledger(rows, "parquet", type=codes, status=codes, created_at=pl.Datetime("ns", "Asia/Tokyo")) == expected


@HEAVY
@given(_mostly_good(_ORDER, _GOOD_ORDER))
def test_orders_of_typed_columns_are_those_of_text(rows):
    """A Parquet file with types and a file of text give the same orders, and refuse the same rows alike."""
    expected = _orders(rows, "jsonl")
    assert _orders(rows, "parquet") == expected
    assert _orders(rows, "parquet", status=pl.Categorical(), updated_at=pl.Datetime("ns", "UTC")) == expected


@HEAVY
@given(_mostly_good(_ORDER, _GOOD_ORDER))
def test_an_order_of_a_file_is_what_its_import_would_be(rows):
    """The state of an order that is told by one row is the fold of the events that an import makes of that row."""
    with tempfile.TemporaryDirectory() as folder:
        source = _written(folder, rows, "parquet")
        side, _ = orders_of_file(source, mapping=Mapping(), rejects=Path(folder) / "rejects.csv", now=NOW)
        with _NoRejects() as refused:
            good, _ = _read(source, Mapping(), refused, _ORDERS)
    once = good.filter(pl.col("order_id").is_in(side.orders["order_id"].to_list())).sort("line")
    once = once.unique("order_id", keep="first", maintain_order=True)
    decided = decide_orders(once, ORDER_SCHEMA.to_frame(), NOW)
    folded = ORDERS.fold(decided.events.lazy()).collect().cast(ORDER_STATE)
    assert side.orders.sort("order_id").rows() == folded.sort("order_id").rows()


class _NoRejects:
    """Takes rejects and keeps none."""

    def __enter__(self) -> _NoRejects:
        return self

    def __exit__(self, *_: object) -> None:
        """Keep nothing."""

    def add(self, rows: pl.DataFrame) -> None:
        """Take rows."""
