"""Settling: when a difference between live and replay is drift, and not live on its way.

A live table without a position of ours may be behind the log or ahead of it, by any time, and may pause. So a
difference is suspected, and looked at again by its key, until

    (a) the same live row and the same replayed row, at the same version, were seen in several looks over some time,
    (b) the replay has come to the head of the log as it was read after live was, so that live had no more to apply, and
    (c) lag cannot explain the live row: it equals no earlier state of its account, or live was seen past the event
        that the account would wait for.

What is seen past an event: another account, fed by the same writer, is live as it is after an event later in the log,
and never was so before. A writer that keeps the order of the log has then applied everything before that event.

Nothing here reads a clock or a database.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import polars as pl

from replay.certificate import Position
from replay.steps import Steps

__all__ = ["Behind", "Feed", "Pairing", "Settling", "behind", "has_reached", "is_same_state"]

#: Who feeds an account: the partition of the log that its events are in, and the writer among those of live.
Feed = tuple[int, int]

#: What is seen of an account at once: its live row and its replayed one, null where there is none.
Pairing = tuple[Hashable, Hashable]


class Behind(NamedTuple):
    """The newest earlier state that a live row equals: its version, and the position of the event after it."""

    version: int
    waits_for: int


@dataclass
class _Suspect:
    since: float
    pairing: Pairing | None = None
    first_seen: float = 0.0
    looks: int = 0
    first_head: Position = 0
    #: The head when lag was first found to explain nothing, null while it may.
    excluded_at: Position | None = None
    why: str = "it was not looked at yet"


@dataclass
class Settling:
    """The suspected accounts, and what was seen of them.

    With `quiet_waives` (c) is not asked for where the log did not grow since the pair was first seen: there is nothing
    that live could still be about to apply, but what was there when it began.
    """

    settle_seconds: float = 10.0
    unsettled_seconds: float = 300.0
    looks_min: int = 3
    quiet_waives: bool = False
    suspects: dict[str, _Suspect] = field(default_factory=dict)
    #: Up to which position of the log live was seen to have applied everything, by feed.
    applied: dict[Feed, int] = field(default_factory=dict)

    def suspect(self, account_ids: Iterable[str], *, now: float) -> None:
        """Take accounts for suspected; those that are so already stay as they are."""
        for account_id in account_ids:
            self.suspects.setdefault(account_id, _Suspect(now))

    def clear(self, account_ids: Iterable[str]) -> None:
        """Forget accounts: they are the same, or known to differ."""
        for account_id in account_ids:
            self.suspects.pop(account_id, None)

    def look(self, seen: Mapping[str, Pairing], *, now: float, head: Position) -> list[str]:
        """Note what differs in a look, and return the accounts that were the same for long enough (a).

        `head` is the log's, read after live was.
        """
        ripe = []
        for account_id, pairing in seen.items():
            suspect = self.suspects[account_id]
            if suspect.pairing != pairing:
                suspect.pairing, suspect.first_seen, suspect.looks = pairing, now, 0
                suspect.first_head, suspect.excluded_at = head, None
            suspect.looks += 1
            if suspect.looks >= self.looks_min and now - suspect.first_seen >= self.settle_seconds:
                ripe.append(account_id)
            else:
                suspect.why = "it changes again and again, so that nothing can be compared"
        return ripe

    def wait_for_marks(self, account_ids: Iterable[str]) -> None:
        """Note that live says of accounts that they are at a place which the log does not know."""
        for account_id in account_ids:
            self.suspects[account_id].why = "live has applied something that the log does not know"

    def saw(self, feed: Feed, position: int) -> None:
        """Note that live has applied everything of a feed up to a position, in the look that is under way or before."""
        self.applied[feed] = max(position, self.applied.get(feed, position))

    def may_be_lag(self, found: Behind | None, feed: Feed) -> bool:
        """Say whether a live row may be what it is because its writer has not come further (c)."""
        return found is not None and self.applied.get(feed, -1) < found.waits_for

    def is_drift(
        self, account_id: str, found: Behind | None, feed: Feed, *, position: Position, head: Position
    ) -> bool:
        """Say whether an account that was the same for long enough has drifted.

        `found` is what its live row is behind to, null where lag cannot give it. `position` is the replay's.
        """
        suspect = self.suspects[account_id]
        if not self.may_be_lag(found, feed):
            # Live had applied at most what the log had then, and the replay must have come as far without a new event.
            suspect.excluded_at = head if suspect.excluded_at is None else suspect.excluded_at
        elif self.quiet_waives and head == suspect.first_head:
            suspect.excluded_at = head
        if suspect.excluded_at is None:
            waits_for = None if found is None else found.waits_for
            suspect.why = f"live may be behind: nothing shows that it is past position {waits_for} of the log"
            return False
        suspect.why = "the replay is behind the log"
        return has_reached(position, suspect.excluded_at)

    def unsettled(self, *, now: float) -> dict[str, str]:
        """Return the accounts that have not settled in time, and why; they go on being looked at."""
        return {
            account_id: f"not settled in {self.unsettled_seconds:g} s: {suspect.why}"
            for account_id, suspect in self.suspects.items()
            if suspect.looks and now - suspect.since >= self.unsettled_seconds
        }


def has_reached(position: Position, head: Position) -> bool:
    """Say whether a position is at a head or past it, in every partition."""
    if isinstance(position, int) or isinstance(head, int):
        return isinstance(position, int) and isinstance(head, int) and position >= head
    return all(position.get(partition, 0) >= offset for partition, offset in head.items())


def behind(steps: Steps, live: pl.DataFrame) -> dict[str, Behind | None]:
    """Return for each account the newest state before its last step that its live row equals, null where none.

    `live`: `account_id`, `balance`, `frozen`, `status`, `locked_at`, all but the account null where live has no row.
    Before its first event an account is no row, or one of zeros. A status counts only where the log says one, and a
    lock time only where live has one: the more states a row may equal, the less is taken for certain.
    """
    both = steps.frame.join(live.rename({name: f"live_{name}" for name in _LIVE}), on="account_id", how="inner")
    # Of the steps, by account and version.
    both = both.sort("account_id", "version").with_columns(
        is_last=pl.col("account_id").ne_missing(pl.col("account_id").shift(-1)),
        next_position=pl.col("position").shift(-1),
    )
    hits = both.filter(is_same_state() & ~pl.col("is_last"))
    newest = hits.group_by("account_id").agg(pl.col("version", "next_position").last())
    found: dict[str, Behind | None] = dict.fromkeys(live["account_id"].to_list())
    first = both.group_by("account_id").agg(pl.col("position", "live_balance", "live_frozen").first())
    for account_id, position, balance, frozen in first.iter_rows():
        if balance is None or (balance == 0 and frozen == 0):
            found[account_id] = Behind(0, position)
    found.update({account_id: Behind(version, position) for account_id, version, position in newest.iter_rows()})
    return found


def is_same_state() -> pl.Expr:
    """Whether a live row (`live_` before its columns) is what its account was after a step."""
    is_same = (pl.col("live_balance") == pl.col("after_balance")) & (pl.col("live_frozen") == pl.col("after_frozen"))
    is_status = (pl.col("live_status") == pl.col("after_status")) & (
        pl.col("live_locked_at").is_null() | pl.col("live_locked_at").eq_missing(pl.col("after_locked_at"))
    )
    return (is_same & (pl.col("after_status_version").is_null() | is_status)).fill_null(False)


_LIVE = ("balance", "frozen", "status", "locked_at")
