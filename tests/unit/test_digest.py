"""The digest: same rows, same digest, in any order and on any machine; any other rows, another digest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import combinations
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import digest
from replay.digest import DIGEST_COLUMNS, LEAVES, leaf_digests

MOMENT = datetime(2024, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = {
    "account_id": pl.String,
    **dict.fromkeys(("balance", "frozen", "available", "pending_credit", "pending_debit"), pl.Int64),
    "status": pl.String,
    "version": pl.Int64,
    "last_effective_at": pl.Datetime("us", "UTC"),
}

INTEGERS = st.integers(-(2**63), 2**63 - 1)
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


def row(account_id: str = "a", **changed: Any) -> dict[str, Any]:
    """One balances row."""
    values = {
        "balance": 100,
        "frozen": 20,
        "available": 80,
        "pending_credit": 5,
        "pending_debit": 7,
        "status": "active",
        "version": 3,
        "last_effective_at": MOMENT,
    }
    return {"account_id": account_id, **values, **changed}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    """Balances rows as a frame."""
    return pl.DataFrame(list(rows), schema=SCHEMA)


def plain_leaf(account_id: str) -> int:
    """The leaf of an account id, read from the definition with Python's own integers."""
    data = account_id.encode()
    mixed = len(data)
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little")
        product = ((mixed ^ word) * 0x9E3779B97F4A7C15) % 2**64
        mixed = product ^ (product >> 32)
    return mixed % LEAVES


def plain_digest(rows: list[dict[str, Any]]) -> str:
    """The digest, read from the definition, row by row."""
    leaves: list[bytes] = [b""] * LEAVES
    for found in sorted(rows, key=lambda found: found["account_id"].encode()):
        data = found["account_id"].encode()
        microseconds = (found["last_effective_at"] - EPOCH) // timedelta(microseconds=1)
        others = [str(found[name]) for name in DIGEST_COLUMNS[1:-1]] + [str(microseconds)]
        text = str(len(data)).encode() + b":" + data + b"|" + "|".join(others).encode() + b"\n"
        leaves[plain_leaf(found["account_id"])] += text
    hashes = [blake2b(leaf, digest_size=32, person=b"ledger-leaf-1").digest() for leaf in leaves]
    return blake2b(b"".join(hashes), digest_size=32, person=b"ledger-root-1").hexdigest()


def test_known_rows_have_the_digest_they_always_had():
    """A digest that was given to somebody is still the digest of the same rows."""
    known = frame(row("a"), row("ключ ä", balance=-1, status="locked"), row("日本😀|\n:" * 20, version=2**63 - 1))
    assert digest(known) == "1ac8e45da9a1be85032d4e4b432a3ea44b3f569a9397ee3830b0d88e9176f6d4"
    assert digest(frame()) == "24b4eac26fbabd0c1214f3c635080c608cc44f4771277f083ee7be0023994273"


def test_row_order_does_not_matter():
    """Rows in any order have one digest, those that share a leaf too."""
    rows = [row(f"account-{number}") for number in range(3_000)]
    assert len({plain_leaf(found["account_id"]) for found in rows}) < len(rows)
    assert digest(frame(*rows)) == digest(frame(*reversed(rows))) == plain_digest(rows)


def test_columns_that_are_not_under_it_do_not_matter():
    """What a frame holds beside the contract's columns, and their order, changes nothing."""
    rows = frame(row("a"), row("b"))
    more = rows.with_columns(locked_at=pl.lit(MOMENT), chain=pl.lit(b"x")).select(
        "chain", *reversed(SCHEMA), "locked_at"
    )
    assert digest(more) == digest(rows)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account_id", "b"),
        ("balance", 101),
        ("frozen", 21),
        ("available", 81),
        ("pending_credit", 6),
        ("pending_debit", 8),
        ("status", "locked"),
        ("version", 4),
        ("last_effective_at", MOMENT + timedelta(microseconds=1)),
    ],
)
def test_a_change_of_any_column_changes_it(name, value):
    """Each column is under the digest, to its last digit, and only its account's leaf changes."""
    before, after = frame(row("x"), row("a")), frame(row("x"), row("a") | {name: value})
    assert digest(before) != digest(after)
    changed = [pair for pair in zip(leaf_digests(before), leaf_digests(after), strict=True) if pair[0] != pair[1]]
    assert len(changed) == (2 if name == "account_id" else 1)


def test_a_row_more_or_less_changes_it():
    """An account that is added, lost or there twice gives another digest."""
    assert len({digest(frame(*rows)) for rows in ([], [row("a")], [row("a")] * 2, [row("a"), row("b")])}) == 4


def test_values_that_move_between_columns_change_it():
    """The same numbers in other columns, or with their digits cut elsewhere, are other rows."""
    found = [
        row(balance=1, frozen=23),
        row(balance=12, frozen=3),
        row(balance=3, frozen=12),
        row(balance=-1, frozen=23),
    ]
    assert len({digest(frame(one)) for one in found}) == len(found)


def test_ids_cannot_imitate_other_rows():
    """Ids that hold the separators, or the text of a whole other row, do not collide with what they imitate."""
    forged = "a|100|20|80|5|7|active|3|1709296215123456\n1:b"
    near = [
        "a",
        "b",
        "a|",
        "|a",
        "a\n",
        "\na",
        ":a",
        "1:a",
        "a:1",
        "a|100",
        forged,
        "1:b",
        "a b",
        "a  b",
        "é",
        "e\u0301",
    ]
    digests = {digest(frame(*(row(name) for name in names))) for size in (1, 2) for names in combinations(near, size)}
    assert len(digests) == len(near) + len(near) * (len(near) - 1) // 2


def test_the_leaf_of_an_account_does_not_depend_on_others():
    """An account keeps its leaf when a much longer id comes beside it."""
    alone, beside = leaf_digests(frame(row("short"))), leaf_digests(frame(row("short"), row("x" * 255)))
    assert len(alone) == LEAVES
    differing = [leaf for leaf in range(LEAVES) if alone[leaf] != beside[leaf]]
    assert differing == [plain_leaf("x" * 255)]
    assert plain_leaf("short") != plain_leaf("x" * 255)


def test_the_longest_ids_take_no_longer():
    """Ids of the greatest length and of four bytes a character are hashed as quickly as any, and to the same leaf."""
    rows = [row("😀" * length) for length in (24, 100, 255)]
    assert digest(frame(*rows)) == plain_digest(rows)


def test_accounts_spread_over_the_leaves():
    """Ids that differ in one digit do not crowd into a few leaves."""
    counts: dict[int, int] = {}
    for number in range(20_000):
        leaf = plain_leaf(f"account-{number:06d}")
        counts[leaf] = counts.get(leaf, 0) + 1
    assert len(counts) > LEAVES * 0.9
    assert max(counts.values()) < 30


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "account_id": IDS,
                **dict.fromkeys(("balance", "frozen", "available", "pending_credit", "pending_debit"), INTEGERS),
                "status": st.sampled_from(["active", "locked", "closed"]),
                "version": st.integers(1, 2**63 - 1),
                "last_effective_at": st.datetimes(timezones=st.just(UTC)),
            }
        ),
        max_size=8,
        unique_by=lambda found: found["account_id"],
    )
)
def test_a_plain_reading_of_the_definition_agrees(rows):
    """The columnar digest is what the definition gives row by row, for ids, sums and times of every kind."""
    assert digest(frame(*rows)) == plain_digest(rows)
