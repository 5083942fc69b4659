"""Text to values, in columns: ids, amounts, times, metadata; and the checks that name what is wrong with a row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import polars as pl

from ledger.importing.batches import LINE, Batch
from ledger.importing.json_keys import has_keys, repeated_key
from ledger.importing.mapping import Mapping
from ledger.importing.rejects import REJECT_SCHEMA, row_json
from schemas.columns import UTC_MICROSECONDS
from schemas.events import AMOUNT_MAX, ID_LENGTH_MAX

__all__ = [
    "Check",
    "Metadata",
    "Times",
    "amount_checks",
    "id_checks",
    "integer",
    "mapped",
    "metadata",
    "pick",
    "quoted",
    "split",
    "time_checks",
    "times",
    "unknown",
    "whole",
    "whole_checks",
]

NESTING_MAX = 100
# Not \d: that would take the digits of every script, which no reader of times or numbers here can turn into a value.
_FAST_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2})?$"
)
_ZONED = r"(?:Z|[+-][0-9]{2}:[0-9]{2})$"
#: A moment of the years 1 to 9999 in UTC, which is what every reader of the wire format takes.
_FIRST, _LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


class Check(NamedTuple):
    """A column, when its value is bad, and the reason as text; the first check of a row that fails names it."""

    column: str
    is_bad: pl.Expr
    reason: pl.Expr


class Metadata(NamedTuple):
    """`text` is the compact JSON object or null, `order_id` what it holds, `problem` why it is none, else null."""

    text: pl.Series
    order_id: pl.Series
    problem: pl.Series


def pick(rows: pl.DataFrame, columns: Sequence[str], mapping: Mapping) -> pl.DataFrame:
    """Return `line` and our columns by our names; a column that the input lacks is null, "" is null everywhere."""
    present = set(rows.columns)
    chosen = [
        pl.col(name).replace("", None).alias(column) if name in present else pl.lit(None, pl.String).alias(column)
        for column, name in ((column, mapping.source_name(column)) for column in columns)
    ]
    return rows.select(LINE, *chosen)


def split(checked: pl.DataFrame, batch: Batch, checks: Sequence[Check]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that pass every check and the others as rejects.

    `checked` and the batch (as read, for the rejects file) are the same rows in the same order. A NUL in any field
    rejects the row, since PostgreSQL keeps none.
    """
    rows = batch.rows
    names = [name for name in rows.columns if name != LINE]
    searched = names if batch.has_nul else []
    has_nul = rows.select(
        pl.any_horizontal(
            pl.repeat(False, pl.len()),
            *(pl.col(name).str.contains("\x00", literal=True).fill_null(False) for name in searched),
        )
    ).to_series()
    nul = Check("", pl.lit(has_nul), pl.lit("the row holds a NUL character"))
    # What a check cannot say of a value that is absent is nothing against the row.
    is_bad = pl.any_horizontal(check.is_bad for check in (nul, *checks)).fill_null(False)
    bad = checked.select(is_bad.alias("bad")).to_series()
    if not bad.any():
        return checked, pl.DataFrame(schema=REJECT_SCHEMA)
    # Reasons are worded only for the few rows that need one.
    # One chunk, since polars 2.1 panics where pl.format meets a chunk that a filter left empty.
    failed = checked.with_columns(nul=has_nul).filter(bad).rechunk()
    wording = [nul._replace(is_bad=pl.col("nul")), *checks]
    rejects = failed.with_columns(
        reason=pl.coalesce(pl.when(check.is_bad).then(check.reason) for check in wording),
        column=pl.coalesce(pl.when(check.is_bad).then(pl.lit(check.column)) for check in wording),
        row=rows.filter(bad).select(row_json(names)).to_series(),
    )
    if "transaction_id" not in rejects.columns:
        rejects = rejects.with_columns(transaction_id=pl.lit(None, pl.String))
    return checked.filter(~bad), rejects.select(pl.col(name).cast(kind) for name, kind in REJECT_SCHEMA.items())


