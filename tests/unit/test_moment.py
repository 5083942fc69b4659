"""Balances as of a moment of the store: which events count, and when there is no answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from ledgers import append, lose_event
from samples import opened, recorded

from ledger import Store
from replay import StoreSource, balances, replayed
from replay.checkpoint import Checkpoints
from replay.digest import digest
from replay.full_replay import CORE
from replay.moment import Moment
from schemas import AccountLocked, AccountUnlocked, Event, TransactionStatusChanged, event_id
from schemas.errors import UsageError

#: What happened on a day was recorded at noon of the same day, unless a test says otherwise.
DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 10)]
NOW = datetime(2026, 2, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def on(day: int, event: Event, *, known_on: int | None = None) -> Event:
    """Return an event that happened on a day, and was recorded at noon of that day or of another."""
    known = DAYS[day if known_on is None else known_on] + timedelta(hours=12)
    return msgspec.structs.replace(event, effective_at=DAYS[day], recorded_at=known)


def of_account(kind: type[Event], version: int) -> Event:
    """Return an event of alice's account."""
    key = {"event_id": event_id("alice", version), "account_id": "alice", "version": version}
    return kind(**key, effective_at=DAYS[0], recorded_at=DAYS[0])


def asked(store: Store, *account_ids: str, **options: Any) -> dict[str, Any]:
    """Return alice's row as of a moment, empty where she has none; the answer must be whole."""
    found = balances(store, account_ids, now=NOW, **options)
    assert found.verdict == "COMPLETE"
    return {row["account_id"]: row for row in found.rows.to_dicts()}.get("alice", {})


def balance(store: Store, **options: Any) -> int | None:
    """Return alice's balance as of a moment, None where she has no row."""
    return asked(store, **options).get("balance")


@pytest.mark.parametrize("clock", ["as_of", "recorded_as_of"])
def test_both_clocks_are_inclusive(store, clock):
    """An event counts at its own time by the clock that was asked, and a microsecond before it does not."""
    noon = timedelta(hours=12) if clock == "recorded_as_of" else timedelta()
    append(store, on(1, opened("alice")), on(2, recorded("alice", 2, 100)), on(2, recorded("alice", 3, 7)))
    assert balance(store, **{clock: DAYS[2] + noon - MICROSECOND}) == 0
    assert balance(store, **{clock: DAYS[2] + noon}) == 107
    assert balance(store, **{clock: DAYS[1] + noon - MICROSECOND}) is None


def test_late_events_count_by_the_clock_that_was_asked(store):
    """What happened on day 2 and was recorded on day 5 is there on day 3 by the one clock and not by the other."""
    append(store, on(1, opened("alice")), on(4, recorded("alice", 2, 100)), on(2, recorded("alice", 3, 7), known_on=5))
    assert balance(store, as_of=DAYS[3]) == 7
    assert balance(store, recorded_as_of=DAYS[3]) == 0
    assert balance(store, recorded_as_of=DAYS[5]) == 100
    assert balance(store, recorded_as_of=DAYS[6]) == 107


def test_what_was_known_then_of_another_day(store):
    """Both clocks together count what had happened by the one and was known by the other."""
    append(store, on(1, opened("alice")), on(4, recorded("alice", 2, 100)), on(2, recorded("alice", 3, 7), known_on=5))
    assert balance(store, as_of=DAYS[3], recorded_as_of=DAYS[5]) == 0
    assert balance(store, as_of=DAYS[3], recorded_as_of=DAYS[6]) == 7
    assert balance(store, as_of=DAYS[4], recorded_as_of=DAYS[5]) == 100
    assert balance(store, as_of=DAYS[4], recorded_as_of=DAYS[6]) == 107


def test_version_and_last_time_are_of_what_counts(store):
    """A row says the last version and the last time among the events that count, not of the account's end."""
    append(store, on(1, opened("alice")), on(4, recorded("alice", 2, 100)), on(2, recorded("alice", 3, 7)))
    row = asked(store, recorded_as_of=DAYS[3])
    assert (row["version"], row["last_effective_at"], row["balance"]) == (3, DAYS[2], 7)
    row = asked(store, as_of=DAYS[1])
    assert (row["version"], row["last_effective_at"], row["balance"]) == (1, DAYS[1], 0)


