"""Both sides of a reconciliation from files, each row checked: no ledger is needed, and nothing is kept.

The values of a Parquet file have types already, so rows that are plainly good are told in columns and never become
text. Every other row, and every other file, goes the way of an import, which names what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from ledger.importing.batches import LINE, Batch, Checked, bad_rows
from ledger.importing.decide import decide
from ledger.importing.known import KNOWN_SCHEMA, OPENING_SCHEMA, owners_among
from ledger.importing.mapping import Mapping
from ledger.importing.order_rows import OPTIONAL as ORDER_OPTIONAL
from ledger.importing.order_rows import ORDER_ROW_SCHEMA, check_orders
from ledger.importing.order_rows import REQUIRED as ORDER_REQUIRED
from ledger.importing.orders import distinct_orders
from ledger.importing.rejects import Rejects
from ledger.importing.rows import OPTIONAL, REQUIRED, ROW_SCHEMA, check_transactions
from ledger.importing.sources import FileSource, reading_parquet, require_columns, text_rows
from ledger.orders import PARKED_SCHEMA
from projections.order_links import ORDER_LINKS
from projections.orders import ORDER_STATE
from projections.reconciliation import LINKED_SCHEMA
from replay.reconcile_rejects import OrderRejects
from replay.reconcile_sides import LedgerSide, OrderSide, Unknown
from schemas.columns import UTC_MICROSECONDS
from schemas.events import ID_LENGTH_MAX, STATUSES, TRANSACTION_TYPES
from schemas.orders import DIRECTIONS, ORDER_STATUSES

__all__ = ["FromFile", "ledger_of_file", "orders_of_file"]

#: Rows that become text at once.
SLICE_ROWS = 50_000

#: Metadata that holds an order and nothing else, as most have it; any other is read as the JSON that it is.
_METADATA = r'^\{"order_id": ?"([^"\\\x00-\x1f]+)"\}$'

_TEXT = (pl.String, pl.Categorical, pl.Enum)
#: Integers that fit into 64 bits, whatever they are.
_WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


class FromFile(NamedTuple):
    """What is said of a file beside its rows: how many were rejected, which file names them, times without a zone."""

    rejected: int
    rejects: Path | None
    naive_times: int


class _Kind(NamedTuple):
    """What rows of a kind have: their columns, how they are checked, and which of them are plainly good.

    `whole` are columns of integers and `times` of moments, all others are of text; `plain` makes the columns of
    `schema` of a row that `is_plain` lets through.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    schema: pl.Schema
    check: Callable[[Batch, Mapping], Checked]
    whole: tuple[str, ...]
    times: tuple[str, ...]
    is_plain: pl.Expr
    plain: dict[str, pl.Expr]


def ledger_of_file(
    source: FileSource, *, mapping: Mapping, rejects: Path, now: datetime
) -> tuple[LedgerSide, FromFile]:
    """Return the transactions of a file, and what is said of its other rows.

    A row of a transaction that the file has before is its next status, or is rejected, as an import does. `now` is
    the moment up to which the file is whole, and of every change that a row does not date. UsageError for a file that
    cannot be read, or lacks a column.
    """
    with OrderRejects(rejects, where=source.where, mapping=mapping) as refused:
        rows, naive_times = _read(source, mapping, refused, _TRANSACTIONS)
        several = _several(rows, "transaction_id")
        single = rows if several.is_empty() else rows.join(several, on="transaction_id", how="anti")
        linked = single.select(_linked())
        if several.height:
            followed = _of_several(rows.join(several, on="transaction_id", how="semi"), refused, now)
            linked = pl.concat([linked, followed])
    nobody = Unknown(pl.Series(dtype=pl.String()))
    side = LedgerSide(linked, nobody, now, conflicts=refused.conflicts)
    return side, FromFile(refused.count, refused.file, naive_times)


def orders_of_file(source: FileSource, *, mapping: Mapping, rejects: Path, now: datetime) -> tuple[OrderSide, FromFile]:
    """Return the orders of a file, each as its row says it is, and what is said of its other rows.

    `now` is the moment up to which the file is whole. UsageError for a file that cannot be read, or lacks a column.
    """
    with OrderRejects(rejects, where=source.where, mapping=mapping) as refused:
        rows, naive_times = _read(source, mapping, refused, _ORDERS)
        if _several(rows, "order_id").height:
            rows, _, contrary = distinct_orders(rows.sort(LINE))
            refused.add(contrary)
    parked = PARKED_SCHEMA.to_frame()
    side = OrderSide(rows.select(_state()), refused.conflicts, parked, now, rejected=refused.count)
    return side, FromFile(refused.count, refused.file, naive_times)


