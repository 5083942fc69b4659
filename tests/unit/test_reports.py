"""Reports of breaks: their sums, their three forms, and what an id that somebody chose can do to a page."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from break_rows_made import at, mismatch

from console.reports.break_sums import CODES_SHOWN_MAX, COLUMNS_MAX, MEANINGS, days
from console.reports.drawing import drawn_bars, drawn_columns, rounded_up, short
from console.reports.model import Bars, Columns
from console.reports.page import page
from console.reports.plain import plain
from console.reports.reconciliation import BREAKS_SHOWN_MAX, Reported, reconciliation_report
from console.reports.writing import need_report_files, write_report
from ledger import break_rows
from ledger.break_rows import BREAK_SCHEMA, HISTORY_SCHEMA
from projections.reconciliation import WITHHELD_SCHEMA
from schemas.errors import UsageError

NOW = at(24 * 40)
PARKED = pl.DataFrame(schema={"partition": pl.Int64, "position": pl.Int64, "order_id": pl.String, "reason": pl.String})
HOSTILE = (
    "</td></style></title><script>alert('1')</script><img src=x onerror=alert(1)>&\"' {{ 7*7 }}{% x %}"
    "\u202e\x00\x1b[2J\n"
)


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, and its words."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def kept(number: int, order_id: str, code: str = "amount_mismatch", *, state: str = "open", **more: object) -> Any:
    """A break as a ledger keeps it."""
    opened = None if state == "pending" else at(2)
    row = {"id": number, "state": state, "resolution": None, "is_found": True, "opened_at": opened, **more}
    return {name: (mismatch(order_id, code) | row).get(name) for name in BREAK_SCHEMA} | {
        name: value for name, value in more.items() if name in BREAK_SCHEMA
    }


def reported(*rows: dict[str, object], **more: Any) -> Reported:
    """What a report of some breaks is made of."""
    breaks = pl.DataFrame(list(rows), schema=BREAK_SCHEMA)
    whole: dict[str, Any] = {
        "verdict": "FINDINGS" if rows else "CLEAN",
        "made_at": NOW,
        "ledger_id": "ledger-1",
        "asked": {"from": None, "business_code": "shop"},
        "source": "the store",
        "read_until_at": at(30),
        "breaks": breaks,
        "standing": breaks.filter(pl.col("state").is_in(["open", "reopened"])),
        "withheld": pl.DataFrame(schema=WITHHELD_SCHEMA),
        "parked": PARKED,
        "pending": breaks.filter(pl.col("state") == "pending").height,
    }
    return Reported(**(whole | more))


def document(done: Reported, folder: Path) -> dict[str, Any]:
    """The report in JSON, as it is written."""
    write_report(reconciliation_report(done), [folder / "report.json"])
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def many(number: int, *, days_between: int = 1) -> list[dict[str, object]]:
    """Breaks of many orders, with every code, and of every fifth order two."""
    codes = list(MEANINGS)
    rows: list[dict[str, object]] = []
    for place in range(number):
        shared = {"order_at": at(24 * days_between * (place % 30)), "account_id": f"account-{place % 50}"}
        order, code = f"order-{place}", codes[place % len(codes)]
        rows.append(kept(len(rows) + 1, order, code, points_at_risk=place, **shared))
        if place % 5 == 0:
            other = codes[(place + 1) % len(codes)]
            rows.append(kept(len(rows) + 1, order, other, points_at_risk=place + 3, **shared))
    return rows


@pytest.mark.parametrize("rows", [[], [kept(1, "o1")], many(30), many(400)], ids=["0", "1", "30", "400"])
def test_a_page_needs_nothing_else(rows: list[dict[str, object]]) -> None:
    """A page has no script, no address and no file of another, every tag is closed, and every id is there once."""
    html = page(reconciliation_report(reported(*rows)))
    found = Page(html)
    assert found.open == []
    tags = {tag for tag, _ in found.tags}
    assert tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "a"})
    attributes = [(name, value or "") for _, each in found.tags for name, value in each.items()]
    assert {name for name, _ in attributes}.isdisjoint({"src", "href", "xlink:href", "srcset", "style"})
    assert [name for name, _ in attributes if name.startswith("on")] == []
    assert re.search(rb"https?:|//[a-z]|@import|javascript:|data:", html) is None
    assert set(re.findall(rb"url\((.)", html)) <= {b"#"}
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = [part for name, value in attributes if name == "aria-labelledby" for part in value.split()]
    assert set(named) <= set(ids)


@pytest.mark.parametrize("rows", [[kept(1, "o1")], many(30)], ids=["1", "30"])
def test_charts_have_a_title_and_a_description(rows: list[dict[str, object]]) -> None:
    """Each chart is an image with a title and a description, and says where its numbers stand as a table."""
    found = Page(page(reconciliation_report(reported(*rows))))
    images = [each for tag, each in found.tags if tag == "svg" and each.get("role") == "img"]
    assert len(images) == 2
    titles = [each["id"] for tag, each in found.tags if tag in ("title", "desc") and "id" in each]
    assert [str(image["aria-labelledby"]).split() for image in images] == [titles[:2], titles[2:]]
    assert "".join(found.words).count("The table below has the same numbers.") == 2


def test_hostile_values_are_words(tmp_path: Path) -> None:
    """Whatever stands in an id, a reason or a file's name is shown as it is, and nothing of it acts."""
    history = pl.DataFrame(
        [{"break_id": 1, "number": 1, "at": at(3), "by": HOSTILE, "to_state": "open", "why": HOSTILE}],
        schema=HISTORY_SCHEMA,
    )
    row = kept(1, HOSTILE, account_id=HOSTILE, evidence=HOSTILE, transactions=[HOSTILE], order_status=HOSTILE)
    done = reported(
        row,
        withheld=pl.DataFrame([[HOSTILE, HOSTILE]], schema=WITHHELD_SCHEMA, orient="row"),
        parked=pl.DataFrame([[0, 1, HOSTILE, HOSTILE]], schema=PARKED.schema, orient="row"),
        history=history,
        source=HOSTILE,
        ledger_id=HOSTILE,
        asked={"order": HOSTILE},
        notes=[HOSTILE],
    )
    report = reconciliation_report(done)
    html = page(report)
    found = Page(html)
    assert found.open == []
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img"})
    shown = HOSTILE.encode("unicode_escape").decode()
    # Account, entry (title, account, order, transactions, evidence, log twice), two tables twice, facts and notes.
    assert "".join(found.words).count(shown) >= 13
    for content in (html, plain(report)):
        assert not {"\u202e", "\x00", "\x1b"} & set(content.decode())
    assert document(done, tmp_path)["breaks"][0]["order_id"] == HOSTILE


