"""Rebuild: a full replay into a new generation of the read model, verified there, and made live on request.

Promote holds the append lock while it folds what came since the rebuild and moves the pointer, all in one
transaction: writers that went on meanwhile leave nothing stale. The generation before stays, so going back is
the same pointer move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
from sqlalchemy import Connection

from ledger import read_model
from ledger.store import Store
from projections import Projection
from replay.certificate import COMPLETE, Certificate, KeptCertificate
from replay.checkpoint import Checkpoints
from replay.digest import stored_digest
from replay.engine import Progress
from replay.full_replay import CORE, Replay, replayed
from replay.generation import bring_forward, bring_level, off_head
from replay.rows import stored_rows
from replay.store_source import StoreSource
from schemas import format_time
from schemas.errors import RefusedError, StoreError

__all__ = ["Rebuild", "generations", "promote_generation", "rebuild", "write_generation"]

#: Generations kept beside the live one and the one to go back to.
UNUSED_GENERATIONS_KEPT = 2

#: Accounts that a refusal names one by one.
NAMED_ACCOUNTS_MAX = 5


@dataclass(frozen=True)
class Rebuild:
    """What a rebuild gave: its verdict and certificate, the generation it wrote, and whether that is live now.

    `generation` is None where there was no ledger to keep it in.
    """

    verdict: str
    certificate: Certificate
    generation: int | None
    promoted: bool


def rebuild(
    store: Store,
    *,
    until: int | None = None,
    promote: bool = False,
    checkpoint_folder: Path | None = None,
    restart: bool = False,
    progress: Progress | None = None,
    now: datetime | None = None,
    projections: Sequence[Projection] = (),
) -> Rebuild:
    """Replay the store from zero into a new generation; with `promote`, make it live after it verifies.

    Only a COMPLETE rebuild is promoted; for any other, `promoted` is False. With `checkpoint_folder` a killed
    rebuild goes on where its last checkpoint was (`restart` starts from zero all the same), and the certificate
    says so. UsageError for a position that the store does not have; StoreError if the written rows are not what
    was replayed.
    """
    created_at = format_time(now or datetime.now(UTC))
    checkpoints = None
    if checkpoint_folder is not None:
        checkpoints = Checkpoints(checkpoint_folder, store.ledger_id, (*CORE, *projections))
        if restart:
            checkpoints.clear()
    with (
        StoreSource.snapshot(store) as source,
        replayed(source, projections, until=until, checkpoints=checkpoints, progress=progress) as replay,
    ):
        generation = write_generation(store, replay, created_at)
    promoted = promote and replay.verdict == COMPLETE
    if promoted:
        promote_generation(store, generation)
    if checkpoints is not None:
        checkpoints.clear()
    return Rebuild(replay.verdict, replay.certificate, generation, promoted)


def promote_generation(store: Store, generation: int) -> int:
    """Make a generation live at the head of the store, atomically, and return that position.

    The way back is the same call with an older generation. RefusedError for a generation whose certificate is
    INCOMPLETE, or that is not where the heads are after it was brought to the head of the store: the log is damaged
    then, and nothing is changed. UsageError if there is none of that number.
    """
    with store.appending() as connection:
        by_number = {found.generation: found for found in read_model.generations(connection)}
        if generation in by_number:
            _refuse_incomplete(by_number[generation])
            _refuse_unproved(connection, generation)
            _bring_to_head(store, connection, by_number[generation])
            certificate = _certificate(by_number[generation])
            source = "store" if certificate is None else certificate.source
            _refuse_past_head(store, connection, by_number[generation])
            _refuse_other_than_heads(store, connection, generation, source)
        read_model.go_live(connection, generation)
        return store.head(connection)


def generations(store: Store) -> list[read_model.Generation]:
    """Return every generation of the read model, oldest first."""
    with store.snapshot() as connection:
        return read_model.generations(connection)


def _refuse_incomplete(found: read_model.Generation) -> None:
    certificate = _certificate(found)
    if certificate is not None and certificate.verdict != COMPLETE:
        raise RefusedError(
            f"generation {found.generation} is {certificate.verdict}: {'; '.join(_missing(certificate))}",
            next_step=_MEND[certificate.source],
        )


#: How what an INCOMPLETE generation lacks is brought back, by what it was rebuilt from.
_MEND = {
    "store": "see `verify` for what is missing, mend it, and rebuild",
    "topic": "rebuild from the store where that is whole, or again once the topic can be read to its end",
    "archive": "see `archive --check`, mend the archive or the ledger, and rebuild",
}


def _missing(certificate: Certificate) -> list[str]:
    """Return what a certificate does not vouch for, a few of each kind by name."""
    parked = [parked.account_id for parked in certificate.parked]
    ranges = [f"{each.first_account!r} to {each.last_account!r} ({each.file})" for each in certificate.damaged]
    partitions = [f"{each.partition} from offset {each.offset:,}" for each in certificate.unread]
    unreadable = [f"{each.position:,}" for each in certificate.poison]
    return [
        *([_named("parked", parked)] if parked else []),
        *([f"withheld are the accounts of damaged files, {_few(ranges)}"] if ranges else []),
        *([f"not read to the end is partition {_few(partitions)}"] if partitions else []),
        *([f"unreadable is the event at position {_few(unreadable)}"] if unreadable else []),
    ]


def _certificate(found: read_model.Generation) -> Certificate | None:
    return None if found.certificate is None else msgspec.json.decode(found.certificate, type=Certificate)


def _bring_to_head(store: Store, connection: Connection, found: read_model.Generation) -> None:
    certificate = _certificate(found)
    if certificate is not None and certificate.source != "store" and found.position == 0:
        bring_level(store, connection, found)
    else:
        bring_forward(store, connection, found, until=store.head(connection))


def _refuse_unproved(connection: Connection, generation: int) -> None:
    """Rows without a chain may be made of other events than the store's, and nothing later would show it."""
    unproved = read_model.rows(connection, generation).filter(pl.col("chain").is_null())["account_id"].sort().to_list()
    if unproved:
        raise RefusedError(
            f"generation {generation} cannot go live: " + _named("without the chain of its events", unproved),
            next_step="an archive knows chains at its own end only: rebuild from it without --until, or from the store",
        )


