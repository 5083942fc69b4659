"""Which live rows a plan is of, and which copy it heals from, as options, TOML file and plan say it together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from planned import whole_plan
from sqlalchemy import insert

from console.recover_places import LiveRows, healing_from, table_of_plan, wanted_table
from console.run import Everywhere, Run
from ledger.store import Store
from ledger.tables import IMPORTED_ACCOUNTS
from replay.comparison.live_table import LiveTable
from replay.recovery.planning import target_of
from schemas.errors import ConfigurationError, RefusedError, UsageError

THEIRS = "postgresql://ada:geheim@db.example/shop"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with no events."""
    with closing(Store.at(tmp_path)) as opened:
        yield opened


def run_in(folder: Path, settings: str = "") -> Run:
    """A run on a folder with this configuration."""
    (folder / "ledger-replay.toml").write_text(settings)
    return Run(options=Everywhere(data=folder))


def test_the_live_table_of_the_file_brings_the_password(store: Store, tmp_path: Path) -> None:
    """A plan has no password, so where the TOML file names the plan's table its URL is taken."""
    run = run_in(tmp_path, f'[live]\nurl = "{THEIRS}"\ntable = "wallets"\n')
    table = wanted_table(run, store, LiveRows(live=True))
    plan = whole_plan(target=target_of(store, table))
    assert "geheim" not in plan.target.database
    found = table_of_plan(run, store, plan, LiveRows())
    assert found is not None
    assert "geheim" in found.url


def test_a_plan_finds_its_table_by_itself(store: Store, tmp_path: Path) -> None:
    """Without [live], or with another table there, it is the one that the plan names."""
    theirs = LiveTable(url=f"sqlite:///{tmp_path}/theirs.db", table="wallets")
    plan = whole_plan(target=target_of(store, theirs))
    for settings in ("", f'[live]\nurl = "{THEIRS}"\ntable = "other"\n'):
        found = table_of_plan(run_in(tmp_path, settings), store, plan, LiveRows())
        assert found is not None
        assert target_of(store, found) == plan.target


def test_options_that_name_other_rows_are_refused(store: Store, tmp_path: Path) -> None:
    """Options count before anything else, and must be what the plan is of."""
    run, plan = run_in(tmp_path), whole_plan(target=target_of(store, None))
    assert table_of_plan(run, store, plan, LiveRows(own=True)) is None
    assert table_of_plan(run, store, plan, LiveRows()) is None
    with pytest.raises(RefusedError, match="other live rows"):
        table_of_plan(run, store, plan, LiveRows(against="sqlite:///x.db", table="t"))
    with pytest.raises(ConfigurationError, match="live"):
        wanted_table(run, store, LiveRows(live=True))


def test_a_file_by_another_path_is_the_same_table(store: Store, tmp_path: Path) -> None:
    """A link to a folder, or a way round it, names the same rows; they are told in words where they are others."""
    (tmp_path / "way").symlink_to(tmp_path)
    plan = whole_plan(target=target_of(store, LiveTable(url=f"sqlite:///{tmp_path}/theirs.db", table="wallets")))
    for path in (f"{tmp_path}/way/theirs.db", f"{tmp_path}/./way/../{tmp_path.name}/theirs.db"):
        found = table_of_plan(run_in(tmp_path), store, plan, LiveRows(against=f"sqlite:///{path}", table="wallets"))
        assert found is not None
    with pytest.raises(RefusedError, match="other live rows: table wallets in"):
        table_of_plan(run_in(tmp_path), store, plan, LiveRows(own=True))


def test_imported_rows_are_taken_where_there_are_any(store: Store, tmp_path: Path) -> None:
    """They are a table of the store's own database; --own and an empty import mean our read model."""
    run = run_in(tmp_path)
    assert wanted_table(run, store, LiveRows()) is None
    with store.writing() as connection:
        row = {"account_id": "a", "balance": 1, "frozen_amount": 0, "status": "active"}
        connection.execute(insert(IMPORTED_ACCOUNTS).values(row))
    table = wanted_table(run, store, LiveRows())
    target = target_of(store, table)
    assert (target.kind, target.table) == ("imported", "imported_accounts")
    assert table_of_plan(run, store, whole_plan(target=target), LiveRows()) == table
    assert wanted_table(run, store, LiveRows(own=True)) is None


def test_a_file_to_heal_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named by its whole path in the plan, and found by that again; blank lines are none of its events."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some events.jsonl").write_bytes(b"one\n\n  \ntwo\r\nthree")
    run = run_in(tmp_path)
    found = healing_from(run, "some events.jsonl")
    assert found.source == f"file {tmp_path}/some events.jsonl"
    again = healing_from(run, found.source)
    assert again.source == found.source
    (part,) = list(again.copy.records())
    assert (part.offsets, part.values) == ([1, 4, 5], [b"one", b"two", b"three"])  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="no such file"):
        healing_from(run, "none.jsonl")
    with pytest.raises(ConfigurationError, match="brokers"):
        healing_from(run, "topic events")
