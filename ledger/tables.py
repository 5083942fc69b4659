"""The tables of the ledger's own database: events, read model, shadows, comparisons.

    stored_events       the immutable events; `chain` is the hash chain of the account up to and with this one
    ledger_heads        the account's last version and chain, moved in the transaction that appends
    ledger_identity     which ledger this is: one row
    ledger_generations  complete sets of read-model rows, each at a position of its own
    ledger_live         which generation is live, and which was before it: one row
    ledger_accounts     the read model: one row a generation and account
    ledger_parked       accounts that a generation cannot vouch for, and why
    imported_accounts   a copy of a foreign live table, as `import accounts` read it
    ledger_topics       the topics that the relay publishes to: which topic, and how far
    ledger_topic_parked accounts whose later events the relay holds back from a topic, and why
    ledger_intakes      the topics that transactions are imported from, and how far each was read
    ledger_shadow_accounts   rows like those of the read model, one a shadow and account
    ledger_shadows      the shadows: whose rows are under which number, and what each follows
    ledger_shadow_positions  up to where a shadow has each partition of its source
    ledger_shadow_waiting    events of a topic that wait for one that is missing before them
    ledger_comparisons  what is compared for ever: who does it now, and how far its round is
    ledger_compared     the chunks of a comparison, and when each was compared last
    ledger_drift_findings    each difference that a comparison found, and its life
    ledger_incidents    times during which a comparison found drift, or a break stayed open, and who was told

Those of the order reconciliation are in `ledger.order_tables`, those of recovery and audit in
`ledger.recovery_tables`.

`live_accounts` is a view of the live generation less what is parked, for those who read with SQL. Times are ISO
8601 text in UTC, the same bytes on every database. Keys sort by code point (`COLLATE "C"` on PostgreSQL).
"""

from __future__ import annotations

from typing import Any

from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text
from sqlalchemy.orm import DeclarativeBase

__all__ = [
    "ACCOUNTS",
    "COMPARED",
    "COMPARISONS",
    "DRIFT_FINDINGS",
    "EVENTS",
    "GENERATIONS",
    "HEADS",
    "IDENTITY",
    "IMPORTED_ACCOUNTS",
    "INCIDENTS",
    "INTAKES",
    "LIVE",
    "LIVE_VIEW",
    "METADATA",
    "PARKED",
    "SHADOWS",
    "SHADOW_ACCOUNTS",
    "SHADOW_POSITIONS",
    "SHADOW_WAITING",
    "TOPICS",
    "TOPIC_PARKED",
    "Base",
    "LedgerDatastore",
]

METADATA = MetaData()
KEY = Text().with_variant(Text(collation="C"), "postgresql")
BIG = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """The base of the library's records; their tables belong to the one schema."""

    metadata = METADATA


class LedgerEventRecord(Base):
    """The library's stored-event record with text account ids and the hash chain."""

    __abstract__ = True
    # AUTOINCREMENT keeps SQLite from giving a deleted tail's ids to new events.
    __table_args__ = (
        Index("aggregate", "originator_id", "originator_version", unique=True),
        {"sqlite_autoincrement": True},
    )
    id = Column(BIG, primary_key=True, autoincrement=True)
    originator_id = Column(KEY, nullable=False)
    originator_version = Column(BIG, nullable=False)
    topic = Column(Text, nullable=False)
    state = Column(LargeBinary, nullable=False)
    chain = Column(LargeBinary, nullable=False)


class LedgerDatastore(SQLAlchemyDatastore):
    """The library's datastore with this ledger's record classes."""

    base_stored_event_record_cls = LedgerEventRecord
    # A dictionary of our own: the library's is shared by every datastore of the process.
    record_classes: dict[str, tuple[type[Any], type[Any]]] = {}  # noqa: RUF012


LedgerDatastore.define_record_class("StoredEvent", "stored_events", None, LedgerEventRecord)
EVENTS: Table = METADATA.tables["stored_events"]