def test_a_pending_transaction_is_pending_until_it_is_completed(store):
    """Pending from its first time and completed from its second, both inclusive."""
    first = recorded("alice", 2, 100, to_status="pending")
    key = {
        "event_id": event_id("alice", 3),
        "account_id": "alice",
        "version": 3,
        "transaction_id": first.transaction_id,
    }
    times = {"effective_at": DAYS[0], "recorded_at": DAYS[0]}
    change = {"type": "credit", "amount": 100, "from_status": "pending", "to_status": "completed"}
    append(store, on(1, opened("alice")), on(2, first), on(4, TransactionStatusChanged(**key, **times, **change)))
    found = [asked(store, as_of=day) for day in DAYS[1:6]]
    assert [(row["balance"], row["pending_credit"]) for row in found] == [
        (0, 0),
        (0, 100),
        (0, 100),
        (100, 0),
        (100, 0),
    ]


def test_status_is_the_last_by_version_of_what_counts(store):
    """A lock holds from its time until the unlock's; of those that count, the last version wins, dated back or not."""
    lock, unlock = of_account(AccountLocked, 2), of_account(AccountUnlocked, 3)
    append(store, on(1, opened("alice")), on(3, lock), on(5, unlock), on(4, of_account(AccountLocked, 4), known_on=7))
    assert [asked(store, as_of=day)["status"] for day in DAYS[1:7]] == ["active", "active", *["locked"] * 4]
    known = [asked(store, recorded_as_of=day + timedelta(hours=12))["status"] for day in DAYS[1:8]]
    assert known == ["active", "active", "locked", "locked", "active", "active", "locked"]


def test_a_position_says_what_is_read_and_a_moment_what_counts(store):
    """Events after the position are not there, and of those before it only the ones of the moment count."""
    append(store, on(1, opened("alice")), on(4, recorded("alice", 2, 100)), on(2, recorded("alice", 3, 7)))
    assert [balance(store, at=at, as_of=DAYS[3]) for at in (1, 2, 3)] == [0, 0, 7]
    assert [balance(store, at=at, as_of=DAYS[4]) for at in (1, 2, 3)] == [0, 100, 107]


def test_an_account_without_an_event_yet_is_no_error(store):
    """A known account has no row before its first event, and one that the ledger never saw is named."""
    append(store, on(3, opened("alice")), on(1, opened("bob")))
    assert asked(store, "alice", as_of=DAYS[2]) == {}
    assert balances(store, ["alice", "bob"], as_of=DAYS[2], now=NOW).rows["account_id"].to_list() == ["bob"]
    with pytest.raises(UsageError, match="nobody"):
        balances(store, ["nobody"], as_of=DAYS[2], now=NOW)


@pytest.mark.parametrize("clock", ["as_of", "recorded_as_of"])
def test_a_moment_past_the_watermark_has_no_rows(store, clock):
    """What may still be appended is not answered for: INCOMPLETE after the watermark, and whole up to it."""
    append(store, on(1, opened("alice")), on(2, recorded("alice", 2, 100)))
    found = balances(store, now=NOW, **{clock: NOW + MICROSECOND})
    assert (found.verdict, found.rows.height, found.watermark) == ("INCOMPLETE", 0, NOW)
    assert found.is_past_watermark
    assert found.certificate.digest == digest(found.rows)
    other = "recorded_as_of" if clock == "as_of" else "as_of"
    assert balances(store, now=NOW, **{clock: NOW + MICROSECOND, other: DAYS[3]}).verdict == "INCOMPLETE"
    assert balance(store, **{clock: NOW}) == 100


