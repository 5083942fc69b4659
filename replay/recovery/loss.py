"""What was lost: events that the store should have, accounts that live has wrong, and where it is still known."""

from __future__ import annotations

import msgspec
import polars as pl
from sqlalchemy import BigInteger, Connection, Text, func, select

from ledger import bulk
from ledger.importing.healing import Healed
from ledger.store import Store
from ledger.tables import EVENTS
from replay.certificate import Certificate
from replay.drift import Drift

__all__ = ["Loss", "Missing", "count_missing", "healable_events", "points_wrong", "wrong_accounts"]

#: Fields whose differences are points that an account has too many or too few.
_POINTS = ("balance", "frozen")


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate of the loss; what could not be looked at is null.

    `accounts` are those of the log, `parked` those of them that nothing is certified for. `events_missing` counts the
    events that heads or earlier certificates know of and the store has not, `events_damaged` those that cannot be read,
    `heads_missing` the accounts whose head is gone, `accounts_missing` how many fewer there are than were certified.
    `events_healable` come back from the copies of `healable_from`.
    `drifted` counts the accounts that live has wrong, and `points_wrong` the points in balance and frozen, too many or
    too few.
    """

    accounts: int | None = None
    parked: int | None = None
    events_missing: int | None = None
    events_damaged: int | None = None
    heads_missing: int | None = None
    accounts_missing: int | None = None
    events_healable: int | None = None
    healable_from: list[str] = []
    drifted: int | None = None
    points_wrong: int | None = None


class Missing(msgspec.Struct, frozen=True):
    """Events that are not there though heads say so, events that cannot be read, and accounts that lost their head."""

    events: int
    damaged: int
    heads: int


def count_missing(store: Store, connection: Connection, certificate: Certificate) -> Missing:
    """Count what a replay of the store has found missing, account by account of those that it parked."""
    parked = [each.account_id for each in certificate.parked]
    stored = pl.concat([pl.DataFrame(schema=_STORED), *_stored(connection, parked)])
    heads = store.heads(connection, parked).select("account_id", head="version")
    both = stored.join(heads, on="account_id", how="full", coalesce=True)
    should = pl.max_horizontal("head", "last")
    return Missing(
        events=int(both.select((should - pl.col("events").fill_null(0)).clip(lower_bound=0).sum()).item()),
        damaged=len(certificate.poison),
        heads=int(both["head"].null_count()),
    )


_STORED = pl.Schema({"account_id": pl.String(), "events": pl.Int64(), "last": pl.Int64()})


def _stored(connection: Connection, account_ids: list[str]) -> list[pl.DataFrame]:
    """Return how many versions some accounts have in the store, and the last of them."""
    if not account_ids:
        return []
    version = EVENTS.c.originator_version.cast(BigInteger)
    statement = select(EVENTS.c.originator_id.cast(Text), func.count(version.distinct()), func.max(version))
    statement = statement.group_by(EVENTS.c.originator_id)
    return [bulk.select_rows(connection, statement, _STORED, key=EVENTS.c.originator_id, keys=account_ids)]


def healable_events(healed: Healed) -> int:
    """Return how many events or heads a copy would bring back, of the accounts that it does not contradict."""
    return healed.restored + healed.imported


def wrong_accounts(found: Drift) -> int:
    """Return how many accounts live has wrong, those that did not settle included."""
    return found.drifted + len(found.suspected)


def points_wrong(found: Drift) -> int:
    """Return the points that live has too many or too few, in balance and frozen; of a lost row its whole balance."""
    points = 0
    for each in found.accounts:
        if each.field in _POINTS and each.difference is not None:
            points += abs(each.difference)
        elif each.field == "row":
            points += sum(abs(value) for value in (each.live, each.replayed) if isinstance(value, int))
    return points
