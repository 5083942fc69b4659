"""Far behind, a shadow's batches are made in a process of its own: the same rows, the same errors, and no hang."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from ledgers import append, change_event
from samples import account_stream
from shadows import is_fresh, stored, to_head
from sqlalchemy import delete, update

import consumers.shadow_batches
import consumers.shadow_process
from consumers.shadow import StoreShadow
from consumers.shadow_process import ReadingProcess
from consumers.shadow_reading import Reading
from ledger import Store
from ledger.tables import EVENTS, SHADOW_ACCOUNTS

ROOT = Path(__file__).parents[2]
STARTED_SECONDS_MAX = 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with 120 events of 8 accounts that come in turns."""
    store = Store.at(tmp_path)
    streams = [account_stream(f"account-{number}", 15) for number in range(8)]
    append(store, *(event for turn in zip(*streams, strict=True) for event in turn))
    yield store
    store.close()


@pytest.fixture
def open_shadow(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StoreShadow]]:
    """Opens a shadow that takes small batches and is far behind by 20 events already; it is closed at the end."""
    monkeypatch.setattr(consumers.shadow_batches, "PROCESS_EVENTS_MIN", 20)
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            closing(StoreShadow(store, **{"batch_events": 7, "catch_up_events": 7, **options}))
        )


def with_process(shadow: StoreShadow) -> ReadingProcess:
    """Take the first batches of a shadow, until one ahead was made in its process."""
    shadow.step()
    process = shadow._batches.process
    assert process is not None
    assert select.select([process.process.stdout], [], [], STARTED_SECONDS_MAX)[0]
    # The batch that is ahead was begun before.
    shadow.step()
    shadow.step()
    assert process._last is not None
    return process


def lose_events_after(store: Store, position: int) -> None:
    """Delete what is in the store after a position."""
    with store.writing() as connection:
        connection.execute(delete(EVENTS).where(EVENTS.c.id > position))


