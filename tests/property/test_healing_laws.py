"""Whatever a store lost, a whole copy brings it back; whatever a copy contradicts, nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from copies import ListCopy, everything, stream_of
from histories import examples
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NOW, change_event, lose_event, write_history
from sqlalchemy import delete

from ledger import Store
from ledger.importing.healing import heal
from ledger.tables import EVENTS, HEADS
from replay import balances
from schemas import decode, encode

ACCOUNTS = [f"acc-{number}" for number in range(1, 5)]
LAST = 8
LOSSES = st.one_of(
    st.just("all"),
    st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.integers(0, LAST)), min_size=1, max_size=12),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ledger with four accounts, closed."""
    folder = tmp_path_factory.mktemp("whole")
    store = Store.at(folder)
    write_history(store, len(ACCOUNTS))
    store.close()
    return folder


@contextmanager
def _copied(folder: Path) -> Iterator[Store]:
    with TemporaryDirectory() as other:
        shutil.copy(folder / "ledger.db", other)
        store = Store.at(other)
        yield store
        store.close()


def _lose(store: Store, losses: str | list[tuple[str, int]]) -> None:
    if losses == "all":
        with store.writing() as connection:
            connection.execute(delete(EVENTS))
            connection.execute(delete(HEADS))
        return
    for account_id, version in losses:
        # Version 0 stands for the whole account.
        lose_event(store, account_id, *([version] if version else []))


@given(
    losses=LOSSES,
    damaged=st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.integers(1, LAST)), max_size=6),
    data=st.data(),
)
@examples(40)
def test_a_whole_copy_brings_everything_back(
    whole: Path, losses: str | list[tuple[str, int]], damaged: list[tuple[str, int]], data: st.DataObject
):
    """Holes, tails, accounts or all, and damaged bytes: healed from a copy with repeats, all is as it was before."""
    with _copied(whole) as store:
        before = balances(store, now=NOW).certificate
        stream = stream_of(store)
        records = sum(map(len, stream))
        for partition in stream:
            for again in data.draw(st.lists(st.integers(0, max(0, len(partition) - 1)), max_size=3)):
                partition.extend(partition[again : again + 2])
        copy = ListCopy(stream, size=data.draw(st.integers(1, 50)))
        _lose(store, losses)
        for account_id, version in damaged:
            change_event(store, account_id, version, state=b"\xff")
        stored = len(everything(store))
        dry = heal(store, copy, dry_run=True)
        assert len(everything(store)) == stored
        found = heal(store, copy)
        assert (found.verdict, found.plan) == ("OK", None)
        assert dry.plan is not None
        assert (dry.restored, dry.imported, dry.plan.height) == (
            found.restored,
            found.imported,
            found.restored + found.imported,
        )
        assert found.unchanged + found.restored + found.imported == found.records == sum(map(len, stream))
        after = balances(store, now=NOW).certificate
        assert (after.verdict, after.digest, after.events) == ("COMPLETE", before.digest, records)
        again = heal(store, copy)
        assert (again.restored, again.imported, again.unchanged) == (0, 0, again.records)


@given(
    losses=LOSSES,
    changed=st.tuples(st.sampled_from(ACCOUNTS), st.integers(2, LAST)),
    keeps_original=st.booleans(),
    dry_run=st.booleans(),
)
@examples(40)
def test_any_conflict_leaves_the_store_as_it_was(
    whole: Path,
    losses: str | list[tuple[str, int]],
    changed: tuple[str, int],
    keeps_original: bool,
    dry_run: bool,
):
    """One event with other content in the copy, instead of the right one or beside it, and nothing is written."""
    with _copied(whole) as store:
        stream = stream_of(store)
        for partition in stream:
            for place, state in enumerate(partition):
                event = decode(state or b"")
                if (event.account_id, event.version) == changed:
                    forged = encode(event)[:-1] + b',"forged":true}'
                    if keeps_original:
                        partition.insert(place + 1, forged)
                    else:
                        partition[place] = forged
                    break
        _lose(store, losses)
        before = everything(store)
        found = heal(store, ListCopy(stream), dry_run=dry_run)
        # An empty store has nothing that could contradict one forged event, whose account then begins with it.
        if losses == "all" and not keeps_original:
            assert found.verdict == "OK"
            return
        assert (found.verdict, found.restored, found.imported) == ("REFUSED", 0, 0)
        assert found.conflicts_count >= 1
        assert everything(store) == before
