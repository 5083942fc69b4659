"""What a replay may claim: its verdict and its certificate.

`COMPLETE` means complete since import: every event up to the position was read, nothing is parked, nothing was
skipped, and every account ends where its head says. Anything less is `INCOMPLETE` and says what is missing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from replay.gate import Parked
from schemas import PoisonEvent

__all__ = ["COMPLETE", "INCOMPLETE", "REFUSED", "Certificate", "Damaged", "KeptCertificate", "Position", "Unread"]

COMPLETE = "COMPLETE"
INCOMPLETE = "INCOMPLETE"
REFUSED = "REFUSED"

#: A place in a source: of the store a number, of a topic the next offset of each partition.
Position = int | dict[int, int]


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A partition that could not be read to the end: from which offset, until where it was wanted, and why.

    `accounts` counts the accounts seen in it before: what they did after is not known, so nothing is certified
    for them. Reasons are those of `replay.topic.client`.
    """

    partition: int
    offset: int
    until: int
    reason: str
    details: str
    accounts: int = 0


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A data file of an archive that is not what was written, so it was not read.

    It has `events` events of accounts between `first_account` and `last_account`: all accounts there are withheld.
    """

    file: str
    reason: str
    events: int
    first_account: str
    last_account: str

    def may_have(self, account_id: str) -> bool:
        """Say whether it may have events of an account."""
        return self.first_account <= account_id <= self.last_account


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What was replayed, up to where, and the digest of the result.

    `position` is the store's, or of a topic the next offset by partition. `events` counts the events let through
    the gate, `accounts` those that have any event or a head, `repeats` the events dropped because they were there
    before, null where that is not known: an archive of a topic counted them of all accounts and up to its end only.
    `digest` is over the balances rows of all accounts that are not parked, nor in a partition that is
    `unread`. `resumed_from` is the position of the checkpoint that the run went on from, if it did. `topic` and
    `topic_id` say which topic it was; `beyond_store` counts the accounts that have more events on it, or in the
    archive, than in the store. `table_id` and `table_version` say which archive's table it was, and its version;
    `damaged` are files of it that were not read: nothing is certified for accounts that they may have events of.
    `as_of` and `recorded_as_of` are the moment that was asked for, by when things happened and by when they were
    recorded, null where it was not: the digest is then over the rows of that moment, while `events` still counts all
    that were let through the gate.
    """

    source: str
    ledger_id: str
    position: Position
    events: int
    accounts: int
    repeats: int | None
    parked: list[Parked]
    poison: list[PoisonEvent]
    digest: str
    projections: dict[str, int]
    resumed_from: Position | None = None
    topic: str | None = None
    topic_id: str | None = None
    unread: list[Unread] = []
    beyond_store: int = 0
    table_id: str | None = None
    table_version: int | None = None
    damaged: list[Damaged] = []
    as_of: str | None = None
    recorded_as_of: str | None = None

    @property
    def verdict(self) -> str:
        """COMPLETE, or INCOMPLETE where an account is parked or anything could not be read."""
        return INCOMPLETE if self.parked or self.poison or self.unread or self.damaged else COMPLETE

    @property
    def store_position(self) -> int:
        """The position in the store; 0 of a topic, none of whose events is known by its place in the store."""
        return self.position if isinstance(self.position, int) else 0

    def may_have_lost(self, account_id: str) -> bool:
        """Say whether a damaged file may have events of an account."""
        return any(each.may_have(account_id) for each in self.damaged)

    def to_builtins(self) -> dict[str, Any]:
        """Return the certificate as JSON-ready values."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


class KeptCertificate(Certificate, frozen=True, kw_only=True):
    """A certificate as a generation keeps it, with the digest over its rows as they are stored.

    `rows_digest` is `replay.digest.stored_digest`; null in a generation of an earlier version.
    """

    rows_digest: str | None = None
