"""The rules of reconciliation by example: an order, what the ledger has for it, and what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from projections import LINKED_SCHEMA, ORDER_STATE, WITHHELD_SCHEMA, Rules, judged, subjects, suspects, withheld
from projections.scenario import scenario
from projections.suspects import suspected

PLACED = datetime(2024, 3, 1, 12, tzinfo=UTC)
COMPLETED = PLACED + timedelta(hours=1)
TIMING = timedelta(seconds=Rules().timing_seconds)
INT64_MAX = 2**63 - 1


def order(order_id: str = "o1", points: int = 100, status: str = "completed", **told: Any) -> dict[str, Any]:
    """An order as its events left it: of account a, placed at noon, completed or cancelled an hour later."""
    is_over = status != "pending"
    state = {
        "order_id": order_id,
        "account_id": "a",
        "points": points,
        "direction": "spend",
        "status": status,
        "placed_at": PLACED,
        "completed_at": COMPLETED if status == "completed" else None,
        "cancelled_at": COMPLETED if status == "cancelled" else None,
        "refunded_points": 0,
        "events": 1 + is_over,
        "version": 1 + is_over,
        "latest_at": COMPLETED if is_over else PLACED,
        "position": 7,
    }
    return {name: {**state, **told}.get(name) for name in ORDER_STATE}


def transactions(*texts: str, order_id: str = "o1", moment: datetime = COMPLETED) -> list[dict[str, Any]]:
    """Transactions as `type amount [status] [related] [@account]`: completed, of account a, one a second."""
    rows = []
    for number, text in enumerate(texts):
        kind, amount, *words = text.split()
        accounts = [word[1:] for word in words if word.startswith("@")]
        statuses = [word for word in words if word in {"pending", "frozen", "cancelled", "failed"}]
        row = {
            "order_id": order_id,
            "account_id": accounts[0] if accounts else "a",
            "transaction_id": f"t{number + 1}",
            "type": kind,
            "amount": int(amount),
            "status": statuses[0] if statuses else "completed",
            "related_transaction_id": "t1" if "related" in words else None,
            "created_at": moment + timedelta(seconds=number),
            "updated_at": moment + timedelta(seconds=number),
            "version": number + 1,
            "position": number + 1,
        }
        rows.append({name: row.get(name) for name in LINKED_SCHEMA})
    return rows


def sides(orders: list[dict[str, Any]], linked: list[dict[str, Any]]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return both as the frames that the rules take."""
    return (
        pl.LazyFrame(orders, schema=ORDER_STATE, orient="row"),
        pl.LazyFrame(linked, schema=LINKED_SCHEMA, orient="row"),
    )


def codes_of(orders: list[dict[str, Any]], linked: list[dict[str, Any]]) -> dict[str, int]:
    """Return the codes with the points at risk."""
    return dict(judged(*sides(orders, linked), Rules()).select("code", "points_at_risk").collect().iter_rows())


