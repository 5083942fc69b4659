"""Looks at suspected accounts: both rows by key, their account replayed alone, and what shows how far live is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from replay.comparison.by_mark import ByMark
from replay.comparison.chunk import Uncompared
from replay.comparison.foreign import ForeignSnapshot
from replay.comparison.merge import paired
from replay.comparison.replayed import REPLAYED_SCHEMA, Moment, Replayed
from replay.comparison.settling import Behind, Feed, Pairing, Settling, behind
from replay.differences import FOREIGN_FIELDS, Drifted
from replay.explain import entries, explained
from replay.steps import Steps

__all__ = ["Look", "Looks"]

#: Accounts that are asked, of each feed, whether they show how far live is; none of more events than this.
WITNESSES = 16
WITNESS_EVENTS_MAX = 5_000
_ROW = ("account_id", *FOREIGN_FIELDS)


class Look(NamedTuple):
    """What a look came to; `pairings` are the rows that `drifted` was found of."""

    drifted: list[Drifted]
    same: list[str]
    uncompared: list[Uncompared]
    pairings: dict[str, Pairing]

    @staticmethod
    def pairings_of(rows: pl.DataFrame) -> dict[str, Pairing]:
        """Return what is seen of each account in paired rows; the replayed row counts with its version."""
        live = [name for name in (*FOREIGN_FIELDS, "mark") if name in rows.columns]
        replayed = [f"replayed_{name}" for name in (*FOREIGN_FIELDS, "version")]
        keys = rows["account_id"].to_list()
        return dict(zip(keys, zip(rows.select(live).rows(), rows.select(replayed).rows(), strict=True), strict=True))


class Looks:
    """Looks at suspects, and tells `settling` what it sees."""

    def __init__(self, settling: Settling, replayed: Replayed, *, partitions: int, by_mark: ByMark | None) -> None:
        self._settling = settling
        self._replayed = replayed
        self._partitions = partitions
        self._by_mark = by_mark

    def look(self, account_ids: list[str], live: ForeignSnapshot, moment: Moment, *, now: float) -> Look:
        """Look at some suspects in one snapshot of live and a later moment of replay."""
        settling = self._settling
        both = paired(live.of_accounts(account_ids).rows, moment.of_accounts(account_ids).sort("account_id"))
        parked = moment.parked()
        out = {each: parked[each] for each in account_ids if each in parked}
        out |= dict.fromkeys(both.filter("is_unread")["account_id"].to_list(), "its live row cannot be read")
        other = both.filter("is_other", ~pl.col("account_id").is_in(list(out)))
        drifted: list[Drifted] = []
        unknown: list[str] = []
        if self._by_mark is not None and other.height:
            judged = self._by_mark.judged(other, live, moment)
            drifted, unknown = judged.drifted, judged.unknown
            out |= dict.fromkeys(judged.damaged, "the log cannot vouch for it")
            other = other.filter(pl.col("account_id").is_in(judged.rest))
        seen = Look.pairings_of(other)
        told = {entry.account_id for entry in drifted}
        same = [each for each in account_ids if each not in seen and each not in out and each not in told]
        settling.clear([*same, *out, *told])
        ripe = settling.look(seen, now=now, head=moment.head)
        settling.wait_for_marks(unknown)
        found, damaged = self._settled(other.filter(pl.col("account_id").is_in(ripe)), set(unknown), live, moment)
        settling.clear([*damaged, *(entry.account_id for entry in found)])
        out |= damaged
        waiting = {each: why for each, why in settling.unsettled(now=now).items() if each in seen}
        uncompared = [Uncompared(account_id=each, reason=why) for each, why in (out | waiting).items()]
        pairings = Look.pairings_of(both)
        return Look([*drifted, *found], same, uncompared, pairings)

    def _settled(
        self, ripe: pl.DataFrame, unknown: set[str], live: ForeignSnapshot, moment: Moment
    ) -> tuple[list[Drifted], dict[str, str]]:
        """Return what has drifted for certain, and what the log cannot vouch for, of accounts that held still."""
        if ripe.is_empty():
            return [], {}
        steps = moment.steps(ripe["account_id"].to_list())
        damaged = {
            each: f"{parked.reason} at version {parked.version}: {parked.details}".removesuffix(": ")
            for each, parked in steps.parked.items()
        }
        sound = ripe.filter(~pl.col("account_id").is_in(list(damaged)))
        # The third opinion: where live is what it says, the rows that it was compared with are wrong.
        said = paired(sound.select(*_ROW, "is_unread"), steps.rows().select(REPLAYED_SCHEMA.names()))
        is_certain = set(said.filter(~pl.col("is_other"))["account_id"])
        earlier = behind(steps, sound.select(_ROW))
        self._ask(earlier, live, moment)
        for account_id in sound["account_id"]:
            if account_id not in unknown and self._settling.is_drift(
                account_id,
                earlier[account_id],
                self._feed(account_id),
                position=moment.position,
                head=moment.head,
            ):
                is_certain.add(account_id)
        return _told(steps, sound.filter(pl.col("account_id").is_in(list(is_certain)))), damaged

    def _ask(self, earlier: dict[str, Behind | None], live: ForeignSnapshot, moment: Moment) -> None:
        """Find out how far live is, where lag could explain a row."""
        places = {
            (self._feed(account_id), found.waits_for)
            for account_id, found in earlier.items()
            if found is not None and self._settling.may_be_lag(found, self._feed(account_id))
        }
        wanted = {feed for feed, _ in places if feed[0] >= 0}
        if not wanted:
            return
        after = min(place for feed, place in places if feed in wanted)
        asked = self._witnesses(moment.since(after), wanted)
        if not asked:
            return
        rows = paired(live.of_accounts(asked).rows, moment.of_accounts(asked).sort("account_id"))
        equal = rows.filter(
            ~pl.col("is_other") & ~pl.col("is_unread") & (pl.col("replayed_version") <= WITNESS_EVENTS_MAX)
        )
        steps = moment.steps(equal["account_id"].to_list())
        never_before = behind(steps, equal.select(_ROW))
        last = steps.frame.group_by("account_id").agg(pl.col("position", "version").last())
        reached = {account_id: (position, version) for account_id, position, version in last.iter_rows()}
        for account_id, version in equal.select("account_id", "replayed_version").iter_rows():
            is_sound = account_id not in steps.parked and reached.get(account_id, (0, 0))[1] == version
            if is_sound and never_before[account_id] is None:
                self._settling.saw(self._feed(account_id), reached[account_id][0])

    def _witnesses(self, account_ids: Iterable[str], wanted: set[Feed]) -> list[str]:
        asked: dict[Feed, list[str]] = {feed: [] for feed in wanted}
        for account_id in account_ids:
            of_feed = asked.get(self._feed(account_id))
            if of_feed is not None and account_id not in self._settling.suspects:
                of_feed.append(account_id)
        # Some of the newest, and some from all the way back: live may be far behind.
        return [each for some in asked.values() for each in some[:: max(1, len(some) // WITNESSES)]]

    def _feed(self, account_id: str) -> Feed:
        log = self._replayed.log_partition(account_id)
        return (-1 if log is None else log, _writer(account_id, self._partitions))


def _writer(account_id: str, partitions: int) -> int:
    if partitions == 1:
        return 0
    from kafka.partitioner import murmur2

    return int(murmur2(account_id.encode()) & 0x7FFFFFFF) % partitions


def _told(steps: Steps, wrong: pl.DataFrame) -> list[Drifted]:
    if wrong.is_empty():
        return []
    return entries(wrong, explained(steps, wrong, fields=FOREIGN_FIELDS), fields=FOREIGN_FIELDS)
