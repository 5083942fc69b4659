"""A database that ends every connection in the middle of a recovery: it fails, says so, and is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from recoveries import around_of, live_of, work_on
from recovery_scenes import PostgresScene
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from replay.recovery.applying import apply, resume
from replay.recovery.failpoints import set_failpoints
from replay.recovery.table_target import TableTarget
from schemas.errors import StoreError

pytestmark = pytest.mark.postgres

ACCOUNTS = 140
POINTS = ["batch:written", "batch:noted", "settle:begun", "verify:begun", "unlock:begun"]


@pytest.fixture
def scene(tmp_path: Path, postgres_url: str) -> Iterator[PostgresScene]:
    """A scene in PostgreSQL, ledger and live table in one database."""
    scene = PostgresScene(tmp_path, postgres_url, ACCOUNTS)
    yield scene
    scene.drop()
    set_failpoints(None)


def _cut(url: str) -> None:
    """End every connection to a database."""
    server = create_engine(make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        name = make_url(url).database
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    server.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_recovery_whose_connections_are_cut_is_resumed_to_the_same_end(scene, point):
    """Whatever was cut, the run has failed or got over it; the end is that of an unbroken run."""
    unbroken_said = scene.play("apply")
    unbroken = scene.end()
    scene.reset()
    reached: list[str] = []

    def look(name: str) -> None:
        if name == point and not reached:
            reached.append(name)
            _cut(scene.url)

    with scene.opened() as (store, live), closing(TableTarget(live_of(live))) as target:
        around = around_of(store, scene.plan, scene.folder)
        set_failpoints(look)
        with pytest.raises(StoreError):
            apply(work_on(store, scene.plan, target, scene.folder, batch=2, around=around))
        assert scene.end().status == "failed"
        assert resume(work_on(store, scene.plan, target, scene.folder, around=around)).status == unbroken_said
    assert scene.end() == unbroken