def test_nothing_wrong() -> None:
    """Without a break every form says so, and draws no chart."""
    report = reconciliation_report(reported(orders=3, transactions=4))
    html, text = page(report).decode(), plain(report).decode()
    assert "CLEAN: no break is open" in text
    assert re.search(r"^orders compared: +3$", text, re.MULTILINE)
    assert "There is none." in text
    assert "no break is open" in html
    assert 'role="img"' not in html


def test_totals_add_up(tmp_path: Path) -> None:
    """By day and by account the points come to the total, and each order counts once though it has two codes."""
    rows = many(200)
    done = reported(*rows, kept(900, "late", state="pending", points_at_risk=77), orders=500, transactions=600)
    found = document(done, tmp_path)
    orders: dict[str, int] = {}
    for row in rows:
        orders[str(row["order_id"])] = max(orders.get(str(row["order_id"]), 0), int(str(row["points_at_risk"])))
    totals = found["totals"]
    assert totals == {
        "orders": 500,
        "transactions": 600,
        "breaks_listed": len(rows) + 1,
        "breaks_open": len(rows),
        "orders_with_a_break": 200,
        "points_at_risk": sum(orders.values()),
        "pending": 1,
        "withheld": 0,
        "parked_orders": 0,
    }
    for name in ("by_day", "by_account", "by_age"):
        assert sum(each["points_at_risk"] for each in found[name]) == totals["points_at_risk"]
        assert sum(each["breaks"] for each in found[name]) == len(rows)
    assert sum(each["breaks"] for each in found["by_code"]) == len(rows)
    assert {each["state"]: each["breaks"] for each in found["by_state"]} == {"open": len(rows), "pending": 1}
    (chart, table) = _chart_of_days(done)
    assert sum(sum(values) for _, values in chart.series) == table["all"].sum() == totals["points_at_risk"]
    assert len(chart.series) == CODES_SHOWN_MAX + 1


