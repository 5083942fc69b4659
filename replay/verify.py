"""Verify: every integrity finding of the ledger, those of the sequence gate included, and settling stale ones.

The transactions' state may be on disk in account buckets, so findings of one account are made bucket by bucket.
What needs all accounts (a related transaction elsewhere, one id in two accounts) first looks for candidates by a
64-bit hash of the id, and compares the ids themselves in a second pass over the candidates only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import polars as pl

from ledger import Ledger, audit
from ledger.store import Store
from projections import (
    ACCOUNT_STATUS,
    BALANCES,
    FINDINGS_SCHEMA,
    INTEGRITY,
    account_findings,
    cross_account_findings,
    identities,
    missing_related,
    noticed,
    sort_findings,
)
from replay.certificate import Certificate
from replay.engine import Progress
from replay.full_replay import Replay, replayed
from replay.gate import Parked
from replay.store_source import StoreSource
from schemas.errors import LedgerReplayError, UsageError

__all__ = ["STALE", "Settled", "Verification", "integrity_findings", "settle_stale", "verify"]

CLEAN, FINDINGS, INCOMPLETE = "CLEAN", "FINDINGS", "INCOMPLETE"

#: The finding that `settle_stale` does something about.
STALE = "stale_pending_transaction"


@dataclass(frozen=True)
class Verification:
    """Findings with `FINDINGS_SCHEMA`; CLEAN, FINDINGS, or INCOMPLETE where an account could not be checked."""

    verdict: str
    findings: pl.DataFrame
    certificate: Certificate


@dataclass(frozen=True)
class Settled:
    """What was settled: transaction ids by account, and what was not, with the reason."""

    settled: list[tuple[str, str]]
    refused: list[tuple[str, str, str]]


def verify(
    store: Store,
    *,
    now: datetime | None = None,
    account_id: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Return every finding at `now`, or those of one account; UsageError if the ledger has never seen it.

    One account is judged over a replay of all, since a related transaction may be anywhere. An account that is
    parked gets its gate finding alone: what its later events would say of it is not known.
    """
    now = now or datetime.now(UTC)
    with StoreSource.snapshot(store) as source, replayed(source, [INTEGRITY], progress=progress) as replay:
        found = pl.concat([_gate_findings(replay.certificate.parked), integrity_findings(replay, now)])
        seen = {*replay.gate.last["account_id"], *replay.parked_ids} if account_id is not None else set()
    if account_id is not None:
        if account_id not in seen:
            raise UsageError(f"no account {account_id!r} in the ledger", next_step="check the id, or import it first")
        found = found.filter(pl.col("account_id") == account_id)
    found = sort_findings(found.lazy()).collect()
    verdict = replay.verdict if replay.verdict == INCOMPLETE else FINDINGS if found.height else CLEAN
    return Verification(verdict, found, replay.certificate)


def settle_stale(
    store: Store, found: Verification, how: Literal["complete", "cancel"], *, by: str, now: datetime
) -> Settled:
    """Complete or cancel every stale pending transaction among the findings, as events effective at `now`.

    Each is in the audit trail, `by` whom, in the transaction of its event. Whatever goes wrong with one is told beside
    what was settled, and the others are still tried.
    """
    ledger = Ledger(store, clock=lambda: now)
    stale = found.findings.filter(pl.col("code") == STALE)
    done = Settled([], [])
    for account_id, transaction_id in stale.select("account_id", "transaction_id").iter_rows():
        try:
            reason = _settle(ledger, account_id, transaction_id, how, by=by)
        except LedgerReplayError as error:
            reason = str(error)
        if reason is None:
            done.settled.append((account_id, transaction_id))
        else:
            done.refused.append((account_id, transaction_id, reason))
    entries = [
        audit.Entry(
            action="transaction.not_settled",
            by=by,
            at=now,
            account_id=account_id,
            details={"transaction_id": transaction_id, "to": _TO[how], "reason": reason},
        )
        for account_id, transaction_id, reason in done.refused
    ]
    if entries:
        with store.writing() as connection:
            audit.append(connection, store.ledger_id, entries)
    return done


_TO = {"complete": "completed", "cancel": "cancelled"}


