"""Events in columns to the rows of the event store: versions, wire bytes, hash chain.

The bytes are those of `schemas.encode`, made for many events at once; a test holds the two together.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b

import polars as pl

from ledger.store import GENESIS
from schemas.events import SCHEMA_VERSION, AccountOpened

__all__ = ["NEW_EVENT_COLUMNS", "chained", "numbered", "states", "stored_rows"]

#: What `numbered` takes beside `account_id`, in each account's order; `reason` is for events of the account itself.
NEW_EVENT_COLUMNS = (
    "event",
    "effective_at",
    "recorded_at",
    "transaction_id",
    "type",
    "amount",
    "from_status",
    "to_status",
    "related_transaction_id",
    "business_code",
    "order_id",
    "metadata",
    "reason",
)
_OPENED = str(AccountOpened.__struct_config__.tag)
_WIRE_TIME = "%Y-%m-%dT%H:%M:%S%.6fZ"


def stored_rows(events: pl.DataFrame, heads: pl.DataFrame) -> pl.DataFrame:
    """Return events as `Store.append_rows` takes them, each account going on from its head.

    `events`: `account_id` and `NEW_EVENT_COLUMNS`, each account's events together and in order. `heads`:
    `account_id`, `version`, `chain`. An account without a head is opened first, at its first event's moments.
    """
    full = numbered(events, heads)
    lines = states(full)
    chains = chained(lines, full["first_chain"])
    return full.select("account_id", "version", topic="event").with_columns(state=lines, chain=chains)


def numbered(events: pl.DataFrame, heads: pl.DataFrame) -> pl.DataFrame:
    """Return the events with `version`, `first_chain` (on an account's first row) and the opening events.

    `first_chain` is the chain before the row, null on all rows but the account's first.
    """
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    joined = events.with_columns(place=place * 2 + 1).join(
        heads.select("account_id", head_version="version", head_chain="chain"),
        on="account_id",
        how="left",
        maintain_order="left",
    )
    is_first = pl.col("account_id") != pl.col("account_id").shift(1)
    firsts = joined.filter(is_first.fill_null(True))
    opening = (
        firsts.filter(pl.col("head_version").is_null())
        .with_columns(
            pl.lit(None).cast(joined.schema[name]).alias(name)
            for name in NEW_EVENT_COLUMNS
            if name not in ("event", "effective_at", "recorded_at")
        )
        .with_columns(event=pl.lit(_OPENED), place=pl.col("place") - 1)
    )
    opening = opening.join(firsts.filter(pl.col("event") == _OPENED).select("account_id"), on="account_id", how="anti")
    full = pl.concat([joined, opening]).sort("place") if opening.height else joined
    run = pl.col("account_id").rle_id()
    return full.with_columns(
        version=pl.col("head_version").fill_null(0) + pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(run),
        first_chain=pl.when(is_first.fill_null(True)).then(pl.col("head_chain").fill_null(GENESIS)),
    ).drop("place", "head_version", "head_chain")


def chained(states: pl.Series, first_chains: pl.Series) -> pl.Series:
    """Return the hash chain after each event; a non-null `first_chains` is the chain before an account's first."""
    chains: list[bytes] = []
    last = GENESIS
    for state, first in zip(states.to_list(), first_chains.to_list(), strict=True):
        # `ledger.store.chain` inline: a call would cost a fifth of it.
        last = blake2b((last if first is None else first) + state, digest_size=32).digest()
        chains.append(last)
    return pl.Series(chains, dtype=pl.Binary)


def states(events: pl.DataFrame) -> pl.Series:
    """Return the wire bytes of events with `account_id`, `version` and `NEW_EVENT_COLUMNS`."""
    is_account = events["transaction_id"].is_null()
    if not is_account.any():
        return _transaction_states(events)
    place = pl.int_range(events.height, eager=True)
    both = pl.concat([_transaction_states(events.filter(~is_account)), _account_states(events.filter(is_account))])
    places = pl.concat([place.filter(~is_account), place.filter(is_account)])
    return both.gather(places.arg_sort())


def _transaction_states(events: pl.DataFrame) -> pl.Series:
    fields = _common(events) | {name: pl.col(name) for name in NEW_EVENT_COLUMNS[3:-2]}
    # Metadata is JSON already, and the encoder ends every other object with a brace to take off.
    metadata = pl.col("metadata").fill_null("null")
    whole = pl.concat_str(_json(fields).str.strip_suffix("}"), pl.lit(',"metadata":'), metadata, pl.lit("}"))
    return events.select(whole.cast(pl.Binary).alias("state")).to_series()


def _account_states(events: pl.DataFrame) -> pl.Series:
    fields = _common(events) | {"reason": pl.col("reason")}
    return events.select(_json(fields).cast(pl.Binary).alias("state")).to_series()


def _common(events: pl.DataFrame) -> dict[str, pl.Expr]:
    return {
        "event": pl.col("event"),
        "event_id": pl.concat_str("account_id", pl.lit(":"), "version"),
        "account_id": pl.col("account_id"),
        "version": pl.col("version"),
        "effective_at": pl.col("effective_at").dt.strftime(_WIRE_TIME),
        "recorded_at": _wire_time(events["recorded_at"]),
        "schema_version": pl.lit(SCHEMA_VERSION),
    }


def _wire_time(moments: pl.Series) -> pl.Expr:
    # Nearly always one moment, the import's own.
    if moments.len() and moments.min() == moments.max() and not moments.has_nulls():
        return pl.lit(moments[:1].dt.strftime(_WIRE_TIME).item())
    return pl.col(moments.name).dt.strftime(_WIRE_TIME)


def _json(fields: dict[str, pl.Expr]) -> pl.Expr:
    columns = [column.alias(name) for name, column in fields.items()]
    return pl.struct(columns).struct.json_encode()


def at(moment: datetime) -> pl.Expr:
    """A moment as the columns hold it."""
    return pl.lit(moment, pl.Datetime("us", "UTC"))