def _refuse_past_head(store: Store, connection: Connection, found: read_model.Generation) -> None:
    """A generation that has more than the store must not go live: new events would take the positions of the lost."""
    head = store.head(connection)
    if found.position > head:
        raise RefusedError(
            f"generation {found.generation} cannot go live: it is at position {found.position:,}, and the store's head "
            f"is {head:,}: the store has lost events, or was put back from a backup",
            next_step="bring the events back first (`import events`, or a newer backup), then promote it again",
        )


def _refuse_other_than_heads(store: Store, connection: Connection, generation: int, source: str) -> None:
    """Every account's row must be at its head: what was lost or held back since the rebuild must not go live."""
    wrong = off_head(store, connection, generation)
    if wrong:
        raise RefusedError(
            f"generation {generation} cannot go live: " + _named("not at the store's head", wrong),
            next_step="the store's log is damaged: see `verify`, mend it, and rebuild"
            if source == "store"
            else f"the store has not the events that the {source} has: see `import events --from topic --dry-run`, or "
            "a backup, bring them in, then promote it again",
        )


def _named(what: str, account_ids: list[str]) -> str:
    """Name accounts in one line: the first few of them and how many there are."""
    return f"{what} {'is' if len(account_ids) == 1 else 'are'} {_few([repr(each) for each in account_ids])}"


def _few(names: list[str]) -> str:
    more = len(names) - NAMED_ACCOUNTS_MAX
    return ", ".join(names[:NAMED_ACCOUNTS_MAX]) + (f" and {more} more" * (more > 0))


def write_generation(
    store: Store, replay: Replay, created_at: str, beside: Callable[[Connection], None] | None = None
) -> int:
    """Write the rows and what is parked as a new generation, and drop generations of no use; return its number.

    All in one transaction, with what `beside` writes. StoreError if the rows do not read back as they were replayed.
    """
    certificate = replay.certificate
    rows = stored_rows(replay.rows, replay.gate)
    kept = KeptCertificate(**msgspec.structs.asdict(certificate), rows_digest=stored_digest(rows))
    with store.writing() as connection:
        if beside is not None:
            beside(connection)
        number = read_model.create(
            connection,
            position=certificate.store_position,
            created_at=created_at,
            certificate=msgspec.json.encode(kept).decode(),
        ).generation
        read_model.write_rows(connection, number, rows)
        _check_written(store, connection, number, kept)
        parked = [(found.account_id, found.version, found.reason) for found in certificate.parked]
        names = {"account_id": pl.String(), "version": pl.Int64(), "reason": pl.String()}
        read_model.replace_parked(connection, number, [], pl.DataFrame(parked, schema=names, orient="row"))
        unused = [found for found in read_model.generations(connection) if not (found.is_live or found.is_previous)]
        for old in unused[:-UNUSED_GENERATIONS_KEPT]:
            read_model.drop(connection, old.generation)
    return number


def _check_written(store: Store, connection: Connection, generation: int, kept: KeptCertificate) -> None:
    """Compare what reads back with what was replayed, before the commit: nobody can promote what did not verify."""
    written = stored_digest(read_model.rows(connection, generation))
    if written != kept.rows_digest:
        raise StoreError(
            f"generation {generation} reads back with digest {written}, replayed was {kept.rows_digest}",
            where=store.url.render_as_string(hide_password=True),
            next_step="the database does not keep what it is given; check its disk before anything else",
        )
