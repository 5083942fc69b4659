"""Where the library's write path meets this ledger's store: its recorder, mapper and factory.

What the library appends goes through `LedgerRecorder`, which takes the append lock first, checks each event
against its account's head, makes the hash chain and moves the heads: all in the transaction of the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import ApplicationRecorder, IntegrityError, Mapper, Notification, StoredEvent
from eventsourcing.utils import Environment
from eventsourcing_sqlalchemy.datastore import Transaction, transactions
from eventsourcing_sqlalchemy.factory import SQLAlchemyFactory
from eventsourcing_sqlalchemy.recorders import SQLAlchemyApplicationRecorder
from sqlalchemy import Connection, RowMapping, Select, Table, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.types import LargeBinary

from ledger.fence import lock_appends
from ledger.store import GENESIS, Store, chain
from ledger.tables import EVENTS, HEADS, KEY, LedgerDatastore
from schemas import Event, PoisonEvent, decode, encode
from schemas.errors import IncompleteError, PoisonEventError, UsageError

__all__ = ["EventMapper", "LedgerFactory", "LedgerRecorder", "StoreDatastore"]


#: Bound by SQLite's limit of values in one statement.
KEYS_PER_QUERY = 500


class EventMapper(Mapper[str]):
    """Between event structs and stored events: the state is exactly the wire bytes, the topic is the tag."""

    def __init__(self) -> None:
        # Neither transcoder, compressor nor cipher: store and topic share the bytes of `schemas.encode`.
        self.transcoder = self.compressor = self.cipher = None  # type: ignore[assignment]

    def to_stored_event(self, domain_event: DomainEventProtocol[str]) -> StoredEvent:
        """Return an event as it is stored; UsageError for one that could not be read back."""
        event = cast("Event", domain_event)
        try:
            state = encode(event)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _unusable(event, str(error)) from error
        # The struct's constraints are checked when it is decoded, not when it is made.
        again = decode(state, account_id=event.account_id, version=event.version)
        if isinstance(again, PoisonEvent):
            raise _unusable(event, again.reason)
        tag = str(type(event).__struct_config__.tag)
        return StoredEvent(event.account_id, event.version, tag, state)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[str]:
        """Return the struct that the bytes hold; PoisonEventError, with its place, where they hold none."""
        account_id, version = str(stored_event.originator_id), stored_event.originator_version
        position = stored_event.id if isinstance(stored_event, Notification) else 0
        event = decode(stored_event.state, position=position, account_id=account_id, version=version)
        if isinstance(event, PoisonEvent):
            raise _poison(account_id, version, position, event.reason)
        return cast("DomainEventProtocol[str]", event)


class _StoreTransaction(Transaction):
    """The library's transaction, knowing which store it writes to."""

    store: Store