CASES: dict[str, tuple[dict[str, Any] | None, list[str], dict[str, int]]] = {
    "paid": (order(), ["debit 100"], {}),
    "paid in parts": (order(), ["debit 60", "debit 40"], {}),
    "earned": (order(direction="earn"), ["credit 100"], {}),
    "hold consumed, another released": (order(), ["debit 100", "debit 100 cancelled"], {}),
    "partly refunded": (order(refunded_points=30), ["debit 100", "credit 30 related"], {}),
    "refunded in two": (order(refunded_points=30), ["debit 100", "credit 20 related", "credit 10 related"], {}),
    "cancelled before payment": (order(status="cancelled"), [], {}),
    "cancelled, hold released": (order(status="cancelled"), ["debit 100 cancelled"], {}),
    "cancelled, given back": (order(status="cancelled"), ["debit 100", "credit 100 related"], {}),
    "pending, not yet paid": (order(status="pending"), [], {}),
    "pending, held": (order(status="pending"), ["debit 100 frozen"], {}),
    "pending, partly paid": (order(status="pending"), ["debit 40", "debit 60 pending"], {}),
    "of no points": (order(points=0), [], {}),
    "refunded and never paid": (order(refunded_points=100), [], {}),
    "without an order, failed": (None, ["debit 100 failed", "debit 100 cancelled"], {}),
    "not paid": (order(), [], {"missing_credit_transaction": 100}),
    "not paid, partly refunded": (order(refunded_points=30), [], {"missing_credit_transaction": 70}),
    "payment failed": (order(), ["debit 100 failed"], {"amount_mismatch": 100, "status_mismatch": 100}),
    "payment pending": (order(), ["debit 100 pending"], {"amount_mismatch": 100, "status_mismatch": 100}),
    "still held": (order(), ["debit 100 frozen"], {"amount_mismatch": 100, "status_mismatch": 100, "frozen_leak": 100}),
    "paid too little": (order(), ["debit 80"], {"amount_mismatch": 20}),
    "paid too much": (order(), ["debit 120"], {"amount_mismatch": 20}),
    "pending, paid too much": (order(status="pending"), ["debit 130"], {"amount_mismatch": 30}),
    "pending, a hold consumed": (order(status="pending"), ["debit 100", "debit 100 cancelled"], {}),
    "pending, held, and a refund waits": (order(status="pending"), ["debit 100 frozen", "credit 50 pending"], {}),
    "pending, paid and held": (order(status="pending"), ["debit 100", "debit 60 frozen"], {"amount_mismatch": 60}),
    "pending, paid and paid again": (order(status="pending"), ["debit 100", "debit 1 pending"], {"amount_mismatch": 1}),
    "pending, held twice": (order(status="pending"), ["debit 100 frozen"] * 2, {"amount_mismatch": 100}),
    "pending, earned twice": (
        order(status="pending", direction="earn"),
        ["credit 100 pending", "credit 100 frozen", "debit 50 pending"],
        {"amount_mismatch": 100},
    ),
    "pending, paid too much and held": (
        order(status="pending"),
        ["debit 130", "debit 50 frozen", "credit 20 frozen"],
        {"amount_mismatch": 80},
    ),
    "pending, wrong sign and held": (
        order(status="pending"),
        ["credit 150", "debit 300 pending"],
        {"amount_mismatch": 150, "sign_mismatch": 150},
    ),
    "paid, and a payment pending": (order(), ["debit 100", "debit 30 pending"], {"status_mismatch": 30}),
    "earned, and a payment pending": (
        order(direction="earn", refunded_points=40),
        ["credit 60", "credit 20 pending", "credit 10 pending", "debit 7 pending"],
        {"status_mismatch": 30},
    ),
    "paid, and a payment pending and held": (
        order(),
        ["debit 100", "debit 30 pending", "debit 50 frozen"],
        {"status_mismatch": 30, "frozen_leak": 50},
    ),
    "paid, and a refund waits": (order(), ["debit 100", "credit 30 pending"], {}),
    "refund pending": (
        order(refunded_points=30),
        ["debit 100", "credit 30 pending"],
        {"amount_mismatch": 30, "missing_reversal": 30},
    ),
    "refunded more than the points, paid": (
        order(refunded_points=120),
        ["debit 100"],
        {"amount_mismatch": 100, "missing_reversal": 100},
    ),
    "pending, earned too much": (order(status="pending", direction="earn"), ["credit 130"], {"amount_mismatch": 30}),
    "without an order": (None, ["debit 100", "debit 50 frozen"], {"orphan_credit_transaction": 150}),
    "without an order, earned": (None, ["credit 100"], {"orphan_credit_transaction": 100}),
    "without an order, given back": (None, ["debit 100", "credit 100"], {"orphan_credit_transaction": 0}),
    "paid twice": (order(), ["debit 100", "debit 100"], {"amount_mismatch": 100, "duplicate_credit": 100}),
    "a part paid twice": (
        order(),
        ["debit 60", "debit 40", "debit 40"],
        {"amount_mismatch": 40, "duplicate_credit": 40},
    ),
    "paid three times": (order(), ["debit 100"] * 3, {"amount_mismatch": 200, "duplicate_credit": 200}),
    "paid twice, given back once": (order(), ["debit 100", "debit 100", "credit 100 related"], {}),
    "half not given back is no duplicate": (
        order(refunded_points=50),
        ["debit 50", "debit 50"],
        {"amount_mismatch": 50, "missing_reversal": 50},
    ),
    "cancelled, paid twice, given back once": (
        order(status="cancelled"),
        ["debit 100", "debit 100", "credit 100 related"],
        {"amount_mismatch": 100, "status_mismatch": 100, "duplicate_credit": 100, "missing_reversal": 100},
    ),
    "of another account": (order(), ["debit 100 @b"], {"wrong_account": 100}),
    "partly of another account": (order(), ["debit 60", "debit 40 @b"], {"wrong_account": 40}),
    "another account, put right": (order(), ["debit 100 @b", "credit 100 related @b", "debit 100"], {}),
    "given back to another account": (
        order(status="cancelled"),
        ["debit 100", "credit 100 related @b"],
        {"wrong_account": 100},
    ),
    "held in another account": (order(status="pending"), ["debit 100 frozen @b"], {"wrong_account": 100}),
    "of a failed payment of another account": (order(), ["debit 100 failed @b", "debit 100"], {}),
    "account not told": (order(account_id=None), ["debit 60 @b", "debit 40 @c"], {}),
    "with the wrong sign": (
        order(),
        ["credit 100"],
        {"amount_mismatch": 200, "status_mismatch": 200, "sign_mismatch": 200},
    ),
    "earned with the wrong sign": (
        order(direction="earn", status="pending"),
        ["debit 100"],
        {"amount_mismatch": 100, "sign_mismatch": 100},
    ),
    "refund not given back": (
        order(refunded_points=30),
        ["debit 100"],
        {"amount_mismatch": 30, "missing_reversal": 30},
    ),
    "cancelled, not given back": (
        order(status="cancelled"),
        ["debit 100"],
        {"amount_mismatch": 100, "status_mismatch": 100, "missing_reversal": 100},
    ),
    "given back without a refund": (
        order(),
        ["debit 100", "credit 30 related"],
        {"amount_mismatch": 30, "orphan_reversal": 30},
    ),
    "given back without a payment": (
        order(status="cancelled"),
        ["credit 100 related"],
        {"amount_mismatch": 100, "orphan_reversal": 100},
    ),
    "given back more than refunded": (
        order(refunded_points=30),
        ["debit 100", "credit 50 related"],
        {"amount_mismatch": 20, "over_reversal": 20},
    ),
    "given back more than paid": (
        order(status="cancelled"),
        ["debit 100", "credit 150 related"],
        {"amount_mismatch": 50, "over_reversal": 50},
    ),
    "refunded more than the points": (
        order(refunded_points=120),
        ["debit 100", "credit 120 related"],
        {"amount_mismatch": 20, "over_reversal": 20},
    ),
    "refunded more than the points, given back in full": (
        order(refunded_points=120),
        ["debit 100", "credit 100 related"],
        {},
    ),
    "paid, and a hold left": (order(), ["debit 100", "debit 100 frozen"], {"frozen_leak": 100}),
    "cancelled, still held": (
        order(status="cancelled"),
        ["debit 100 frozen"],
        {"status_mismatch": 100, "frozen_leak": 100},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_order_has_the_codes_of_its_case(case: str) -> None:
    """Each case has the codes, and the points at risk, that somebody who keeps books would give it."""
    told, texts, expected = CASES[case]
    assert codes_of([told] if told else [], transactions(*texts)) == expected


@pytest.mark.parametrize("side", [-1, 1], ids=["before", "after"])
def test_a_payment_far_from_the_completion_is_a_timing_difference(side: int) -> None:
    """At the limit nothing is said; a microsecond further on either side it is a timing difference, with no risk."""
    edge = transactions("debit 100", moment=COMPLETED + side * TIMING)
    assert codes_of([order()], edge) == {}
    past = transactions("debit 100", moment=COMPLETED + side * (TIMING + timedelta(microseconds=1)))
    assert codes_of([order()], past) == {"timing_difference": 0}
    put_right = ["debit 100 @b", "credit 100 related @b", "debit 100"]
    assert codes_of([order()], transactions(*put_right, moment=COMPLETED + side * TIMING - timedelta(seconds=2))) == {}
    late = transactions("debit 90", moment=COMPLETED + side * 2 * TIMING)
    assert codes_of([order()], late) == {"amount_mismatch": 10}


def test_an_order_with_one_time_only_has_no_timing_difference() -> None:
    """Where a file says when an order was placed and no more, nobody knows when it was completed."""
    for texts in (["debit 100"], ["debit 100 @b", "credit 100 related @b", "debit 100"]):
        late = transactions(*texts, moment=PLACED + 2 * TIMING)
        assert codes_of([order(completed_at=PLACED)], late) == {}


def test_the_last_payment_decides_about_the_time() -> None:
    """A first part long before and a refund long after do not matter where the last payment was in time."""
    parts = [
        *transactions("debit 40", moment=COMPLETED - 2 * TIMING),
        *transactions("debit 90"),
        *transactions("credit 30 related", moment=COMPLETED + 3 * TIMING),
    ]
    assert codes_of([order(refunded_points=30, points=130)], parts) == {}


SENTENCES = {
    "not paid, partly refunded": "The order is completed with 100 points of which 30 were refunded, and no transaction "
    "names it.",
    "pending, paid too much": "The order is pending with 100 points, so its net must be 0 to 100; it is 130: 130 "
    "debited and 0 credited back.",
    "pending, paid and held": "The order is pending with 100 points, so its net must be 0 to 100; it is 100: 100 "
    "debited and 0 credited back, and with 60 frozen or pending that is 60 too much.",
    "paid, and a payment pending": "The order is completed and its net is 100 as it must be, but a payment of 30 is "
    "still pending.",
    "paid too little": "The order is completed with 100 points, so its net must be 100; it is 80: 80 debited and 0 "
    "credited back.",
    "without an order": "There is no such order, but transactions name it: 100 debited, 0 credited, 50 frozen, 0 "
    "pending.",
    "of another account": "The order is of account a, but 100 points were moved or held in b.",
    "paid, and a hold left": "The order is completed, but 100 points are still frozen for it.",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_evidence_is_a_sentence_with_the_numbers(case: str) -> None:
    """Each mismatch says in plain words what was expected and what there is."""
    told, texts, _ = CASES[case]
    found = judged(*sides([told] if told else [], transactions(*texts)), Rules()).collect()
    assert found["evidence"].to_list() == [SENTENCES[case]]


@pytest.mark.parametrize(
    ("code", "case", "sentence"),
    [
        ("status_mismatch", "payment pending", "its transactions are pending: 0 debited and 0 credited back, 0 frozen"),
        ("duplicate_credit", "a part paid twice", "140 debited for an order of 100 points: 40 was debited 2 times, 1"),
        (
            "sign_mismatch",
            "earned with the wrong sign",
            "100 was debited and is related to no payment, while nothing was credited.",
        ),
        ("missing_reversal", "refund pending", "0 was, and 30 more to be credited back is pending."),
        ("amount_mismatch", "refund pending", "0 credited back, and 30 more to be credited back is pending."),
        ("missing_reversal", "refund not given back", "30 had to be credited back, but 0 was."),
        ("missing_reversal", "cancelled, not given back", "100 had to be credited back, but 0 was."),
        ("orphan_reversal", "given back without a refund", "but the order is neither refunded nor cancelled."),
        ("orphan_reversal", "given back without a payment", "100 was credited back, but nothing was debited."),
        ("over_reversal", "given back more than refunded", "50 was credited back, but only 30 had to be."),
        ("over_reversal", "given back more than paid", "150 was credited back, but only 100 had to be."),
    ],
)
def test_evidence_of_a_further_code_says_why(code: str, case: str, sentence: str) -> None:
    """What explains a mismatch names the numbers that explain it."""
    told, texts, _ = CASES[case]
    found = judged(*sides([told] if told else [], transactions(*texts)), Rules()).filter(pl.col("code") == code)
    assert sentence in found.collect()["evidence"].item()


def test_a_mismatch_says_where_and_until_when() -> None:
    """Places of the last event of each side, transactions in order, and a deadline the grace after the latest fact."""
    linked = transactions("debit 60", "debit 60 failed", "debit 60")
    [row] = judged(*sides([order(points=300)], linked[::-1]), Rules(grace_seconds=1.5)).collect().rows(named=True)
    latest_at = COMPLETED + timedelta(seconds=2)
    assert (row["code"], row["transactions"], row["credit_points"]) == ("amount_mismatch", ["t1", "t2", "t3"], 120)
    assert (row["order_position"], row["ledger_position"], row["order_at"]) == (7, 3, PLACED)
    assert (row["latest_at"], row["deadline_at"]) == (latest_at, latest_at + timedelta(seconds=1.5))


def of_two_accounts() -> list[dict[str, Any]]:
    """A payment, and one of another account a place later that failed, of one moment; the later has a lower version."""
    first, second = transactions("debit 100", "debit 100 failed @b")
    return [second | {"created_at": COMPLETED, "version": 1}, first | {"version": 2}]


def test_versions_of_two_accounts_say_nothing_of_each_other() -> None:
    """Of transactions of one moment the place tells which came first, and only then the version."""
    linked = [row | {"business_code": "order.payment"} for row in of_two_accounts()]
    span = {"start": PLACED, "end": COMPLETED, "business_code": "order.payment"}
    assert scenario(*sides([order()], linked), **span).mismatches.collect().is_empty()
    failed = [row | {"status": status} for row, status in zip(linked, ("failed", "cancelled"), strict=True)]
    found = judged(*sides([order()], failed), Rules()).filter(code="status_mismatch").collect()
    assert (found["transactions"].to_list(), found["credit_status"].to_list()) == ([["t1", "t2"]], ["failed"])
    unplaced = [row | {"position": None} for row in failed]
    found = judged(*sides([order()], unplaced), Rules()).filter(code="status_mismatch").collect()
    assert (found["transactions"].to_list(), found["credit_status"].to_list()) == ([["t2", "t1"]], ["cancelled"])


def no_conflicts() -> pl.DataFrame:
    """Return the frame of no conflicts."""
    return pl.DataFrame(schema=WITHHELD_SCHEMA)


def test_an_order_of_a_parked_account_is_withheld() -> None:
    """So is one with a transaction in it, one that no order knows, and one that may have its transactions there."""
    orders = [order("told"), order("linked"), order("unknown", account_id=None), order("free", account_id="c")]
    linked = [*transactions("debit 1 @a", order_id="linked"), *transactions("debit 1 @a", order_id="orphan")]
    orders[1]["account_id"] = "c"
    frame = withheld(*sides(orders, linked), conflicts=no_conflicts(), parked_accounts=pl.Series(["a"])).collect()
    assert sorted(frame["order_id"]) == ["linked", "orphan", "told", "unknown"]
    none = withheld(*sides(orders, linked), conflicts=no_conflicts(), parked_accounts=pl.Series([], dtype=pl.String))
    assert none.collect().is_empty()


@pytest.mark.parametrize(
    ("told", "texts"),
    [
        (order(), [f"debit {INT64_MAX}", "debit 1"]),
        (order(points=INT64_MAX), ["credit 1"]),
        (order(refunded_points=INT64_MAX + 1), []),
        (None, [f"debit {INT64_MAX}", "debit 1 frozen"]),
        (order(), [f"debit {INT64_MAX} @b", "debit 1 frozen @c"]),
        (order(points=0, status="pending"), [f"debit {INT64_MAX}", "debit 1 frozen"]),
    ],
)
def test_sums_past_int64_are_withheld_and_never_wrap(told: dict[str, Any] | None, texts: list[str]) -> None:
    """Such an order is named by `withheld`; one that is judged all the same fails and gives no wrong number."""
    frames = sides([told] if told else [], transactions(*texts))
    empty = pl.Series([], dtype=pl.String)
    [reason] = withheld(*frames, conflicts=no_conflicts(), parked_accounts=empty).collect()["reason"]
    assert "past int64" in reason


def test_the_largest_sums_that_fit_are_judged() -> None:
    """The largest number there is on both sides of an order is no reason to withhold it."""
    frames = sides([order(points=INT64_MAX)], transactions(f"debit {INT64_MAX}"))
    empty = pl.Series([], dtype=pl.String)
    assert withheld(*frames, conflicts=no_conflicts(), parked_accounts=empty).collect().is_empty()
    assert judged(*frames, Rules()).collect().is_empty()


def test_an_order_whose_placing_is_not_here_still_has_a_time() -> None:
    """Where no event says when it was placed, its first transaction does, or else its latest moment."""
    orders = [order("o1", placed_at=None), order("o2", placed_at=None)]
    linked = transactions("debit 1", order_id="o1", moment=PLACED - timedelta(days=1))
    rows = subjects(*sides(orders, linked)).collect().rows_by_key("order_id", named=True, unique=True)
    assert rows["o1"]["order_at"] == PLACED - timedelta(days=1)
    assert rows["o2"]["order_at"] == rows["o2"]["latest_at"] == COMPLETED


CLEAN = [
    case
    for case, (told, texts, expected) in CASES.items()
    if not expected and not {"another", "waits"} & set(case.split())
]


def sides_of_cases(chosen: list[str]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Return the orders of several cases, each named after its case."""
    orders, linked = [], []
    for case in chosen:
        told, texts, _ = CASES[case]
        orders += [told | {"order_id": case}] if told else []
        linked += transactions(*texts, order_id=case)
    return sides(orders, linked)


def test_what_is_plainly_right_is_not_looked_at_closely() -> None:
    """No order without a mismatch is suspected, but for some of another account or with a refund to come."""
    orders, linked = suspected(*sides_of_cases(CLEAN), timing_seconds=Rules().timing_seconds)
    assert (orders.collect().height, linked.collect().height) == (0, 0)


@pytest.mark.parametrize("keys", [1, 2, 3])
def test_orders_that_share_a_hash_are_told_apart(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ids have the same hash, each order has the mismatches that it has alone."""
    frames = sides_of_cases(list(CASES))
    apart = judged(*frames, Rules()).collect().sort("order_id", "code")
    few = (pl.col("order_id").str.len_bytes() % keys).cast(pl.UInt64).alias("_order_key")
    monkeypatch.setattr(suspects, "_key", lambda: few)
    assert judged(*frames, Rules()).collect().sort("order_id", "code").equals(apart)
    found = {case: {code for (code,) in apart.filter(order_id=case).select("code").iter_rows()} for case in CASES}
    assert found == {case: set(expected) for case, (_, _, expected) in CASES.items()}


def test_orders_that_share_a_hash_do_not_make_up_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One order that was paid too much and one too little are both found where their ids have the same hash."""
    linked = [*transactions("debit 110", order_id="o1"), *transactions("debit 90", order_id="o2")]
    monkeypatch.setattr(suspects, "_key", lambda: pl.lit(1, pl.UInt64).alias(suspects.KEY))
    found = judged(*sides([order("o1", status="pending"), order("o2")], linked), Rules()).collect()
    assert sorted(found["order_id"]) == ["o1", "o2"]


SCENARIO: dict[str, tuple[dict[str, Any], list[str], dict[str, tuple[int | None, str | None]]]] = {
    "paid": (order(), ["debit 60", "debit 40"], {}),
    "pending, paid": (order(status="pending"), ["debit 100", "debit 5 failed"], {}),
    "cancelled, the sum is still asked for": (
        order(status="cancelled"),
        ["debit 100 cancelled"],
        {"amount_mismatch": (0, "cancelled")},
    ),
    "no transaction": (order(), [], {"missing_credit_transaction": (None, None)}),
    "signs do not count": (order(points=130), ["debit 100", "credit 30"], {}),
    "first failed, then paid": (order(), ["debit 100 failed", "debit 100"], {"status_mismatch": (100, "failed")}),
    "first paid, then cancelled": (order(), ["debit 100", "debit 100 cancelled"], {}),
    "cancelled, paid": (order(status="cancelled"), ["debit 100"], {"status_mismatch": (100, "completed")}),
    "held": (order(), ["debit 100 frozen"], {"amount_mismatch": (0, "frozen"), "status_mismatch": (0, "frozen")}),
}


@pytest.mark.parametrize("case", SCENARIO)
def test_the_scenario_says_what_it_says_to_the_letter(case: str) -> None:
    """Each case has the scenario's codes, with the sum of what was completed and the status of the first."""
    told, texts, expected = SCENARIO[case]
    linked = [row | {"business_code": "order.payment"} for row in transactions(*texts)]
    span = {"start": PLACED, "end": COMPLETED + timedelta(minutes=1)}
    rows = scenario(*sides([told], linked), **span, business_code="order.payment").mismatches.collect()
    assert {row["code"]: (row["credit_points"], row["credit_status"]) for row in rows.iter_rows(named=True)} == expected
    assert rows["transactions"].to_list() == [[row["transaction_id"] for row in linked]] * len(expected)


def test_the_scenario_takes_both_ends_of_its_range_and_one_business_code() -> None:
    """What lies on either end counts, what lies a microsecond beyond or has another code does not."""
    tick = timedelta(microseconds=1)
    orders = [order("first"), order("last", placed_at=COMPLETED), order("early", placed_at=PLACED - tick)]
    moments = {"first": PLACED, "last": COMPLETED, "none": COMPLETED + tick}
    linked = [row for name, at in moments.items() for row in transactions("debit 100", order_id=name, moment=at)]
    coded = [row | {"business_code": "order.payment"} for row in linked] + transactions("debit 9", order_id="first")
    found = scenario(*sides(orders, coded), start=PLACED, end=COMPLETED, business_code="order.payment")
    heights = [frame.collect().height for frame in found]
    assert heights == [2, 2, 0]
