"""The disaster of the demo: what is planted in the files, in the read model and in the event store.

Each function damages one thing and returns what it did as `Damage`: which command has to find it, about whom, and
by which name. The amounts are ones that no generated event has, so that each damage has one explanation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import polars as pl

from schemas import format_time
from schemas.errors import UsageError

if TYPE_CHECKING:
    from ledger.store import Store

__all__ = [
    "Damage",
    "Victims",
    "damage_accounts",
    "damage_orders",
    "damage_read_model",
    "damage_store",
    "damage_transactions",
]

STRANGE_POINTS = 1_000_003
LOST_TRANSACTION = "txn-lost"
GHOST = "acct-ghost"


class Damage(msgspec.Struct, frozen=True, order=True):
    """One damage, planted or found: `check` is the command, `subject` whom it is about, `code` what it is called."""

    check: str
    subject: str
    code: str
    story: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a damage is recognised by."""
        return self.check, self.subject, self.code


@dataclass(frozen=True)
class Victims:
    """Accounts that something happens to, each with one thing only; none of them has frozen points."""

    overdrawn: str
    refunded: str
    waiting: str
    rejected: str
    wrong_balance: str
    wrong_frozen: str
    missed: str
    twice: str
    row_lost: str
    locked: str
    hand_changed: str
    hole: str
    tail_lost: str
    stream_lost: str
    byte_flipped: str

    @classmethod
    def among(cls, transactions: pl.DataFrame) -> Victims:
        """Choose them; UsageError where the ledger is too small for so much bad luck."""
        frozen = transactions.filter(pl.col("status") == "frozen")
        eligible = (
            transactions.join(frozen, on="account_id", how="anti")
            .group_by("account_id")
            .agg(pl.len())
            .filter(pl.col("len") >= 4)["account_id"]
            .sort()
            .to_list()
        )
        payer = next((name for name in eligible if _plain_payment(transactions, name) is not None), None)
        others = [name for name in eligible if name != payer]
        names = list(cls.__dataclass_fields__)
        if payer is None or len(others) < len(names) - 1:
            raise _too_small()
        chosen = dict(zip([name for name in names if name != "twice"], others, strict=False))
        return cls(twice=payer, **chosen)


def damage_transactions(path: Path, victims: Victims, now: datetime) -> list[Damage]:
    """Add transactions that do not add up, and rows that are none."""
    rows = pl.read_csv(path, infer_schema=False)
    last = rows["created_at"].max()
    long_ago = format_time(now - timedelta(days=3))
    refund = {"related_transaction_id": LOST_TRANSACTION, "business_code": "order.refund"}
    good = [
        _row("txn-overdraws", victims.overdrawn, "debit", str(STRANGE_POINTS), last),
        _row("txn-refunds", victims.refunded, "credit", "40", last) | refund,
        _row("txn-waits", victims.waiting, "debit", "25", long_ago) | {"status": "pending"},
    ]
    known = rows.filter(pl.col("account_id") == victims.rejected).row(0, named=True)
    bad = [
        _row("txn-bad-type", victims.rejected, "bonus", "10", last),
        _row("txn-bad-amount", victims.rejected, "credit", "12.5", last),
        _row("txn-bad-time", victims.rejected, "credit", "10", "yesterday"),
        known | {"amount": str(STRANGE_POINTS)},
    ]
    pl.concat([rows, pl.DataFrame([*good, *bad], schema=rows.schema)]).write_csv(path)
    # The header is line 1.
    first_bad = rows.height + len(good) + 2
    stories = ["has a type that does not exist", "has half a point", "has no time", "says something else of a known id"]
    return [
        Damage("verify", f"{victims.overdrawn} txn-overdraws", "negative_balance", "a debit of points nobody had"),
        Damage("verify", f"{victims.refunded} txn-refunds", "missing_related_transaction", "refunds a lost payment"),
        Damage("verify", f"{victims.waiting} txn-waits", "stale_pending_transaction", "stuck for three days"),
        *(
            Damage("import transactions", f"line {first_bad + index}", "rejected", f"a row that {story}")
            for index, story in enumerate(stories)
        ),
    ]


