"""Bulk codec: wire bytes to typed columns, a batch at a time.

A batch is read as one newline-delimited JSON document by polars. Whatever that reader cannot vouch for (a line
it refuses, an unknown tag, another schema version, a missing or illegal value) is decoded again by
`schemas.codec.decode`, row by row, which either upcasts it or names it as poison. So the bulk path is only ever
a faster way to the same answer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import polars as pl

from schemas.codec import decode
from schemas.events import (
    EVENT_TYPES,
    ID_LENGTH_MAX,
    SCHEMA_VERSION,
    STATUSES,
    TRANSACTION_TYPES,
    Event,
    PoisonEvent,
    TransactionEvent,
)

__all__ = ["DETAIL_COLUMNS", "EVENT_SCHEMA", "RAW_SCHEMA", "Decoded", "decode_batch", "event_rows", "wire_time"]

UTC_MICROSECONDS = pl.Datetime("us", "UTC")

#: What a source gives: the place, the key and the bytes. `chain` is the hash chain up to and with this event
#: (see `ledger.store`); null where the source keeps none.
RAW_SCHEMA = pl.Schema(
    {
        "position": pl.Int64(),
        "account_id": pl.String(),
        "version": pl.Int64(),
        "state": pl.Binary(),
        "chain": pl.Binary(),
    }
)

#: Columns that only some projections need. The first two are read all the same from bytes that no chain vouches
#: for, since they decide what is poison.
DETAIL_COLUMNS = (
    "recorded_at",
    "transaction_id",
    "event_id",
    "related_transaction_id",
    "business_code",
    "order_id",
    "metadata",
    "reason",
)
_JUDGED = DETAIL_COLUMNS[:2]

#: The columns of an event batch. `metadata` is its JSON text.
EVENT_SCHEMA = pl.Schema(
    {
        "position": pl.Int64(),
        "account_id": pl.String(),
        "version": pl.Int64(),
        "event": pl.String(),
        "effective_at": UTC_MICROSECONDS,
        "recorded_at": UTC_MICROSECONDS,
        "transaction_id": pl.String(),
        "type": pl.String(),
        "amount": pl.Int64(),
        "from_status": pl.String(),
        "to_status": pl.String(),
        **dict.fromkeys(DETAIL_COLUMNS[2:], pl.String()),
    }
)

_TIMES = ("effective_at", "recorded_at")
WIRE_TIME_BYTES = len("2024-01-01T00:00:00.000000Z")
_WIRE_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]\.[0-9]{6}Z$"
_YEAR_ZERO = "0000"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%6fZ"
_TRANSACTION_TAGS = [tag for tag, cls in EVENT_TYPES.items() if issubclass(cls, TransactionEvent)]
_TRANSACTION_FIELDS = frozenset(TransactionEvent.__struct_fields__) - frozenset(Event.__struct_fields__)
_ACCOUNT_TAGS = [tag for tag in EVENT_TYPES if tag not in _TRANSACTION_TAGS]


class _Metadata(msgspec.Struct):
    metadata: dict[str, Any] | None = None


_METADATA = msgspec.json.Decoder(_Metadata)


class Decoded(NamedTuple):
    """A decoded batch: `events` with the columns asked for, in the order given, and what could not be read."""

    events: pl.DataFrame
    poison: list[PoisonEvent]


def decode_batch(raw: pl.DataFrame, details: tuple[str, ...] = (), states: list[bytes] | None = None) -> Decoded:
    """Return the events of a raw batch as columns.

    `raw` has the columns of `RAW_SCHEMA`; `states` is its column of that name as a list, where that is at hand. The
    result has the columns of `EVENT_SCHEMA` less the `DETAIL_COLUMNS` that are not in `details`, and beside them
    `state` and `chain`.
    """
    names = [name for name in EVENT_SCHEMA if name not in DETAIL_COLUMNS or name in details]
    if raw.is_empty():
        return Decoded(_empty(names), [])
    # Bytes that a chain vouches for passed the strict decoder when they were appended, and what is not those bytes
    # any more, the sequence gate finds by the chain.
    is_chained = raw["chain"].null_count() == 0
    judged = [name for name in EVENT_SCHEMA if name in names or (name in _JUDGED and not is_chained)]
    parsed = _parse(raw["state"], states or raw["state"].to_list(), judged)
    if parsed is None:
        return _decode_rows(raw, names)
    whole = parsed.with_columns(raw["position", "account_id", "version", "state", "chain"])
    if "metadata" in names:
        whole = whole.with_columns(_metadata(raw["state"], parsed["metadata"].is_not_null()))
    trusted = _is_current(raw["account_id"], raw["version"], judged)
    if not is_chained:
        trusted &= _is_legal(judged) & _is_unchanged(judged)
    doubtful = parsed.select(~trusted.fill_null(False)).to_series()
    columns = [*names, "state", "chain"]
    if not doubtful.any():
        return Decoded(whole.select(columns), [])
    slow = _decode_rows(raw.filter(doubtful), names)
    events = pl.concat([whole.filter(~doubtful).select(columns), slow.events]).sort("position")
    return Decoded(events, slow.poison)


def event_rows(events: list[Event]) -> pl.DataFrame:
    """Return structs as an event batch with every column of `EVENT_SCHEMA`, positions numbered from 1."""
    rows = [_row(event) | {"position": index} for index, event in enumerate(events, start=1)]
    return pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")


def wire_time(name: str) -> pl.Expr:
    """Return a column of times for one of their text, null where that is not the one form of the wire.

    By itself polars takes blanks and signs for digits of a year, knows a year 0 and a second 60, and cuts what is
    smaller than a microsecond, where the strict decoder refuses and rounds.
    """
    text = pl.col(name)
    is_wire = text.str.contains(_WIRE_TIME) & ~text.str.starts_with(_YEAR_ZERO)
    moment = pl.when(is_wire).then(text).str.to_datetime(_TIME_FORMAT, time_unit="us", time_zone="UTC", strict=False)
    return moment.alias(name)


def _empty(names: list[str]) -> pl.DataFrame:
    schema = {name: EVENT_SCHEMA[name] for name in names}
    return pl.DataFrame(schema={**schema, "state": pl.Binary(), "chain": pl.Binary()})


def _parse(states: pl.Series, lines: list[bytes], names: list[str]) -> pl.DataFrame | None:
    """Return the columns that polars reads from the lines, or None where it cannot read them as one document.

    Beside the columns of `names` there are `state`, `schema_version` and the key as the bytes have it; times are null
    unless they are in the one form of the wire.
    """
    times = [name for name in _TIMES if name in names]
    wire: dict[str, pl.DataType] = {
        name: pl.String() if name in times else EVENT_SCHEMA[name] for name in names if name != "position"
    }
    wire["schema_version"] = pl.Int64()
    # An empty line vanishes, which the height could hide behind a line with two objects.
    if not states.bin.starts_with(b"{").all():
        return None
    try:
        parsed = pl.read_ndjson(b"\n".join(lines), schema=wire)
    except pl.exceptions.PolarsError:
        return None
    # A line with two objects doubles, so the height must be what was sent.
    if parsed.height != states.len():
        return None
    wire_names = {"account_id": "wire_account_id", "version": "wire_version"}
    return parsed.with_columns(states.alias("state")).rename(wire_names).with_columns(wire_time(name) for name in times)


def _is_current(account_ids: pl.Series, versions: pl.Series, names: list[str]) -> pl.Expr:
    """Rows of a known event at the current schema version, with the key that the source says."""
    # Fields of the other kind of event are unknown fields to the strict decoder, so no columns of it.
    of_account = pl.all_horizontal(
        pl.col("event").is_in(_ACCOUNT_TAGS),
        *(pl.col(name).is_null() for name in names if name in _TRANSACTION_FIELDS),
    )
    of_transaction = pl.col("event").is_in(_TRANSACTION_TAGS)
    if "reason" in names:
        of_transaction &= pl.col("reason").is_null()
    return pl.all_horizontal(
        of_transaction | of_account,
        pl.col("schema_version") == SCHEMA_VERSION,
        pl.col("wire_account_id") == account_ids,
        (pl.col("wire_version") == versions) & (pl.col("wire_version") >= 1),
        *(pl.col(name).is_not_null() for name in _TIMES if name in names),
    )


def _is_legal(names: list[str]) -> pl.Expr:
    """Rows whose values are all legal, so that the strict decoder would take them."""
    of_transaction = pl.all_horizontal(
        _identifier("transaction_id"),
        pl.col("type").is_in(TRANSACTION_TYPES),
        pl.col("amount") >= 1,
        pl.col("to_status").is_in(STATUSES),
        pl.col("from_status").is_null() | pl.col("from_status").is_in(STATUSES),
    )
    has_event_id = (pl.col("event_id").str.len_bytes() > 0) if "event_id" in names else pl.lit(True)
    return pl.all_horizontal(
        of_transaction.fill_null(False) | pl.col("event").is_in(_ACCOUNT_TAGS),
        _identifier("wire_account_id"),
        has_event_id,
    )


def _is_unchanged(names: list[str]) -> pl.Expr:
    """Rows whose values polars has not made into something else on the way.

    It makes text of a value of any type, and NUL of half a surrogate pair.
    """
    texts = [name for name in (*_JUDGED[1:], *DETAIL_COLUMNS[2:]) if name in names]
    opening = {"account_id": '"', **{name: "{" if name == "metadata" else '"' for name in texts}}
    column = {"account_id": "wire_account_id"}
    return pl.all_horizontal(
        *(
            pl.col(column.get(name, name)).is_null() | pl.col("state").bin.contains(f'"{name}":{mark}'.encode())
            for name, mark in opening.items()
        ),
        *(~pl.col(name).str.contains("\0", literal=True).fill_null(False) for name in texts),
    )


def _identifier(name: str) -> pl.Expr:
    """What `schemas.events.Identifier` asks of an id."""
    text = pl.col(name)
    return text.str.len_chars().is_between(1, ID_LENGTH_MAX) & ~text.str.contains("\x00", literal=True)


def _metadata(states: pl.Series, has_metadata: pl.Series) -> pl.Series:
    """Metadata as the strict decoder would write it: polars leaves keys unescaped when it writes JSON anew."""
    texts: list[str | None] = [None] * len(states)
    for row in has_metadata.arg_true():
        with suppress(msgspec.DecodeError):  # Such a line is doubtful, so it is decoded again and named there.
            texts[row] = msgspec.json.encode(_METADATA.decode(states[row]).metadata).decode()
    return pl.Series("metadata", texts, dtype=pl.String)


def _decode_rows(raw: pl.DataFrame, names: list[str]) -> Decoded:
    rows, poison = [], []
    for position, account_id, version, state, chain in raw.select(RAW_SCHEMA.names()).iter_rows():
        event = decode(state, position=position, account_id=account_id, version=version)
        if isinstance(event, PoisonEvent):
            poison.append(event)
        else:
            rows.append(_row(event) | {"position": position, "state": state, "chain": chain})
    schema = _empty(names).schema
    return Decoded(pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema), poison)


def _row(event: Event) -> dict[str, object]:
    fields = msgspec.structs.asdict(event)
    row: dict[str, object] = {name: fields.get(name) for name in EVENT_SCHEMA}
    row["event"] = event.__struct_config__.tag
    if fields.get("metadata") is not None:
        row["metadata"] = msgspec.json.encode(fields["metadata"]).decode()
    return row
