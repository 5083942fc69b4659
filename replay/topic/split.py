"""Accounts whose events are in more than one partition: gated again over all of them.

That happens where producers disagree on the partition of a key, or where partitions were added. Each partition's
gate sees gaps then that the others fill. Such accounts are taken out of the partitions' states, their events are
read again, put in version order, and gated and folded on their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from replay.gate import Gate, Parked
from replay.moment import Moment
from replay.states import States
from replay.topic.client import open_reader
from replay.topic.partition import Assignment
from replay.topic.source import decoded
from schemas import PoisonEvent

__all__ = ["BUCKETS", "Regated", "regated", "seen_in", "split_accounts"]

#: Accounts are gated in so many parts, one after the other, so that memory holds one part's events; more of them
#: where the topic is large, until the files would be too many.
BUCKETS = 16
BUCKETS_MAX = 256
BUCKET_EVENTS = 500_000


class Regated:
    """What the accounts of several partitions come to: a gate over all their events, their states, who is parked."""

    def __init__(self, states: States) -> None:
        self.states = states
        self.gate = Gate()
        self.events = 0
        self.parked: dict[str, Parked] = {}


def seen_in(gate: Gate) -> pl.Series:
    """Return the accounts of which a gate saw any event."""
    named = pl.Series([found.account_id for found in gate.poison], dtype=pl.String()).drop_nulls()
    waits = [] if gate.waiting is None else [gate.waiting["account_id"]]
    return pl.concat([gate.last["account_id"], named, *waits]).unique()


def split_accounts(gates: Sequence[Gate]) -> pl.Series:
    """Return the accounts that more than one of the gates saw."""
    every = pl.concat([pl.Series("account_id", [], dtype=pl.String()), *(seen_in(gate) for gate in gates)])
    return every.filter(every.is_duplicated()).unique()


def regated(
    assignments: Sequence[Assignment],
    positions: dict[int, int],
    *,
    accounts: pl.Series,
    poison: list[PoisonEvent],
    states: States,
    spill: Path,
) -> Regated:
    """Read the accounts' events again from all partitions, up to where each was read, and gate them as one stream.

    `poison` is what the partitions' gates could not read of these accounts. PartitionStopped where a partition
    cannot be read again.
    """
    result = Regated(states)
    result.gate.links = assignments[0].links
    moment = assignments[0].moment or Moment()
    wanted = pl.DataFrame({"account_id": accounts})
    details = tuple({*states.details, *moment.details})
    for events in _by_bucket(assignments, positions, wanted, details, spill):
        gate = Gate(links=result.gate.links)
        admitted = gate.admit(events.sort("account_id", "version", maintain_order=True), [])
        states.add(moment.of(admitted))
        result.events += admitted.height
        result.parked |= gate.parked(None, partial(_copies, events))
        result.gate.last = pl.concat([result.gate.last, gate.last])
        result.gate.repeats = pl.concat([result.gate.repeats, gate.repeats])
    poisoned = Gate(last=result.gate.last, poison=poison).parked(None, partial(_copies, wanted))
    result.parked |= poisoned
    return result


def _copies(events: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
    return events.join(keys.unique(), on=keys.columns, how="semi")


def _by_bucket(
    assignments: Sequence[Assignment],
    positions: dict[int, int],
    wanted: pl.DataFrame,
    details: tuple[str, ...],
    spill: Path,
) -> Iterator[pl.DataFrame]:
    spill.mkdir(parents=True)
    buckets = min(max(BUCKETS, sum(positions.values()) // BUCKET_EVENTS), BUCKETS_MAX)
    files = 0
    first = assignments[0]
    with open_reader(first.connection, first.topic) as reader:
        for each in assignments:
            for chunk in reader.read(each.partition, start=each.first, until=positions[each.partition]):
                events = decoded(chunk, details, keeps_bytes=True).events
                found = events.join(wanted, on="account_id", how="semi")
                if found.is_empty():
                    continue
                files += 1
                # The hash is of this process only, which is as long as these files live.
                bucketed = found.with_columns(bucket=pl.col("account_id").hash(seed=0) % buckets)
                for (bucket,), rows in bucketed.partition_by("bucket", as_dict=True, include_key=False).items():
                    rows.write_parquet(spill / f"{bucket}-{files:08}.parquet", compression="lz4", statistics=False)
    for bucket in range(buckets):
        parts = sorted(spill.glob(f"{bucket}-*.parquet"))
        if parts:
            yield pl.concat([pl.read_parquet(part) for part in parts])
