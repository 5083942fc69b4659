"""What `verify --fix-stale` does about pending transactions that are stale, and what it says of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import polars as pl

from console.consent import EVENTS_STAY, need_yes
from console.recover_audit import kept_outside, outsides_of
from console.words import count, first_few
from replay.verify import STALE, settle_stale

if TYPE_CHECKING:
    from console.run import Run
    from ledger.store import Store
    from replay import Verification

__all__ = ["Settling", "settled"]


@dataclass(frozen=True, kw_only=True)
class Settling:
    """What was settled and what was not, each with `account_id` and `transaction_id`, and how.

    `notes` say which heads of the audit trail could not be kept outside.
    """

    how: str
    settled: list[dict[str, str]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, object]:
        """What the JSON document says of it."""
        return {"settled": self.settled, "not_settled": self.refused}

    @property
    def lines(self) -> list[str]:
        """What people read of it."""
        return [
            f"{count(len(self.settled), 'stale transaction')} settled: {self.how}",
            *[
                f"not settled: {each['transaction_id']} of {each['account_id']}: {each['reason']}"
                for each in self.refused
            ],
        ]


def settled(
    run: Run, store: Store, found: Verification, how: Literal["complete", "cancel"], *, by: str, is_sure: bool
) -> Settling:
    """Say which transactions would be settled, and settle them where that is wanted; RefusedError where it is not."""
    stale = found.findings.filter(pl.col("code") == STALE).select("account_id", "transaction_id").rows()
    if not stale:
        return Settling(how=how)
    outsides = outsides_of(run, store)
    named = [f"{transaction_id} of {account_id}" for account_id, transaction_id in stale]
    what = f"{how} {count(len(stale), 'stale pending transaction')}, as events"
    need_yes(what, [*first_few(named, "transactions"), EVENTS_STAY], is_sure=is_sure)
    now = run.now
    done = settle_stale(store, found, how, by=by, now=now)
    return Settling(
        how=how,
        settled=[{"account_id": owner, "transaction_id": name, "action": how} for owner, name in done.settled],
        refused=[
            {"account_id": owner, "transaction_id": name, "reason": reason} for owner, name, reason in done.refused
        ],
        notes=kept_outside(store, outsides, now),
    )
