"""The tables of the order reconciliation: order events, the transactions of orders, what was judged, and breaks.

    ledger_order_events      what the order system said, one row an order and version
    ledger_orders_parked     what it said that cannot be read, where that is and why
    ledger_order_positions   up to where each partition of the topic of orders was read
    ledger_order_transactions  transactions that name an order, as a reconciliation's shadow follows the ledger
    ledger_orders_touched    orders that have to be judged again
    ledger_orders_withheld   orders that nothing can be said of, and why
    ledger_orders_judged     by which rules orders were judged last: one row
    ledger_reconciliation    where orders come from, and up to when both sides were read: one row
    ledger_breaks       each mismatch of orders and ledger, and its life
    ledger_break_history     every change of a break: when, by whom, why

They are part of the one schema of `ledger.tables`, which says how values are kept.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, Table, Text

from ledger.tables import BIG, KEY, METADATA

__all__ = [
    "BREAKS",
    "BREAK_HISTORY",
    "ORDERS_JUDGED",
    "ORDERS_PARKED",
    "ORDERS_TOUCHED",
    "ORDERS_WITHHELD",
    "ORDER_EVENTS",
    "ORDER_POSITIONS",
    "ORDER_TRANSACTIONS",
    "RECONCILIATION",
]

ORDER_EVENTS = Table(
    "ledger_order_events",
    METADATA,
    Column("order_id", KEY, primary_key=True),
    Column("version", BIG, primary_key=True, autoincrement=False),
    Column("event", Text, nullable=False),
    # Null where the event does not say it: then what an earlier one said stands.
    Column("account_id", KEY, nullable=True),
    Column("points", BIG, nullable=True),
    Column("direction", Text, nullable=True),
    Column("refunded_points", BIG, nullable=True),
    Column("effective_at", KEY, nullable=False),
    # Of a topic; null where rows of a file or a table say it.
    Column("partition", BIG, nullable=True),
    Column("position", BIG, nullable=True),
    sqlite_with_rowid=False,
)
Index("ledger_order_events_account", ORDER_EVENTS.c.account_id)

ORDERS_PARKED = Table(
    "ledger_orders_parked",
    METADATA,
    Column("partition", BIG, primary_key=True, autoincrement=False),
    Column("position", BIG, primary_key=True, autoincrement=False),
    # Null where the bytes do not say whose they are.
    Column("order_id", KEY, nullable=True),
    Column("version", BIG, nullable=True),
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)
Index("ledger_orders_parked_order", ORDERS_PARKED.c.order_id)

ORDER_POSITIONS = Table(
    "ledger_order_positions",
    METADATA,
    Column("partition", BIG, primary_key=True, autoincrement=False),
    Column("position", BIG, nullable=False),
    sqlite_with_rowid=False,
)

ORDER_TRANSACTIONS = Table(
    "ledger_order_transactions",
    METADATA,
    # That of the shadow that follows the ledger for the reconciliation.
    Column("number", BIG, primary_key=True, autoincrement=False),
    Column("account_id", KEY, primary_key=True),
    Column("transaction_id", KEY, primary_key=True),
    # Empty while no event has told one: kept for as long as one still may.
    Column("order_id", KEY, nullable=False),
    Column("type", Text, nullable=False),
    Column("amount", BIG, nullable=False),
    Column("status", Text, nullable=False),
    Column("business_code", Text, nullable=True),
    Column("related_transaction_id", Text, nullable=True),
    Column("created_at", Text, nullable=False),
    # 1 where its recording is known, which says what it is and when it began; 0 where only a later event does.
    Column("is_recorded", Integer, nullable=False),
    Column("updated_at", Text, nullable=False),
    # Of its last event.
    Column("version", BIG, nullable=False),
    Column("partition", BIG, nullable=True),
    Column("position", BIG, nullable=False),
    sqlite_with_rowid=False,
)
Index("ledger_order_transactions_order", ORDER_TRANSACTIONS.c.number, ORDER_TRANSACTIONS.c.order_id)

ORDERS_TOUCHED = Table(
    "ledger_orders_touched", METADATA, Column("order_id", KEY, primary_key=True), sqlite_with_rowid=False
)

ORDERS_WITHHELD = Table(
    "ledger_orders_withheld",
    METADATA,
    Column("order_id", KEY, primary_key=True),
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)

# How orders were judged last: what is judged otherwise by now has to be judged again, whoever judged it.
ORDERS_JUDGED = Table(
    "ledger_orders_judged",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The rules, as JSON.
    Column("rules", Text, nullable=False),
    # The accounts that were parked, as JSON.
    Column("parked_accounts", Text, nullable=False),
)

RECONCILIATION = Table(
    "ledger_reconciliation",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # `files` (a database table is one too) or `topic`; null before the first order came.
    Column("source", Text, nullable=True),
    Column("topic", Text, nullable=True),
    Column("topic_id", Text, nullable=True),
    # Everything that was there at this moment has been read; null before that was so once.
    Column("orders_read_until_at", Text, nullable=True),
    Column("ledger_read_until_at", Text, nullable=True),
)

BREAKS = Table(
    "ledger_breaks",
    METADATA,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("order_id", KEY, nullable=False),
    Column("code", KEY, nullable=False),
    Column("account_id", KEY, nullable=True),
    # pending, open, resolved or reopened.
    Column("state", Text, nullable=False),
    # late, manual or accepted; null unless it is resolved.
    Column("resolution", Text, nullable=True),
    # 1 where the facts as they are give it, whatever was decided about it; 0 where they do not any more.
    Column("is_found", Integer, nullable=False),
    Column("points_at_risk", BIG, nullable=False),
    Column("order_points", BIG, nullable=True),
    Column("credit_points", BIG, nullable=True),
    Column("order_status", Text, nullable=True),
    Column("credit_status", Text, nullable=True),
    # Their ids, as JSON.
    Column("transactions", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    # Where the last event of either side is; null where that side has none.
    Column("order_partition", BIG, nullable=True),
    Column("order_position", BIG, nullable=True),
    Column("ledger_partition", BIG, nullable=True),
    Column("ledger_position", BIG, nullable=True),
    # When the order was placed; where there is no order, when its first transaction was created.
    Column("order_at", KEY, nullable=False),
    Column("deadline_at", KEY, nullable=False),
    Column("noticed_at", Text, nullable=False),
    Column("opened_at", KEY, nullable=True),
    Column("resolved_at", Text, nullable=True),
    # When the facts changed last after somebody had decided about it by hand.
    Column("changed_at", Text, nullable=True),
    sqlite_autoincrement=True,  # An id that somebody read must never be another break's.
)
Index("ledger_breaks_order", BREAKS.c.order_id, BREAKS.c.code, unique=True)
Index("ledger_breaks_state", BREAKS.c.state, BREAKS.c.deadline_at)

BREAK_HISTORY = Table(
    "ledger_break_history",
    METADATA,
    Column("break_id", BIG, primary_key=True, autoincrement=False),
    Column("number", BIG, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    # Who decided: a person's name, or `reconciliation`.
    Column("by", Text, nullable=False),
    Column("from_state", Text, nullable=True),
    Column("to_state", Text, nullable=False),
    Column("resolution", Text, nullable=True),
    Column("why", Text, nullable=False),
    Column("points_at_risk", BIG, nullable=False),
    Column("evidence", Text, nullable=False),
    sqlite_with_rowid=False,
)