def quoted(text: pl.Expr) -> pl.Expr:
    """A value in a message, cut where it would be too long to read."""
    return pl.format("'{}'", text.str.slice(0, 60))


def id_checks(column: str) -> list[Check]:
    """The checks of an id: it is there and is what `schemas.events.Identifier` takes."""
    text = pl.col(column)
    return [
        Check(column, text.is_null(), pl.lit(f"{column} is missing")),
        Check(
            column,
            text.str.len_chars() > ID_LENGTH_MAX,
            pl.format(f"{column} is longer than {ID_LENGTH_MAX} characters: {{}} ...", quoted(text)),
        ),
    ]


def mapped(column: str, values: dict[str, str], legal: Sequence[str]) -> tuple[pl.Expr, pl.Expr]:
    """Return a text column's value as one of `legal` (null where it is none), by a mapping, and when it is bad."""
    known = {value: value for value in legal} | {theirs: ours for theirs, ours in values.items() if ours in legal}
    value = pl.col(column).str.strip_chars().replace_strict(known, default=None, return_dtype=pl.String)
    return value, value.is_null()


def unknown(column: str, values: str, legal: Sequence[str], table: str = "[import]") -> pl.Expr:
    """The reason of a value that is none of `legal`; `values` of a `table` is the mapping for it."""
    return (
        pl.when(pl.col(column).is_null())
        .then(pl.lit(f"{column} is missing"))
        .otherwise(
            pl.format(
                f"unknown {column} {{}}: not one of {', '.join(legal)}; map it under {table[:-1]}.{values}]",
                quoted(pl.col(column)),
            )
        )
    )


def integer(column: str, scale: int | None) -> tuple[pl.Expr, pl.Expr]:
    """Return (sign text "" or "-", magnitude Int64 or null) of a column of numbers, by the decimal scale."""
    sign, digits = _number(column, scale)
    return sign, digits.cast(pl.Int64, strict=False)


def whole(column: str, scale: int | None) -> pl.Expr:
    """Return a column of numbers as Int64 with its sign, null where it is none."""
    sign, digits = _number(column, scale)
    return (sign + digits).cast(pl.Int64, strict=False)


def whole_checks(column: str, scale: int | None, table: str) -> list[Check]:
    """The checks of a number of points that may be any int64; `column + "_value"` is what `whole` made of it.

    `table` is where the scale is set.
    """
    hint = "" if scale is not None else f"; set {table} amount_scale if the file has decimals"
    reason = pl.format(f"{column} must be an integer of 64 bits: {{}}{hint}", quoted(pl.col(column)))
    return [
        Check(column, pl.col(column).is_null(), pl.lit(f"{column} is missing")),
        Check(column, pl.col(f"{column}_value").is_null(), reason),
    ]


def _number(column: str, scale: int | None) -> tuple[pl.Expr, pl.Expr]:
    text = pl.col(column).str.strip_chars()
    sign = pl.when(text.str.starts_with("-")).then(pl.lit("-")).otherwise(pl.lit(""))
    if scale is None:
        digits = text.str.extract(r"^[+-]?([0-9]+)$", 1)
    else:
        # Zeros past the scale lose nothing; any other digit there would.
        pattern = rf"^[+-]?([0-9]+)(?:\.([0-9]{{0,{scale}}})0*)?$"
        fraction = text.str.extract(pattern, 2).fill_null("").str.pad_end(scale, "0")
        digits = text.str.extract(pattern, 1) + fraction
    return sign, digits.str.strip_chars_start("0").replace("", "0")


