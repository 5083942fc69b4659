"""The peer: eventsourcing's own recorder and notification loop over SQLAlchemy, used as its documents say.

Its record class is plain: text ids, no hash chain, no heads. Its mapper decodes with msgspec, which is faster than
the library's own transcoders, so that what is compared is the loop and not the JSON reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
from eventsourcing.persistence import Mapper, StoredEvent
from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore
from eventsourcing_sqlalchemy.recorders import SQLAlchemyApplicationRecorder
from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Text, text
from sqlalchemy.event import listen
from sqlalchemy.orm import declarative_base

from schemas import EVENT_TYPES, Event, TransactionEvent

__all__ = ["PRAGMAS", "Sums", "add_up", "pragmas", "recorder"]

_BIG = BigInteger().with_variant(Integer(), "sqlite")

#: What decides what a commit and an insert cost.
PRAGMAS = ("journal_mode", "synchronous", "cache_size")

#: account id -> [balance, frozen, pending_credit, pending_debit], and account id -> status.
Sums = tuple[dict[str, list[int]], dict[str, str]]


class _Record(declarative_base()):  # type: ignore[misc]  # the base is made at run time
    __abstract__ = True
    __table_args__ = (Index("stored_aggregate_event_index", "originator_id", "originator_version", unique=True),)
    id = Column(_BIG, primary_key=True, autoincrement=True)
    originator_id = Column(Text, nullable=False)
    originator_version = Column(_BIG, nullable=False)
    topic = Column(Text, nullable=False)
    state = Column(LargeBinary, nullable=False)


class _Datastore(SQLAlchemyDatastore):
    base_stored_event_record_cls = _Record
    record_classes: ClassVar = {}


class _Mapper(Mapper[str]):
    """The library's mapper with one decoder for all events."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_union(list(EVENT_TYPES.values())))

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Decode the bytes of a stored event."""
        return self._decoder.decode(stored_event.state)


def recorder(path: Path) -> SQLAlchemyApplicationRecorder:
    """Return the library's recorder on a SQLite file, its table made."""
    made = SQLAlchemyApplicationRecorder(_Datastore(url=f"sqlite:///{path}"), events_table_name="stored_events")
    # The one setting that our store changes for every connection.
    listen(made.datastore.engine, "connect", lambda connection, _: connection.execute("PRAGMA cache_size = -65536"))
    made.create_table()
    return made


def pragmas(made: SQLAlchemyApplicationRecorder) -> dict[str, str]:
    """Return the settings that decide what a commit costs, as the recorder's own sessions see them."""
    with made.transaction(commit=False) as session:
        return {name: str(session.execute(text(f"PRAGMA {name}")).scalar_one()) for name in PRAGMAS}


def add_up(made: SQLAlchemyApplicationRecorder, page_events: int) -> tuple[int, Sums]:
    """Return the events read and the sums they give, read through `select_notifications` and the mapper."""
    mapper = _Mapper()
    sums: dict[str, list[int]] = {}
    statuses: dict[str, str] = {}
    words = {"account.locked": "locked", "account.unlocked": "active", "account.closed": "closed"}
    count = 0
    for event in _events(made, mapper, page_events):
        count += 1
        account_id = event.account_id
        if isinstance(event, TransactionEvent):
            row = sums.get(account_id)
            if row is None:
                row = sums[account_id] = [0, 0, 0, 0]
            is_credit = event.type == "credit"
            if event.from_status is not None:
                _count(row, event.from_status, -event.amount, is_credit)
            _count(row, event.to_status, event.amount, is_credit)
        else:
            sums.setdefault(account_id, [0, 0, 0, 0])
            statuses[account_id] = words.get(str(event.__struct_config__.tag), "active")
    return count, (sums, statuses)


def _count(row: list[int], status: str, amount: int, is_credit: bool) -> None:
    """Add the amount where its status puts it; inline rules, since our own `delta` costs the loop a tenth more."""
    if status == "completed":
        row[0] += amount if is_credit else -amount
    elif status == "frozen":
        row[1] += amount
    elif status == "pending":
        row[2 if is_credit else 3] += amount


def _events(made: SQLAlchemyApplicationRecorder, mapper: _Mapper, page_events: int) -> Iterator[Event]:
    after = 0
    while page := made.select_notifications(after, page_events, inclusive_of_start=False):
        for notification in page:
            yield mapper.to_domain_event(notification)
        after = page[-1].id


def _union(classes: list[type[Event]]) -> object:
    joined: object = classes[0]
    for cls in classes[1:]:
        joined = joined | cls  # type: ignore[operator]  # a union of classes is one at run time
    return joined
