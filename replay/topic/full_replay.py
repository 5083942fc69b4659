"""Full replay of a topic: its partitions side by side, merged into one state and one certificate.

The law of the projections makes the merge exact: an account's events are in one partition, so the partitions'
states hold different accounts. Those that break this are gated again over all partitions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from projections import Projection
from replay.certificate import Unread
from replay.checkpoint import Checkpoint
from replay.full_replay import CORE, Replay, concluded
from replay.gate import Gate, Parked
from replay.generation import beyond_heads
from replay.moment import Moment
from replay.states import States
from replay.topic.client import PartitionStopped
from replay.topic.connection import Connection
from replay.topic.metadata import Topic
from replay.topic.partition import Assignment, Outcome, State, checkpoints_of
from replay.topic.refusals import resumable_from
from replay.topic.split import regated, seen_in, split_accounts
from replay.topic.workers import replay_partitions

__all__ = ["Published", "Watch", "replayed_topic", "unlike"]

#: Called with the state of every partition that is known so far, whenever one changes.
Watch = Callable[[dict[int, State]], None]


class Published(NamedTuple):
    """What a store published to a topic: where each account ended then (`ends`), and where it ends by now (`heads`).

    Both are as `Source.ends` gives them.
    """

    ends: pl.DataFrame
    heads: pl.DataFrame


@contextmanager
def replayed_topic(
    connection: Connection,
    topic: Topic,
    projections: Sequence[Projection] = (),
    *,
    ledger_id: str,
    until: dict[int, int] | None = None,
    moment: Moment | None = None,
    checkpoint_folder: Path | None = None,
    published: Published | None = None,
    links: bool = False,
    workers: int | None = None,
    watch: Watch | None = None,
) -> Iterator[Replay]:
    """Replay a topic from offset zero up to its ends as they were described (or `until`), and yield the result.

    With a `moment` every event up to there is judged and only those of the moment are folded.

    What was `published` is held against the topic: where accounts should end at least (unless `until` cuts them
    off), and, where `links` has the chain of every event made, that they are the same events. `workers` is how many
    processes read (default: the cores). With `checkpoint_folder` every partition goes on from its own checkpoint of
    an interrupted run; they stay until the caller clears them, since a run that could not read all can go on later.

    A partition that cannot be read to its end is named in the certificate as `unread`, and none of its accounts has
    a row. RefusedError where a partition does not begin at offset zero, nor at a checkpoint.
    """
    with ExitStack() as stack:
        spill = Path(stack.enter_context(TemporaryDirectory(prefix="ledger-replay-")))
        folder = checkpoint_folder or spill / "partitions"
        assignments = [
            Assignment(
                connection=connection,
                topic=topic.name,
                topic_id=topic.topic_id,
                partition=partition,
                first=0,
                until=bounds.high if until is None else until[partition],
                projections=[projection.name for projection in (*CORE, *projections)],
                folder=str(folder),
                links=links,
                moment=moment,
            )
            for partition, bounds in sorted(topic.partitions.items())
        ]
        resumable_from(topic, assignments)
        states = States([*CORE, *projections], spill=spill / "merged")
        outcomes = replay_partitions(assignments, workers=workers or os.cpu_count() or 1, report=_reporting(watch))
        merged = _Merged(assignments, outcomes, states, spill)
        yield merged.concluded(topic, ledger_id, published, is_cut=until is not None)


def _reporting(watch: Watch | None) -> Callable[[State], None]:
    latest: dict[int, State] = {}

    def report(state: State) -> None:
        latest[state.partition] = state
        if watch is not None:
            watch(latest)

    return report


class _Merged:
    """The partitions' checkpoints put together."""

    def __init__(
        self, assignments: Sequence[Assignment], outcomes: dict[int, Outcome], states: States, spill: Path
    ) -> None:
        self._assignments = assignments
        self._outcomes = outcomes
        self._states = states
        self._positions: dict[int, int] = {}
        self._events = 0
        self._parked: dict[str, Parked] = {}
        self._reasons = {each.partition: (each.reason, each.details) for each in outcomes.values() if each.reason}
        self._seen: dict[int, set[str]] = {}
        self._lost: set[str] = set()
        gates = self._add_partitions(spill)
        self.gate = Gate(
            last=pl.concat([gate.last for gate in gates.values()]),
            poison=[poison for gate in gates.values() for poison in gate.poison],
            repeats=pl.concat([gate.repeats for gate in gates.values()]),
        )

    def _add_partitions(self, spill: Path) -> dict[int, Gate]:
        """Take in every partition's result less the accounts that others have too, and those gated again."""
        found = {each.partition: checkpoints_of(each).load(each.until) for each in self._assignments}
        for each in self._assignments:
            known = found[each.partition]
            # Another run in the same folder may have replaced or cleared what this one made.
            if each.partition not in self._reasons and (known is None or known.position < each.until):
                self._reasons[each.partition] = ("unreadable", "another run changed its checkpoint: run it again")
        gates = {partition: Gate() if known is None else known.gate() for partition, known in found.items()}
        self._positions = {
            each.partition: known.position if (known := found[each.partition]) else each.first
            for each in self._assignments
        }
        self._seen = {partition: set(seen_in(gate)) for partition, gate in gates.items()}
        split = split_accounts(list(gates.values()))
        for partition, known in found.items():
            if known is not None:
                self._add(known, split, self._outcomes[partition])
        if split.len():
            gates = {partition: _without(gate, split) for partition, gate in gates.items()}
            self._add_split(split, gates, spill)
        return gates

    def _add(self, known: Checkpoint, split: pl.Series, outcome: Outcome) -> None:
        self._events += known.events
        kept = pl.col("account_id").is_in(split.implode()).not_()
        dumped = known.states()
        self._states.restore({name: [part.filter(kept) for part in parts] for name, parts in dumped.items()})
        elsewhere = set(split)
        self._parked |= {each.account_id: each for each in outcome.parked if each.account_id not in elsewhere}

    def _add_split(self, split: pl.Series, gates: dict[int, Gate], spill: Path) -> None:
        # What the partitions let through of these accounts is counted anew.
        self._events -= sum(_admitted(checkpoints_of(each).load(each.until), split) for each in self._assignments)
        elsewhere = set(split)
        poison = [found for gate in gates.values() for found in gate.poison if found.account_id in elsewhere]
        try:
            again = regated(
                self._assignments,
                self._positions,
                accounts=split,
                poison=poison,
                states=self._states,
                spill=spill / "split",
            )
        except PartitionStopped as stopped:
            self._reasons.setdefault(stopped.partition, (stopped.reason, stopped.details))
            self._lost = elsewhere
            return
        self._events += again.events
        self._parked |= again.parked
        # No partition has this number: it stands for all of them together.
        gates[-1] = again.gate

    def concluded(self, topic: Topic, ledger_id: str, published: Published | None, *, is_cut: bool) -> Replay:
        """Return the replay with its certificate; `is_cut` where it was wanted only up to some offsets."""
        unread, withheld = self._unread()
        if published is not None:
            # Where a partition is unread or cut off, what is missing may be there.
            for found in unlike(self.gate.last, published.ends, is_whole=not (unread or is_cut)):
                self._parked.setdefault(found.account_id, found)
        outcomes = sorted(self._outcomes.items())
        resumed = {partition: each.resumed_from for partition, each in outcomes if each.resumed_from}
        return concluded(
            self._states,
            self.gate,
            {account_id: each for account_id, each in self._parked.items() if account_id not in withheld},
            known=[] if published is None else [published.ends["account_id"]],
            withheld=sorted(withheld),
            moment=self._assignments[0].moment,
            source="topic",
            ledger_id=ledger_id,
            position=self._positions,
            events=self._events,
            resumed_from=resumed or None,
            topic=topic.name,
            topic_id=topic.topic_id,
            unread=unread,
            beyond_store=0 if published is None else beyond_heads(self.gate.last, published.heads),
        )

    def _unread(self) -> tuple[list[Unread], set[str]]:
        """Return the partitions that were not read to the end, and the accounts that nothing is certified for."""
        unread, withheld = [], set(self._lost)
        for each in self._assignments:
            if each.partition not in self._reasons:
                continue
            reason, details = self._reasons[each.partition]
            accounts = self._seen[each.partition]
            withheld |= accounts
            unread.append(
                Unread(
                    partition=each.partition,
                    offset=self._positions[each.partition],
                    until=each.until,
                    reason=reason,
                    details=details,
                    accounts=len(accounts),
                )
            )
        return unread, withheld


