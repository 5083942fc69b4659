"""Integrity: every discrepancy of the ledger as a row, from the states of the other projections.

Three codes are the scenario's, with its meaning: they look at transactions in their final status, each account in
`(created_at, created_version)` order. The others say what else the events contradict. What needs one account alone
may be asked account range by account range (`account_findings`); what needs all of them may be asked transaction id
range by range (`cross_account_findings`); `findings` is both at once, for a ledger that fits into memory.

What the sequence gate holds back (gaps, repeats with other content, lost ends) never gets here; the gate reports it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from projections.balances import overflowed
from projections.protocol import Projection
from projections.transactions import TRANSACTIONS

__all__ = [
    "FINDINGS_SCHEMA",
    "INTEGRITY",
    "account_findings",
    "cross_account_findings",
    "findings",
    "identities",
    "missing_related",
    "noticed",
    "sort_findings",
]

#: A finding. `position` is the 0-based place in the account for negative_balance, the event's position in its source
#: for the others, null where there is no one event; `details` is a JSON object.
FINDINGS_SCHEMA = pl.Schema(
    {
        "code": pl.String(),
        "account_id": pl.String(),
        "transaction_id": pl.String(),
        "position": pl.Int64(),
        "expected": pl.String(),
        "actual": pl.String(),
        "details": pl.String(),
    }
)

STALE_AFTER = timedelta(hours=24)

_Value = pl.Expr | str | None


def findings(
    transactions: pl.LazyFrame, account_status: pl.LazyFrame, balances: pl.LazyFrame, *, now: datetime
) -> pl.LazyFrame:
    """Return every finding at `now`, sorted, with `FINDINGS_SCHEMA`; the arguments are the projections' states."""
    own = account_findings(transactions, account_status, balances, now=now)
    across = cross_account_findings(missing_related(transactions), identities(transactions))
    return sort_findings(pl.concat([own, across]))


