"""The sequence gate: every account's events in version order, each exactly once, or the account is parked.

It stands behind every source. By `(account_id, version)` it drops repeats, holds back what comes after a gap
until the gap is filled, and checks the hash chain where the source gives one and has not checked it already
(`state` is null then). Per-account versions prove that nothing in the middle is missing, heads prove the end. What
it holds back no projection sees, so it makes findings of its own: `version_gap`, `poison_event`,
`conflicting_repeat`, `head_mismatch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

import msgspec
import polars as pl

from schemas import PoisonEvent
from schemas.chain import GENESIS, chains

__all__ = ["LAST_SCHEMA", "Gate", "Parked"]

#: The gate's memory: the last version let through of each account, and the chain there (null: not known).
LAST_SCHEMA = pl.Schema({"account_id": pl.String(), "version": pl.Int64(), "chain": pl.Binary()})

_KEY = ["account_id", "version"]
_NOTHING_BROKEN = pl.DataFrame(schema={"account_id": pl.String(), "broken_at": pl.Int64()})

#: Events held back in memory behind gaps. Past this many, those of the accounts that wait are let go, and such
#: an account stays parked to the end of the run even if its gap is filled.
WAITING_EVENTS_MAX = 1_000_000


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """An account that nothing is certified for: where its stream stopped, and why."""

    account_id: str
    version: int
    reason: str
    position: int | None = None
    details: str = ""
    partition: int | None = None


@dataclass
class Gate:
    """Sequential per account; feed it batches with `admit`, then ask `parked` once at the end.

    With `links` it makes the chain of events that come without one, so that `last` can be held against heads.
    """

    last: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LAST_SCHEMA))
    waiting: pl.DataFrame | None = None
    poison: list[PoisonEvent] = field(default_factory=list)
    repeats: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={"account_id": pl.String(), "version": pl.Int64()})
    )
    let_go: set[str] = field(default_factory=set)
    links: bool = False

    def admit(self, events: pl.DataFrame, poison: list[PoisonEvent]) -> pl.DataFrame:
        """Return the events that may be folded now, in the batch's order; remember the rest."""
        self.poison.extend(poison)
        events = self._with_waiting(events)
        if events.is_empty():
            return events
        keys = self._judge(events)
        repeated = keys.filter("is_repeat")
        if repeated.height:
            self.repeats = pl.concat([self.repeats, repeated.select(_KEY)])
        admitted = keys.filter("is_next")
        self._remember(self._linked(events, admitted) if self.links else admitted)
        if admitted.height == events.height:
            return events
        self._hold_back(events, keys)
        return events[admitted["row"].sort()]

    def parked(self, ends: pl.DataFrame | None, copies: Callable[[pl.DataFrame], pl.DataFrame]) -> dict[str, Parked]:
        """Return the accounts that cannot be vouched for, by id.

        `ends` is what `Source.ends` says; `copies` gives all copies of repeated events, to tell a harmless
        repeat from a conflicting one.
        """
        found: dict[str, Parked] = {}
        for parked in (*self._poisoned(), *self._gaps(), *self._conflicts(copies), *self._wrong_ends(ends)):
            found.setdefault(parked.account_id, parked)
        return found

    def agrees_with(self, other: Gate) -> bool:
        """Say whether both let through, hold back and refuse the very same events."""
        mine, its = self._seen(), other._seen()
        return all(left.equals(right) for left, right in zip(mine, its, strict=True))

    def _seen(self) -> tuple[pl.DataFrame, ...]:
        waiting = self.last.clear() if self.waiting is None else self.waiting.select(LAST_SCHEMA.names())
        poison = [(poison.account_id, poison.version, poison.reason.encode()) for poison in self.poison]
        refused = pl.DataFrame(poison, schema=LAST_SCHEMA, orient="row")
        counted = self.repeats.with_columns(chain=pl.lit(None, pl.Binary()))
        return tuple(frame.sort(LAST_SCHEMA.names()) for frame in (self.last, waiting, refused, counted))

    def _with_waiting(self, events: pl.DataFrame) -> pl.DataFrame:
        if self.waiting is None or self.waiting.is_empty():
            return events
        touched = events.select("account_id").unique()
        back = self.waiting.join(touched, on="account_id", how="semi")
        if back.is_empty():
            return events
        self.waiting = self.waiting.join(touched, on="account_id", how="anti")
        return pl.concat([back, events])

    def _judge(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return one row an event, in account and version order, with `is_repeat` and `is_next`."""
        new_account = pl.col("account_id").ne_missing(pl.col("account_id").shift())
        keys = (
            events.select("account_id", "version", "chain", "position", is_unchecked=pl.col("state").is_not_null())
            .with_row_index("row")
            .join(self.last, on="account_id", how="left", suffix="_last")
            .with_columns(pl.col("version_last").fill_null(0))
            .sort("account_id", "version", "position")
            .with_columns(
                is_repeat=(pl.col("version") <= pl.col("version_last"))
                | (~new_account & (pl.col("version") == pl.col("version").shift()))
            )
            .with_columns(one=(~pl.col("is_repeat")).cast(pl.Int64))
            # The place within the account: what was counted so far, less what was before the account's first row.
            .with_columns(
                place=pl.col("one").cum_sum() - _at_first_row(pl.col("one").cum_sum() - pl.col("one"), new_account)
            )
            .with_columns(
                is_next=~pl.col("is_repeat") & (pl.col("version") == pl.col("version_last") + pl.col("place"))
            )
        )
        broken = self._broken_chains(events, keys)
        if broken.is_empty():
            return keys.with_columns(is_broken=False)
        return keys.join(broken, on="account_id", how="left", maintain_order="left").with_columns(
            is_next=pl.col("is_next") & (pl.col("broken_at").is_null() | (pl.col("version") < pl.col("broken_at"))),
            is_broken=pl.col("version").eq_missing(pl.col("broken_at")),
        )

    def _broken_chains(self, events: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        """Return `account_id` and `broken_at`, the first version whose bytes are not those that were appended."""
        chained = keys.filter(pl.col("is_next") & pl.col("chain").is_not_null())
        same = pl.col("account_id").eq_missing(pl.col("account_id").shift())
        chained = chained.with_columns(
            previous=pl.when(same)
            .then(pl.col("chain").shift())
            .when(pl.col("version_last") == 0)
            .then(pl.lit(GENESIS))
            .otherwise(pl.col("chain_last"))
        ).filter(pl.col("previous").is_not_null() & pl.col("is_unchecked"))
        if chained.is_empty():
            return _NOTHING_BROKEN
        states = events["state"].gather(chained["row"]).to_list()
        actual = pl.Series(chains(chained["previous"].to_list(), states), dtype=pl.Binary())
        broken = chained.filter(chained["chain"] != actual)
        if broken.is_empty():
            return _NOTHING_BROKEN
        first = broken.group_by("account_id").agg(broken_at=pl.col("version").min(), at=pl.col("position").min())
        for account_id, version, position in first.sort("at").iter_rows():
            reason = "the stored bytes are not those that were appended (hash chain)"
            self.poison.append(PoisonEvent(position=position, account_id=account_id, version=version, reason=reason))
        return first.drop("at")

    def _linked(self, events: pl.DataFrame, admitted: pl.DataFrame) -> pl.DataFrame:
        """Return admitted keys with the chain that their bytes make, from the chain let through before them."""
        states = events["state"].gather(admitted["row"]).to_list()
        made: list[bytes] = []
        of, link = None, GENESIS
        keys = admitted.select("account_id", "chain_last").iter_rows()
        # One after the other, since each needs the one before it.
        for (account_id, last), state in zip(keys, states, strict=True):
            before = link if account_id == of else last or GENESIS
            # `chain`, inlined: a call each would cost half as much again.
            link = blake2b(before + state, digest_size=32).digest()
            of = account_id
            made.append(link)
        return admitted.with_columns(chain=pl.Series(made, dtype=pl.Binary()))

    def _remember(self, admitted: pl.DataFrame) -> None:
        if admitted.is_empty():
            return
        # Rows are in version order within an account, so the last one is the newest.
        newest = admitted.group_by("account_id").agg(pl.col("version", "chain").last())
        kept = self.last.join(newest, on="account_id", how="anti")
        self.last = pl.concat([kept, newest])

    def _hold_back(self, events: pl.DataFrame, keys: pl.DataFrame) -> None:
        # An event whose bytes are not those of the chain is poison: it waits for nothing.
        behind = keys.filter(~pl.col("is_next") & ~pl.col("is_repeat") & ~pl.col("is_broken"))
        held = events[behind["row"].sort()]
        self.waiting = held if self.waiting is None else pl.concat([self.waiting, held])
        if self.waiting.height > WAITING_EVENTS_MAX:
            self.let_go.update(self.waiting["account_id"].unique())
            # One event an account stays as the evidence of the gap.
            self.waiting = self.waiting.sort("version").unique("account_id", keep="first")

    def _poisoned(self) -> list[Parked]:
        """Accounts whose stream stopped at an event that cannot be read."""
        reached = dict(self.last.select(_KEY).iter_rows()) if self.poison else {}
        return [
            Parked(
                account_id=poison.account_id,
                version=poison.version or reached.get(poison.account_id, 0) + 1,
                reason="poison_event",
                position=poison.position,
                details=poison.reason,
                partition=poison.partition,
            )
            for poison in self.poison
            # An event of no version could be any, so nothing that was let through makes it harmless.
            if poison.account_id is not None
            and (poison.version is None or poison.version > reached.get(poison.account_id, 0))
        ]

    def _gaps(self) -> list[Parked]:
        waits = self._waits()
        # An account that nothing waits for any more, though some of its events were let go, is not whole either.
        drained = sorted(self.let_go.difference(found.account_id for found in waits))
        reached = dict(self.last.select(_KEY).iter_rows()) if drained else {}
        return waits + [
            Parked(
                account_id=account_id,
                version=reached.get(account_id, 0) + 1,
                reason="version_gap",
                details="later events waited behind a gap, and were too many to keep until it was filled",
            )
            for account_id in drained
        ]

    def _waits(self) -> list[Parked]:
        if self.waiting is None or self.waiting.is_empty():
            return []
        waiting = (
            self.waiting.sort("version")
            .group_by("account_id")
            .agg(pl.col("position").first(), pl.col("version").first().alias("found"), pl.len().alias("held"))
            .join(self.last, on="account_id", how="left")
            .sort("account_id")
        )
        return [
            Parked(
                account_id=account_id,
                version=(version or 0) + 1,
                reason="version_gap",
                position=position,
                details=_gap_text((version or 0) + 1, found, held, let_go=account_id in self.let_go),
            )
            for account_id, position, found, held, version, _ in waiting.iter_rows()
        ]

    def _conflicts(self, copies: Callable[[pl.DataFrame], pl.DataFrame]) -> list[Parked]:
        if self.repeats.is_empty():
            return []
        contents = copies(self.repeats).group_by(_KEY).agg(pl.col("state").n_unique().alias("contents"))
        conflicts = contents.filter(pl.col("contents") > 1).sort(_KEY)
        return [
            Parked(
                account_id=account_id,
                version=version,
                reason="conflicting_repeat",
                details=f"the source holds {contents} different events of this version",
            )
            for account_id, version, contents in conflicts.iter_rows()
        ]

    def _wrong_ends(self, ends: pl.DataFrame | None) -> list[Parked]:
        if ends is None:
            return []
        both = self.last.join(ends, on="account_id", how="full", suffix="_end", coalesce=True)
        wrong = both.filter(
            pl.col("version").ne_missing(pl.col("version_end"))
            | (pl.col("chain") != pl.col("chain_end")).fill_null(False)
        ).sort("account_id")
        return [
            Parked(
                account_id=account_id,
                version=min((version or 0) + 1, (end or 0) + 1) if version != end else version,
                reason="head_mismatch",
                details=_end_text(version, end),
            )
            for account_id, version, _, end, _ in wrong.iter_rows()
        ]


def _at_first_row(value: pl.Expr, is_first_row: pl.Expr) -> pl.Expr:
    """A value of each account's first row, on all its rows; the accounts' rows stand together."""
    return pl.when(is_first_row).then(value).forward_fill()


def _gap_text(missing: int, found: int, held: int, *, let_go: bool) -> str:
    span = f"version {missing} is missing" if found == missing + 1 else f"versions {missing} to {found - 1} are missing"
    return f"{span}; {'more than ' if let_go else ''}{held} later events wait"


def _end_text(version: int | None, end: int | None) -> str:
    if end is None:
        return f"the stream has {version} events but no head: it is lost, or this ledger did not append them"
    if version is None:
        return f"the whole stream is lost: its head says {end} events"
    if version < end:
        return f"the stream ends at version {version}, its head says {end}: the last events are lost"
    if version > end:
        return f"the stream ends at version {version}, its head says only {end}"
    return f"the chain at version {version} is not the head's"
