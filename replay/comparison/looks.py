"""Looks at suspected accounts: both rows by key, their account replayed alone, and what shows how far live is."""

from __future__ import annotations

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
from replay.steps import STEPS_SCHEMA, Steps

__all__ = ["Look", "Looks"]

#: Accounts that are asked, of each feed, whether they show how far live is; none of more events than this.
WITNESSES = 16
WITNESS_EVENTS_MAX = 5_000
WITNESSES_KEPT = 10_000
_NO_STEPS = pl.DataFrame(schema=STEPS_SCHEMA)
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


class _Opinion(NamedTuple):
    """What a replay of an account alone says of the rows that were seen of it."""

    pairing: Pairing
    is_certain: bool
    earlier: Behind | None


class Looks:
    """Looks at suspects, and tells `settling` what it sees."""

    def __init__(self, settling: Settling, replayed: Replayed, *, partitions: int, by_mark: ByMark | None) -> None:
        self._settling = settling
        self._replayed = replayed
        self._partitions = partitions
        self._by_mark = by_mark
        #: What a replay said of suspects; as long as the rows stay it says nothing else.
        self._opinions: dict[str, _Opinion] = {}
        #: What other accounts showed at a version: the position that live has come to, if any.
        self._said: dict[str, tuple[int, int | None]] = {}

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
        self._opinions = {each: said for each, said in self._opinions.items() if each in settling.suspects}
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
        pairings = Look.pairings_of(ripe)
        heard = [each for each, pairing in pairings.items() if not self._is_known(each, pairing)]
        steps = self._hear(ripe.filter(pl.col("account_id").is_in(heard)), moment) if heard else Steps(_NO_STEPS)
        sound = {each: self._opinions[each] for each in pairings if each not in steps.parked}
        self._ask({each: said.earlier for each, said in sound.items()}, live, moment)
        certain = [each for each, said in sound.items() if said.is_certain or self._is_drift(each, unknown, moment)]
        damaged = _damaged(steps)
        if not certain:
            return [], damaged
        if not set(certain) <= set(heard):
            steps = moment.steps(certain)
            damaged |= _damaged(steps)
        wrong = pl.col("account_id").is_in(certain) & ~pl.col("account_id").is_in(list(damaged))
        return _told(steps, ripe.filter(wrong)), damaged

    def _is_known(self, account_id: str, pairing: Pairing) -> bool:
        said = self._opinions.get(account_id)
        return said is not None and said.pairing == pairing

    def _hear(self, fresh: pl.DataFrame, moment: Moment) -> Steps:
        """Replay accounts alone, and remember what that says of their rows; of a topic it takes a pass over all."""
        steps = moment.steps(fresh["account_id"].to_list())
        # The third opinion: where live is what it says, the rows that it was compared with are wrong.
        said = paired(fresh.select(*_ROW, "is_unread"), steps.rows().select(REPLAYED_SCHEMA.names()))
        is_certain = set(said.filter(~pl.col("is_other"))["account_id"])
        earlier = behind(steps, fresh.select(_ROW))
        for account_id, pairing in Look.pairings_of(fresh).items():
            self._opinions[account_id] = _Opinion(pairing, account_id in is_certain, earlier[account_id])
        for account_id in steps.parked:
            # Whoever mends the log changes neither row.
            self._opinions.pop(account_id, None)
        return steps

    def _is_drift(self, account_id: str, unknown: set[str], moment: Moment) -> bool:
        return account_id not in unknown and self._settling.is_drift(
            account_id,
            self._opinions[account_id].earlier,
            self._feed(account_id),
            position=moment.position,
            head=moment.head,
        )

    def _ask(self, earlier: dict[str, Behind | None], live: ForeignSnapshot, moment: Moment) -> None:
        """Find out how far live is, where lag could explain a row."""
        places: dict[Feed, int] = {}
        for account_id, found in earlier.items():
            feed = self._feed(account_id)
            if found is not None and feed[0] >= 0 and self._settling.may_be_lag(found, feed):
                places[feed] = min(found.waits_for, places.get(feed, found.waits_for))
        asked = self._witnesses(places, moment)
        if not asked:
            return
        rows = paired(live.of_accounts(asked).rows, moment.of_accounts(asked).sort("account_id"))
        equal = rows.filter(
            ~pl.col("is_other") & ~pl.col("is_unread") & (pl.col("replayed_version") <= WITNESS_EVENTS_MAX)
        )
        versions = dict(equal.select("account_id", "replayed_version").iter_rows())
        new = {each: version for each, version in versions.items() if not self._has_said(each, version)}
        self._question(new, equal, moment)
        for account_id in versions:
            position, feed = self._said[account_id][1], self._feed(account_id)
            if position is not None and feed in places:
                self._settling.saw(feed, position)

    def _witnesses(self, places: dict[Feed, int], moment: Moment) -> list[str]:
        asked: dict[Feed, list[str]] = {feed: [] for feed in places}
        for log in {log for log, _ in places}:
            after = min(place for feed, place in places.items() if feed[0] == log)
            for account_id in moment.since(after, log):
                of_feed = asked.get((log, _writer(account_id, self._partitions)))
                if of_feed is not None and account_id not in self._settling.suspects:
                    of_feed.append(account_id)
        # Some of the newest, and some from all the way back: live may be far behind.
        return [each for some in asked.values() for each in some[:: max(1, len(some) // WITNESSES)]]

    def _has_said(self, account_id: str, version: int) -> bool:
        return account_id in self._said and self._said[account_id][0] == version

    def _question(self, versions: dict[str, int], equal: pl.DataFrame, moment: Moment) -> None:
        """Find out which accounts are where they never were before, and remember it: it needs a replay of them."""
        if not versions:
            return
        if len(self._said) > WITNESSES_KEPT:
            self._said.clear()
        steps = moment.steps(list(versions))
        never_before = behind(steps, equal.filter(pl.col("account_id").is_in(list(versions))).select(_ROW))
        last = steps.frame.group_by("account_id").agg(pl.col("position", "version").last())
        reached = {account_id: (position, version) for account_id, position, version in last.iter_rows()}
        for account_id, version in versions.items():
            position, at = reached.get(account_id, (0, 0))
            is_sound = account_id not in steps.parked and at == version and never_before[account_id] is None
            self._said[account_id] = (version, position if is_sound else None)

    def _feed(self, account_id: str) -> Feed:
        log = self._replayed.log_partition(account_id)
        return (-1 if log is None else log, _writer(account_id, self._partitions))


def _writer(account_id: str, partitions: int) -> int:
    if partitions == 1:
        return 0
    from kafka.partitioner import murmur2

    return int(murmur2(account_id.encode()) & 0x7FFFFFFF) % partitions


def _damaged(steps: Steps) -> dict[str, str]:
    return {
        each: f"{parked.reason} at version {parked.version}: {parked.details}".removesuffix(": ")
        for each, parked in steps.parked.items()
    }


def _told(steps: Steps, wrong: pl.DataFrame) -> list[Drifted]:
    if wrong.is_empty():
        return []
    return entries(wrong, explained(steps, wrong, fields=FOREIGN_FIELDS), fields=FOREIGN_FIELDS)
