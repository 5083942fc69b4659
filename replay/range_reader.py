"""A worker process that reads and decodes ranges of an SQLite event store; started by `replay.workers`.

Run as a script, not as a module, so that it starts with nothing but the wire room. Requests come as JSON lines on
standard input, answers go as JSON lines to standard output, events as an Arrow file that the request names. It
checks the hash chain within its range and hands on the bytes of those events only whose predecessor it lacks. It
reads with ADBC, which makes columns without a Python object for each value. That driver brings an SQLite of its
own, and two SQLites in one process would undo each other's file locks: another reason for a process of its own.
"""

from __future__ import annotations

import gc
import sys

import msgspec
import polars as pl

from schemas.chain import chains
from schemas.columns import RAW_SCHEMA, decode_batch
from schemas.events import PoisonEvent

__all__ = ["Answer", "Request"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Decode what a query gives (columns as `RAW_SCHEMA`) with some details into an Arrow file."""

    sql: str
    details: tuple[str, ...]
    file: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be decoded, or why the range could not be read at all: then nothing of it counts."""

    poison: list[PoisonEvent] = []
    error: str | None = None


def serve(database: str) -> None:
    """Answer requests about an SQLite file until standard input ends."""
    from adbc_driver_sqlite import dbapi

    # Nothing here refers to itself, and the collector would walk every list of bytes in vain.
    gc.disable()
    decoder, encoder = msgspec.json.Decoder(Request), msgspec.json.Encoder()
    with dbapi.connect(database) as connection:
        for line in sys.stdin.buffer:
            try:
                answer = _answer(connection, decoder.decode(line))
            except BaseException as error:  # noqa: BLE001 - polars panics are BaseExceptions; the parent reads again.
                answer = Answer(error=f"{type(error).__name__}: {error}")
            sys.stdout.buffer.write(encoder.encode(answer) + b"\n")
            sys.stdout.buffer.flush()


def _answer(connection: object, request: Request) -> Answer:
    with connection.cursor() as cursor:  # type: ignore[attr-defined]  # the driver has no types.
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "65536"})
        cursor.execute(request.sql)
        raw = pl.DataFrame(cursor.fetch_arrow())
    raw.columns = RAW_SCHEMA.names()
    # An empty result has no types of its own; a value of another type ends the range, and the parent reads again.
    raw = raw.cast(RAW_SCHEMA, strict=True) if raw.height else pl.DataFrame(schema=RAW_SCHEMA)
    states = raw["state"].to_list()
    decoded = decode_batch(raw, request.details, states)
    if decoded.poison:
        # Rows are missing, so the list is not that of the events.
        states = decoded.events["state"].to_list()
    events = decoded.events.with_columns(state=_unchecked(decoded.events, states))
    events.write_ipc(request.file, compression="uncompressed")
    return Answer(poison=decoded.poison)


def _unchecked(events: pl.DataFrame, states: list[bytes]) -> pl.Series:
    """The bytes of the events, null where they follow from the event before them in this range by the chain.

    That is all that the bytes are for, so what is checked here need not travel.
    """
    follows = (pl.col("account_id") == pl.col("account_id").shift()) & (
        pl.col("version") == pl.col("version").shift() + 1
    )
    inner = (
        events.select("account_id", "version", "chain")
        .with_row_index("row")
        .sort("account_id", "version")
        .with_columns(previous=pl.when(follows).then(pl.col("chain").shift()))
        .filter(pl.col("previous").is_not_null() & pl.col("chain").is_not_null())
    )
    actual = chains(inner["previous"].to_list(), [states[row] for row in inner["row"].to_list()])
    checked = inner.filter(inner["chain"] == pl.Series(actual, dtype=pl.Binary()))["row"]
    is_checked = pl.int_range(events.height, dtype=pl.UInt32(), eager=True).is_in(checked.implode())
    return events.select(pl.when(~is_checked).then("state")).to_series().alias("state")


if __name__ == "__main__":
    serve(sys.argv[1])