def _without(gate: Gate, accounts: pl.Series) -> Gate:
    """Return a gate's memory less some accounts; what it could not read stays, since it has to be named."""
    others = pl.DataFrame({"account_id": accounts})
    return Gate(
        last=gate.last.join(others, on="account_id", how="anti"),
        waiting=None if gate.waiting is None else gate.waiting.join(others, on="account_id", how="anti"),
        poison=gate.poison,
        repeats=gate.repeats.join(others, on="account_id", how="anti"),
    )


def _admitted(known: Checkpoint | None, accounts: pl.Series) -> int:
    """Return how many events of some accounts a partition let through: as many as their last version says."""
    if known is None:
        return 0
    return int(known.gate().last.filter(pl.col("account_id").is_in(accounts.implode()))["version"].sum())


def unlike(last: pl.DataFrame, ends: pl.DataFrame, *, is_whole: bool) -> list[Parked]:
    """Return the accounts that are at their end with another chain, and, if all was read, those that end before it."""
    both = ends.join(last, on="account_id", how="left", suffix="_found")
    chains_differ = (pl.col("version") == pl.col("version_found")) & (pl.col("chain") != pl.col("chain_found"))
    is_short = (pl.col("version_found").fill_null(0) < pl.col("version")) & is_whole
    wrong = both.filter(is_short | chains_differ.fill_null(False))
    ordered = wrong.select("account_id", "version", "version_found").sort("account_id")
    return [
        Parked(
            account_id=account_id,
            version=end if found == end else (found or 0) + 1,
            reason="head_mismatch",
            details=f"the chain at version {end} is not that of the store's head"
            if found == end
            else f"the topic ends at version {found or 0}, the store published {end}: the last events are lost",
        )
        for account_id, end, found in ordered.iter_rows()
    ]