@pytest.mark.parametrize("days_between", [1, 2, 37, 4_000])
def test_the_chart_over_time_stays_readable(days_between: int) -> None:
    """However long the time is, it is drawn in a bounded number of columns that lose no point."""
    done = reported(*many(100, days_between=days_between))
    chart, table = _chart_of_days(done)
    assert len(chart.labels) <= COLUMNS_MAX
    assert table["all"].sum() == break_rows.total(done.standing).points_at_risk
    starts = [datetime.fromisoformat(label) for label in chart.labels]
    assert len({after - before for before, after in pairwise(starts)}) == 1
    assert starts[-1] + (starts[1] - starts[0]) > at(24 * days_between * 29).replace(tzinfo=None)
    assert [part for part in drawn_columns(chart).parts if not (0 <= part.y <= part.y + part.height <= 100.001)] == []


def _chart_of_days(done: Reported) -> tuple[Columns, pl.DataFrame]:
    section = days(done.standing)
    assert isinstance(section.chart, Columns)
    assert section.table is not None
    return section.chart, section.table


def test_sums_past_int64() -> None:
    """Points of several orders that come to more than an int64 are added up and drawn all the same."""
    rows = [kept(number, f"o{number}", points_at_risk=2**63 - 1) for number in range(1, 4)]
    report = reconciliation_report(reported(*rows))
    words = f"{3 * (2**63 - 1):,}"
    assert words in plain(report).decode()
    assert page(report).decode().count(words) >= 3


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    """A page and a text have the first breaks and accounts, most points first, and say how many more there are."""
    rows = many(BREAKS_SHOWN_MAX)
    done = reported(*rows)
    report = reconciliation_report(done)
    rest = f"... and {len(rows) - BREAKS_SHOWN_MAX:,} more breaks: the report in JSON has all"
    html = page(report).decode()
    assert html.count("<h3>") == BREAKS_SHOWN_MAX
    for content in (html, plain(report).decode()):
        assert rest in content
        assert "... and 30 more with" in content
    points = [row["points_at_risk"] for row in document(done, tmp_path)["breaks"]]
    assert len(points) == len(rows)
    assert points == sorted(points, reverse=True)


def test_each_break_has_its_evidence(tmp_path: Path) -> None:
    """A break is told with both sides, where their events are, its age, and what happened to it."""
    history = pl.DataFrame(
        [
            {"break_id": 7, "number": 2, "at": at(4), "by": "eve", "to_state": "resolved", "resolution": "accepted"}
            | {"why": "agreed", "from_state": "open"},
            {"break_id": 7, "number": 1, "at": at(3), "by": "reconciliation", "to_state": "open", "why": "due"},
        ],
        schema=HISTORY_SCHEMA,
    )
    transactions = [f"t{number}" for number in range(12)]
    done = reported(
        kept(7, "o7", state="resolved", resolution="accepted"),
        kept(8, "o8", transactions=transactions, opened_at=NOW - timedelta(days=2, hours=3)),
        history=history,
    )
    text = plain(reconciliation_report(done)).decode()
    first, second = text[text.index("o8 (") :].split("\n\n")
    assert "o8 (amount_mismatch, open, 5 points at risk)" in first
    assert "5 points are not where they belong" in first
    assert "order: completed, 10 points, placed 2026-05-01T00:00:00.000000Z" in first
    assert "event of the order: partition 0, offset 7" in first
    assert "event of the ledger: position 3" in first
    assert "transactions: t0, t1, t2, t3, t4, t5, t6, t7, t8, t9 and 2 more" in first
    assert "age: 2 d 3 h" in first
    assert "age" not in second
    assert second.splitlines()[-2:] == [
        "  - 2026-05-01T03:00:00.000000Z open, by reconciliation: due",
        "  - 2026-05-01T04:00:00.000000Z resolved accepted, by eve: agreed",
    ]
    told = document(done, tmp_path)["breaks"]
    assert [change["number"] for change in told[1]["history"]] == [1, 2]
    assert (told[0]["history"], told[0]["transactions"]) == ([], transactions)


