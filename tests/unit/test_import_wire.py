"""The bulk encoder makes the bytes that the one encoder makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from samples import opened, recorded

from ledger import GENESIS, chain
from ledger.importing.wire import NEW_EVENT_COLUMNS, stored_rows
from schemas import RAW_SCHEMA, AccountLocked, PoisonEvent, decode, encode, event_rows

HEADS = pl.DataFrame(schema={name: RAW_SCHEMA[name] for name in ("account_id", "version", "chain")})
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
MOMENTS = st.integers(-(10**16), 2 * 10**17).map(
    lambda tick: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=tick)
)


@given(
    text=TEXTS,
    moment=MOMENTS,
    amount=st.integers(1, 2**63 - 1),
    optional=st.none() | TEXTS,
    metadata=st.none() | st.dictionaries(TEXTS, st.integers(-(2**53), 2**53) | TEXTS | st.booleans() | st.none()),
)
def test_bulk_bytes_are_the_encoders_bytes(text, moment, amount, optional, metadata):
    """For any texts, moments and metadata the bulk bytes equal `schemas.encode`'s, key order included."""
    fields = {
        "transaction_id": text,
        "effective_at": moment,
        "recorded_at": moment,
        "related_transaction_id": optional,
        "business_code": optional,
        "order_id": optional,
        "metadata": metadata,
    }
    lock = AccountLocked(
        event_id=f"{text}:3", account_id=text, version=3, effective_at=moment, recorded_at=moment, reason=optional
    )
    events = [opened(text), msgspec.structs.replace(recorded(text, 2, amount), **fields), lock]
    rows = stored_rows(event_rows(events).select("account_id", *NEW_EVENT_COLUMNS), HEADS)
    assert rows["state"].to_list() == [encode(event) for event in events]
    assert [decode(state) for state in rows["state"]] == events
    link = GENESIS
    for state, stored in rows.select("state", "chain").iter_rows():
        link = chain(link, state)
        assert stored == link


def test_an_account_goes_on_from_its_head():
    """Versions and chain follow the head; only an account without one is opened first."""
    events = event_rows([recorded("a", 7), recorded("a", 8), recorded("b", 1)])
    heads = pl.DataFrame([("a", 6, b"h" * 32)], schema=HEADS.schema, orient="row")
    rows = stored_rows(events.select("account_id", *NEW_EVENT_COLUMNS), heads)
    assert rows.select("account_id", "version", "topic").rows() == [
        ("a", 7, "transaction.recorded"),
        ("a", 8, "transaction.recorded"),
        ("b", 1, "account.opened"),
        ("b", 2, "transaction.recorded"),
    ]
    assert rows["chain"][0] == chain(b"h" * 32, rows["state"][0])
    assert not any(isinstance(decode(state), PoisonEvent) for state in rows["state"])
