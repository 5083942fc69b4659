"""A reconciliation of a range is the part of one of everything that is in the range, whatever the world is like."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from order_worlds import MOMENTS, World, worlds

from projections.orders import ORDERS
from projections.reconciliation import Rules, judged, subjects, withheld
from replay.reconcile import Range, reconcile
from replay.reconcile_sides import LedgerSide, OrderSide, Unknown
from schemas.errors import UsageError

HEAVY = settings(max_examples=settings.default.max_examples // 2)
UNTIL = MOMENTS[-1] + timedelta(days=1)


def sides(world: World) -> tuple[LedgerSide, OrderSide]:
    """Return both sides of a world as they come out of a ledger that was read until a moment."""
    parked = pl.DataFrame(
        schema={
            "partition": pl.Int64(),
            "position": pl.Int64(),
            "order_id": pl.String(),
            "version": pl.Int64(),
            "reason": pl.String(),
        }
    )
    states = ORDERS.fold(world.event_frame().lazy()).collect()
    unknown = Unknown(pl.Series(world.parked_accounts, dtype=pl.String()))
    return LedgerSide(world.linked_frame(), unknown, UNTIL), OrderSide(states, world.conflict_frame(), parked, UNTIL)


@HEAVY
@given(
    st.one_of(worlds(), worlds(is_huge=True)),
    st.one_of(st.none(), st.sampled_from(MOMENTS)),
    st.one_of(st.none(), st.sampled_from(MOMENTS)),
)
def test_a_range_is_a_part_of_everything(world, start, end):
    """Mismatches, counts and withheld orders of a range are those of its orders among everything."""
    ledger, orders = sides(world)
    span = Range(start, end)
    both = (orders.orders.lazy(), ledger.transactions.lazy())
    known = subjects(*both).collect()
    meant = known.filter(span.has("order_at"))["order_id"].to_list()
    # What has no event that can be read has no moment, so it is meant always.
    nowhere = [order_id for order_id, _ in world.conflicts if order_id not in known["order_id"].to_list()]
    held = withheld(
        *both, conflicts=orders.conflicts.lazy(), parked_accounts=ledger.unknown.among(orders.orders["account_id"])
    )
    held_ids = held.collect()["order_id"].to_list()
    sound = [side.filter(~pl.col("order_id").is_in(held_ids)) for side in both]
    expected = judged(*sound, Rules()).collect().filter(pl.col("order_id").is_in(meant))
    try:
        found = reconcile(ledger, orders, span=span)
    except UsageError:
        assert orders.orders.is_empty()
        assert not world.conflicts
        return
    everything = pl.concat([found.mismatches, found.pending]).select(expected.columns)
    assert everything.sort("order_id", "code").rows() == expected.sort("order_id", "code").rows()
    assert found.withheld["order_id"].to_list() == sorted({*held_ids} & {*meant, *nowhere})
    assert found.orders == orders.orders.filter(pl.col("order_id").is_in(meant)).height
    assert found.transactions == ledger.transactions.filter(pl.col("order_id").is_in(meant)).height
    assert found.mismatches["deadline_at"].is_between(pl.lit(MOMENTS[0]), pl.lit(UNTIL)).all()
    assert (found.pending["deadline_at"] > UNTIL).all()


@HEAVY
@given(worlds(is_sound=True))
def test_what_is_not_said_is_nothing(world):
    """A sound world without a mismatch is CLEAN; one with any is not."""
    ledger, orders = sides(world)
    if orders.orders.is_empty():
        return
    found = reconcile(ledger, orders)
    assert found.withheld.is_empty()
    assert found.verdicts == (["FINDINGS"] if found.mismatches.height else ["CLEAN"])