def damage_accounts(path: Path, transactions: pl.DataFrame, victims: Victims, now: datetime) -> list[Damage]:
    """Make the live rows wrong: changed, out of step, missing, one too many, and two locked for days.

    `transactions` are the generated rows, before their own damage; what was added to them since is in the live
    rows too, since the old system had booked it.
    """
    rows = pl.read_csv(path, schema_overrides={"locked_at": pl.String})
    payment, top_up = _plain_payment(transactions, victims.twice), _first_credit(transactions, victims.missed)
    changes = {
        victims.overdrawn: -STRANGE_POINTS,
        victims.refunded: 40,
        victims.wrong_balance: STRANGE_POINTS,
        victims.missed: -top_up,
        victims.twice: -(payment or 0),
    }
    change = pl.col("account_id").replace_strict(changes, default=0, return_dtype=pl.Int64)
    freeze = pl.when(pl.col("account_id") == victims.wrong_frozen).then(STRANGE_POINTS).otherwise(0)
    damaged = rows.with_columns(
        balance=pl.col("balance") + change, frozen_amount=pl.col("frozen_amount") + freeze
    ).filter(pl.col("account_id") != victims.row_lost)
    is_locked = pl.col("account_id").is_in([victims.locked, victims.waiting])
    damaged = damaged.with_columns(
        status=pl.when(is_locked).then(pl.lit("locked")).otherwise("status"),
        locked_at=pl.when(is_locked).then(pl.lit(format_time(now - timedelta(days=3)))).otherwise("locked_at"),
    )
    ghost = {"account_id": GHOST, "balance": 500, "frozen_amount": 0, "status": "active", "locked_at": None}
    pl.concat([damaged, pl.DataFrame([ghost], schema=rows.schema)]).write_csv(path)
    return [
        Damage("drift", f"{victims.wrong_balance} balance", "foreign_write", f"{STRANGE_POINTS:,} points by hand"),
        Damage("drift", f"{victims.wrong_frozen} frozen", "foreign_write", f"{STRANGE_POINTS:,} frozen by hand"),
        Damage("drift", f"{victims.missed} balance", "missed_event", f"a top-up of {top_up:,} not applied"),
        Damage("drift", f"{victims.twice} balance", "applied_twice", f"a payment of {payment:,} applied twice"),
        Damage("drift", f"{victims.row_lost} row", "row_missing", "the account's live row deleted"),
        Damage("drift", f"{GHOST} row", "row_extra", "a live row of an account that never was"),
        Damage("accounts check", victims.locked, "unlocked", "locked for three days, with nothing pending"),
        Damage("accounts check", victims.waiting, "manual_intervention_required", "locked for what never ended"),
    ]


def damage_orders(path: Path, victims: Victims) -> list[Damage]:
    """Make orders disagree with what the ledger did for them: other points, another end, and one that is gone."""
    rows = pl.read_csv(path, infer_schema=False)
    plain = ~pl.col("account_id").is_in([getattr(victims, name) for name in Victims.__dataclass_fields__])
    completed = rows.filter(plain & (pl.col("status") == "completed"))["order_id"].sort()
    if completed.len() < 3:
        raise _too_small()
    dearer, cancelled, lost = completed[:3]
    order = pl.col("order_id")
    points = pl.col("points_amount").cast(pl.Int64) + pl.when(order == dearer).then(STRANGE_POINTS).otherwise(0)
    status = pl.when(order == cancelled).then(pl.lit("cancelled")).otherwise("status")
    rows.filter(order != lost).with_columns(points_amount=points, status=status).write_csv(path)
    codes = ("amount_mismatch", "missing_reversal", "status_mismatch")
    return [
        Damage("reconcile", dearer, "amount_mismatch", f"an order of {STRANGE_POINTS:,} points more than were paid"),
        *(Damage("reconcile", cancelled, code, "an order cancelled, its points never given back") for code in codes),
        Damage("reconcile", lost, "orphan_credit_transaction", "an order lost, though its points were paid"),
    ]


