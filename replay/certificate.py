"""What a replay may claim: its verdict and its certificate.

`COMPLETE` means complete since import: every event up to the position was read, nothing is parked, nothing was
skipped, and every account ends where its head says. Anything less is `INCOMPLETE` and says what is missing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from replay.gate import Parked
from schemas import PoisonEvent

__all__ = ["COMPLETE", "INCOMPLETE", "REFUSED", "Certificate"]

COMPLETE = "COMPLETE"
INCOMPLETE = "INCOMPLETE"
REFUSED = "REFUSED"


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What was replayed, up to where, and the digest of the result.

    `events` counts the events let through the gate, `accounts` those that have any event or a head, `repeats`
    the events dropped because they were there before. `digest` is over the balances rows of all accounts that
    are not parked. `resumed_from` is the position of the checkpoint that the run went on from, if it did.
    """

    source: str
    ledger_id: str
    position: int
    events: int
    accounts: int
    repeats: int
    parked: list[Parked]
    poison: list[PoisonEvent]
    digest: str
    projections: dict[str, int]
    resumed_from: int | None = None

    @property
    def verdict(self) -> str:
        """COMPLETE, or INCOMPLETE where an account is parked or an event could not be read."""
        return INCOMPLETE if self.parked or self.poison else COMPLETE

    def to_builtins(self) -> dict[str, Any]:
        """Return the certificate as JSON-ready values."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields
