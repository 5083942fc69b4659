"""Full replay into memory: a source's events through the gate into the states of projections.

This is what rebuild, balances, verify, drift and graph all do; they differ in the projections that they ask for
and in what they do with the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import polars as pl

from projections import ACCOUNT_STATUS, BALANCES, Projection, account_rows, overflowed
from replay.certificate import Certificate
from replay.checkpoint import Checkpoint, Checkpoints
from replay.digest import digest
from replay.engine import Progress, run
from replay.gate import Gate, Parked
from replay.moment import Moment
from replay.source import Batch, Source
from replay.states import States
from schemas import format_time
from schemas.errors import UsageError

__all__ = ["CORE", "Memory", "Replay", "concluded", "overflows", "replayed", "still_holds"]

CORE = (BALANCES, ACCOUNT_STATUS)


@dataclass
class Replay:
    """What a finished replay knows.

    `rows` are the balances rows (contract columns and `locked_at`, `status_version`, `closed_version`) of all
    accounts that are not parked, in account order; `states` gives the state of any projection that was asked
    for; `gate` the last version and chain of every account.
    """

    certificate: Certificate
    rows: pl.DataFrame
    states: States
    gate: Gate

    @property
    def verdict(self) -> str:
        """What the replay may claim."""
        return self.certificate.verdict

    @property
    def parked_ids(self) -> list[str]:
        """The accounts that nothing is certified for."""
        return [parked.account_id for parked in self.certificate.parked]


class Memory:
    """The engine's target that keeps everything in memory and on spill files.

    The gate judges every event; with a `moment` only those of it are folded.
    """

    def __init__(
        self,
        states: States,
        gate: Gate,
        events: int,
        checkpoints: Checkpoints | None,
        *,
        moment: Moment | None = None,
    ) -> None:
        self._moment = moment or Moment()
        self.details = tuple(sorted({*states.details, *self._moment.details}))
        self.states = states
        self.gate = gate
        self.events = events
        self._checkpoints = checkpoints

    def apply(self, batch: Batch) -> None:
        """Take in one batch, and write a checkpoint where one is due."""
        admitted = self.gate.admit(batch.events, batch.poison)
        self.states.add(self._moment.of(admitted))
        self.events += admitted.height
        if self._checkpoints is not None and self._checkpoints.is_due(batch.position):
            self._checkpoints.save(Checkpoint.of(batch.position, self.events, self.gate, self.states))


@contextmanager
def replayed(
    source: Source,
    projections: Sequence[Projection] = (),
    *,
    until: int | None = None,
    moment: Moment | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> Iterator[Replay]:
    """Replay a source from zero until a position (default: its head now) and yield the result.

    Balances and account status are always folded, `projections` beside them. Spilled states live as long as the
    context. With a `moment` every event up to the position is judged and only those of the moment are folded. With
    `checkpoints` the run goes on from the newest checkpoint of an interrupted run of the same kind; a run of a moment
    neither takes nor leaves one. UsageError if `until` is past the head.
    """
    if moment is not None:
        # A store's checkpoint does not say of which moment it is, so a full run would go on from half of the events.
        checkpoints = None
    head = source.head()
    until = head if until is None else until
    if not 0 <= until <= head:
        raise UsageError(f"position {until} is not in the {source.name}", next_step=f"its head is {head}")
    with TemporaryDirectory(prefix="ledger-replay-") as folder:
        states = States([*CORE, *projections], spill=Path(folder))
        target = Memory(states, Gate(), 0, checkpoints, moment=moment)
        found = checkpoints.load(until) if checkpoints is not None else None
        if found is not None and still_holds(source, found):
            target.gate, target.events = found.gate(), found.events
            states.restore(found.states())
        else:
            found = None
        after = found.position if found else 0
        run(source, target, after=after, until=until, progress=progress)
        yield _finished(source, target, until, moment=moment, resumed_from=found.position if found else None)


def still_holds(source: Source, found: Checkpoint) -> bool:
    """Say whether the events behind a checkpoint are still those that it was made of.

    Their keys and chains go through the gate once more, without being folded: the checkpoint saves the rest. Where
    anything was damaged or mended since, the gate comes out different and the run starts from zero.
    """
    again = Gate()
    for batch in source.read(after=0, until=found.position, details=()):
        again.admit(batch.events, batch.poison)
    return again.agrees_with(found.gate())


def _finished(source: Source, target: Memory, until: int, *, moment: Moment | None, resumed_from: int | None) -> Replay:
    gate, states = target.gate, target.states
    ends = source.ends(until)
    parked = gate.parked(ends, source.copies)
    return concluded(
        states,
        gate,
        parked,
        known=[] if ends is None else [ends["account_id"]],
        moment=moment,
        source=source.name,
        ledger_id=source.identity,
        position=until,
        events=target.events,
        resumed_from=resumed_from,
    )


def concluded(
    states: States,
    gate: Gate,
    parked: dict[str, Parked],
    *,
    known: Sequence[pl.Series] = (),
    withheld: Sequence[str] = (),
    moment: Moment | None = None,
    accounts: int | None = None,
    **more: Any,
) -> Replay:
    """Return what the states come to: rows of all accounts neither parked nor withheld, and the certificate.

    `parked` gains the accounts of which a sum overflows. `known` are ids of accounts that are counted beside those
    of the gate, `accounts` what they come to where that is known; `moment` is that of the states; `more` are fields of
    the certificate that only the caller knows.
    """
    balances = states.value(BALANCES).filter(~pl.col("account_id").is_in(list(withheld)))
    for found in overflows(balances):
        parked.setdefault(found.account_id, found)
    whole = balances.filter(~pl.col("account_id").is_in(list(parked)))
    rows = account_rows(whole.lazy(), states.value(ACCOUNT_STATUS).lazy()).collect().sort("account_id")
    ids = [gate.last["account_id"], pl.Series(list(parked), dtype=pl.String()), *known]
    certificate = Certificate(
        accounts=pl.concat(ids).n_unique() if accounts is None else accounts,
        repeats=gate.repeats.height,
        parked=sorted(parked.values(), key=lambda found: found.account_id),
        poison=sorted(gate.poison, key=lambda poison: (poison.partition or 0, poison.position)),
        digest=digest(rows),
        projections={projection.name: projection.version for projection in states.projections},
        as_of=_text(moment.effective if moment else None),
        recorded_as_of=_text(moment.recorded if moment else None),
        **more,
    )
    return Replay(certificate, rows, states, gate)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def overflows(balances: pl.DataFrame, *, engine: Literal["auto", "in-memory"] = "auto") -> list[Parked]:
    """Return the accounts of a balances state of which a sum is past int64, parked at their last version.

    `engine` of polars: `in-memory` is the faster one for a few thousand accounts.
    """
    versions = balances.lazy().select("account_id", "version")
    past = overflowed(balances.lazy()).join(versions, on="account_id").sort("account_id", "column")
    return [
        Parked(account_id=account_id, version=version, reason="overflow", details=f"{column} {value} is past int64")
        for account_id, column, value, version in past.collect(engine=engine).iter_rows()
    ]