def _too_small() -> UsageError:
    return UsageError("the ledger is too small for the demo", next_step="ask for more: --accounts 200 --events 5000")


def damage_read_model(store: Store, victims: Victims) -> list[Damage]:
    """Change a balance in our own live read model by hand."""
    from ledger.tables import ACCOUNTS, LIVE

    live = LIVE.select().with_only_columns(LIVE.c.generation).scalar_subquery()
    row = (ACCOUNTS.c.account_id == victims.hand_changed) & (ACCOUNTS.c.generation == live)
    with store.writing() as connection:
        connection.execute(ACCOUNTS.update().where(row).values(balance=ACCOUNTS.c.balance + STRANGE_POINTS))
    return [Damage("drift --own", f"{victims.hand_changed} balance", "foreign_write", "an UPDATE of our read model")]


def damage_store(store: Store, victims: Victims) -> list[Damage]:
    """Lose events from the middle, from the end and altogether, and flip one bit of another."""
    from sqlalchemy import func, select

    from ledger.tables import EVENTS

    owner, version, state = EVENTS.c.originator_id, EVENTS.c.originator_version, EVENTS.c.state
    with store.writing() as connection:
        connection.execute(EVENTS.delete().where(owner == victims.hole, version == 3))
        newest = select(func.max(version)).where(owner == victims.tail_lost).scalar_subquery()
        connection.execute(EVENTS.delete().where(owner == victims.tail_lost, version == newest))
        connection.execute(EVENTS.delete().where(owner == victims.stream_lost))
        flipped = (owner == victims.byte_flipped) & (version == 2)
        content: bytes = connection.execute(select(state).where(flipped)).scalar_one()
        connection.execute(EVENTS.update().where(flipped).values(state=_with_flipped_bit(content)))
    return [
        Damage("rebuild", victims.hole, "version_gap", "an event deleted from the middle of its stream"),
        Damage("rebuild", victims.tail_lost, "head_mismatch", "its last event deleted"),
        Damage("rebuild", victims.stream_lost, "head_mismatch", "all of its events deleted"),
        Damage("rebuild", victims.byte_flipped, "poison_event", "one bit of a stored amount flipped"),
    ]


def _row(name: str, account_id: str, type: str, amount: str, created_at: object) -> dict[str, object]:
    return {
        "transaction_id": name,
        "account_id": account_id,
        "type": type,
        "status": "completed",
        "amount": amount,
        "related_transaction_id": None,
        "business_code": "manual",
        "metadata": None,
        "created_at": created_at,
    }


def _plain_payment(transactions: pl.DataFrame, account_id: str) -> int | None:
    """The amount of a payment that no credit of the account has, so that applying it twice looks like nothing else."""
    own = transactions.filter((pl.col("account_id") == account_id) & (pl.col("status") == "completed"))
    credits_ = own.filter(pl.col("type") == "credit")["amount"].implode()
    payments = own.filter((pl.col("type") == "debit") & ~pl.col("amount").is_in(credits_))["amount"]
    return int(payments[0]) if payments.len() else None


def _first_credit(transactions: pl.DataFrame, account_id: str) -> int:
    own = pl.col("account_id") == account_id
    is_credit = (pl.col("type") == "credit") & (pl.col("status") == "completed")
    return int(transactions.filter(own & is_credit)["amount"][0])


def _with_flipped_bit(state: bytes) -> bytes:
    """Make another digit of the amount's last one: still JSON, still an amount, and silently wrong."""
    start = state.index(b'"amount":') + len(b'"amount":')
    end = next(index for index in range(start, len(state)) if not chr(state[index]).isdigit())
    return state[: end - 1] + bytes([state[end - 1] ^ 1]) + state[end:]