def sort_findings(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return findings in the one order that reports use, whatever ranges they were found in."""
    return rows.sort("account_id", "code", "position", "transaction_id", "details", "actual", nulls_last=True)


def account_findings(
    transactions: pl.LazyFrame, account_status: pl.LazyFrame, balances: pl.LazyFrame, *, now: datetime
) -> pl.LazyFrame:
    """Return the findings of each account alone, unsorted.

    `transactions` and `balances` may hold any subset of accounts, each account whole; `account_status` may hold more.
    Of `balances` the rows of `noticed` are enough.
    """
    within = [
        _negative_balance(transactions),
        _missing_related_transaction(transactions),
        _stale_pending_transaction(transactions, now),
        _duplicates(transactions),
        _illegal_transition(transactions),
        _orphan_status_change(transactions),
        _effective_at_regression(transactions),
        _closed_account_activity(transactions, account_status),
        _closed_account_event(transactions, account_status, balances),
        _future_timestamp(transactions, now),
        _future_account_event(transactions, balances, now),
        _over_frozen(balances),
        _overflow(balances),
    ]
    return pl.concat(within)


def noticed(account_status: pl.LazyFrame, balances: pl.LazyFrame, *, now: datetime) -> pl.LazyFrame:
    """Return the rows of the balances' state that `account_findings` may have something to say of."""
    found = [
        overflowed(balances),
        balances.filter(_is_over_frozen()),
        balances.filter(pl.col("last_effective_at") > now),
        account_status.filter(pl.col("closed_version").is_not_null()),
    ]
    accounts = pl.concat([rows.select("account_id") for rows in found])
    return balances.join(accounts, on="account_id", how="semi")


def cross_account_findings(missing: pl.LazyFrame, all_identities: pl.LazyFrame) -> pl.LazyFrame:
    """Return the findings that need more than one account, unsorted.

    `missing` is what `missing_related` gives, `all_identities` what `identities` gives, both over all accounts. They
    may be cut into buckets by id, if each bucket has every identity with a `transaction_id` of the bucket and every
    missing row with a `related_transaction_id` of the bucket.
    """
    return pl.concat([_related_in_other_account(missing, all_identities), _same_id_in_two_accounts(all_identities)])


def missing_related(transactions: pl.LazyFrame) -> pl.LazyFrame:
    """Return completed transactions whose related one is not the account's own, for `cross_account_findings`.

    Columns: account_id, transaction_id, related_transaction_id, created_position. Safe on whole accounts.
    """
    own = transactions.select("account_id", related_transaction_id="transaction_id")
    return (
        transactions.filter((pl.col("status") == "completed") & pl.col("related_transaction_id").is_not_null())
        .select("account_id", "transaction_id", "related_transaction_id", "created_position")
        .join(own, on=["account_id", "related_transaction_id"], how="anti")
    )


def identities(transactions: pl.LazyFrame) -> pl.LazyFrame:
    """Return (account_id, transaction_id, created_position) of every transaction, for `cross_account_findings`."""
    return transactions.select("account_id", "transaction_id", "created_position")


def _rows(
    found: pl.LazyFrame,
    code: str | pl.Expr,
    *,
    transaction: _Value = "transaction_id",
    position: _Value,
    expected: _Value = None,
    actual: _Value = None,
    details: dict[str, _Value] | None = None,
) -> pl.LazyFrame:
    """Shape rows as findings; a text is a column's name."""
    members = [_value(value).alias(name) for name, value in (details or {}).items()]
    text = pl.struct(members).struct.json_encode() if members else pl.lit("{}")
    values: list[_Value] = [
        code if isinstance(code, pl.Expr) else pl.lit(code),
        "account_id",
        transaction,
        position,
        expected,
        actual,
        text,
    ]
    return found.select(
        _value(value).cast(dtype).alias(name)
        for (name, dtype), value in zip(FINDINGS_SCHEMA.items(), values, strict=True)
    )


def _value(value: _Value) -> pl.Expr:
    return pl.col(value) if isinstance(value, str) else pl.lit(None) if value is None else value


def _text(pattern: str, *values: pl.Expr | str) -> pl.Expr:
    """Fill the values into the `{}` of a pattern."""
    # What pl.format is for, but that panics (polars 2.1) where a column's first chunk is empty, as after a filter.
    head, *tails = pattern.split("{}")
    pieces = [pl.lit(head)]
    for value, tail in zip(values, tails, strict=True):
        pieces += [pl.col(value) if isinstance(value, str) else value, pl.lit(tail)]
    return pl.concat_str(pieces)


def _iso(name: str) -> pl.Expr:
    return pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")


def _negative_balance(transactions: pl.LazyFrame) -> pl.LazyFrame:
    # Int128, since a running sum may leave int64; there is no negation of it, so a debit is taken from nothing.
    amount, nothing = pl.col("amount").cast(pl.Int128), pl.lit(0, pl.Int128)
    signed = pl.when(pl.col("type") == "credit").then(amount).otherwise(nothing - amount)
    is_completed = pl.col("status") == "completed"
    moved = pl.when(is_completed).then(signed).otherwise(nothing)
    order = ["created_at", "created_version"]
    running = moved.cum_sum().over("account_id", order_by=order)
    found = transactions.with_columns(running=running).filter(is_completed & (pl.col("running") < 0))
    # Few accounts were ever negative, and only those of them have to be numbered.
    of_accounts = transactions.join(found, on="account_id", how="semi")
    place = pl.int_range(pl.len()).over("account_id", order_by=order)
    places = of_accounts.select("account_id", "created_version", place=place)
    return _rows(
        found.join(places, on=["account_id", "created_version"]),
        "negative_balance",
        position="place",
        expected=pl.lit(">= 0"),
        actual="running",
        details={"type": "type", "amount": "amount", "created_at": _iso("created_at")},
    )


def _missing_related_transaction(transactions: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        missing_related(transactions),
        "missing_related_transaction",
        position="created_position",
        expected="related_transaction_id",
        details={"related_transaction_id": "related_transaction_id"},
    )


def _stale_pending_transaction(transactions: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
    return _rows(
        transactions.filter((pl.col("status") == "pending") & (pl.col("created_at") < now - STALE_AFTER)),
        "stale_pending_transaction",
        position="created_position",
        expected=pl.lit("settled within 24 hours"),
        actual=pl.lit("pending"),
        details={"created_at": _iso("created_at"), "type": "type", "amount": "amount"},
    )


def _duplicates(transactions: pl.LazyFrame) -> pl.LazyFrame:
    conflicting = pl.col("is_conflicting")
    code = pl.when(conflicting).then(pl.lit("conflicting_duplicate")).otherwise(pl.lit("duplicate_transaction"))
    found = transactions.filter((pl.col("recorded_count") > 1) | conflicting)
    position = pl.when(pl.col("recorded_count") > 1).then("recorded_last_position").otherwise("status_position")
    return _rows(
        found,
        code,
        position=position,
        expected=pl.when(conflicting).then(pl.lit("the same content each time")).otherwise(pl.lit("recorded once")),
        actual=_text("recorded {} times", "recorded_count"),
        details={"recorded_count": "recorded_count", "created_position": "created_position"},
    )


def _illegal_transition(transactions: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        transactions.filter(pl.col("illegal_count") > 0),
        "illegal_transition",
        position="illegal_position",
        expected=_text("a legal change from {}", pl.col("illegal_previous").fill_null("none")),
        actual=_text("{} -> {}", pl.col("illegal_from").fill_null("none"), "illegal_to"),
        details={
            "from_status": "illegal_from",
            "to_status": "illegal_to",
            "previous_status": "illegal_previous",
            "version": "illegal_version",
            "count": "illegal_count",
        },
    )


def _orphan_status_change(transactions: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        transactions.filter(~pl.col("first_is_recorded")),
        "orphan_status_change",
        position="first_position",
        expected=pl.lit("recorded before it changes"),
        actual=_text("{} -> {}", pl.col("first_from").fill_null("none"), "first_to"),
        details={"version": "first_version", "recorded_count": "recorded_count"},
    )


def _effective_at_regression(transactions: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        transactions.filter(pl.col("regression_version").is_not_null()),
        "effective_at_regression",
        position="regression_position",
        expected=_text(">= {}", _iso("regression_before")),
        actual=_iso("regression_after"),
        details={"version": "regression_version"},
    )


def _closed_account_activity(transactions: pl.LazyFrame, account_status: pl.LazyFrame) -> pl.LazyFrame:
    closed = account_status.filter(pl.col("closed_version").is_not_null()).select("account_id", "closed_version")
    is_new = pl.col("created_version") > pl.col("closed_version")
    found = transactions.join(closed, on="account_id").filter(pl.col("status_version") > pl.col("closed_version"))
    return _rows(
        found,
        "closed_account_activity",
        position=pl.when(is_new).then("created_position").otherwise("status_position"),
        expected=_text("nothing after version {}", "closed_version"),
        actual=_text("{} at version {}", "status", "status_version"),
        details={"closed_version": "closed_version", "version": "status_version", "recorded_after": is_new},
    )


def _closed_account_event(
    transactions: pl.LazyFrame, account_status: pl.LazyFrame, balances: pl.LazyFrame
) -> pl.LazyFrame:
    """An event of the account itself after the first that closed it, whatever it says.

    Locking, unlocking and closing again show in the status. An opening does not; where it is the last event of the
    account, it is what is left when the last version is of no transaction. Behind it stands activity of its own.
    """
    closed = account_status.filter(pl.col("closed_version").is_not_null()).select(
        "account_id", "closed_version", "status", "status_version"
    )
    # A closed account has a balance row where the balances are its account range's.
    of_closed = transactions.join(closed, on="account_id", how="semi")
    last_of_transactions = of_closed.group_by("account_id").agg(last_version=pl.col("status_version").max())
    known = closed.join(balances.select("account_id", "version"), on="account_id").join(
        last_of_transactions, on="account_id", how="left"
    )
    is_last = pl.col("version") > pl.max_horizontal("closed_version", "status_version", "last_version")
    is_changed = pl.col("status_version") > pl.col("closed_version")
    version = pl.when(is_last).then("version").otherwise("status_version")
    return _rows(
        known.filter(is_last | is_changed),
        "closed_account_activity",
        transaction=None,
        position=None,
        expected=_text("nothing after version {}", "closed_version"),
        actual=pl.when(is_last)
        .then(_text("an event of the account at version {}", "version"))
        .otherwise(_text("{} at version {}", "status", "status_version")),
        details={"closed_version": "closed_version", "version": version},
    )


def _future_timestamp(transactions: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
    position = (pl.when(pl.col("created_at") > now).then("created_position").when(pl.col("updated_at") > now)).then(
        "status_position"
    )
    return _rows(
        transactions.filter(pl.col("latest_effective_at") > now),
        "future_timestamp",
        position=position,
        expected=pl.lit("effective by now"),
        actual=_iso("latest_effective_at"),
        details={"effective_at": _iso("latest_effective_at")},
    )


def _future_account_event(transactions: pl.LazyFrame, balances: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
    """An event of the account itself (locked, closed) in the future: later than any of its transactions."""
    ahead = balances.filter(pl.col("last_effective_at") > now)
    of_ahead = transactions.join(ahead, on="account_id", how="semi")
    latest = of_ahead.group_by("account_id").agg(pl.col("latest_effective_at").max())
    is_later = (pl.col("last_effective_at") > pl.col("latest_effective_at")).fill_null(value=True)
    return _rows(
        ahead.join(latest, on="account_id", how="left").filter(is_later),
        "future_timestamp",
        transaction=None,
        position=None,
        expected=pl.lit("effective by now"),
        actual=_iso("last_effective_at"),
        details={"effective_at": _iso("last_effective_at")},
    )


def _is_over_frozen() -> pl.Expr:
    return (pl.col("frozen") > 0) & (pl.col("frozen") > pl.col("balance"))


def _over_frozen(balances: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        balances.filter(_is_over_frozen()),
        "over_frozen",
        transaction=None,
        position=None,
        expected=_text("frozen <= {}", pl.col("balance").cast(pl.String)),
        actual="frozen",
        details={"balance": pl.col("balance").cast(pl.String), "frozen": pl.col("frozen").cast(pl.String)},
    )


def _overflow(balances: pl.LazyFrame) -> pl.LazyFrame:
    return _rows(
        overflowed(balances),
        "overflow",
        transaction=None,
        position=None,
        expected=pl.lit(f"{-(2**63)} .. {2**63 - 1}"),
        actual="value",
        details={"column": "column"},
    )


def _related_in_other_account(missing: pl.LazyFrame, all_identities: pl.LazyFrame) -> pl.LazyFrame:
    elsewhere = all_identities.select(other_account_id="account_id", related_transaction_id="transaction_id")
    # The missing row is not its account's own by definition, so every match is in another account.
    return _rows(
        missing.join(elsewhere, on="related_transaction_id"),
        "related_in_other_account",
        position="created_position",
        expected="account_id",
        actual="other_account_id",
        details={"related_transaction_id": "related_transaction_id", "other_account_id": "other_account_id"},
    )


def _same_id_in_two_accounts(all_identities: pl.LazyFrame) -> pl.LazyFrame:
    # Keys are unique, so more than one row of an id is more than one account.
    shared = all_identities.with_columns(accounts=pl.len().over("transaction_id")).filter(pl.col("accounts") > 1)
    return _rows(
        shared,
        "conflicting_duplicate",
        position="created_position",
        expected=pl.lit("one account"),
        actual=_text("{} accounts", "accounts"),
        details={"accounts": "accounts"},
    )


INTEGRITY = Projection(
    name="integrity",
    version=2,
    key=TRANSACTIONS.key,
    schema=TRANSACTIONS.schema,
    fold=TRANSACTIONS.fold,
    merge=TRANSACTIONS.merge,
    finish=findings,
    details=TRANSACTIONS.details,
    takes_codes=True,
)
