"""Checkpoints: an interrupted run goes on where it was, and nothing that is damaged or of another run is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from ledgers import append, lose_event, write_history
from samples import account_stream
from streams import at, broken, events_of

from ledger import Store
from projections import ACCOUNT_STATUS, BALANCES, INTEGRITY, TRANSACTIONS
from replay import Gate, StoreSource, rebuild, replayed
from replay.checkpoint import Checkpoint, Checkpoints
from replay.states import States

PROJECTIONS = (BALANCES, ACCOUNT_STATUS, TRANSACTIONS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with a history, an account with a hole, and one that goes on after it."""
    store = Store.at(tmp_path)
    write_history(store)
    append(store, *account_stream("hole", 5), *account_stream("last", 3))
    lose_event(store, "hole", 2)
    yield store
    store.close()


def checkpoint_of(rows, spill: Path, position: int = 7) -> Checkpoint:
    """The checkpoint of a gate and states that were fed with some rows."""
    events, poison = events_of(rows)
    gate, states = Gate(), States([BALANCES, ACCOUNT_STATUS], spill=spill)
    admitted = gate.admit(events, poison)
    states.add(admitted)
    gate.let_go.add("gone")
    return Checkpoint.of(position, admitted.height, gate, states)


def saved(folder: Path, spill: Path, ledger_id: str = "this", **options) -> Checkpoints:
    """Checkpoints of one kind of run with one saved."""
    checkpoints = Checkpoints(folder, ledger_id, (BALANCES, ACCOUNT_STATUS), **options)
    checkpoints.save(checkpoint_of([*at("a", 1, 2, 2, 4), broken("b", 1), *at("b", 2)], spill))
    return checkpoints


def test_what_is_saved_is_what_is_loaded(tmp_path):
    """Position, gate and states come back as they were: what waits, what repeated, what is poison, what was let go."""
    before = checkpoint_of([*at("a", 1, 2, 2, 4), broken("b", 1), *at("b", 2)], tmp_path)
    checkpoints = saved(tmp_path, tmp_path)
    found = checkpoints.load(100)
    assert found is not None
    assert (found.position, found.events) == (7, 2)
    gate, expected = found.gate(), before.gate()
    assert gate.last.equals(expected.last)
    assert gate.waiting is not None
    assert gate.waiting.equals(expected.waiting)
    assert sorted(gate.waiting.select("account_id", "version").rows()) == [("a", 4), ("b", 2)]
    assert gate.repeats.rows() == [("a", 2)]
    assert [(poison.account_id, poison.position) for poison in gate.poison] == [("b", 5)]
    assert gate.let_go == {"gone"}
    restored = States([BALANCES, ACCOUNT_STATUS], spill=tmp_path)
    restored.restore(found.states())
    assert restored.value(BALANCES).select("account_id", "balance", "version").rows() == [("a", 20, 2)]


@pytest.mark.parametrize("place", [0, 31, 32, 40, -1], ids=str)
def test_a_damaged_checkpoint_is_not_used(tmp_path, place):
    """A flipped bit anywhere in the file, hash or content, is seen."""
    checkpoints = saved(tmp_path, tmp_path)
    data = bytearray(checkpoints.path.read_bytes())
    data[place] ^= 1
    checkpoints.path.write_bytes(data)
    assert checkpoints.load(100) is None


@pytest.mark.parametrize("kept", [0, 10, 32, 100], ids=str)
def test_a_cut_off_checkpoint_is_not_used(tmp_path, kept):
    """A file of which only a part is there, even none of it, is seen."""
    checkpoints = saved(tmp_path, tmp_path)
    checkpoints.path.write_bytes(checkpoints.path.read_bytes()[:kept])
    assert checkpoints.load(100) is None


def test_a_checkpoint_of_another_ledger_is_not_used(tmp_path):
    """A file of another ledger under this one's name is seen."""
    other = saved(tmp_path, tmp_path, "other")
    this = Checkpoints(tmp_path, "this", (BALANCES, ACCOUNT_STATUS))
    assert this.path != other.path
    other.path.rename(this.path)
    assert this.load(100) is None


@pytest.mark.parametrize("projections", [(BALANCES,), PROJECTIONS], ids=["fewer", "more"])
def test_a_checkpoint_of_other_projections_is_not_used(tmp_path, projections):
    """A run that folds anything else begins from zero."""
    saved(tmp_path, tmp_path)
    assert Checkpoints(tmp_path, "this", projections).load(100) is None


def test_a_checkpoint_past_the_end_asked_for_is_not_used(tmp_path):
    """A run until an earlier position begins from zero, since a state cannot be taken back."""
    checkpoints = saved(tmp_path, tmp_path)
    assert checkpoints.load(6) is None
    assert checkpoints.load(7) is not None


def test_a_checkpoint_is_gone_when_cleared(tmp_path):
    """Clearing removes the file, and does nothing where there is none."""
    checkpoints = saved(tmp_path, tmp_path)
    checkpoints.clear()
    checkpoints.clear()
    assert checkpoints.load(100) is None