def amount_checks(column: str, scale: int | None, *, signed: bool) -> list[Check]:
    """The checks of an amount that is an integer above zero, in points; `column` is its text."""
    text = pl.col(column).str.strip_chars()
    sign, magnitude = integer(column, scale)
    rule = "amount must be an integer above zero"
    hint = (
        "; set [import] amount_scale if the file has decimals"
        if scale is None
        else f"; [import] amount_scale is {scale}, so at most {scale} decimal places"
    )
    is_number = text.str.contains(r"^[+-]?[0-9]+$")
    checks = [
        Check(column, text.is_null(), pl.lit("amount is missing")),
        Check(
            column,
            magnitude.is_null() & is_number.fill_null(False),
            pl.format(f"{rule}: {{}} is past {AMOUNT_MAX}", quoted(text)),
        ),
        Check(column, magnitude.is_null(), pl.format(f"{rule}: {{}}{hint}", quoted(text))),
        Check(column, magnitude == 0, pl.format(f"{rule}: {{}}", quoted(text))),
    ]
    if not signed:
        reason = pl.format(f"{rule}: {{}}; set [import] signed_amounts if the sign is the type", quoted(text))
        checks.append(Check(column, sign == "-", reason))
    return checks


class Times(NamedTuple):
    """`moments` in UTC, null where the text is absent or means no moment; `naive_count` of the texts had no zone.

    `problems` says what is wrong with a local time that the zone's clocks skipped or showed twice, else null.
    """

    moments: pl.Series
    naive_count: int
    problems: pl.Series


def times(texts: pl.Series, zone: ZoneInfo) -> Times:
    """Return the moments that ISO 8601 texts mean; digits past microseconds are cut off."""
    if texts.null_count() == len(texts):
        return Times(texts.cast(UTC_MICROSECONDS), 0, texts.cast(pl.String))
    frame = texts.str.strip_chars().to_frame("text")
    frame = frame.with_columns(
        plain=pl.col("text").str.contains(_FAST_TIME), zoned=pl.col("text").str.contains(_ZONED)
    ).with_columns(_plain_times(zone))
    naive = frame.select((pl.col("plain") & ~pl.col("zoned")).sum()).item()
    # Other forms of ISO 8601 (dates, offsets without a colon, no seconds) are rarer and go one by one.
    others = frame.filter(~pl.col("plain"))["text"]
    if others.len():
        read = {text: _time(text, zone) for text in others.unique().to_list()}
        naive += sum(read[text].is_naive for text in others.to_list())
        slow = pl.DataFrame(
            {
                "text": list(read),
                "slow_moment": pl.Series([time.moment for time in read.values()], dtype=UTC_MICROSECONDS),
                "slow_problem": pl.Series([time.problem for time in read.values()], dtype=pl.String),
            }
        )
        frame = frame.join(slow, on="text", how="left", maintain_order="left").with_columns(
            moment=pl.coalesce("moment", "slow_moment"), problem=pl.coalesce("problem", "slow_problem")
        )
    in_range = pl.when(pl.col("moment").is_between(_FIRST, _LAST)).then("moment")
    return Times(frame.select(in_range).to_series(), naive, frame["problem"])


def _plain_times(zone: ZoneInfo) -> list[pl.Expr]:
    """The `moment` and the `problem` of `text`, where it is `plain` and perhaps `zoned`."""
    utc = (
        pl.when("zoned")
        .then("text")
        .otherwise(pl.col("text") + "Z")
        .str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    )
    if zone.key == "UTC":
        return [pl.when("plain").then(utc).alias("moment"), pl.lit(None, pl.String).alias("problem")]
    naive = utc.dt.replace_time_zone(None)
    first = naive.dt.replace_time_zone(zone.key, ambiguous="earliest", non_existent="null")
    only = naive.dt.replace_time_zone(zone.key, ambiguous="null", non_existent="null")
    is_local = pl.col("plain") & ~pl.col("zoned") & naive.is_not_null()
    moment = pl.when("zoned").then(utc).otherwise(only.dt.convert_time_zone("UTC"))
    problem = (
        pl.when(is_local & first.is_null())
        .then(pl.lit(_skipped(zone)))
        .when(is_local & only.is_null())
        .then(pl.lit(_twice(zone)))
    )
    return [pl.when("plain").then(moment).alias("moment"), problem.alias("problem")]