HEADS = Table(
    "ledger_heads",
    METADATA,
    Column("account_id", KEY, primary_key=True),
    Column("version", BIG, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

IDENTITY = Table(
    "ledger_identity",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("ledger_id", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

GENERATIONS = Table(
    "ledger_generations",
    METADATA,
    Column("generation", BIG, primary_key=True, autoincrement=False),
    Column("position", BIG, nullable=False),
    Column("created_at", Text, nullable=False),
    # The certificate of the rebuild that made it, as JSON; null for one that the projector began.
    Column("certificate", Text, nullable=True),
)

LIVE = Table(
    "ledger_live",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BIG, nullable=False),
    # The generation that was live before it: the one to go back to.
    Column("previous", BIG, nullable=True),
)

ACCOUNTS = Table(
    "ledger_accounts",
    METADATA,
    Column("generation", BIG, primary_key=True, autoincrement=False),
    Column("account_id", KEY, primary_key=True),
    Column("balance", BIG, nullable=False),
    Column("frozen", BIG, nullable=False),
    Column("pending_credit", BIG, nullable=False),
    Column("pending_debit", BIG, nullable=False),
    Column("status", Text, nullable=False),
    Column("locked_at", Text, nullable=True),
    Column("status_version", BIG, nullable=True),
    Column("closed_version", BIG, nullable=True),
    Column("version", BIG, nullable=False),
    Column("chain", LargeBinary, nullable=True),
    Column("last_effective_at", Text, nullable=False),
    sqlite_with_rowid=False,
)

# A table of its own: a hand-made UPDATE of an account in `ledger_accounts` forgets the generation easily, and would
# change both sides of a comparison in the same way.
SHADOW_ACCOUNTS = ACCOUNTS.to_metadata(METADATA, name="ledger_shadow_accounts")

PARKED = Table(
    "ledger_parked",
    METADATA,
    Column("generation", BIG, primary_key=True, autoincrement=False),
    Column("account_id", KEY, primary_key=True),
    Column("version", BIG, nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)

IMPORTED_ACCOUNTS = Table(
    "imported_accounts",
    METADATA,
    Column("account_id", KEY, primary_key=True),
    Column("balance", BIG, nullable=False),
    Column("frozen_amount", BIG, nullable=False),
    Column("status", Text, nullable=False),
    Column("locked_at", Text, nullable=True),
    sqlite_with_rowid=False,
)

TOPICS = Table(
    "ledger_topics",
    METADATA,
    Column("name", KEY, primary_key=True),
    # What the broker calls it: a topic that was made again under its name has another one.
    Column("topic_id", Text, nullable=False),
    Column("partitions", BIG, nullable=False),
    # The store position up to which everything was published, 0 before the first.
    Column("position", BIG, nullable=False),
    # JSON, {partition: next offset}: up to where the topic was seen to hold what we know of.
    Column("offsets", Text, nullable=False),
    # JSON, {partition: next offset}: before it are our own events only; null where only replays have seen the topic.
    Column("own", Text, nullable=True),
)

TOPIC_PARKED = Table(
    "ledger_topic_parked",
    METADATA,
    Column("name", KEY, primary_key=True),
    Column("account_id", KEY, primary_key=True),
    # The first version that was not published.
    Column("version", BIG, nullable=False),
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)

INTAKES = Table(
    "ledger_intakes",
    METADATA,
    Column("name", KEY, primary_key=True),
    Column("topic_id", Text, nullable=False),
    Column("codec", Text, nullable=False),
    # Next offset by partition, as JSON: what is before it has become events, or is among the rejects.
    Column("offsets", Text, nullable=False),
    sqlite_with_rowid=False,
)

SHADOWS = Table(
    "ledger_shadows",
    METADATA,
    Column("name", KEY, primary_key=True),
    # Its rows are in ledger_shadow_accounts and ledger_parked under this number. It is below zero, so it is no
    # generation: nothing can promote, list or drop a shadow by mistake.
    Column("number", BIG, nullable=False, unique=True),
    Column("source", Text, nullable=False),
    # The id of the ledger, or what the broker calls the topic.
    Column("source_id", Text, nullable=False),
    Column("topic", Text, nullable=True),
    Column("started_from", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

SHADOW_POSITIONS = Table(
    "ledger_shadow_positions",
    METADATA,
    Column("name", KEY, primary_key=True),
    # 0 where the source is a store.
    Column("partition", BIG, primary_key=True, autoincrement=False),
    # Of a store the last position that was applied, of a topic the next offset.
    Column("position", BIG, nullable=False),
    sqlite_with_rowid=False,
)

SHADOW_WAITING = Table(
    "ledger_shadow_waiting",
    METADATA,
    Column("name", KEY, primary_key=True),
    Column("account_id", KEY, primary_key=True),
    Column("version", BIG, primary_key=True, autoincrement=False),
    Column("partition", BIG, nullable=False),
    Column("position", BIG, nullable=False),
    Column("state", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

COMPARISONS = Table(
    "ledger_comparisons",
    METADATA,
    Column("name", KEY, primary_key=True),
    # The process that compares now, and until when nobody else may; a time that has passed frees it.
    Column("holder", Text, nullable=True),
    Column("held_until", Text, nullable=True),
    # The number of the round under way, and the last key that it has compared; null at its beginning.
    Column("round", BIG, nullable=False),
    Column("after_key", KEY, nullable=True),
    Column("started_at", Text, nullable=False),
    # When the last round was whole; null before the first.
    Column("whole_at", Text, nullable=True),
)

COMPARED = Table(
    "ledger_compared",
    METADATA,
    Column("comparison", KEY, primary_key=True),
    # The last key of the chunk, empty for the chunk without an end: an account id never is.
    Column("until_key", KEY, primary_key=True),
    Column("round", BIG, nullable=False),
    Column("compared_at", Text, nullable=False),
    sqlite_with_rowid=False,
)

DRIFT_FINDINGS = Table(
    "ledger_drift_findings",
    METADATA,
    Column("comparison", KEY, primary_key=True),
    Column("account_id", KEY, primary_key=True),
    # The column that differs; `row` where one side has no row, empty where the account could not be compared.
    Column("field", KEY, primary_key=True),
    Column("opened_at", KEY, primary_key=True),
    # suspected, drift, uncompared or healed.
    Column("state", Text, nullable=False),
    Column("class", Text, nullable=True),
    # Values as text: a difference of two numbers may be past int64.
    Column("live", Text, nullable=True),
    Column("replayed", Text, nullable=True),
    Column("difference", Text, nullable=True),
    Column("first_event", Text, nullable=True),
    Column("evidence", Text, nullable=False),
    # The position that both sides were compared at, as JSON.
    Column("position", Text, nullable=False),
    # When it was first seen as it stands here.
    Column("seen_at", Text, nullable=False),
    Column("healed_at", Text, nullable=True),
)
# Every chunk asks for the open ones, and the healed are kept for ever.
Index(
    "ledger_drift_findings_open",
    DRIFT_FINDINGS.c.comparison,
    DRIFT_FINDINGS.c.account_id,
    sqlite_where=text("state != 'healed'"),
    postgresql_where=text("state != 'healed'"),
)

INCIDENTS = Table(
    "ledger_incidents",
    METADATA,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("comparison", KEY, nullable=False),
    Column("opened_at", Text, nullable=False),
    Column("healed_at", Text, nullable=True),
    # The most accounts that differed at once.
    Column("drifted", BIG, nullable=False),
    # When the webhook took the alert that it began, and the one that it is over; null until then.
    Column("opened_told_at", Text, nullable=True),
    Column("healed_told_at", Text, nullable=True),
    Column("attempts", BIG, nullable=False),
    Column("next_attempt_at", Text, nullable=True),
    Column("error", Text, nullable=True),
)

LIVE_VIEW = """
CREATE VIEW live_accounts AS
SELECT a.account_id, a.balance, a.frozen, a.balance - a.frozen AS available, a.pending_credit, a.pending_debit,
       a.status, a.locked_at, a.version, a.last_effective_at
FROM ledger_accounts a JOIN ledger_live l ON l.generation = a.generation
WHERE NOT EXISTS (
    SELECT 1 FROM ledger_parked p WHERE p.generation = a.generation AND p.account_id = a.account_id
)
"""
