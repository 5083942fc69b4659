"""Events of a topic onto rows of a shadow: what has to wait for an event before it is kept beside the rows.

A topic gives nothing twice for the asking, so events behind a gap, and payloads that are no event, are kept as bytes
(`ledger_shadow_waiting`) until the version before them is in the row. What is parked is judged anew from rows and kept
bytes each time that an account has something new, so what fills a gap may come from any partition, to any instance.

Two events of one version are told apart where both are at hand: in one batch, or in what waits. Of an event that is in
a row already only the chain up to the row's version is left, and a copy that comes later with other content is
dropped as a repeat. A replay of the topic, which has all copies, names it (`conflicting_repeat`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger import read_model, shadows
from ledger.shadows import WAITING_SCHEMA, Shadow
from replay.gate import Parked
from replay.rows import PARKED_SCHEMA, Beside, Folded, fold, touched, write
from replay.topic.client import Chunk
from replay.topic.source import decoded
from schemas import PoisonEvent

__all__ = ["UNNAMED", "WAITING_EVENTS_MAX", "Applied", "Taken", "applied", "apply", "divided", "keep", "taken"]

#: What is kept of all accounts of a shadow. Past this many, what waits of the accounts at hand is let go: they stay
#: parked until the shadow is begun anew.
WAITING_EVENTS_MAX = 1_000_000

#: The account of a payload that names none, and has no key: it may be anybody's, so it is parked under no name.
UNNAMED = ""

#: The version of a payload that names none: no event that comes later stands for it.
NO_VERSION = 0

_KEY = ["account_id", "version"]
_CONFLICT = "conflicting_repeat"
_NO_COPIES = pl.DataFrame(schema={**{name: WAITING_SCHEMA[name] for name in _KEY}, "state": pl.Binary()})


class Taken(NamedTuple):
    """Records decoded: `events` with their `partition`, `poison`, and the `unread` bytes of that (`WAITING_SCHEMA`)."""

    events: pl.DataFrame
    poison: list[PoisonEvent]
    unread: pl.DataFrame


class Applied(NamedTuple):
    """What records come to: rows and who is parked, what `waits` of the accounts now, and what of them `waited`."""

    folded: Folded
    waits: pl.DataFrame
    waited: pl.DataFrame


def taken(chunks: Iterable[Chunk], details: tuple[str, ...] = ()) -> Taken:
    """Return the records of some chunks, each chunk of one partition, decoded with these detail columns."""
    found = [_taken(chunk, details) for chunk in chunks]
    return Taken(
        pl.concat([each.events for each in found]),
        [poison for each in found for poison in each.poison],
        pl.concat([each.unread for each in found]),
    )


def apply(connection: Connection, shadow: Shadow, new: Taken, beside: Beside | None = None) -> Applied:
    """Bring a shadow's rows, what is parked, and what waits forward; the caller has locked the shadow.

    `beside` is what is kept beside the rows; `new` was taken with its details.
    """
    account_ids = touched(new.events, new.poison)
    held = read_model.parked(connection, shadow.number).filter(pl.col("account_id").is_in(account_ids.implode()))
    waited = shadows.waiting(connection, shadow, held["account_id"].to_list())
    found = applied(read_model.rows(connection, shadow.number, account_ids.to_list()), new, held, waited, beside)
    keep(connection, shadow, found, beside)
    return found


def applied(
    rows: pl.DataFrame,
    new: Taken,
    held: pl.DataFrame | None = None,
    waited: pl.DataFrame | None = None,
    beside: Beside | None = None,
) -> Applied:
    """Return what records make of the rows (`ROW_SCHEMA`) of all accounts that they touch; nothing is written.

    `held` are those that are parked (`PARKED_SCHEMA`) and `waited` what waits of them (`WAITING_SCHEMA`), by default
    none; `beside` is as of `apply`.
    """
    held = PARKED_SCHEMA.to_frame() if held is None else held
    waited = WAITING_SCHEMA.to_frame() if waited is None else waited
    both = _joined(new, waited, () if beside is None else beside.details)
    folded = fold(rows, both.events, both.poison, copies=lambda _: _NO_COPIES, links=True, beside=beside)
    waits = _waiting(both, _reached(rows, folded)) if folded.parked else waited.clear()
    parked = folded.parked | _conflicts(both.events, folded.repeats) | _for_good(held, waited)
    waits = waits.join(_let_go(held, waited), on="account_id", how="anti")
    return Applied(folded._replace(parked=parked), waits, waited)


def keep(connection: Connection, shadow: Shadow, found: Applied, beside: Beside | None = None) -> None:
    """Write what records came to, applied with the same `beside`; the caller has locked the shadow."""
    write(connection, shadow.number, found.folded, beside)
    _keep(connection, shadow, _bounded(connection, shadow, found.waits, found.waited), found.waited)


def divided(new: Taken, account_ids: pl.DataFrame) -> tuple[Taken, Taken]:
    """Return the records of some accounts (`account_id`), and those of all others."""
    wanted = set(account_ids["account_id"])
    theirs = Taken(
        new.events.join(account_ids, on="account_id", how="semi", maintain_order="left"),
        [each for each in new.poison if each.account_id in wanted],
        new.unread.join(account_ids, on="account_id", how="semi", maintain_order="left"),
    )
    others = Taken(
        new.events.join(account_ids, on="account_id", how="anti", maintain_order="left"),
        [each for each in new.poison if each.account_id not in wanted],
        new.unread.join(account_ids, on="account_id", how="anti", maintain_order="left"),
    )
    return theirs, others


def _taken(chunk: Chunk, details: tuple[str, ...]) -> Taken:
    events, poison = _named(chunk, details)
    places = {offset: place for place, offset in enumerate(chunk.offsets)} if poison else {}
    unread = [
        (
            each.account_id,
            each.version or NO_VERSION,
            chunk.partition,
            each.position,
            chunk.values[places[each.position]],
        )
        for each in poison
    ]
    # A tombstone has no bytes, and none are no event either.
    kept = [(*key, state or b"") for *key, state in unread]
    frame = pl.DataFrame(kept, schema=WAITING_SCHEMA, orient="row")
    return Taken(events.with_columns(partition=pl.lit(chunk.partition, pl.Int64())), poison, frame)


def _named(chunk: Chunk, details: tuple[str, ...]) -> tuple[pl.DataFrame, list[PoisonEvent]]:
    batch = decoded(chunk, details, keeps_bytes=True)
    return batch.events, [_of(each, _text(each.account_id), each.version) for each in batch.poison]


def _text(account_id: str | None) -> str:
    # It may come from a record's key, which is any bytes, and not every database takes each of them as text.
    return UNNAMED if account_id is None else account_id.replace("\0", "\ufffd")


def _of(poison: PoisonEvent, account_id: str, version: int | None) -> PoisonEvent:
    return PoisonEvent(
        position=poison.position,
        account_id=account_id,
        version=version or None,
        reason=poison.reason,
        partition=poison.partition,
    )


def _joined(new: Taken, waited: pl.DataFrame, details: tuple[str, ...]) -> Taken:
    """Return what is new together with what waited, decoded again."""
    if waited.is_empty():
        return new
    # Kept bytes lie at offsets of several partitions, and may have had no key: their row says whose they are.
    chunk = Chunk(0, range(waited.height), [None] * waited.height, waited["state"].to_list(), waited.height)
    batch = decoded(chunk, details, keeps_bytes=True)
    places = waited.select("partition", offset="position").with_row_index("position")
    events = batch.events.join(places.with_columns(pl.col("position").cast(pl.Int64)), on="position", how="left")
    events = events.with_columns(position=pl.col("offset")).select(new.events.columns)
    poison: list[PoisonEvent] = []
    for each in batch.poison:
        account_id, version, partition, offset, _ = waited.row(each.position)
        found = PoisonEvent(position=offset, account_id=None, version=None, reason=each.reason, partition=partition)
        poison.append(_of(found, account_id, version))
    unread = waited[[each.position for each in batch.poison]]
    return Taken(pl.concat([events, new.events]), [*poison, *new.poison], pl.concat([unread, new.unread]))


def _reached(rows: pl.DataFrame, folded: Folded) -> pl.DataFrame:
    """Return the version that each account's row has once the batch is written: `account_id`, `reached`."""
    changed, before = (frame.select("account_id", reached="version") for frame in (folded.changed, rows))
    return pl.concat([changed, before.join(changed, on="account_id", how="anti")])


