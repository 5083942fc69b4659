"""What a shadow of the store begins with, what it refuses, and that it reads no more than it needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import polars as pl
import pytest
from ledgers import NOW, append, change_event, change_row, lose_event, positions, write_history
from samples import account_stream, recorded
from shadows import is_fresh, stored, to_head
from sqlalchemy import delete, update

from consumers import project
from consumers.shadow import Start, StoreShadow
from ledger import Ledger, Store, read_model, shadows
from ledger.tables import EVENTS, GENERATIONS, IDENTITY, SHADOW_ACCOUNTS, SHADOWS
from replay import rebuild
from replay.checkpoint import Checkpoints
from replay.full_replay import CORE, replayed
from replay.store_source import StoreSource
from schemas import AMOUNT_MAX
from schemas.errors import RefusedError, UsageError


@pytest.fixture
def open_shadow(store: Store) -> Iterator[Callable[..., StoreShadow]]:
    """Opens a shadow that is closed at the end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(StoreShadow(store, **options)))


def interrupted(store: Store, folder: Path, position: int) -> Checkpoints:
    """The checkpoint that a rebuild left which was interrupted at a position."""
    checkpoints = Checkpoints(folder, store.ledger_id, CORE, every_events=1)
    with (
        StoreSource.snapshot(store, batch_events=1) as source,
        replayed(source, until=position, checkpoints=checkpoints),
    ):
        pass
    return checkpoints


def test_from_a_generation_it_begins_with_its_rows_and_goes_on(store, open_shadow):
    """A COMPLETE generation's rows and position are taken over, and only what is newer is applied."""
    write_history(store)
    built = rebuild(store, now=NOW)
    Ledger(store).credit("acc-2", "new", 5)
    shadow = open_shadow(start=Start(generation=built.generation))
    assert shadow.shadow.started_from == f"generation {built.generation}"
    assert stored(store).positions == {0: built.certificate.position}
    assert is_fresh(store)
    assert to_head(shadow)[1] == 1
    assert is_fresh(store)


def test_from_a_generation_that_moved_on_is_refused(store, open_shadow):
    """The certificate vouches for the rows at its own position only."""
    write_history(store)
    rebuild(store, promote=True, now=NOW)
    Ledger(store).credit("acc-2", "new", 5)
    project(store)
    with pytest.raises(RefusedError, match="moved on since its certificate"):
        open_shadow(start=Start(generation=1))


@pytest.mark.parametrize(
    "damage",
    [
        {"balance": 1},
        {"frozen": 1},
        {"pending_credit": 1},
        {"pending_debit": 1},
        {"status": "closed"},
        {"locked_at": "2026-01-01T00:00:00.000000Z"},
        {"status_version": 999_999},
        {"closed_version": 1},
        {"version": 1},
        {"chain": None},
        {"chain": bytes(32)},
        {"last_effective_at": "2026-01-01T00:00:00.000000Z"},
    ],
    ids=str,
)
def test_from_damaged_rows_is_refused(store, open_shadow, damage):
    """Rows that are not those of the certificate in any column are never taken over."""
    write_history(store)
    rebuild(store, now=NOW)
    change_row(store, "acc-2", **damage)
    with pytest.raises(RefusedError, match="cannot start from generation 1"):
        open_shadow(start=Start(generation=1))
    with store.snapshot() as connection:
        assert shadows.find(connection, "shadow") is None


def test_from_a_generation_of_an_earlier_version_is_refused(store, open_shadow):
    """Without a digest of all columns nobody knows whether all of them are right."""
    write_history(store)
    rebuild(store, now=NOW)
    with store.writing() as connection:
        certificate = json.loads(read_model.generations(connection)[0].certificate)
        del certificate["rows_digest"]
        connection.execute(update(GENERATIONS).values(certificate=json.dumps(certificate)))
    with pytest.raises(RefusedError, match="an earlier version made it"):
        open_shadow(start=Start(generation=1))


