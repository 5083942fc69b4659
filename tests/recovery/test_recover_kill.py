"""A recovery that is killed anywhere is finished by `resume`, to the same end, or taken back by `abort`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from recovery_scenes import PostgresScene, Scene, SqliteScene
from sizes import FULL

from ledger import audit
from replay.recovery.steps_check import written_accounts

ACCOUNTS = 20_000 if FULL else 140
KILLS = 300 if FULL else 2
KILLS_A_RUN = 10 if FULL else 2
#: After each kill the lease of the process runs out.
SECONDS_A_LEASE = 100

STEPS = ("check", "backup", "heal", "settle", "correct", "verify", "unlock", "reconcile", "report")
POINTS = [
    ("lease:taken", 1),
    ("fence:raised", 1),
    *((f"{step}:{edge}", 1) for step in STEPS for edge in ("begun", "done")),
    *((f"batch:{edge}", times) for edge in ("noted", "written", "done") for times in (1, 3)),
    ("heal:written", 1),
    ("unlock:written", 1),
    ("fence:lifted", 1),
]
#: One of each kind.
SOME = [
    ("check:begun", 1),
    ("heal:written", 1),
    ("settle:done", 1),
    ("batch:noted", 3),
    ("batch:written", 3),
    ("unlock:written", 1),
    ("fence:lifted", 1),
]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene in files."""
    return SqliteScene(tmp_path_factory.mktemp("scene"), ACCOUNTS)


@pytest.fixture
def on_postgres(tmp_path: Path, postgres_url: str) -> Iterator[Scene]:
    """A scene in PostgreSQL."""
    scene = PostgresScene(tmp_path, postgres_url, ACCOUNTS)
    yield scene
    scene.drop()


def _killed_at_points(scene: Scene, points: list[tuple[str, int]]) -> None:
    scene.reset()
    before = scene.end().live
    unbroken_said = scene.play("apply")
    unbroken = scene.end()
    assert unbroken.is_whole
    assert unbroken.live != before
    for point in points:
        scene.reset()
        assert scene.play("apply", point=point) == "killed", point
        assert scene.play("resume", seconds=SECONDS_A_LEASE) == unbroken_said, point
        assert scene.end() == unbroken, point


def test_a_recovery_killed_at_any_step_is_finished_by_resume(on_sqlite):
    """Killed at each named point and resumed, live rows, accounts' entries and totals are those of an unbroken run."""
    _killed_at_points(on_sqlite, POINTS if FULL else SOME)


@pytest.mark.postgres
def test_a_recovery_killed_at_any_step_is_finished_by_resume_on_postgres(on_postgres):
    """The same with ledger and live table in PostgreSQL."""
    _killed_at_points(on_postgres, POINTS if FULL else [("batch:written", 2)])


def _killed_at_random(scene: Scene, kills: int, seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201 - says how to repeat a failure
    chance = random.Random(seed)
    scene.reset()
    said = scene.play("apply")
    unbroken, killed, tried, runs = scene.end(), 0, 0, 0
    # Of many kills the last ones come near the end of a run or after it; of a few all are to hit.
    longest = scene.seconds / KILLS_A_RUN * (2 if FULL else 1)
    while killed < kills and runs < kills:
        scene.reset()
        here, seconds, heard, runs = 0, 0, "killed", runs + 1
        while heard == "killed":
            what = "apply" if scene.end().status == "approved" else "resume"
            wait = None if here == KILLS_A_RUN else chance.uniform(0, longest)
            tried += wait is not None
            heard = scene.play(what, seconds=seconds, kill_after=wait)
            seconds += SECONDS_A_LEASE
            here += heard == "killed"
        killed += here
        assert heard == said
        assert scene.end() == unbroken
    assert killed * 2 > tried, f"{killed} of {tried} kills hit"


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["on_sqlite", pytest.param("on_postgres", marks=pytest.mark.postgres)])
def test_a_recovery_killed_at_random_moments_is_finished_by_resume(request, scene):
    """Killed again and again at any moment, the end is that of an unbroken run."""
    _killed_at_random(request.getfixturevalue(scene), KILLS, seed=1)


def _killed_then_aborted(scene: Scene, point: tuple[str, int]) -> None:
    scene.reset()
    before = dict.fromkeys(scene.end().live)
    assert scene.play("apply", point=point) == "killed", point
    changed = [row for row in scene.end().live if row not in before]
    theirs = next(iter(changed), next(iter(before)))[0]
    with scene.opened() as (_, live):
        live.change(theirs, balance=424_242)
    said = scene.play("abort", seconds=SECONDS_A_LEASE)
    end = scene.end()
    assert (end.status, end.is_fenced, end.is_whole) == ("aborted", False, True)
    assert end.report is not None
    assert b'"status":"aborted"' in end.report
    assert [row for row in end.live if row[0] != theirs] == [row for row in before if row[0] != theirs]
    assert [row[1] for row in end.live if row[0] == theirs] == [424_242]
    # One that was announced may have been written, for all that anybody can know.
    assert theirs in said or not changed
    assert theirs in written_accounts(scene.plan) or not changed


@pytest.mark.slow
@pytest.mark.parametrize("point", [("batch:written", 3), *POINTS])
def test_abort_puts_back_what_a_killed_recovery_changed(on_sqlite, point):
    """Live is as before but for a row that somebody else changed since, which is listed; the fence is lifted."""
    _killed_then_aborted(on_sqlite, point)


@pytest.mark.postgres
def test_abort_puts_back_what_a_killed_recovery_changed_on_postgres(on_postgres):
    """The same with ledger and live table in PostgreSQL."""
    for point in POINTS if FULL else [("batch:written", 3)]:
        _killed_then_aborted(on_postgres, point)


def test_an_abort_that_is_killed_is_finished_by_another(on_sqlite):
    """Killed after it announced and again after it wrote, the last one leaves live as it was, and tells a row once."""
    scene = on_sqlite
    scene.reset()
    before = scene.end().live
    scene.play("apply", point=("unlock:done", 1))
    changed = {row[0] for row in {*before} ^ {*scene.end().live}}
    assert scene.play("abort", seconds=SECONDS_A_LEASE, point=("batch:noted", 1)) == "killed"
    assert scene.play("abort", seconds=2 * SECONDS_A_LEASE, point=("batch:written", 1)) == "killed"
    assert scene.play("abort", seconds=3 * SECONDS_A_LEASE) == "[]"
    assert scene.end().live == before
    assert scene.end().status == "aborted"
    with scene.opened() as (store, _), store.snapshot() as connection:
        restored = audit.entries(connection, run=scene.run, actions=["row.restored"])
    assert [each.account_id for each in restored] == sorted(changed)
