"""What the ledger already knows about the transactions and accounts of a file.

One pass over the store keeps only what the file is about, on disk: the events of its transactions, by account.
In memory stay the heads of its accounts, and the few transactions that the ledger knows in another account.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger.importing.batches import LINE
from ledger.importing.staging import BUCKETS, Group, Spill, bucket_of
from ledger.importing.streams import PROBLEM_SCHEMA, Streams
from ledger.store import Store
from schemas import Decoded, decode_batch
from schemas.columns import RAW_SCHEMA, UTC_MICROSECONDS
from schemas.events import AccountOpened, TransactionRecorded

__all__ = [
    "HOLD",
    "KNOWN_SCHEMA",
    "OPENING",
    "OPENING_REASON",
    "OWNER_SCHEMA",
    "PAIR_SCHEMA",
    "Known",
    "id_hash",
    "is_opening",
    "owners_among",
]

#: The transactions of an account's opening are named by these and the account; why it was opened says the third.
OPENING, HOLD = "opening:", "opening-hold:"
OPENING_REASON = "opening balance"

#: One event of a known transaction; `status` is the one it went to, `created_at` the moment it is effective.
KNOWN_SCHEMA = pl.Schema(
    {
        "version": pl.Int64(),
        "account_id": pl.String(),
        "transaction_id": pl.String(),
        "is_record": pl.Boolean(),
        "type": pl.String(),
        "status": pl.String(),
        "amount": pl.Int64(),
        "related_transaction_id": pl.String(),
        "business_code": pl.String(),
        "order_id": pl.String(),
        "metadata": pl.String(),
        "created_at": UTC_MICROSECONDS,
    }
)
OPENING_SCHEMA = pl.Schema({"account_id": pl.String(), "opening_at": UTC_MICROSECONDS})
OWNER_SCHEMA = pl.Schema({"transaction_id": pl.String(), "owner": pl.String()})
PAIR_SCHEMA = pl.Schema({"transaction_hash": pl.UInt64(), "account_hash": pl.UInt64()})
_DETAILS = ("transaction_id", "related_transaction_id", "business_code", "order_id", "metadata", "reason")
_OPENED = str(AccountOpened.__struct_config__.tag)
_RECORDED = str(TransactionRecorded.__struct_config__.tag)
_HEADS = {name: RAW_SCHEMA[name] for name in ("account_id", "version", "chain")}


class _Raw(msgspec.Struct):
    metadata: msgspec.Raw = msgspec.Raw(b"null")


def id_hash(column: str) -> pl.Expr:
    """A column of ids as 64-bit hashes: what is kept in memory of every row of a file."""
    return pl.col(column).hash(0)


def owners_among(rows: pl.DataFrame, broken: pl.DataFrame) -> pl.DataFrame:
    """Return `transaction_id`, `owner` for the transactions that rows have in several accounts: the first row's.

    Rows of accounts that cannot be continued (`broken`) own nothing.
    """
    several = rows.group_by("transaction_id").agg(pl.col("account_id").n_unique()).filter(pl.col("account_id") > 1)
    return (
        rows.join(several, on="transaction_id", how="semi")
        .join(broken, on="account_id", how="anti")
        .sort(LINE)
        .select("transaction_id", owner="account_id")
        .unique("transaction_id", keep="first", maintain_order=True)
    )


def is_opening() -> pl.Expr:
    """Whether an event is of an opening balance: what its account was before that moment is in it."""
    transaction = pl.col("transaction_id")
    return (
        (transaction == pl.lit(OPENING) + pl.col("account_id"))
        | (transaction == pl.lit(HOLD) + pl.col("account_id"))
        | ((pl.col("event") == _OPENED) & (pl.col("reason") == OPENING_REASON))
    ).fill_null(False)


class Known:
    """What the store holds about a file, as of `position`; `epoch` goes up whenever others have changed that.

    `pairs`: `transaction_hash` and `account_hash` (UInt64) of every row of the file. `accounts`: `account_id`,
    each of the file's once. `heads`: `account_id`, `version`, `chain`. `broken`: `account_id`, `problem` of those
    whose stream cannot be continued. `owners`: `transaction_id`, `owner` of those that are known in an account
    other than the file says. `openings`: `account_id`, `opening_at` of those that began with an opening balance.
    `watch` is called with every decoded batch.
    """

    def __init__(
        self,
        folder: Path | str,
        pairs: pl.DataFrame | None,
        accounts: pl.DataFrame,
        watch: Callable[[pl.DataFrame], None] | None = None,
    ) -> None:
        if pairs is None:
            pairs = pl.DataFrame(schema=PAIR_SCHEMA)
        self.position = 0
        self.epoch = 0
        self.heads = pl.DataFrame(schema=_HEADS)
        self.broken = pl.DataFrame(schema=PROBLEM_SCHEMA)
        self.owners = pl.DataFrame(schema=OWNER_SCHEMA)
        self.openings = pl.DataFrame(schema=OPENING_SCHEMA)
        self._pairs = pairs
        self._hashes = pairs.select("transaction_hash").unique()
        # A transaction that the file has in two accounts is known in another one for at least one of them.
        self._spread = (
            pairs.unique().filter(pl.col("transaction_hash").is_duplicated()).select("transaction_hash").unique()
        )
        self._accounts = accounts
        self._spill = Spill(folder, "known")
        self._tail: list[pl.DataFrame] = []
        self._watch = watch

    def read(self, store: Store, connection: Connection) -> None:
        """Read the whole store in one snapshot, and check every event of the file's accounts by its hash chain."""
        head = store.head(connection)
        self.heads = self._of_file(store.heads(connection))
        streams = Streams()
        for raw in store.read(connection, until=head) if head else ():
            self._spill.add(self._of_transactions(self._decoded(raw)))
            streams.add(self._of_file(raw))
        self.position = head
        self._note_broken(streams.problems(self.heads))

    def hold(self, heads: pl.DataFrame, events: pl.DataFrame, broken: pl.DataFrame, openings: pl.DataFrame) -> None:
        """Take what somebody else has found out about the file instead of reading the store.

        `events` (`RAW_SCHEMA`): every event of the file's transactions, and any others.
        """
        self.heads, self.openings = self._of_file(heads), self._of_file(openings)
        self._note_broken(broken)
        self._tail.append(self._of_transactions(self._decoded(events)))

    def catch_up(self, store: Store, connection: Connection) -> None:
        """Read what others appended since; the caller holds the append lock."""
        head = store.head(connection)
        if head == self.position:
            return
        # First of all, so that whoever reads at this moment takes its reading for an old one.
        self.epoch += 1
        for raw in store.read(connection, after=self.position, until=head):
            self._tail.append(self._of_transactions(self._decoded(raw)))
        self.heads = self._of_file(store.heads(connection))
        self.position = head

    def appended(self, store: Store, connection: Connection) -> None:
        """Take our own appends of this transaction as read."""
        self.position = store.head(connection)

    def events(self, group: Group) -> pl.DataFrame:
        """Return the known events of the file's transactions in a group's accounts, in version order."""
        inside = bucket_of().is_between(group.first, group.last)
        staged = self._spill.read(group)
        frames = [] if staged is None else [staged]
        frames += [tail.filter(inside) for tail in self._tail]
        return pl.concat(frames).sort("account_id", "version") if frames else pl.DataFrame(schema=KNOWN_SCHEMA)

    def all_events(self) -> pl.DataFrame:
        """Return every known event of the file's transactions, in version order."""
        return self.events(Group(0, BUCKETS - 1, 0))

    def _decoded(self, raw: pl.DataFrame) -> pl.DataFrame:
        decoded = decode_batch(raw, _DETAILS)
        self._note_poison(decoded)
        self._note_openings(decoded.events)
        if self._watch is not None:
            self._watch(decoded.events)
        return decoded.events

    def _of_file(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.join(self._accounts, on="account_id", how="semi")

    def _of_transactions(self, events: pl.DataFrame) -> pl.DataFrame:
        keyed = events.filter(pl.col("transaction_id").is_not_null()).with_columns(
            transaction_hash=id_hash("transaction_id"), account_hash=id_hash("account_id")
        )
        ours = keyed.join(self._hashes, on="transaction_hash", how="semi", maintain_order="left")
        if ours.is_empty():
            return pl.DataFrame(schema=KNOWN_SCHEMA)
        self._note_owners(ours)
        return ours.with_columns(
            metadata=_exact_metadata(ours),
            is_record=pl.col("event") == _RECORDED,
            status="to_status",
            created_at="effective_at",
        ).select(KNOWN_SCHEMA.names())

    def _note_owners(self, ours: pl.DataFrame) -> None:
        elsewhere = ours.join(self._pairs, on=["transaction_hash", "account_hash"], how="anti")
        spread = ours.join(self._spread, on="transaction_hash", how="semi")
        found = pl.concat([elsewhere, spread]).select("transaction_id", owner="account_id", position="position")
        owners = pl.concat([self.owners, found.sort("position").drop("position")])
        self.owners = owners.unique("transaction_id", keep="first", maintain_order=True)

    def _note_openings(self, events: pl.DataFrame) -> None:
        found = events.filter(is_opening()).select("account_id", opening_at="effective_at")
        if found.height:
            openings = pl.concat([self.openings, self._of_file(found)])
            self.openings = openings.group_by("account_id").agg(pl.col("opening_at").max())

    def _note_poison(self, decoded: Decoded) -> None:
        if decoded.poison:
            found = pl.DataFrame(
                [
                    (poison.account_id, f"event at position {poison.position} is unreadable")
                    for poison in decoded.poison
                ],
                schema=self.broken.schema,
                orient="row",
            )
            self._note_broken(found)

    def _note_broken(self, found: pl.DataFrame) -> None:
        broken = pl.concat([self.broken, self._of_file(found.filter(pl.col("account_id").is_not_null()))])
        self.broken = broken.unique("account_id", keep="first", maintain_order=True)


def _exact_metadata(events: pl.DataFrame) -> pl.Series:
    """Return metadata as compact JSON from the wire bytes; the bulk decoder writes numbers and texts in its own way."""
    decoder = msgspec.json.Decoder(_Raw)
    exact: list[str | None] = []
    for text, state in events.select("metadata", "state").iter_rows():
        # The format of a text is a text, of bytes it is bytes.
        raw = None if text is None else bytes(decoder.decode(state).metadata)
        exact.append(None if raw is None else msgspec.json.format(raw, indent=-1).decode())
    return pl.Series(exact, dtype=pl.String)
