"""The digest of balances: a two-level hash tree, built in bulk from columns.

A row goes to one of 4,096 leaves by a stable hash of its account id. A leaf is BLAKE2b-256 over its canonical
rows in key order, the root is BLAKE2b-256 over the leaves in order. A canonical row is the account id with its
length in bytes before it, then the other columns as decimal numbers or bare words, with `|` between and a
newline after: nothing but the id can hold a `|`, so no two rows share a text. Times count as microseconds
since 1970 UTC. Same rows, any order, any machine: the same digest.

That is what everybody can make of balances. Rows as the read model stores them have more columns, and `stored_digest`
is over all of these in the same way: nothing is `-`, and a chain is hexadecimal.
"""

from __future__ import annotations

from hashlib import blake2b

import polars as pl

from ledger.read_model import ROW_SCHEMA

__all__ = ["DIGEST_COLUMNS", "LEAVES", "digest", "leaf_digests", "stored_digest"]

LEAVES = 4096

#: What is under the digest, in this order: the contract's balances row.
DIGEST_COLUMNS = (
    "account_id",
    "balance",
    "frozen",
    "available",
    "pending_credit",
    "pending_debit",
    "status",
    "version",
    "last_effective_at",
)

_PRIME = 0x9E3779B97F4A7C15
_WORD = 8


def digest(rows: pl.DataFrame) -> str:
    """Return the root over balances rows as 64 hex digits; `rows` has at least `DIGEST_COLUMNS`."""
    return blake2b(b"".join(leaf_digests(rows)), digest_size=32, person=b"ledger-root-1").hexdigest()


def stored_digest(rows: pl.DataFrame) -> str:
    """Return the root over rows as the read model stores them (`ROW_SCHEMA`), every column, as 64 hex digits."""
    columns = [_stored(name, dtype) for name, dtype in ROW_SCHEMA.items() if name != "account_id"]
    return blake2b(b"".join(_leaf_digests(rows, columns)), digest_size=32, person=b"ledger-rows-1").hexdigest()


def leaf_digests(rows: pl.DataFrame) -> list[bytes]:
    """Return the 4,096 leaf digests in order; a leaf without rows hashes no bytes."""
    moment = pl.col("last_effective_at").dt.timestamp("us")
    return _leaf_digests(rows, [moment if name == "last_effective_at" else pl.col(name) for name in DIGEST_COLUMNS[1:]])


def _leaf_digests(rows: pl.DataFrame, columns: list[pl.Expr]) -> list[bytes]:
    # A leaf has few rows, so sorting each is less work than sorting all.
    texts = (
        rows.lazy()
        .select(leaf=_leaves(rows["account_id"]), account_id="account_id", row=_canonical(columns))
        .group_by("leaf")
        .agg(pl.col("row").sort_by("account_id").str.join(""))
        .collect()
    )
    found = {leaf: _leaf_digest(text.encode()) for leaf, text in texts.iter_rows()}
    return [found.get(leaf, _EMPTY_LEAF) for leaf in range(LEAVES)]


def _leaf_digest(rows: bytes) -> bytes:
    return blake2b(rows, digest_size=32, person=b"ledger-leaf-1").digest()


_EMPTY_LEAF = _leaf_digest(b"")


def _stored(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        column = column.dt.timestamp("us")
    elif isinstance(dtype, pl.Binary):
        column = column.bin.encode("hex")
    return column.cast(pl.String).fill_null("-")


def _canonical(columns: list[pl.Expr]) -> pl.Expr:
    account_id = pl.col("account_id")
    identified = pl.concat_str(account_id.str.len_bytes(), pl.lit(":"), account_id)
    return pl.concat_str(pl.concat_str(identified, *columns, separator="|"), pl.lit("\n"))


def _leaves(account_ids: pl.Series) -> pl.Series:
    """Leaf of each account id: its bytes as little-endian 64-bit words, each multiplied and mixed in."""
    left = account_ids.to_frame("account_id").select(
        row=pl.int_range(pl.len()),
        length=pl.col("account_id").str.len_bytes(),
        mixed=pl.col("account_id").str.len_bytes().cast(pl.UInt64),
        data=(pl.col("account_id") + pl.lit("\0" * _WORD)).cast(pl.Binary),
    )
    done = []
    # Word by word, and no row after its last: one expression over all words would double with each of them.
    start = 0
    while True:
        is_done = pl.col("length") <= start
        done.append(left.filter(is_done).select("row", leaf=(pl.col("mixed") % LEAVES).cast(pl.Int64)))
        left = left.filter(~is_done)
        if left.is_empty():
            return pl.concat(done).sort("row")["leaf"]
        word = pl.col("data").bin.slice(start, _WORD).bin.reinterpret(dtype=pl.UInt64(), endianness="little")
        left = left.with_columns(mixed=pl.col("mixed").xor(word) * pl.lit(_PRIME, pl.UInt64()))
        # The high half decides, since a product's low bits depend on low bits only.
        left = left.with_columns(mixed=pl.col("mixed").xor(pl.col("mixed") // 2**32))
        start += _WORD