class StoreDatastore(LedgerDatastore):
    """The library's datastore on a store's own engine, so that there is one pool and one set of hooks.

    The library keeps the transaction in progress in one variable for the whole process, whichever database it
    is of. Here only a transaction of the same store is joined; inside another store's, a new one begins.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(session_maker=sessionmaker(bind=store.engine))
        self._store = store
        # A write transaction takes SQLite's lock when it begins: one that has read first could not get it.
        self._writers = sessionmaker(bind=store.engine.execution_options(ledger_write=True))
        self._readers = sessionmaker(bind=store.engine)

    def transaction(self, commit: bool) -> Transaction:
        """Return the transaction in progress on this store, or a new one."""
        current = transactions.get(None)
        if isinstance(current, _StoreTransaction) and current.store.engine is self._store.engine:
            return super().transaction(commit)
        session = self._writers() if commit else self._readers()
        begun = _StoreTransaction(session, commit=commit, lock=None)
        begun.store = self._store
        begun.token = transactions.set(begun)
        return begun


class LedgerRecorder(SQLAlchemyApplicationRecorder):
    """The library's recorder, which appends under the append lock and keeps chain and heads."""

    def _insert_stored_events(self, session: Session, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int]:
        if not stored_events:
            return []
        connection = session.connection()
        lock_appends(connection)
        heads = _heads(connection, sorted({str(event.originator_id) for event in stored_events}))
        rows = list(_linked(stored_events, heads))
        positions = list(connection.execute(_INSERT, rows).scalars())
        _move(connection, heads)
        self._notify_channel(session)
        return positions

    def select_events(
        self,
        originator_id: UUID | str,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """Return an account's events, each with its position.

        A read of the whole account is checked against its chain and its head. IncompleteError where an event is
        missing, PoisonEventError where one is not what was recorded: an answer from the rest would be a guess.
        """
        statement = _ACCOUNT.order_by(EVENTS.c.originator_version.desc() if desc else EVENTS.c.originator_version)
        if gt is not None:
            statement = statement.where(EVENTS.c.originator_version > gt)
        if lte is not None:
            statement = statement.where(EVENTS.c.originator_version <= lte)
        with self.transaction(commit=False) as session:
            found = session.connection().execute(statement.limit(limit), {"account_id": originator_id})
            rows = found.mappings().all()
        if gt is None and lte is None and limit is None and not desc:
            _check_whole(str(originator_id), rows)
        return [
            Notification(str(originator_id), row["originator_version"], row["topic"], row["state"], id=row["id"])
            for row in rows
            if row["id"] is not None
        ]


class LedgerFactory(SQLAlchemyFactory):
    """The library's factory for one store; nothing of it is taken from the environment."""

    def __init__(self, env: Environment, store: Store) -> None:
        super().__init__(env)
        self.datastore = StoreDatastore(store)

    def application_recorder(self) -> ApplicationRecorder:
        """Return a recorder on the store's own tables, which the store has made."""
        return LedgerRecorder(self.datastore, events_table_name=EVENTS.name)


def _account_select() -> Select[Any]:
    # One statement is one snapshot, so events and head are of one moment on every database.
    key = select(bindparam("account_id", type_=KEY).label("account_id")).subquery()
    joined = key.outerjoin(HEADS, HEADS.c.account_id == key.c.account_id).outerjoin(
        EVENTS, EVENTS.c.originator_id == key.c.account_id
    )
    state, link = EVENTS.c.state.cast(LargeBinary).label("state"), EVENTS.c.chain.cast(LargeBinary).label("chain")
    head = (HEADS.c.version.label("head_version"), HEADS.c.chain.label("head_chain"))
    return select(EVENTS.c.id, EVENTS.c.originator_version, EVENTS.c.topic, state, link, *head).select_from(joined)


_ACCOUNT = _account_select()

# Ids must come in the order of the events, since position order is version order within an account.
_INSERT = insert(EVENTS).returning(EVENTS.c.id, sort_by_parameter_order=True)


def _check_whole(account_id: str, rows: Sequence[RowMapping]) -> None:
    """Raise where an account's events are not a whole stream from version 1 to its head."""
    previous = GENESIS
    events = [row for row in rows if row["id"] is not None]
    for expected, row in enumerate(events, start=1):
        version = row["originator_version"]
        if version != expected:
            raise _incomplete(account_id, f"event {expected} is missing: the next one found is {version}")
        if row["chain"] != chain(previous, row["state"]):
            raise _poison(account_id, version, row["id"], _reason(account_id, row))
        previous = row["chain"]
    head = (rows[0]["head_version"] or 0, rows[0]["head_chain"] or GENESIS)
    if head[0] != len(events):
        raise _incomplete(account_id, f"its head says version {head[0]}, but its events end at {len(events)}")
    if head[1] != previous:
        raise _incomplete(account_id, f"its head does not match event {len(events)}")


def _reason(account_id: str, row: RowMapping) -> str:
    read = decode(row["state"], account_id=account_id, version=row["originator_version"])
    return read.reason if isinstance(read, PoisonEvent) else "its bytes are not those that were recorded"


def _heads(connection: Connection, account_ids: list[str]) -> dict[str, tuple[int, bytes]]:
    heads: dict[str, tuple[int, bytes]] = dict.fromkeys(account_ids, (0, GENESIS))
    for start in range(0, len(account_ids), KEYS_PER_QUERY):
        keys = account_ids[start : start + KEYS_PER_QUERY]
        for account_id, version, link in connection.execute(
            select(HEADS.c.account_id, HEADS.c.version, HEADS.c.chain).where(HEADS.c.account_id.in_(keys))
        ):
            heads[account_id] = (version, bytes(link))
    return heads


def _linked(events: Iterable[StoredEvent], heads: dict[str, tuple[int, bytes]]) -> Iterable[dict[str, object]]:
    """Yield the rows of the events, moving `heads` along; IntegrityError for one that is not next."""
    for event in events:
        account_id = str(event.originator_id)
        version, previous = heads[account_id]
        if event.originator_version != version + 1:
            raise IntegrityError(f"{account_id!r} is at version {version}, so {event.originator_version} is not next")
        link = chain(previous, event.state)
        heads[account_id] = (event.originator_version, link)
        yield {
            "originator_id": account_id,
            "originator_version": event.originator_version,
            "topic": event.topic,
            "state": event.state,
            "chain": link,
        }


def _move(connection: Connection, heads: dict[str, tuple[int, bytes]]) -> None:
    rows = [{"account_id": key, "version": version, "chain": link} for key, (version, link) in heads.items()]
    connection.execute(_UPSERTS[connection.dialect.name], rows)


def _upsert(table: Table, dialect: Any) -> Any:
    statement = dialect.insert(table)
    changes = {name: statement.excluded[name] for name in ("version", "chain")}
    return statement.on_conflict_do_update(index_elements=["account_id"], set_=changes)


_UPSERTS = {"sqlite": _upsert(HEADS, sqlite), "postgresql": _upsert(HEADS, postgresql)}


def _unusable(event: Event, reason: str) -> UsageError:
    # The id itself may be what cannot be shown.
    where = f"account {event.account_id!r} version {event.version}"
    return UsageError(f"not an event that can be kept: {reason}", where=where, next_step="correct the value")


def _incomplete(account_id: str, what: str) -> IncompleteError:
    where = f"account {account_id!r}"
    return IncompleteError(what, where=where, next_step="run `ledger-replay rebuild` to see all that is missing")


def _poison(account_id: str, version: int, position: int, reason: str) -> PoisonEventError:
    where = f"account {account_id!r} version {version}" + (f" at position {position}" if position else "")
    return PoisonEventError(
        f"a stored event cannot be read: {reason}", where=where, next_step="restore this event from a copy"
    )