def _settle(
    ledger: Ledger, account_id: str, transaction_id: str, how: Literal["complete", "cancel"], *, by: str
) -> str | None:
    """Settle one transaction, with its entry in the audit trail; return why nothing was to be appended."""
    store, now = ledger.store, ledger.clock()
    command = ledger.complete if how == "complete" else ledger.cancel
    with ledger.together() as connection:
        before = int(store.heads(connection, [account_id])["version"].sum())
        version = command(account_id, transaction_id, effective_at=now)
        if version <= before:
            return f"nothing was appended: version {version} had settled it, and a later event made it pending again"
        details = {"transaction_id": transaction_id, "to": _TO[how], "version": version}
        entry = audit.Entry(action="transaction.settled", by=by, at=now, account_id=account_id, details=details)
        audit.append(connection, store.ledger_id, [entry])
    return None


def integrity_findings(replay: Replay, now: datetime) -> pl.DataFrame:
    """Return the findings of the accounts whose stream is whole (`FINDINGS_SCHEMA`), unsorted; `INTEGRITY` was folded.

    They are made bucket by bucket, and then across buckets.
    """
    # An account that is parked for its sums alone has a whole stream, so its findings stand.
    unknown = [parked.account_id for parked in replay.certificate.parked if parked.reason != "overflow"]
    is_known = ~pl.col("account_id").is_in(unknown)
    status = replay.states.value(ACCOUNT_STATUS).lazy()
    balances = noticed(status, replay.states.value(BALANCES).lazy().filter(is_known), now=now).collect()
    found: list[pl.DataFrame] = []
    missing, hashes = [_MISSING_NONE], [_HASHES_NONE]
    for bucket in replay.states.buckets(INTEGRITY):
        transactions = bucket.lazy().filter(is_known)
        its_accounts = bucket.select("account_id").unique()
        own = balances.join(its_accounts, on="account_id", how="semi").lazy()
        balances = balances.join(its_accounts, on="account_id", how="anti")
        parts = pl.collect_all(
            [
                account_findings(transactions, status, own, now=now),
                missing_related(transactions),
                transactions.select(hash=_id_hash("transaction_id")),
            ]
        )
        for gathered, part in zip((found, missing, hashes), parts, strict=True):
            gathered.append(part)
    # What is left are accounts without a transaction.
    found.append(account_findings(INTEGRITY.empty().lazy(), status, balances.lazy(), now=now).collect())
    found.append(_across(replay, is_known, pl.concat(missing), pl.concat(hashes)))
    return pl.concat(found)


def _across(replay: Replay, is_known: pl.Expr, missing: pl.DataFrame, hashes: pl.DataFrame) -> pl.DataFrame:
    """Findings between accounts: gather the identities that may matter by hash, then compare the ids."""
    related = missing.select(hash=_id_hash("related_transaction_id"))
    # Neighbours of a sorted column: several times faster than asking for each hash how often it is there.
    ordered = hashes["hash"].sort()
    shared = ordered.filter(ordered == ordered.shift(1)).to_frame()
    wanted = pl.concat([shared, related]).unique()
    candidates = [_IDENTITIES_NONE]
    if wanted.height:
        is_wanted = _id_hash("transaction_id").is_in(wanted["hash"].implode())
        buckets = replay.states.buckets(INTEGRITY, is_known & is_wanted)
        candidates += [identities(bucket.lazy()).collect() for bucket in buckets]
    return cross_account_findings(missing.lazy(), pl.concat(candidates).lazy()).collect()


def _id_hash(name: str) -> pl.Expr:
    return pl.col(name).hash(seed=0)


_NO_TRANSACTIONS = INTEGRITY.empty().lazy()
_MISSING_NONE = missing_related(_NO_TRANSACTIONS).collect()
_IDENTITIES_NONE = identities(_NO_TRANSACTIONS).collect()
_HASHES_NONE = pl.DataFrame(schema={"hash": pl.UInt64()})


def _gate_findings(parked: list[Parked]) -> pl.DataFrame:
    """What the gate held back, as findings; an overflow has its finding from the integrity projection."""
    rows: list[dict[str, Any]] = [
        {
            "code": found.reason,
            "account_id": found.account_id,
            "transaction_id": None,
            "position": found.position,
            "expected": f"version {found.version}",
            "actual": found.details,
            "details": msgspec.json.encode({"version": found.version}).decode(),
        }
        for found in parked
        if found.reason != "overflow"
    ]
    return pl.DataFrame(rows, schema=FINDINGS_SCHEMA)
