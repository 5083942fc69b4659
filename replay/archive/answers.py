"""Answers from an archive: the same as from the store, with the same code behind the replay; only the reading differs.

For some accounts only their files are read, and of these only the row groups that they are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from projections import RELATIONS, TRANSACTIONS
from replay.answers import EVENTS, Balances, History, answered, history_of, name_unknown, wanted
from replay.archive.full_replay import replayed_archive, snapshot_of
from replay.archive.state import State
from replay.archive.table import Archive
from replay.certificate import Position
from replay.graph import Graph, graph_of
from replay.moment import Moment, Time, in_utc

__all__ = ["balances_from_archive", "graph_from_archive", "history_from_archive"]


def balances_from_archive(
    archive: Archive,
    account_ids: Sequence[str] = (),
    *,
    at: Position | None = None,
    as_of: Time | None = None,
    recorded_as_of: Time | None = None,
    now: Time | None = None,
) -> Balances:
    """Return the balances of some accounts (default: all) as an archive says, otherwise as `replay.balances`.

    The watermark is the newest moment up to which the archive is known to hold everything that the store had, and not
    after `now`; None where that is not known. A moment after it gives INCOMPLETE and no row at all. `at` is a position
    of the archive's source. An account that a damaged data file may have events of has no row, and the file is named.
    """
    account_ids, clock = wanted(account_ids), in_utc(now, "now")
    moment = Moment.asked(as_of, recorded_as_of)
    snapshot = snapshot_of(archive)
    with replayed_archive(archive, at=at, moment=moment, account_ids=account_ids, snapshot=snapshot) as replay:
        name_unknown(account_ids, replay)
        return answered(replay, replay.rows, _watermark(snapshot.held, clock), moment)


def history_from_archive(archive: Archive, account_id: str) -> History:
    """Return one account's events with running sums as an archive says, otherwise as `replay.history`."""
    with replayed_archive(archive, [EVENTS], account_ids=[account_id]) as replay:
        name_unknown([account_id], replay)
        return history_of(replay)


def graph_from_archive(archive: Archive, transaction_id: str) -> Graph:
    """Return everything linked to a transaction as an archive says, otherwise as `replay.graph`.

    Nothing is shown of accounts that a damaged data file may have events of, and the verdict is INCOMPLETE then.
    """
    with replayed_archive(archive, [TRANSACTIONS, RELATIONS]) as replay:
        return graph_of(replay, transaction_id)


def _watermark(state: State, now: datetime | None) -> datetime | None:
    known = state.watermark
    return known if known is None or now is None else min(known, now)
