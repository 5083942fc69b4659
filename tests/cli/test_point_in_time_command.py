"""`balances --as-of` and `--recorded-as-of` by the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from topic_asked import ask, held, publish_to

from ledger import Ledger
from ledger.store import Store
from schemas import decode
from tests.cli.conftest import NOW, Run

#: When dora's events happened and when they were recorded: the last two were brought in late.
TIMES = {
    "open": ("04-01", "04-01"),
    "credit": ("04-02", "04-02"),
    "debit": ("04-03", "04-10"),
    "lock": ("04-05", "04-20"),
}
WORDS: dict[str, tuple[Any, ...]] = {"credit": ("dora-1", 100), "debit": ("dora-2", 30)}


def at(day: str) -> datetime:
    """Return midnight of a day of the year of these tests."""
    return datetime.fromisoformat(f"2026-{day}T00:00:00Z").astimezone(UTC)


@pytest.fixture
def dora(tmp_path: Path) -> Path:
    """A folder with a ledger of one account, with events that were recorded long after they happened."""
    folder = tmp_path / "dora"
    store = Store.at(folder)
    for name, (happened, known) in TIMES.items():
        ledger = Ledger(store, clock=partial(at, known))
        getattr(ledger, name)("dora", *WORDS.get(name, ()), effective_at=at(happened))
    store.close()
    return folder


def balances_of(run: Run, folder: Path, *words: str) -> list[tuple[int, str, int]]:
    """Return balance, status and version of each row of a whole answer."""
    said = run("balances", "--data", folder, "--now", NOW, "--json", *words)
    assert (said.status, said.document["verdict"], said.err) == (0, "COMPLETE", "")
    return [(row["balance"], row["status"], row["version"]) for row in said.document["accounts"]]


def test_each_clock_and_both(run: Run, dora: Path) -> None:
    """A late event counts by the clock that was asked, beside --at too, and a date is its UTC midnight."""
    assert balances_of(run, dora, "--as-of", "2026-04-03") == [(70, "active", 3)]
    assert balances_of(run, dora, "--as-of", "2026-04-02T23:59:59.999999Z") == [(100, "active", 2)]
    assert balances_of(run, dora, "--recorded-as-of", "2026-04-19") == [(70, "active", 3)]
    assert balances_of(run, dora, "--recorded-as-of", "2026-04-20") == [(70, "locked", 4)]
    assert balances_of(run, dora, "--as-of", "2026-04-05", "--recorded-as-of", "2026-04-09") == [(100, "active", 2)]
    assert balances_of(run, dora, "--as-of", "2026-04-04", "--recorded-as-of", "2026-04-20") == [(70, "active", 3)]
    assert balances_of(run, dora, "--as-of", "2026-04-05", "--at", "2") == [(100, "active", 2)]
    assert balances_of(run, dora, "dora", "--as-of", "2026-03-31") == []


def test_the_document_says_what_was_asked(run: Run, dora: Path) -> None:
    """The watermark stands beside the verdict, the moment in the certificate, null on a clock that was not asked."""
    said = run("balances", "--data", dora, "--now", NOW, "--as-of", "2026-04-03T08:00:00+08:00", "--json").document
    assert said["watermark"] == "2026-05-01T00:00:00.000000Z"
    certificate = said["certificate"]
    assert (certificate["as_of"], certificate["recorded_as_of"]) == ("2026-04-03T00:00:00.000000Z", None)
    assert certificate["events"] == 4


def test_people_read_what_was_asked(run: Run, dora: Path) -> None:
    """The summary names the moment of each clock that was asked, and the watermark."""
    words = ("--as-of", "2026-04-03", "--recorded-as-of", "2026-04-20")
    said = run("balances", "--data", dora, "--now", NOW, *words).out
    assert (
        "counted is what happened up to 2026-04-03T00:00:00.000000Z and was recorded up to "
        "2026-04-20T00:00:00.000000Z; the watermark is 2026-05-01T00:00:00.000000Z\n"
    ) in said
    without = run("balances", "--data", dora, "--now", NOW).out.splitlines()
    assert without[0].endswith("up to position 4")
    assert without[2] == "the watermark is 2026-05-01T00:00:00.000000Z"


def test_a_position_beside_a_moment_is_said(run: Run, dora: Path) -> None:
    """Who asks for both is told that only the events up to the position were looked at."""
    said = run("balances", "--data", dora, "--now", NOW, "--at", "2", "--as-of", "2026-04-20")
    assert said.status == 0
    assert "of the events up to position 2 alone; the watermark" in said.out
    assert "alone" not in run("balances", "--data", dora, "--now", NOW, "--as-of", "2026-04-20").out


def test_the_document_says_why_there_is_no_row(run: Run, dora: Path) -> None:
    """A document without rows for a moment past the watermark has the sentence that people read."""
    said = run("balances", "--data", dora, "--now", NOW, "--as-of", "2099-01-01", "--json")
    assert said.status == 3
    assert "known to be whole only up to the watermark" in said.document["reason"]
    assert "reason" not in run("balances", "--data", dora, "--now", NOW, "--json").document


@pytest.mark.parametrize("option", ["--as-of", "--recorded-as-of"])
def test_a_moment_past_the_watermark_is_incomplete(run: Run, dora: Path, option: str) -> None:
    """Status 3, no row in any form, and one line that says why and what to do."""
    words = ("balances", "--data", dora, "--now", NOW, option, "2026-05-01T00:00:00.000001Z")
    said = run(*words, "--json")
    assert (said.status, said.document["verdict"], said.document["accounts"]) == (3, "INCOMPLETE", [])
    assert said.document["watermark"] == "2026-05-01T00:00:00.000000Z"
    said = run(*words)
    assert said.status == 3
    assert said.out.count("\n") == 1
    assert said.out.startswith("INCOMPLETE: no balance is given for what ")
    assert "the watermark 2026-05-01T00:00:00.000000Z: ask for a moment up to then" in said.out
    assert run(*words, "--format", "csv").out.count("\n") == 1


def test_a_time_without_a_zone_is_taken_in_the_configured_one(run: Run, dora: Path) -> None:
    """Both options follow the zone of the configuration, and that is said once."""
    (dora / "ledger-replay.toml").write_text('[import]\ntimezone = "Asia/Shanghai"\n')
    words = ("--as-of", "2026-04-03T08:00", "--recorded-as-of", "2026-04-20T08:00")
    said = run("balances", "--data", dora, "--now", NOW, "--json", *words)
    assert said.err == "note: times without a zone are taken in Asia/Shanghai\n"
    certificate = said.document["certificate"]
    assert certificate["as_of"] == "2026-04-03T00:00:00.000000Z"
    assert certificate["recorded_as_of"] == "2026-04-20T00:00:00.000000Z"


def from_topic(dora: Path, monkeypatch: pytest.MonkeyPatch, published: int) -> None:
    """Have the command read the ledger's first events from a topic in memory, published so far."""
    store = Store.at(dora)
    with store.snapshot() as connection:
        (raw,) = store.read(connection, after=0, until=published)
    on_topic = held([decode(state, position=at) for at, state in enumerate(raw["state"], start=1)])
    publish_to(store, published)
    store.close()

    def asked(store: Store, _: object, __: str, accounts: list[str], **options: Any) -> object:
        return ask(store, on_topic, accounts, **options)

    monkeypatch.setattr("replay.topic.balances_from_topic", asked)