def _read(source: FileSource, mapping: Mapping, refused: Rejects, kind: _Kind) -> tuple[pl.DataFrame, int]:
    """Return the good rows of a file (`kind.schema`), and how many times had no zone."""
    typed = _typed(source, mapping, kind)
    parts, naive_times = [kind.schema.to_frame()], 0
    with ExitStack() as stack:
        if typed is None:
            batches = source.batches(delimiter=mapping.delimiter)
        else:
            stack.enter_context(reading_parquet(source.where))
            good, doubtful = typed
            parts.append(good)
            batches = iter(Batch(text_rows(each.drop(LINE), each[LINE]), bad_rows([])) for each in _slices(doubtful))
        for index, batch in enumerate(batches):
            if index == 0 and typed is None and source.has_header:
                require_columns(batch.rows.columns, kind.required, kind.optional, mapping, source.where)
            refused.add(batch.bad)
            if batch.rows.height:
                checked = kind.check(batch, mapping)
                refused.add(checked.rejects)
                parts.append(checked.good)
                naive_times += checked.naive_times
    # One chunk wherever there is one: much of what follows takes several times as long over two.
    whole = [part for part in parts if part.height]
    return whole[0] if len(whole) == 1 else pl.concat(parts), naive_times


def _typed(source: FileSource, mapping: Mapping, kind: _Kind) -> tuple[pl.DataFrame, pl.DataFrame] | None:
    """Return the rows of a file that are plainly good, and all others as they are, with their line.

    None for a file that does not have the types for that, or whose values have to be mapped.
    """
    renames = Mapping(columns=mapping.columns, timezone=mapping.timezone, delimiter=mapping.delimiter)
    if source.format != "parquet" or str(source.path) == "-" or mapping != renames:
        return None
    with source.open() as stream, reading_parquet(source.where):
        found = pl.scan_parquet(stream).collect_schema()
    require_columns(found.names(), kind.required, kind.optional, mapping, source.where)
    names = {ours: mapping.source_name(ours) for ours in kind.required + kind.optional}
    present = {ours: theirs for ours, theirs in names.items() if theirs in found}
    if LINE in found or not all(_has_type(found[theirs], ours, kind) for ours, theirs in present.items()):
        return None
    with reading_parquet(source.where):
        scan = pl.scan_parquet(Path(source.path), glob=False).with_row_index(LINE, offset=1)
        lined = scan.with_columns(pl.col(LINE).cast(pl.Int64))
        picked = lined.select(LINE, *(_picked(ours, present.get(ours), kind) for ours in names))
        columns = {name: kind.plain[name] for name in kind.schema}
        is_plain = kind.is_plain.fill_null(value=False).alias("_is_plain")
        judged = picked.select(is_plain, **columns).collect()
        good = judged.drop("_is_plain")
        if judged["_is_plain"].all():
            return good, good.clear()
        lines = good.filter(~judged["_is_plain"])[LINE]
        doubtful = lined.filter(pl.col(LINE).is_in(lines.implode())).collect()
        return good.filter(judged["_is_plain"]), doubtful


def _has_type(dtype: pl.DataType, name: str, kind: _Kind) -> bool:
    """Say whether a column has a type whose values mean what they say."""
    if name in kind.whole:
        return dtype in _WHOLE
    if name in kind.times:
        return isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    return dtype in _TEXT


def _picked(name: str, theirs: str | None, kind: _Kind) -> pl.Expr:
    """Return one of our columns with its type, null where the file has none."""
    dtype = pl.Int64() if name in kind.whole else UTC_MICROSECONDS if name in kind.times else pl.String()
    if theirs is None:
        return pl.lit(None, dtype).alias(name)
    column = pl.col(theirs)
    if name in kind.times:
        return column.dt.cast_time_unit("us").dt.convert_time_zone("UTC").alias(name)
    return column.cast(dtype).alias(name)


def _slices(rows: pl.DataFrame) -> Sequence[pl.DataFrame]:
    return [rows[start : start + SLICE_ROWS] for start in range(0, rows.height, SLICE_ROWS)]