def test_a_kill_between_writing_and_renaming_leaves_the_one_before(tmp_path):
    """A half-written new file beside the checkpoint changes nothing."""
    checkpoints = saved(tmp_path, tmp_path)
    checkpoints.path.with_suffix(".new").write_bytes(b"half")
    found = checkpoints.load(100)
    assert found is not None
    checkpoints.save(checkpoint_of(at("a", 1), tmp_path, position=9))
    again = checkpoints.load(100)
    assert again is not None
    assert (found.position, again.position) == (7, 9)


def test_it_is_due_every_so_many_events(tmp_path):
    """Events are counted from the last checkpoint, also from one that was loaded."""
    checkpoints = saved(tmp_path, tmp_path, every_events=10)
    assert [checkpoints.is_due(position) for position in (7, 16, 17, 30)] == [False, False, True, True]
    fresh = Checkpoints(tmp_path, "this", (BALANCES, ACCOUNT_STATUS), every_events=10)
    assert fresh.is_due(10)
    assert fresh.load(100) is not None
    assert [fresh.is_due(position) for position in (16, 17)] == [False, True]


class Killed(BaseException):
    """Stands for a kill: no code of ours catches it."""


@pytest.mark.parametrize(
    ("batches", "memory_rows_max"), [(1, 2_000_000), (4, 2_000_000), (2, 1)], ids=["early", "late", "spilled"]
)
def test_a_run_that_is_cut_off_goes_on_to_the_same_end(store, tmp_path, monkeypatch, batches, memory_rows_max):
    """A run from a checkpoint ends with the rows, state and certificate of a run from zero, and says where it began."""
    monkeypatch.setattr("replay.states.MEMORY_ROWS_MAX", memory_rows_max)

    def run(checkpoints, progress=None):
        with (
            StoreSource.snapshot(store, batch_events=8) as source,
            replayed(source, [INTEGRITY], checkpoints=checkpoints, progress=progress) as replay,
        ):
            state = replay.states.value(INTEGRITY).sort("account_id", "transaction_id")
            return replay.certificate, replay.rows, state

    def checkpoints() -> Checkpoints:
        return Checkpoints(tmp_path, store.ledger_id, (BALANCES, ACCOUNT_STATUS, INTEGRITY), every_events=1)

    whole, rows, state = run(None)
    left = iter(range(batches))

    def kill(done: int, total: int | None) -> None:
        if next(left, None) is None:
            raise Killed

    with pytest.raises(Killed):
        run(checkpoints(), kill)
    resumed, resumed_rows, resumed_state = run(checkpoints())
    assert resumed.resumed_from is not None
    assert resumed.resumed_from >= 8 * batches
    assert resumed.to_builtins() | {"resumed_from": None} == whole.to_builtins()
    assert whole.resumed_from is None
    assert [parked.account_id for parked in resumed.parked] == ["hole"]
    assert resumed_rows.equals(rows)
    assert resumed_state.equals(state)


@pytest.mark.parametrize("change", ["mend", "flip", "lose"])
def test_a_checkpoint_of_events_that_changed_is_not_used(store, tmp_path, change):
    """Where an event behind the checkpoint was mended, flipped or lost since, the run starts from zero."""
    checkpoints = Checkpoints(tmp_path, store.ledger_id, (BALANCES, ACCOUNT_STATUS), every_events=1)
    with StoreSource.snapshot(store, batch_events=4) as source, replayed(source, checkpoints=checkpoints):
        assert checkpoints.path.exists()
    with store.writing() as connection:
        connection.exec_driver_sql(
            {
                "mend": "DELETE FROM stored_events WHERE originator_id = 'hole'",
                "flip": "UPDATE stored_events SET state = replace(state, '1', '2') WHERE id = 2",
                "lose": "DELETE FROM stored_events WHERE id = 2",
            }[change]
        )
    resumed = rebuild(store, checkpoint_folder=tmp_path).certificate
    assert resumed.resumed_from is None
    assert resumed == rebuild(store).certificate


def test_a_rebuild_that_is_done_leaves_no_checkpoint(store, tmp_path):
    """The file goes when its run is done."""
    rebuild(store, checkpoint_folder=tmp_path / "checkpoints")
    folder = tmp_path / "checkpoints"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_restart_begins_from_zero(store, tmp_path):
    """With `restart` a checkpoint that is there is not used; without, it is."""
    for restart in (True, False):
        checkpoints = Checkpoints(tmp_path, store.ledger_id, (BALANCES, ACCOUNT_STATUS), every_events=1)
        with StoreSource.snapshot(store, batch_events=4) as source, replayed(source, checkpoints=checkpoints):
            assert checkpoints.path.exists()
        found = rebuild(store, checkpoint_folder=tmp_path, restart=restart)
        assert (found.certificate.resumed_from is None) is restart


def test_the_state_of_nothing_can_be_saved(tmp_path):
    """A checkpoint before any event has come through is whole too."""
    checkpoints = Checkpoints(tmp_path, "this", (BALANCES, ACCOUNT_STATUS))
    checkpoints.save(checkpoint_of(at("a", 2), tmp_path, position=1))
    found = checkpoints.load(1)
    assert found is not None
    restored = States([BALANCES, ACCOUNT_STATUS], spill=tmp_path)
    restored.restore(found.states())
    assert restored.value(BALANCES).equals(pl.DataFrame(schema=BALANCES.schema))
