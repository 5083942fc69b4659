"""What the ledger knows about any transaction, kept up to date in memory for an import that goes on for ever.

A pass over the store makes it and each new event is read once more, so it holds whatever anybody appended: where the
events of every transaction stand (16 bytes each), how far each stream was followed, and who cannot be continued.
"""

from __future__ import annotations

import polars as pl
from sqlalchemy import Connection

from ledger.importing.known import OPENING_SCHEMA, Known, id_hash, is_opening, owners_among
from ledger.importing.streams import PROBLEM_SCHEMA, Streams
from ledger.store import Store
from schemas import decode_batch

__all__ = ["Resident"]

#: New places are searched one by one until there are so many, or a share of all, that sorting them in is worth it.
RECENT_MIN = 200_000
_PLACES = pl.Schema({"transaction_hash": pl.UInt64(), "position": pl.Int64()})


class Resident:
    """What the store holds as of `position`."""

    def __init__(self) -> None:
        self.position = 0
        self._sorted = pl.DataFrame(schema=_PLACES)
        self._recent = pl.DataFrame(schema=_PLACES)
        self._streams = Streams()
        self._unreadable = pl.DataFrame(schema=PROBLEM_SCHEMA)
        self._openings = pl.DataFrame(schema=OPENING_SCHEMA)

    def read(self, store: Store, connection: Connection) -> None:
        """Read what was appended since, by whomever."""
        head = store.head(connection)
        if head == self.position:
            return
        for raw in store.read(connection, after=self.position, until=head):
            self._add(raw)
        self.position = head

    def known(self, store: Store, connection: Connection, rows: pl.DataFrame) -> Known:
        """Return what `decide` needs to know about some rows (`rows.ROW_SCHEMA`)."""
        pairs = rows.select(transaction_hash=id_hash("transaction_id"), account_hash=id_hash("account_id"))
        accounts = rows.select("account_id").unique()
        heads = store.heads(connection, accounts["account_id"].to_list())
        broken = pl.concat([self._unreadable, self._streams.problems(heads, accounts)])
        known = Known("", pairs, accounts)
        known.hold(heads, store.read_positions(connection, self._places(pairs)), broken, self._openings)
        among = owners_among(rows, known.broken)
        # What the ledger says about a transaction's account is stronger than what the rows say first.
        known.owners = pl.concat([known.owners, among]).unique("transaction_id", keep="first", maintain_order=True)
        return known

    def _add(self, raw: pl.DataFrame) -> None:
        decoded = decode_batch(raw, ("transaction_id", "reason"))
        events = decoded.events
        places = events.filter(pl.col("transaction_id").is_not_null())
        self._recent = pl.concat(
            [self._recent, places.select(transaction_hash=id_hash("transaction_id"), position="position")]
        )
        if self._recent.height > max(RECENT_MIN, self._sorted.height // 8):
            self._sorted = pl.concat([self._sorted, self._recent]).sort("transaction_hash")
            self._recent = self._recent.clear()
        openings = events.filter(is_opening()).select("account_id", opening_at="effective_at")
        if openings.height:
            both = pl.concat([self._openings, openings])
            self._openings = both.group_by("account_id").agg(pl.col("opening_at").max())
        if decoded.poison:
            reasons = [(one.account_id, f"event at position {one.position} is unreadable") for one in decoded.poison]
            found = pl.DataFrame(reasons, schema=PROBLEM_SCHEMA, orient="row")
            self._unreadable = pl.concat([self._unreadable, found.filter(pl.col("account_id").is_not_null())])
        self._streams.add(raw)

    def _places(self, pairs: pl.DataFrame) -> list[int]:
        """Return the positions of the events whose transaction is perhaps one of these, by its hash."""
        wanted = pairs.select("transaction_hash").unique()
        recent = self._recent.join(wanted, on="transaction_hash", how="semi")["position"].to_list()
        hashes, places = self._sorted["transaction_hash"], self._sorted["position"]
        ends = pl.DataFrame(
            {
                "first": hashes.search_sorted(wanted["transaction_hash"], "left"),
                "end": hashes.search_sorted(wanted["transaction_hash"], "right"),
            }
        ).filter(pl.col("first") < pl.col("end"))
        found = [places.slice(first, end - first) for first, end in ends.iter_rows()]
        return sorted({*recent, *(pl.concat(found).to_list() if found else [])})
