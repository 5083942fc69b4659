"""Settling stale transactions: what was appended is told as settled, everything else with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ledgers import NOW, append, change_event
from samples import opened, recorded
from sqlalchemy import Connection

from ledger import Ledger, Store, audit
from replay import settle_stale, verify
from schemas import AMOUNT_MAX, AccountLocked, TransactionStatusChanged, event_id
from schemas.errors import RefusedError


def changed(account_id: str, version: int, from_status: str, to_status: str) -> TransactionStatusChanged:
    """A change of the account's transaction `t` of 5 points."""
    like = recorded(account_id, version)
    return TransactionStatusChanged(
        event_id=event_id(account_id, version),
        account_id=account_id,
        version=version,
        effective_at=like.effective_at,
        recorded_at=like.recorded_at,
        transaction_id="t",
        type="credit",
        amount=5,
        from_status=from_status,
        to_status=to_status,
    )


def pending(account_id: str, version: int) -> object:
    """The account's transaction `t`, pending."""
    return recorded(account_id, version, 5, transaction_id="t", to_status="pending")


def test_a_transaction_for_which_nothing_was_appended_is_not_settled(store: Store) -> None:
    """One that was completed and became pending again is not completed twice, and that is said."""
    back = [pending("a", 2), changed("a", 3, "pending", "completed"), changed("a", 4, "completed", "pending")]
    append(store, opened("a"), *back, opened("b"), pending("b", 2))
    done = settle_stale(store, verify(store, now=NOW), "complete", by="ada", now=NOW)
    assert done.settled == [("b", "t")]
    ((account_id, transaction_id, reason),) = done.refused
    assert (account_id, transaction_id) == ("a", "t")
    assert "version 3" in reason
    assert (Ledger(store).account("a").version, Ledger(store).account("b").version) == (4, 3)


def test_an_account_that_cannot_be_settled_hides_nothing_of_the_others(store: Store) -> None:
    """A sum past int64 and bytes that changed since they were verified are told beside what was settled."""
    append(store, opened("a"), pending("a", 2))
    append(store, opened("b"), pending("b", 2), recorded("b", 3, AMOUNT_MAX))
    append(store, opened("c"), pending("c", 2))
    append(store, opened("d"), pending("d", 2))
    found = verify(store, now=NOW)
    change_event(store, "c", 2, state=b"[]")
    done = settle_stale(store, found, "complete", by="ada", now=NOW)
    assert done.settled == [("a", "t"), ("d", "t")]
    assert [refused[:2] for refused in done.refused] == [("b", "t"), ("c", "t")]
    assert "past a 64-bit integer" in done.refused[0][2]
    assert "'c'" in done.refused[1][2]


def test_what_cannot_be_recorded_is_not_settled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event and its entry in the audit trail are one transaction; the trail says of the others why not."""
    append(store, opened("a"), pending("a", 2), opened("b"), pending("b", 2))
    real = audit.append

    def append_but_a(connection: Connection, ledger_id: str, entries: Sequence[audit.Entry]) -> audit.Head:
        if [(each.action, each.account_id) for each in entries] == [("transaction.settled", "a")]:
            raise RefusedError("no")
        return real(connection, ledger_id, entries)

    monkeypatch.setattr(audit, "append", append_but_a)
    done = settle_stale(store, verify(store, now=NOW), "cancel", by="ada", now=NOW)
    assert (done.settled, done.refused) == ([("b", "t")], [("a", "t", "no")])
    assert Ledger(store).account("a").version == 2
    with store.snapshot() as connection:
        found = audit.entries(connection)
    assert [(each.action, each.by, each.account_id, each.details["to"]) for each in found] == [
        ("transaction.settled", "ada", "b", "cancelled"),
        ("transaction.not_settled", "ada", "a", "cancelled"),
    ]


def test_an_event_after_closing_is_found(store: Store) -> None:
    """An account that is locked after it was closed is not clean."""
    Ledger(store).open("a")
    Ledger(store).close("a")
    assert verify(store).verdict == "CLEAN"
    like = recorded("a", 3)
    fields = {"effective_at": like.effective_at, "recorded_at": like.recorded_at, "account_id": "a"}
    Ledger(store).record([AccountLocked(event_id="a:3", version=3, **fields)])
    found = verify(store)
    assert found.verdict == "FINDINGS"
    assert found.findings.select("code", "account_id", "transaction_id").rows() == [
        ("closed_account_activity", "a", None)
    ]
