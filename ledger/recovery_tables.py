"""The tables of recovery and audit: what was done, by whom, in a chain, and who may do something now.

    ledger_audit           the audit trail: one row an entry, each with the hash of the one before it
    ledger_audit_head      number and hash of the last entry: one row, so that a cut tail is seen
    ledger_recovery        who has the lease of recovery, and whether writers are fenced: one row
    ledger_recovery_events the events of the recovery runs, as the library keeps them

They are part of the one schema of `ledger.tables`, which says how values are kept.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, Table, Text

from ledger.tables import BIG, KEY, METADATA, Base

__all__ = ["AUDIT", "AUDIT_HEAD", "RECOVERY", "RECOVERY_EVENTS", "RecoveryEventRecord"]

AUDIT = Table(
    "ledger_audit",
    METADATA,
    Column("number", BIG, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    # A person, or what acted by itself.
    Column("by", Text, nullable=False),
    Column("action", KEY, nullable=False),
    Column("run", KEY, nullable=True),
    Column("account_id", KEY, nullable=True),
    # Canonical JSON.
    Column("details", Text, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
Index("ledger_audit_run", AUDIT.c.run, AUDIT.c.action)
Index("ledger_audit_account", AUDIT.c.account_id)

AUDIT_HEAD = Table(
    "ledger_audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BIG, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

RECOVERY = Table(
    "ledger_recovery",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # The run whose lease it is, and that has fenced the writers; null where none is.
    Column("run", KEY, nullable=True),
    # Who applies it: a token of one process.
    Column("holder", Text, nullable=True),
    Column("held_until", Text, nullable=True),
    # Null while writers are let through.
    Column("fenced_at", Text, nullable=True),
    Column("fenced_by", Text, nullable=True),
)


class RecoveryEventRecord(Base):
    """The library's stored-event record for runs: text ids, and no chain, which is that of the audit trail."""

    __tablename__ = "ledger_recovery_events"
    __table_args__ = (Index("ledger_recovery_events_run", "originator_id", "originator_version", unique=True),)
    id = Column(BIG, primary_key=True, autoincrement=True)
    originator_id = Column(KEY, nullable=False)
    originator_version = Column(BIG, nullable=False)
    topic = Column(Text, nullable=False)
    state = Column(LargeBinary, nullable=False)


RECOVERY_EVENTS: Table = METADATA.tables[RecoveryEventRecord.__tablename__]