def test_from_an_incomplete_generation_is_refused(store, open_shadow):
    """Where the log was damaged the rows are not all there."""
    write_history(store)
    lose_event(store, "acc-2", 3)
    built = rebuild(store, now=NOW)
    with pytest.raises(RefusedError, match="it is INCOMPLETE"):
        open_shadow(start=Start(generation=built.generation))


def test_from_what_has_no_certificate_is_refused(store, open_shadow):
    """A generation that the projector began was never proved."""
    write_history(store)
    project(store)
    with pytest.raises(RefusedError, match="no certificate"):
        open_shadow(start=Start(generation=1))


def test_from_another_source_than_the_store_is_refused(store, open_shadow):
    """A generation rebuilt from a topic has no position in the store."""
    write_history(store)
    rebuild(store, now=NOW)
    with store.writing() as connection:
        certificate = read_model.generations(connection)[0].certificate
        changed = certificate.replace('"source":"store"', '"source":"topic"')
        connection.execute(update(GENERATIONS).values(certificate=changed))
    with pytest.raises(RefusedError, match="rebuilt from the topic"):
        open_shadow(start=Start(generation=1))


def test_from_what_is_not_there_is_an_error(store, open_shadow, tmp_path):
    """A generation or a checkpoint that nobody made is named."""
    with pytest.raises(UsageError, match="no generation 7"):
        open_shadow(start=Start(generation=7))
    with pytest.raises(UsageError, match="no checkpoint"):
        open_shadow(start=Start(checkpoints=Checkpoints(tmp_path, store.ledger_id, CORE)))


@pytest.mark.parametrize("position", [1, 12, 20, 33])
def test_from_a_checkpoint_it_begins_with_its_states_and_goes_on(store, open_shadow, tmp_path, position):
    """The states of an interrupted rebuild are taken over with their position."""
    write_history(store)
    checkpoints = interrupted(store, tmp_path, position)
    shadow = open_shadow(start=Start(checkpoints=checkpoints))
    assert stored(store).positions == {0: position}
    assert is_fresh(store)
    assert to_head(shadow)[1] == 33 - position
    assert is_fresh(store)


def test_what_waited_at_a_checkpoint_is_read_again(store, open_shadow, tmp_path):
    """Accounts that are parked in the checkpoint are parked in the shadow, and go on when what they wait for comes."""
    events = [*account_stream("a", 5), *account_stream("b", 6)]
    order = [0, 1, 3, 4, 5, 6, 7, 8, 9, 2, 10]
    append(store, *events)
    with store.writing() as connection:
        # The events stay what they are, and change places: version 3 of `a` comes near the end.
        for place, number in enumerate(order):
            event = events[number]
            is_one = (EVENTS.c.originator_id == event.account_id) & (EVENTS.c.originator_version == event.version)
            connection.execute(update(EVENTS).where(is_one).values(id=100 + place))
    checkpoints = interrupted(store, tmp_path, 107)
    shadow = open_shadow(start=Start(checkpoints=checkpoints), batch_events=1)
    assert stored(store).parked == {"a": (3, "version_gap")}
    while shadow.step().events:
        assert is_fresh(store)
    assert stored(store).parked == {}
    assert stored(store).rows["version"].to_list() == [5, 6]


def test_a_checkpoint_whose_events_changed_is_refused(store, open_shadow, tmp_path):
    """Events that are not those that the checkpoint was made of void it."""
    write_history(store)
    checkpoints = interrupted(store, tmp_path, 20)
    change_event(store, "acc-1", 2, state=b"{}")
    with pytest.raises(RefusedError, match="not those that the checkpoint was made of"):
        open_shadow(start=Start(checkpoints=checkpoints))


