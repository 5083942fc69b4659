"""Far behind, the transactions that name an order come from the process that reads for the shadow, and are the same."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import append
from reconciled import check_links, links
from samples import opened, recorded
from shadows import stored, to_head

import consumers.shadow_batches
from consumers.reconciliation.ledger_side import OrderTransactions
from consumers.shadow import StoreShadow
from ledger import Store
from ledger.order_transactions import FOLLOWER

STARTED_SECONDS_MAX = 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with 120 events of 8 accounts that come in turns, half of whose transactions name an order."""
    streams = [
        [opened(f"account-{number}")]
        + [recorded(f"account-{number}", at, order_id=f"o{number}-{at}" if at % 2 else None) for at in range(2, 16)]
        for number in range(8)
    ]
    with closing(Store.at(tmp_path)) as store:
        append(store, *(event for turn in zip(*streams, strict=True) for event in turn))
        yield store


def test_a_process_that_reads_ahead_reads_what_is_kept_beside_the_rows(store, monkeypatch):
    """Batches that were made in the other process leave the transactions of a fresh replay at every position."""
    monkeypatch.setattr(consumers.shadow_batches, "PROCESS_EVENTS_MIN", 20)
    sizes = {"batch_events": 7, "catch_up_events": 7}
    with closing(StoreShadow(store, FOLLOWER, beside=OrderTransactions(), **sizes)) as shadow:
        shadow.step()
        process = shadow._batches.process
        assert process is not None
        assert select.select([process.process.stdout], [], [], STARTED_SECONDS_MAX)[0]
        shadow.step()
        shadow.step()
        assert shadow._batches.process is process
        assert process._last is not None
        check_links(store, stored(store, FOLLOWER).positions[0])
        to_head(shadow)
    check_links(store, 120)
    assert links(store).height == 56
