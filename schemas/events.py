"""The six events of the ledger: the wire truth that store, topic and archive share.

Every event is a frozen msgspec struct tagged by `event`. `(account_id, version)` is its key: versions of one
account run from 1 without a hole. Times are UTC with microseconds. Amounts are whole points, 1 .. 2^63-1.
`extra` holds the fields that a newer writer added and this reader does not know; they survive a round trip.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

__all__ = [
    "AMOUNT_MAX",
    "EVENT_TYPES",
    "ID_LENGTH_MAX",
    "SCHEMA_VERSION",
    "STATUSES",
    "TRANSACTION_TYPES",
    "AccountClosed",
    "AccountLocked",
    "AccountOpened",
    "AccountUnlocked",
    "Event",
    "PoisonEvent",
    "Status",
    "TransactionEvent",
    "TransactionRecorded",
    "TransactionStatusChanged",
    "TransactionType",
    "event_id",
]

AMOUNT_MAX = 2**63 - 1
ID_LENGTH_MAX = 255
SCHEMA_VERSION = 1

TransactionType = Literal["credit", "debit"]
Status = Literal["pending", "frozen", "completed", "cancelled", "failed"]
TRANSACTION_TYPES: tuple[str, ...] = get_args(TransactionType)
STATUSES: tuple[str, ...] = get_args(Status)

# PostgreSQL keeps no NUL in text and indexes no key beyond 2.7 kB, so no store takes such an id.
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH_MAX, pattern=r"^[^\x00]*$")]
Version = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_MAX)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=AMOUNT_MAX)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


def event_id(account_id: str, version: int) -> str:
    """Return the id that this ledger gives an event: unique and the same each time it is made."""
    return f"{account_id}:{version}"


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What every event carries; `originator_*` are the names the event store knows the key by."""

    event_id: Annotated[str, msgspec.Meta(min_length=1)]
    account_id: Identifier
    version: Version
    effective_at: Moment
    recorded_at: Moment
    schema_version: int = SCHEMA_VERSION
    extra: dict[str, Any] = {}

    @property
    def originator_id(self) -> str:
        """The account id, by the event store's name."""
        return self.account_id

    @property
    def originator_version(self) -> int:
        """The version, by the event store's name."""
        return self.version


class AccountOpened(Event, frozen=True, kw_only=True, tag="account.opened"):
    """An account exists from here on and is active."""

    reason: str | None = None


class AccountLocked(Event, frozen=True, kw_only=True, tag="account.locked"):
    """The account takes no new transaction until it is unlocked."""

    reason: str | None = None


class AccountUnlocked(Event, frozen=True, kw_only=True, tag="account.unlocked"):
    """The account is active again."""

    reason: str | None = None


class AccountClosed(Event, frozen=True, kw_only=True, tag="account.closed"):
    """The account takes nothing any more."""

    reason: str | None = None


class TransactionEvent(Event, frozen=True, kw_only=True):
    """What both transaction events carry: enough for a delta without a look at any other event."""

    transaction_id: Identifier
    type: TransactionType
    amount: Amount
    from_status: Status | None = None
    to_status: Status
    related_transaction_id: str | None = None
    business_code: str | None = None
    order_id: str | None = None
    metadata: dict[str, Any] | None = None


class TransactionRecorded(TransactionEvent, frozen=True, kw_only=True, tag="transaction.recorded"):
    """A transaction exists from here on, in `to_status`; `from_status` is none."""


class TransactionStatusChanged(TransactionEvent, frozen=True, kw_only=True, tag="transaction.status_changed"):
    """A known transaction went from `from_status` to `to_status`."""


EVENT_TYPES: dict[str, type[Event]] = {
    str(cls.__struct_config__.tag): cls
    for cls in (
        AccountOpened,
        AccountLocked,
        AccountUnlocked,
        AccountClosed,
        TransactionRecorded,
        TransactionStatusChanged,
    )
}


class PoisonEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that cannot be read, as a value: where it is and why; never a skip.

    `position` is the place in the source (0 where there is none): in a topic, the offset in `partition`.
    `account_id` and `version` are what the source says beside the bytes, None where it says nothing.
    """

    position: int
    account_id: str | None
    version: int | None
    reason: str
    partition: int | None = None