def on_topic_of(run: Run, dora: Path) -> Callable[..., Any]:
    """Return what runs the command on the topic."""
    words = ("balances", "--data", dora, "--from", "topic", "--bootstrap-servers", "nowhere:1", "--now", NOW)
    return lambda *more: run(*words, *more)


def test_a_topic_answers_as_the_store(run: Run, dora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --from topic the same options give the same rows, digest and words."""
    from_topic(dora, monkeypatch, 4)
    words = ("--as-of", "2026-04-05", "--recorded-as-of", "2026-04-10")
    said = on_topic_of(run, dora)(*words, "--json").document
    store = run("balances", "--data", dora, "--now", NOW, *words, "--json").document
    assert (said["verdict"], said["accounts"]) == ("COMPLETE", store["accounts"])
    for name in ("digest", "as_of", "recorded_as_of"):
        assert said["certificate"][name] == store["certificate"][name]
    assert "counted is what happened up to 2026-04-05" in on_topic_of(run, dora)(*words).out


def test_a_topic_that_lags_says_what_to_do(run: Run, dora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment when an unpublished event was recorded is past the watermark; with --at there is no watermark at all."""
    from_topic(dora, monkeypatch, 3)
    ask_topic = on_topic_of(run, dora)
    assert ask_topic("--as-of", "2026-04-19").status == 0
    said = ask_topic("--as-of", "2026-04-20")
    assert said.status == 3
    assert "whole only up to the watermark 2026-04-19T23:59:59.999999Z: ask for a moment up to then, or" in said.out
    assert "`publish`" in said.out
    said = ask_topic("--as-of", "2026-04-19", "--at", "0:3,1:0,2:0")
    assert said.status == 3
    assert "without --at" in said.out