def test_doubts_are_told() -> None:
    """Orders that are withheld and records that cannot be read stand in the report by name, with their reasons."""
    withheld = pl.DataFrame({"order_id": [f"o{n}" for n in range(300)], "reason": "version 2 is missing"})
    parked = pl.DataFrame([[3, 9, None, "no such tag"]], schema=PARKED.schema, orient="row")
    report = reconciliation_report(reported(verdict="INCOMPLETE", withheld=withheld, parked=parked, notes=["see o0"]))
    text = plain(report).decode()
    assert "! see o0" in text
    assert re.search(r"^orders withheld: +300$", text, re.MULTILINE)
    assert re.search(r"^o0 +version 2 is missing$", text, re.MULTILINE)
    assert "... and 100 more rows: the report in JSON has all" in text
    assert "no such tag" in text
    assert report.document["withheld"].height == 300


def test_a_break_that_nobody_keeps_ages_from_its_deadline(tmp_path: Path) -> None:
    """Where nothing is kept a break counts from its deadline, or from its order where there is none."""
    rows = [
        kept(1, "o1", id=None, opened_at=None, deadline_at=NOW - timedelta(days=2)),
        kept(2, "o2", id=None, opened_at=None, deadline_at=None, order_at=NOW - timedelta(hours=2)),
    ]
    found = document(reported(*rows), tmp_path)
    assert {each["age"]: each["breaks"] for each in found["by_age"] if each["breaks"]} == {
        "under 1 day": 1,
        "under 7 days": 1,
    }
    assert [(row["age_seconds"], row["opened_at"]) for row in found["breaks"]] == [(172_800, None), (7_200, None)]


def test_columns_stand_on_each_other() -> None:
    """The parts of a column touch, come to its whole, and none is drawn for nothing."""
    drawn = drawn_columns(Columns("t", "d", [f"d{n}" for n in range(20)], [("a", [30] * 20), ("b", [10, 0] * 10)]))
    assert (drawn.top, drawn.middle, len(drawn.parts)) == ("40", "20", 30)
    first, second = drawn.parts[:2]
    assert (first.y + first.height, first.y, second.y) == (100, pytest.approx(second.y + second.height), 0)
    assert first.words == "d0, a: 30"
    assert [(label.words, label.anchor) for label in drawn.labels] == [
        ("d0", "start"),
        ("d9", "middle"),
        ("d19", "end"),
    ]
    assert drawn_columns(Columns("t", "d", ["d0", "d1"], [("a", [1, 1])])).labels[0].words == "d0 to d1"


def test_bars_are_as_long_as_their_number() -> None:
    """The longest bar has the whole width, and where there is nothing no bar has any."""
    bars = drawn_bars(Bars("t", "d", [("a", 4), ("b", 1), ("c", 0)], "break"))
    assert [(bar.width, bar.words) for bar in bars] == [(100, "4 breaks"), (25, "1 break"), (0, "0 breaks")]
    assert [bar.width for bar in drawn_bars(Bars("t", "d", [("a", 0)], "break"))] == [0]


@pytest.mark.parametrize(
    ("value", "top", "words"),
    [
        (0, 2, "2"),
        (1, 2, "2"),
        (5, 6, "6"),
        (9, 10, "10"),
        (10, 20, "20"),
        (999, 1_000, "1k"),
        (3_230, 4_000, "4k"),
        (2**63, 10**19, "10E"),
        (10**22, 2 * 10**22, "20,000E"),
    ],
)
def test_scales(value: int, top: int, words: str) -> None:
    """A scale ends at a number of one digit and zeros that is not below any value."""
    assert (rounded_up(value), short(top)) == (top, words)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.pdf"], "no report of this ending"),
        (["a"], "no report of this ending"),
        (["a.html", "a.html"], "two things would be written to one file"),
        (["out.json"], "two things would be written to one file"),
        (["folder.html"], "it is a folder"),
    ],
)
def test_files_that_no_report_goes_to(tmp_path: Path, names: list[str], reason: str) -> None:
    """A file of another ending, one that is named twice, and one that cannot be written are refused beforehand."""
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=reason):
        need_report_files([tmp_path / name for name in names], output=tmp_path / "out.json")
    need_report_files([tmp_path / "b.HTML", tmp_path / "b.txt", tmp_path / "new" / "b.json"])