def test_a_quiet_ledger_is_whole_until_now(store):
    """Where nothing was appended for years, the moment that was just now has an answer without a clock being given."""
    append(store, on(1, opened("alice")), on(2, recorded("alice", 2, 100)))
    before = datetime.now(UTC)
    found = balances(store, as_of=before, recorded_as_of=before)
    assert (found.verdict, found.rows["balance"].to_list()) == ("COMPLETE", [100])
    assert before <= found.watermark <= datetime.now(UTC)


def test_the_watermark_is_before_the_snapshot(store, monkeypatch):
    """What is appended while a replay runs is not in it, so its watermark is not after that either."""
    append(store, on(1, opened("alice")))
    snapshot = StoreSource.snapshot
    opened_at = []

    def noted(*words: Any, **options: Any) -> Any:
        opened_at.append(datetime.now(UTC))
        return snapshot(*words, **options)

    monkeypatch.setattr(StoreSource, "snapshot", noted)
    assert balances(store).watermark <= opened_at[0]


def test_holes_are_judged_over_everything(store):
    """An account with a lost event is parked at any moment, also where the hole is after it."""
    append(store, *(on(day, event) for day, event in enumerate([opened("alice"), recorded("alice", 2, 5)], start=1)))
    append(store, on(1, opened("bob")))
    lose_event(store, "alice", 2)
    found = balances(store, as_of=DAYS[1], now=NOW)
    assert (found.verdict, found.rows["account_id"].to_list()) == ("INCOMPLETE", ["bob"])
    assert [parked.reason for parked in found.certificate.parked] == ["head_mismatch"]
    assert not found.is_past_watermark


def test_a_certificate_names_the_moment_and_counts_every_event(store):
    """Both clocks stand in it in UTC, null where they were not asked; events are those let through the gate."""
    append(store, on(1, opened("alice")), on(2, recorded("alice", 2, 100)))
    shanghai = DAYS[1].astimezone(timezone(timedelta(hours=8)))
    fields = balances(store, as_of=shanghai, now=NOW).certificate.to_builtins()
    assert (fields["as_of"], fields["recorded_as_of"]) == ("2026-01-02T00:00:00.000000Z", None)
    assert (fields["events"], fields["accounts"]) == (2, 1)
    fields = balances(store, recorded_as_of=DAYS[1], now=NOW).certificate.to_builtins()
    assert (fields["as_of"], fields["recorded_as_of"]) == (None, "2026-01-02T00:00:00.000000Z")
    fields = balances(store, now=NOW).certificate.to_builtins()
    assert (fields["as_of"], fields["recorded_as_of"]) == (None, None)


@pytest.mark.parametrize("clock", ["as_of", "recorded_as_of"])
def test_a_moment_without_a_zone_is_refused(store, clock):
    """Which moment it is nobody knows, so it is named and not guessed."""
    with pytest.raises(UsageError, match=rf"^{clock} 2026-01-01T00:00:00"):
        balances(store, **{clock: DAYS[0].replace(tzinfo=None)})


def test_a_run_of_a_moment_has_no_checkpoints(store, tmp_path):
    """What a moment folded is never taken for what a full run folded, nor the other way round."""
    append(store, on(1, opened("alice")), on(2, recorded("alice", 2, 100)))
    checkpoints = Checkpoints(tmp_path, "ledger", CORE, every_events=1)

    def balance_of(moment: Moment | None) -> int:
        with StoreSource.snapshot(store) as source, replayed(source, moment=moment, checkpoints=checkpoints) as found:
            return found.rows["balance"].item()

    assert balance_of(Moment(effective=DAYS[1])) == 0
    assert not checkpoints.path.exists()
    assert balance_of(None) == 100
    assert checkpoints.path.exists()
    assert balance_of(Moment(effective=DAYS[1])) == 0


def test_moments_have_names_of_their_own():
    """Every moment gives another name, the clocks among themselves too, and none has a colon."""
    clocks = [None, DAYS[1], DAYS[1] + MICROSECOND, DAYS[2]]
    names = {Moment(effective=effective, recorded=known).name for effective in clocks for known in clocks}
    assert len(names) == len(clocks) ** 2
    assert not any(":" in name or "/" in name for name in names)
