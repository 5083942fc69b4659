"""What a shadow of a store begins with: nothing, the rows of a generation, or the checkpoint of a rebuild.

Rows are taken over only where they are proved to be what a replay makes of the events up to their position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import polars as pl

from ledger import read_model, shadows
from ledger.order_transactions import FOLLOWER
from ledger.shadows import Shadow
from ledger.store import Store
from projections import ACCOUNT_STATUS, BALANCES, account_rows
from replay.certificate import COMPLETE, KeptCertificate
from replay.checkpoint import Checkpoints
from replay.digest import stored_digest
from replay.full_replay import CORE, overflows, still_holds
from replay.rows import PARKED_SCHEMA, Beside, parked_frame, stored_rows
from replay.states import States
from replay.store_source import StoreSource
from schemas.errors import RefusedError, UsageError

__all__ = ["Start", "begin", "refuse_other", "refuse_unlike"]

_REBUILD = "rebuild from the store and start from that generation, or start from zero"


class Start(NamedTuple):
    """What a new shadow begins with: a generation's rows, an interrupted rebuild's checkpoint, or from zero."""

    generation: int | None = None
    checkpoints: Checkpoints | None = None


class _Begun(NamedTuple):
    said: str
    position: int
    rows: pl.DataFrame
    parked: pl.DataFrame


def begin(store: Store, name: str, start: Start, *, restart: bool, created_at: str) -> Shadow:
    """Return the shadow of a name that follows the store, made as `start` says where there is none, or at a `restart`.

    RefusedError where there is one of that name that follows something else, or where what it should start from is not
    proved; UsageError if there is no such generation or checkpoint.
    """
    with store.snapshot() as connection:
        found = shadows.find(connection, name)
    if found is not None and not restart:
        return refuse_other(store, found)
    begun = _begun(store, start)
    with store.writing() as connection:
        read_model.lock_creation(connection)
        found = shadows.find(connection, name)
        if found is not None and not restart:
            # Another instance was faster.
            return refuse_other(store, found)
        shadow = shadows.create(
            connection,
            name=name,
            source="store",
            source_id=store.ledger_id,
            topic=None,
            started_from=begun.said,
            positions={0: begun.position},
            created_at=created_at,
            instead_of=found,
        )
        read_model.write_rows(connection, shadow.number, begun.rows)
        read_model.replace_parked(connection, shadow.number, [], begun.parked)
        return shadow


def refuse_other(store: Store, found: Shadow) -> Shadow:
    """Return a shadow that follows this store; RefusedError where it follows anything else."""
    if (found.source, found.source_id) != ("store", store.ledger_id):
        other = "another ledger" if found.source == "store" else f"the {found.source} {found.topic!r}"
        raise RefusedError(
            f"the shadow {found.name!r} follows {other}, not this store",
            next_step="give this one another name, or restart it: its rows are then made anew",
        )
    return found


def refuse_unlike(name: str, start: Start, beside: Beside | None) -> None:
    """UsageError where a shadow has the name of the reconciliation's and is not that, or the other way round.

    RefusedError where that one should start from anything but zero: no rows say which orders transactions named.
    """
    if (name == FOLLOWER) is not (beside is not None):
        raise UsageError(
            f"the shadow {FOLLOWER!r} is the one that `reconcile --watch` keeps", next_step="give it another name"
        )
    if beside is not None and start != Start():
        raise RefusedError(
            "the shadow of the reconciliation starts from zero only: rows do not say which orders transactions name",
            next_step="leave --start away",
        )


def _begun(store: Store, start: Start) -> _Begun:
    if start.generation is not None:
        return _of_generation(store, start.generation)
    if start.checkpoints is not None:
        return _of_checkpoint(store, start.checkpoints)
    return _Begun("zero", 0, read_model.ROW_SCHEMA.to_frame(), PARKED_SCHEMA.to_frame())


def _of_generation(store: Store, number: int) -> _Begun:
    """Return the rows of a generation that are what its certificate says; nothing is parked in such a one."""
    with store.snapshot() as connection:
        by_number = {found.generation: found for found in read_model.generations(connection)}
        if number not in by_number:
            raise UsageError(f"there is no generation {number}", next_step=f"there are: {sorted(by_number) or 'none'}")
        rows = read_model.rows(connection, number)
        why = _unproved(store, by_number[number], rows, head=store.head(connection))
    if why is not None:
        raise RefusedError(f"a shadow cannot start from generation {number}: {why}", next_step=_REBUILD)
    return _Begun(f"generation {number}", by_number[number].position, rows, PARKED_SCHEMA.to_frame())


def _unproved(store: Store, found: read_model.Generation, rows: pl.DataFrame, *, head: int) -> str | None:
    """Return in words why a generation's rows are not proved by its certificate, None where they are."""
    if found.certificate is None:
        return "it has no certificate"
    certificate = msgspec.json.decode(found.certificate, type=KeptCertificate)
    projections = {projection.name: projection.version for projection in CORE}
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: certificate.verdict == COMPLETE, f"it is {certificate.verdict}"),
        (lambda: certificate.source == "store", f"it was rebuilt from the {certificate.source}, not from the store"),
        (lambda: certificate.ledger_id == store.ledger_id, "it is of another ledger"),
        (lambda: projections.items() <= certificate.projections.items(), "another version of the replay made it"),
        (lambda: found.position == certificate.store_position, "it has moved on since its certificate"),
        (lambda: found.position <= head, f"it is at position {found.position:,}, past the store's head {head:,}"),
        (lambda: certificate.rows_digest is not None, "an earlier version made it, with no digest of all columns"),
        (
            lambda: stored_digest(rows) == certificate.rows_digest,
            "its rows are not those of its certificate: they are damaged",
        ),
        # The gate would take every chain for broken without.
        (lambda: rows["chain"].null_count() == 0, "its rows lack the chain of their events"),
    ]
    return next((why for holds, why in checks if not holds()), None)


def _of_checkpoint(store: Store, checkpoints: Checkpoints) -> _Begun:
    """Return the rows of a rebuild's checkpoint. What waited there is read again once its account goes on."""
    with StoreSource.snapshot(store) as source:
        found = checkpoints.load(source.head())
        if found is None:
            raise UsageError("there is no checkpoint of an interrupted rebuild that fits", next_step=_REBUILD)
        if not still_holds(source, found):
            raise RefusedError(
                f"the events up to position {found.position:,} are not those that the checkpoint was made of",
                next_step=_REBUILD,
            )
        gate, states = found.gate(), States(CORE)
        states.restore(found.states())
        parked = gate.parked(None, source.copies)
    balances = states.value(BALANCES)
    past = overflows(balances)
    for each in past:
        parked.setdefault(each.account_id, each)
    fits = balances.filter(~pl.col("account_id").is_in([each.account_id for each in past]))
    rows = account_rows(fits.lazy(), states.value(ACCOUNT_STATUS).lazy()).collect()
    said = f"the checkpoint at position {found.position:,}"
    return _Begun(said, found.position, stored_rows(rows, gate), parked_frame(parked.values()))