def test_a_sum_past_int64_parks_until_it_is_back(store, open_shadow):
    """A sum that leaves int64 parks its account at any batch size, and one that comes back is served again."""
    debit = {"type": "debit"}
    append(
        store,
        *account_stream("b", 2),
        *account_stream("a", 2),
        recorded("a", 3, AMOUNT_MAX),
        *[recorded("b", version) for version in range(3, 5)],
        recorded("a", 4, AMOUNT_MAX, **debit),
    )
    shadow, reasons = open_shadow(batch_events=1), set()
    while shadow.step().events:
        assert is_fresh(store)
        reasons.update(reason for _, reason in stored(store).parked.values())
    assert reasons == {"overflow"}
    assert stored(store).parked == {}


def test_a_store_that_lost_events_is_refused(store, open_shadow):
    """Below the shadow's position the store was put back from a backup: new events would pass for the lost ones."""
    write_history(store)
    shadow = open_shadow()
    to_head(shadow)
    last = max(positions(store, "acc-4").values())
    with store.writing() as connection:
        connection.execute(delete(EVENTS).where(EVENTS.c.id >= last - 3))
    with pytest.raises(RefusedError, match="lost events"):
        shadow.step()
    with pytest.raises(RefusedError, match="lost events"):
        open_shadow()


@pytest.mark.parametrize(
    ("columns", "what"),
    [({"source_id": "other"}, "another ledger"), ({"source": "topic", "topic": "events"}, "the topic 'events'")],
)
def test_a_shadow_of_something_else_is_refused(store, open_shadow, columns, what):
    """A name that is taken by a shadow of another source is not taken over, except by a restart."""
    write_history(store)
    to_head(open_shadow())
    with store.writing() as connection:
        connection.execute(update(SHADOWS).values(columns))
    with pytest.raises(RefusedError, match=what):
        open_shadow()
    to_head(open_shadow(restart=True))
    assert is_fresh(store)


def test_a_copied_database_that_became_another_ledger_is_refused(store, open_shadow):
    """The rows of another ledger's shadow say nothing of this one."""
    write_history(store)
    to_head(open_shadow())
    with store.writing() as connection:
        connection.execute(update(IDENTITY).values(ledger_id="other"))
    with closing(Store(store.url)) as other, pytest.raises(RefusedError, match="another ledger"):
        StoreShadow(other)


def test_far_behind_it_takes_larger_batches(store, open_shadow):
    """While more than a large batch is missing it takes those, and small ones near the head."""
    append(store, *account_stream("a", 100))
    shadow = open_shadow(batch_events=7, catch_up_events=30)
    assert [shadow.step().events for _ in range(6)] == [30, 30, 30, 7, 3, 0]
    assert is_fresh(store)


@pytest.mark.parametrize("batch_events", range(1, 8))
def test_what_cannot_be_read_of_a_parked_account_changes_nothing(store, open_shadow, batch_events):
    """More poison behind the first, in a batch without any event too, leaves the account parked where it was."""
    append(store, *account_stream("a", 7), *account_stream("b", 3))
    for version in (5, 6):
        change_event(store, "a", version, state=b'{"event":"zzz"}')
    shadow = open_shadow(batch_events=batch_events, catch_up_events=batch_events)
    while shadow.step().lag_events:
        assert is_fresh(store)
    assert stored(store).parked == {"a": (5, "poison_event")}


def test_no_more_than_one_batch_is_read_ahead(store, open_shadow):
    """Until a batch is asked for, one is there at most: a slow writer keeps the reader waiting, not the memory full."""
    append(store, *account_stream("a", 60))
    read: list[int] = []
    shadow = open_shadow(
        batch_events=5, catch_up_events=5, at=lambda point: read.append(1) if point == "read" else None
    )
    for steps in range(1, 8):
        shadow.step()
        assert len(read) <= steps + 1
    shadow.close()
    assert len(read) <= 8