def _skipped(zone: ZoneInfo) -> str:
    return f"does not exist in {zone.key}, where the clocks skipped it"


def _twice(zone: ZoneInfo) -> str:
    return f"is ambiguous in {zone.key}, where the clocks showed it twice"


class _Time(NamedTuple):
    moment: datetime | None
    is_naive: bool = False
    problem: str | None = None


def _time(text: str, zone: ZoneInfo) -> _Time:
    """Read one text; a bare date is its midnight in UTC and is not naive."""
    try:
        if len(text) <= len("2024-01-01"):
            day = date.fromisoformat(text)
            return _Time(datetime(day.year, day.month, day.day, tzinfo=UTC))
        read = datetime.fromisoformat(text)
        if read.tzinfo is not None:
            return _Time(read.astimezone(UTC))
        local = read.replace(tzinfo=zone)
        moment = local.astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) != read:
            return _Time(None, is_naive=True, problem=_skipped(zone))
        if local.utcoffset() != local.replace(fold=1).utcoffset():
            return _Time(None, is_naive=True, problem=_twice(zone))
        return _Time(moment, is_naive=True)
    except (ValueError, OverflowError):
        return _Time(None)


def time_checks(column: str, *, required: bool) -> list[Check]:
    """The checks of a time: `column` is its text; `column + "_moment"` and `"_problem"` what `times` made of it."""
    text, moment, problem = pl.col(column), pl.col(f"{column}_moment"), pl.col(f"{column}_problem")
    reason = pl.format(f"{column} is no time: {{}}; write ISO 8601, like 2024-03-01T12:00:00Z", quoted(text))
    local = pl.format(f"{column} {{}} {{}}; write its offset from UTC behind it", quoted(text), problem)
    checks = [
        Check(column, problem.is_not_null(), local),
        Check(column, text.is_not_null() & moment.is_null(), reason),
    ]
    if required:
        checks.insert(0, Check(column, text.is_null(), pl.lit(f"{column} is missing")))
    return checks


def metadata(texts: pl.Series) -> Metadata:
    """Return metadata as compact JSON objects; its numbers and its order of keys stay as they were written."""
    places = texts.is_not_null().arg_true()
    compact: list[str | None] = []
    orders: list[str | None] = []
    problems: list[str | None] = []
    for text in texts.gather(places).to_list():
        read = _metadata(text)
        compact.append(read[0])
        orders.append(read[1])
        problems.append(read[2])
    return Metadata(*(_scatter(values, places, len(texts)) for values in (compact, orders, problems)))


_decode = msgspec.json.Decoder().decode
_format = msgspec.json.format


def _metadata(text: str) -> tuple[str | None, str | None, str | None]:
    try:
        value = _decode(text)
        if type(value) is not dict:
            return None, None, "metadata is not a JSON object"
        # An event with its metadata is one level deeper, and every reader has some limit.
        if len(text) > NESTING_MAX and text.count("{") + text.count("[") > NESTING_MAX and _depth(value) > NESTING_MAX:
            return None, None, f"metadata is nested deeper than {NESTING_MAX} levels"
        compact = _format(text, indent=-1)
        if not has_keys(compact, len(value)) and (key := repeated_key(compact, value)) is not None:
            return None, None, f"metadata has the key {key!r} twice"
        order = value.get("order_id")
        if type(order) is int or type(order) is float:
            order = repr(order)
        return compact, order if type(order) is str and order else None, None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return None, None, f"metadata is not JSON: {error}"


def _depth(value: object) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            waiting += [(child, level + 1) for child in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _scatter(values: list[str | None], places: pl.Series, length: int) -> pl.Series:
    if len(values) == length:
        return pl.Series(values, dtype=pl.String)
    spread: list[str | None] = [None] * length
    for place, value in zip(places.to_list(), values, strict=True):
        spread[place] = value
    return pl.Series(spread, dtype=pl.String)