def test_its_rows_are_those_of_a_fresh_replay(store, open_shadow):
    """Step by step, poison and what waits behind it too; steps say how many events, and when they were recorded."""
    change_event(store, "account-3", 6, state=b"{}")
    passed: list[str] = []
    shadow = open_shadow(at=passed.append)
    process = with_process(shadow)
    while (step := shadow.step()).events:
        assert is_fresh(store)
        assert step.recorded_at is not None
    assert process.process.poll() is not None
    assert stored(store).parked == {"account-3": (6, "poison_event")}
    made = [place for place in passed if place in ("read", "fold")]
    assert made == ["read", "fold"] * (len(made) // 2)
    assert passed.count("read") == passed.count("committed") == 18


def test_it_ends_when_the_shadow_has_caught_up(store, open_shadow):
    """At the head none is left, and a few new events start none."""
    shadow = open_shadow()
    process = with_process(shadow)
    to_head(shadow)
    assert process.process.poll() is not None
    append(store, *account_stream("new", 15))
    assert to_head(shadow)[1] == 15
    assert shadow._batches.process is None
    append(store, *account_stream("more", 40))
    shadow.step()
    assert shadow._batches.process is not None
    to_head(shadow)
    assert is_fresh(store)


def test_near_the_head_none_is_started(store, open_shadow, monkeypatch):
    """Who is less far behind never pays for a process."""
    monkeypatch.setattr(consumers.shadow_batches, "PROCESS_EVENTS_MIN", 114)
    monkeypatch.setattr(consumers.shadow_batches, "ReadingProcess", None)
    assert to_head(open_shadow())[1] == 120
    assert is_fresh(store)


@pytest.mark.parametrize("point", ["read", "fold", "write", "committed"])
def test_killed_at_any_place_it_costs_no_event(store, open_shadow, point):
    """What a process that was killed did not make is made here, and it is started again once caught up, not before."""
    kills: list[ReadingProcess] = []

    def at(place: str) -> None:
        if place == point and kills:
            kills.pop().process.send_signal(signal.SIGKILL)

    shadow = open_shadow(at=at)
    process = with_process(shadow)
    kills.append(process)
    while shadow.step().events:
        assert is_fresh(store)
        assert shadow._batches.process in (None, process)
    assert not kills
    assert process.process.returncode == -signal.SIGKILL
    assert stored(store).positions == {0: 120}
    append(store, *account_stream("more", 60))
    assert with_process(shadow) is not process
    to_head(shadow)
    assert is_fresh(store)


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
def test_one_that_cannot_start_costs_no_event(store, open_shadow, monkeypatch, program):
    """Without a process that answers, every batch is made here, and only one is tried."""
    started: list[ReadingProcess] = []

    class Noted(ReadingProcess):
        def __init__(self, *arguments: object) -> None:
            started.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(consumers.shadow_batches, "ReadingProcess", Noted)
    monkeypatch.setattr(consumers.shadow_process.sys, "executable", program)
    shadow = open_shadow()
    shadow.step()
    to_head(shadow)
    assert is_fresh(store)
    assert len(started) == 1


def test_what_fails_there_fails_here_by_the_same_error(store, open_shadow):
    """A store that lost events is refused in the words that the shadow has without a process."""
    shadow = open_shadow()
    process = with_process(shadow)
    lose_events_after(store, 10)
    with pytest.raises(Exception, match="lost events") as found:
        to_head(shadow)
    assert type(found.value).__name__ == "RefusedError"
    assert process.process.poll() is not None
    with pytest.raises(Exception, match="lost events"):
        shadow.step()


@pytest.mark.parametrize("point", ["read", "fold", "commit"])
def test_what_was_made_ahead_is_void_when_a_step_fails(store, open_shadow, point):
    """An error of a step comes up once, leaves nothing behind, and the next step goes on from what is stored."""
    fails = [False]

    def at(place: str) -> None:
        if place == point and fails[0]:
            fails[0] = False
            raise ConnectionError("the database went away")

    shadow = open_shadow(at=at)
    with_process(shadow)
    fails[0] = True
    with pytest.raises(ConnectionError):
        to_head(shadow)
    assert is_fresh(store)
    to_head(shadow)
    assert is_fresh(store)
    assert stored(store).positions == {0: 120}


def test_of_two_instances_each_batch_is_applied_once(store, open_shadow):
    """What one made ahead in its process is not written once the other was faster, and it forgets what it knew."""
    ahead, other = open_shadow(), open_shadow()
    process = with_process(ahead)
    assert other.step().events == 7
    assert ahead.step().events == 0
    assert is_fresh(store)
    assert ahead.step().events == 7
    assert ahead._batches.process is process
    steps = [shadow.step().events for _ in range(10) for shadow in (ahead, other)]
    assert 0 in steps
    to_head(ahead)
    assert is_fresh(store)
    assert stored(store).positions == {0: 120}


def test_who_begins_anew_finds_rows_as_they_are_stored(store, open_shadow):
    """What the process remembers holds for who goes on; it is forgotten for who asks without a batch before."""
    shadow, other = open_shadow(), open_shadow()
    process = with_process(shadow)
    position = stored(store).positions[0]
    before = shadow._batches.take(shadow.shadow)
    assert (before.after, before.events) == (position, 7)
    assert other.step().events == 7
    with store.writing() as connection:
        connection.execute(update(SHADOW_ACCOUNTS).values(balance=SHADOW_ACCOUNTS.c.balance + 1_000))
    made = process.made(shadow.shadow, None)
    found = Reading(store, 7, 7, lambda _: None).made(shadow.shadow, None)
    assert made.after == before.position
    assert made.folded.changed.sort("account_id").equals(found.folded.changed.sort("account_id"))
    assert made.folded.changed["balance"].min() > 900


def test_it_is_one_batch_ahead_of_what_it_was_asked_for(store, open_shadow):
    """While a batch is handed over and written the next is made, which is what comes when it is asked for."""
    passed: list[str] = []
    shadow = open_shadow(at=passed.append)
    process = with_process(shadow)
    taken = shadow._batches.take(shadow.shadow)
    process.settle()
    assert len(process._made) == 1
    ahead = process._made[0]
    process.process.send_signal(signal.SIGSTOP)
    assert process.made(shadow.shadow, taken) is ahead
    assert (ahead.after, ahead.events) == (taken.position, 7)
    process.process.send_signal(signal.SIGCONT)


@pytest.mark.skipif(sys.platform != "linux", reason="only there can a process be bound to a core")
def test_it_keeps_to_one_core(store, open_shadow):
    """Its threads share one of the cores that this process may use, which itself is bound to none."""
    cores = os.sched_getaffinity(0)
    process = with_process(open_shadow())
    tasks = Path(f"/proc/{process.process.pid}/task")
    bound = [os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()]
    assert len(bound) > 1
    assert len(set.union(*bound)) == 1
    assert set.union(*bound) <= cores
    assert os.sched_getaffinity(0) == cores


def test_closed_it_leaves_no_process(store, open_shadow):
    """Closing ends the process in the middle of its work."""
    shadow = open_shadow()
    process = with_process(shadow)
    shadow.close()
    assert process.process.poll() is not None


def test_killed_a_shadow_leaves_no_process(store):
    """The process of a shadow that was killed by `kill -9` ends by itself."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.recovery.shadower", str(store.url), "process"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as running:
        assert running.stdout is not None
        pid = int(running.stdout.readline().split()[1])
        assert is_alive(pid)
        running.kill()
    deadline = time.monotonic() + STARTED_SECONDS_MAX
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended, waited for or not."""
    # Wherever it is: the search path says which one this system has.
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return found.stdout.strip() != "" and not found.stdout.startswith("Z")