def _waiting(both: Taken, reached: pl.DataFrame) -> pl.DataFrame:
    """Return what is in no row yet (`WAITING_SCHEMA`), an event before a payload of its version that is none."""
    every = pl.concat([both.events.select(WAITING_SCHEMA.names()), both.unread]).join(
        reached, on="account_id", how="left"
    )
    is_behind = (pl.col("version") == NO_VERSION) | (pl.col("version") > pl.col("reached").fill_null(0))
    return every.filter(is_behind).drop("reached").unique(_KEY, keep="first", maintain_order=True)


def _conflicts(events: pl.DataFrame, repeats: pl.DataFrame) -> dict[str, Parked]:
    """Return the accounts that have two different events of one version at hand."""
    if repeats.is_empty():
        return {}
    copies = events.join(repeats.unique(), on=_KEY, how="semi").group_by(_KEY).agg(pl.col("state").n_unique())
    found = copies.filter(pl.col("state") > 1).sort(_KEY).unique("account_id", keep="first")
    return {
        account_id: Parked(account_id=account_id, version=version, reason=_CONFLICT)
        for account_id, version, _ in found.iter_rows()
    }


def _for_good(held: pl.DataFrame, waited: pl.DataFrame) -> dict[str, Parked]:
    """Return the accounts that nothing can free: those with a conflict, and those whose events were let go."""
    stuck = pl.concat([held.filter(pl.col("reason") == _CONFLICT), _let_go(held, waited)])
    return {each["account_id"]: Parked(**each) for each in stuck.iter_rows(named=True)}


def _let_go(held: pl.DataFrame, waited: pl.DataFrame) -> pl.DataFrame:
    """Return what is parked without anything that waits: whatever parks an account is kept, unless it was too much."""
    return held.filter(pl.col("reason") != _CONFLICT).join(waited, on="account_id", how="anti")


def _bounded(connection: Connection, shadow: Shadow, waits: pl.DataFrame, waited: pl.DataFrame) -> pl.DataFrame:
    if waits.height <= waited.height:
        return waits
    total = shadows.waiting_events(connection, shadow) - waited.height + waits.height
    return waits if total <= WAITING_EVENTS_MAX else waits.clear()


def _keep(connection: Connection, shadow: Shadow, waits: pl.DataFrame, waited: pl.DataFrame) -> None:
    """Bring what is kept from what `waited` to what `waits` now, touching only what changed."""
    place = [*_KEY, "partition", "position"]
    gone = waited.join(waits, on=place, how="anti")["account_id"].unique().to_list()
    stays = waited.filter(~pl.col("account_id").is_in(gone))
    shadows.drop_waiting(connection, shadow, gone)
    shadows.add_waiting(connection, shadow, waits.join(stays, on=place, how="anti"))