def _several(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the ids that several rows have; hashes tell first whether there can be any."""
    hashes = rows.select(pl.col(name).hash(0)).to_series()
    if hashes.n_unique() == rows.height:
        return rows.select(name).clear()
    return rows.filter(hashes.is_duplicated()).group_by(name).len().filter(pl.col("len") > 1).select(name)


def _of_several(rows: pl.DataFrame, refused: Rejects, now: datetime) -> pl.DataFrame:
    """Return transactions that have several rows each, as an import would follow them through these."""
    broken = pl.DataFrame(schema={"account_id": pl.String(), "problem": pl.String()})
    decided = decide(
        rows.select(ROW_SCHEMA.names()),
        KNOWN_SCHEMA.to_frame(),
        owners=owners_among(rows, broken),
        broken=broken,
        openings=OPENING_SCHEMA.to_frame(),
        now=now,
    )
    refused.add(decided.rejects)
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    events = decided.events.with_columns(version=place, position=place)
    last = rows.group_by("transaction_id").agg(line=pl.col(LINE).max())
    links = ORDER_LINKS.fold(events.lazy()).join(last.lazy(), on="transaction_id", how="left")
    return links.with_columns(version="line", position="line").select(LINKED_SCHEMA.names()).collect()


def _linked() -> list[pl.Expr]:
    """Return the columns of `LINKED_SCHEMA` out of those of a row: a line stands for the version and the place."""
    sources = {"version": pl.col(LINE), "position": pl.col(LINE), "partition": pl.lit(None, pl.Int64())}
    sources["updated_at"] = pl.coalesce("updated_at", "created_at")
    # As `projections.order_links` does, so that a file and the ledger that it was imported into agree.
    sources["order_id"] = pl.col("order_id").str.slice(0, ID_LENGTH_MAX)
    return [sources.get(name, pl.col(name)).alias(name) for name in LINKED_SCHEMA]


def _state() -> list[pl.Expr]:
    """Return the columns of `ORDER_STATE` out of those of a row: what an import would make of it, folded."""
    refunded = pl.col("refunded_points").fill_null(0)
    is_moved, is_refunded = pl.col("status") != "pending", refunded > 0
    goes_on = is_moved | is_refunded
    later_at = pl.coalesce("updated_at", "created_at")
    version = 1 + is_moved.cast(pl.Int64) + is_refunded.cast(pl.Int64)
    sources = {
        "account_version": pl.when(pl.col("account_id").is_not_null()).then(1),
        "points_version": pl.lit(1),
        "direction": pl.col("direction").fill_null("spend"),
        "direction_version": pl.lit(1),
        "status_version": 1 + is_moved.cast(pl.Int64),
        "placed_at": pl.col("created_at"),
        "completed_at": pl.when(pl.col("status") == "completed").then(later_at),
        "cancelled_at": pl.when(pl.col("status") == "cancelled").then(later_at),
        "refunded_points": refunded,
        "events": version,
        "version": version,
        "latest_at": pl.when(goes_on).then(pl.max_horizontal("created_at", later_at)).otherwise("created_at"),
        "partition": pl.lit(None),
        "position": pl.lit(None),
    }
    return [sources.get(name, pl.col(name)).cast(dtype).alias(name) for name, dtype in ORDER_STATE.items()]


def _is_text(name: str, *, required: bool = False, length_max: int | None = None) -> pl.Expr:
    """Return whether a text is one that every reader takes; its bytes are counted, no fewer than its characters."""
    text = pl.col(name)
    is_good = ~text.cast(pl.Binary).bin.contains(b"\0")
    if length_max is not None:
        is_good &= text.str.len_bytes() <= length_max
    return (is_good & (text.str.len_bytes() > 0)) if required else (text.is_null() | is_good)


def _is_moment(name: str, *, required: bool = False) -> pl.Expr:
    is_good = pl.col(name).is_between(_FIRST, _LAST)
    return is_good if required else pl.col(name).is_null() | is_good


def _or_null(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(name)


_ORDER_IN_METADATA = pl.col("metadata").str.extract(_METADATA, 1)

_TRANSACTIONS = _Kind(
    required=REQUIRED,
    optional=OPTIONAL,
    schema=ROW_SCHEMA,
    check=check_transactions,
    whole=("amount",),
    times=("created_at", "updated_at", "recorded_at"),
    is_plain=pl.all_horizontal(
        _is_text("transaction_id", required=True, length_max=ID_LENGTH_MAX),
        _is_text("account_id", required=True, length_max=ID_LENGTH_MAX),
        pl.col("type").is_in(TRANSACTION_TYPES),
        pl.col("status").is_in(STATUSES),
        pl.col("amount") >= 1,
        *(_is_text(name) for name in ("related_transaction_id", "business_code", "order_id")),
        pl.col("metadata").is_null() | _ORDER_IN_METADATA.is_not_null(),
        _is_moment("created_at", required=True),
        _is_moment("updated_at"),
        _is_moment("recorded_at"),
    ),
    plain={
        **{name: pl.col(name) for name in ROW_SCHEMA},
        **{name: _or_null(name) for name in ("related_transaction_id", "business_code")},
        "order_id": pl.coalesce(_or_null("order_id"), _ORDER_IN_METADATA),
    },
)

_ORDERS = _Kind(
    required=ORDER_REQUIRED,
    optional=ORDER_OPTIONAL,
    schema=ORDER_ROW_SCHEMA,
    check=check_orders,
    whole=("points_amount", "refunded_points"),
    times=("created_at", "updated_at"),
    is_plain=pl.all_horizontal(
        _is_text("order_id", required=True, length_max=ID_LENGTH_MAX),
        _is_text("account_id", length_max=ID_LENGTH_MAX),
        pl.col("points_amount") >= 0,
        pl.col("status").is_in(ORDER_STATUSES),
        pl.col("direction").is_null() | pl.col("direction").is_in(DIRECTIONS),
        pl.col("refunded_points").is_null()
        | (pl.col("refunded_points") == 0)
        | ((pl.col("refunded_points") > 0) & (pl.col("status") != "pending")),
        _is_moment("created_at", required=True),
        _is_moment("updated_at"),
    ),
    plain={**{name: pl.col(name) for name in ORDER_ROW_SCHEMA}, "points": pl.col("points_amount")}
    | {"account_id": _or_null("account_id")},
)