def test_what_was_read_ahead_is_void_when_the_write_fails(store, open_shadow):
    """A write that fails leaves nothing behind: not in the rows, and not in what was folded on top of it."""
    write_history(store)
    fails = [False]

    def at(point: str) -> None:
        if point == "commit" and fails[0]:
            fails[0] = False
            raise ConnectionError("the database went away")

    shadow = open_shadow(batch_events=4, catch_up_events=4, at=at)
    shadow.step()
    for _ in range(3):
        before = stored(store)
        fails[0] = True
        with pytest.raises(ConnectionError):
            shadow.step()
        assert stored(store).rows.equals(before.rows)
        assert stored(store).positions == before.positions
        shadow.step()
        assert is_fresh(store)
    to_head(shadow)
    assert is_fresh(store)


def test_what_is_remembered_of_a_shadow_ends_with_it(store, open_shadow, tmp_path):
    """An instance that remembers damaged rows forgets them when its shadow is begun anew, at the same position too."""
    ledger = Ledger(store)
    write_history(store)
    to_head(open_shadow())
    with store.writing() as connection:
        connection.execute(update(SHADOW_ACCOUNTS).where(SHADOW_ACCOUNTS.c.account_id == "acc-2").values(balance=1))
    shadow = open_shadow()
    ledger.credit("acc-2", "one", 5)
    to_head(shadow)
    assert not is_fresh(store)
    with store.snapshot() as connection:
        head = store.head(connection)
    open_shadow(start=Start(checkpoints=interrupted(store, tmp_path, head)), restart=True)
    ledger.credit("acc-2", "two", 5)
    to_head(shadow)
    assert is_fresh(store)


def test_closed_it_leaves_no_thread(store, open_shadow):
    """Closing ends the thread that reads ahead."""
    write_history(store)
    shadow = open_shadow(batch_events=3, catch_up_events=3)
    shadow.step()
    shadow.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shadow-ahead")]


def test_what_waits_is_kept_by_shadow_and_account(store):
    """Events of a topic that wait are kept with their place, asked for by account, and dropped with their shadow."""
    schema = shadows.WAITING_SCHEMA
    events = pl.DataFrame(
        [("a", 3, 0, 10, b"x"), ("a", 4, 0, 11, b"y"), ("b", 2, 1, 5, b"z")], schema=schema, orient="row"
    )
    with store.writing() as connection:
        made = [
            shadows.create(
                connection,
                name=name,
                source="topic",
                source_id="id",
                topic="events",
                started_from="zero",
                positions={0: 0, 1: 7},
                created_at="now",
            )
            for name in ("one", "two")
        ]
        shadows.add_waiting(connection, made[0], events)
        assert shadows.waiting(connection, made[0]).sort("account_id", "version").equals(events)
        assert shadows.waiting(connection, made[0], ["b"]).equals(events.tail(1))
        assert shadows.waiting(connection, made[1]).is_empty()
        shadows.drop_waiting(connection, made[0], ["a"])
        assert shadows.waiting(connection, made[0]).equals(events.tail(1))
        assert shadows.positions(connection, made[0]) == {0: 0, 1: 7}
        shadows.advance(connection, made[0], 1, after=7, until=9)
        assert shadows.positions(connection, made[0]) == {0: 0, 1: 9}
        assert shadows.positions(connection, made[1]) == {0: 0, 1: 7}
        shadows.drop(connection, made[0])
        assert shadows.positions(connection, made[0]) == {}
        assert shadows.waiting(connection, made[0]).is_empty()
        assert shadows.find(connection, "one") is None
        assert shadows.find(connection, "two") == made[1]


def test_nobody_reads_while_a_batch_is_folded(store, open_shadow):
    """SQLite can begin its log anew then, so that it does not grow with every batch."""
    if not store.is_sqlite:
        pytest.skip("only the log of SQLite waits for those who read")
    write_history(store)
    busy = []

    def at(place: str) -> None:
        if place == "fold":
            with store.engine.connect() as connection:
                busy.append(connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])

    to_head(open_shadow(at=at))
    assert set(busy) == {0}
