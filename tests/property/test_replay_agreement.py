"""A replay of the store is what the write model says, whatever the batches, the folds and the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from agreement import SUMS, by_aggregate
from histories import ACCOUNTS, NOW, START, STATUSES, examples, histories
from hypothesis import given
from hypothesis import strategies as st
from ledgers import append

from consumers import project
from ledger import Ledger, Store
from projections import INTEGRITY
from replay import StoreSource, balances, drift, replayed, verify
from replay.states import States
from schemas.errors import CommandRefused, PointsOverflow, UsageError

COMPARED = (*SUMS, "status", "version", "last_effective_at")
COMMANDS = st.lists(
    st.fixed_dictionaries(
        {
            "command": st.sampled_from(
                [
                    "credit",
                    "credit",
                    "debit",
                    "freeze",
                    "complete",
                    "cancel",
                    "fail",
                    "reverse",
                    "lock",
                    "unlock",
                    "close",
                ]
            ),
            "account": st.sampled_from(ACCOUNTS),
            "transaction": st.integers(0, 5),
            "amount": st.one_of(st.integers(1, 50), st.just(2**62)),
            "status": st.sampled_from(STATUSES),
            "minutes": st.integers(0, 5_000),
        }
    ),
    max_size=40,
)


@contextmanager
def new_store() -> Iterator[Store]:
    """A store that is gone afterwards."""
    with TemporaryDirectory() as folder:
        store = Store.at(Path(folder))
        yield store
        store.close()


def obey(ledger: Ledger, step: dict[str, Any]) -> None:
    """Give the ledger one command; it may refuse it."""
    account_id, name = step["account"], f"t{step['transaction']}"
    command = getattr(ledger, step["command"])
    options: dict[str, Any] = {"effective_at": START + timedelta(minutes=step["minutes"])}
    with suppress(CommandRefused, PointsOverflow, UsageError):
        ledger.open(account_id)
    with suppress(CommandRefused, PointsOverflow, UsageError):
        match step["command"]:
            case "credit" | "debit":
                command(account_id, name, step["amount"], status=step["status"], **options)
            case "freeze":
                command(account_id, name, step["amount"], **options)
            case "reverse":
                command(account_id, name, f"r{step['transaction']}", **options)
            case "lock" | "unlock" | "close":
                command(account_id, **options)
            case _:
                command(account_id, name, **options)


@examples(10)
@given(steps=COMMANDS, allow=st.booleans())
def test_a_replay_is_what_the_ledger_itself_says(steps, allow):
    """After any commands every account replays to what the ledger loads, and live rows projected from it are equal."""
    with new_store() as store:
        ledger = Ledger(store, allow_overdraft=allow, allow_over_freeze=allow, clock=lambda: NOW)
        for step in steps:
            obey(ledger, step)
        answer = balances(store, now=NOW)
        assert answer.verdict == "COMPLETE"
        for row in answer.rows.iter_rows(named=True):
            account = ledger.account(row["account_id"])
            assert {name: row[name] for name in (*COMPARED, "available", "locked_at")} == {
                name: getattr(account, name) for name in (*COMPARED, "available", "locked_at")
            }
        assert answer.rows["account_id"].to_list() == sorted({step["account"] for step in steps})
        project(store, batch_events=3)
        assert drift(store).verdict == "EQUAL"


@examples(15)
@given(events=histories(30))
def test_a_replay_of_any_history_is_what_the_write_model_says(events):
    """Legal or not, every account has the aggregate's sums; an account past int64 is parked by name, and no other."""
    expected = by_aggregate(events)
    past = {
        account_id
        for account_id, row in expected.items()
        if any(not -(2**63) <= n < 2**63 for n in (*(row[name] for name in SUMS), row["balance"] - row["frozen"]))
    }
    with new_store() as store:
        append(store, *events)
        answer = balances(store, now=NOW)
    assert {parked.account_id: parked.reason for parked in answer.certificate.parked} == dict.fromkeys(past, "overflow")
    assert answer.verdict == ("INCOMPLETE" if past else "COMPLETE")
    found = {row["account_id"]: {name: row[name] for name in COMPARED} for row in answer.rows.iter_rows(named=True)}
    assert found == {
        account_id: {name: row[name] for name in COMPARED}
        for account_id, row in expected.items()
        if account_id not in past
    }


def outcome(store: Store, batch_events: int) -> tuple[str, list[tuple[Any, ...]], pl.DataFrame]:
    """The digest, the parked accounts and the state of the transactions of one replay."""
    with StoreSource.snapshot(store, batch_events=batch_events) as source, replayed(source, [INTEGRITY]) as replay:
        certificate = replay.certificate
        state = pl.concat([INTEGRITY.empty(), *replay.states.buckets(INTEGRITY)]).sort("account_id", "transaction_id")
        return certificate.digest, [(p.account_id, p.version, p.reason) for p in certificate.parked], state


def found_at(store: Store, now: datetime) -> pl.DataFrame:
    """The findings of a verification."""
    return verify(store, now=now).findings


@examples(3)
@given(events=histories(30))
def test_batches_folds_and_memory_do_not_matter(events):
    """Any size of batches and folds, and states on disk, give one digest, one state and one set of findings."""
    with new_store() as store:
        append(store, *events)
        digest, parked, state = outcome(store, 100_000)
        findings = found_at(store, NOW)
        for batch_events, fold_events, memory_rows_max in ((1, 3, 2), (2, 5, 2_000_000), (7, 1, 0), (100_000, 1, 0)):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("replay.states.MEMORY_ROWS_MAX", memory_rows_max)
                patched.setitem(States.__init__.__kwdefaults__, "fold_events", fold_events)
                again = outcome(store, batch_events)
                assert again[:2] == (digest, parked)
                assert again[2].equals(state)
                assert found_at(store, NOW).equals(findings)
        assert outcome(store, 100_000)[0] == digest
