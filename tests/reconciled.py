"""What a reconciliation has in its tables, and what it should have by a replay of everything."""

from __future__ import annotations

import polars as pl

from consumers.reconciliation.ledger_side import follower, parked_accounts
from ledger import Store, break_rows, breaks, order_transactions, orders, shadows
from projections import ORDER_LINKS, TRANSACTIONS
from projections.orders import ORDERS
from projections.reconciliation import LINKED_SCHEMA, Rules, judged, withheld
from replay.full_replay import replayed
from replay.store_source import StoreSource

__all__ = ["PLACE", "check_judged", "check_links", "links", "replayed_links"]

#: Where a transaction's last event is: another place in a topic than in the store.
PLACE = ("partition", "position")

_SAID = ("order_id", "code", "account_id", "points_at_risk", "order_points", "credit_points", "order_status")
_SAID += ("credit_status", "transactions", "order_at", "evidence")


def links(store: Store) -> pl.DataFrame:
    """Return what is kept of transactions that name an order, in key order."""
    return _links_at(store)[0]


def _links_at(store: Store) -> tuple[pl.DataFrame, int]:
    """Return the same, and the store's position that it is of: both of one moment, since others may go on."""
    with store.snapshot() as connection:
        shadow = follower(connection)
        assert shadow is not None
        found = order_transactions.linked(connection, shadow.number).sort(ORDER_LINKS.key)
        return found, shadows.positions(connection, shadow).get(0, 0)


def replayed_links(store: Store, until: int) -> pl.DataFrame:
    """Return what a fresh replay of the store says of them at a position, in key order, without their places."""
    with StoreSource.snapshot(store) as source, replayed(source, [TRANSACTIONS], until=until) as replay:
        state = replay.states.value(TRANSACTIONS)
    named = state.filter(pl.col("order_id").is_not_null() & (pl.col("order_id") != ""))
    told = named.with_columns(version="status_version", is_recorded=pl.col("recorded_count") > 0)
    return told.select(name for name in ORDER_LINKS.schema if name not in PLACE).sort(ORDER_LINKS.key)


def check_links(store: Store, until: int | None = None) -> None:
    """Compare what is kept of transactions with a fresh replay of the store up to a position, that of the follower."""
    found, position = _links_at(store)
    assert found.drop(PLACE).equals(replayed_links(store, position if until is None else until))


def check_judged(store: Store, rules: Rules) -> pl.DataFrame:
    """Compare the breaks of all orders that do not wait with what both sides give at once, and return the breaks.

    None is there twice, and an order is withheld exactly where nothing may be said of it.
    """
    with store.snapshot() as connection:
        shadow = follower(connection)
        assert shadow is not None
        waiting = pl.DataFrame({"order_id": orders.touched(connection, 10**9)}, schema={"order_id": pl.String})
        states = ORDERS.fold(orders.events(connection).lazy())
        linked = order_transactions.linked(connection, shadow.number).select(LINKED_SCHEMA.names()).lazy()
        conflicts = orders.conflicts(connection)
        parked = pl.Series(sorted(parked_accounts(connection, shadow)), dtype=pl.String)
        found, held = breaks.listed(connection), break_rows.withheld(connection)
    unsaid = withheld(states, linked, conflicts=conflicts.lazy(), parked_accounts=parked).collect()
    sound = [side.join(unsaid.lazy(), on="order_id", how="anti") for side in (states, linked)]
    expected = judged(*sound, rules).collect().join(waiting, on="order_id", how="anti")
    is_said = found.filter("is_found").join(waiting, on="order_id", how="anti").join(unsaid, on="order_id", how="anti")
    assert not found.select("order_id", "code").is_duplicated().any()
    assert _sorted(is_said).equals(_sorted(expected))
    # It may be later, since nothing is due before it was judged; one that is open already keeps what it had.
    both = is_said.filter(pl.col("state") == "pending").join(
        expected.select("order_id", "code", due_at="deadline_at"), on=["order_id", "code"]
    )
    assert both.select((pl.col("deadline_at") >= pl.col("due_at")).all()).item()
    there, wanted = (each.join(waiting, on="order_id", how="anti").sort("order_id") for each in (held, unsaid))
    assert there["order_id"].to_list() == wanted["order_id"].to_list()
    return found


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(_SAID).sort("order_id", "code")
