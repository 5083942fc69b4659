"""However the events of accounts lie over partitions, in whatever order, a replay says what a plain fold says."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given
from hypothesis import strategies as st
from topic_memory import PARTITIONS, Sent, replay

from projections import TRANSACTIONS
from replay.full_replay import Replay


def folded(sent: list[Sent]) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """What a plain fold says: version and balance of every account that is whole, and the ids of the others."""
    contents: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for record in sent:
        contents[record.account_id][record.version].add(record.amount)
    whole = {}
    for account_id, versions in contents.items():
        is_gapless = sorted(versions) == list(range(1, len(versions) + 1))
        if is_gapless and all(len(amounts) == 1 for amounts in versions.values()):
            whole[account_id] = (len(versions), sum(amount for amounts in versions.values() for amount in amounts))
    return whole, set(contents) - set(whole)


def rows(found: Replay) -> dict[str, tuple[int, int]]:
    """Version and balance of each account that has a row."""
    return {
        account_id: (version, balance)
        for account_id, version, balance in found.rows.select("account_id", "version", "balance").iter_rows()
    }


@st.composite
def topics(draw: st.DrawFn) -> list[Sent]:
    """Streams of a few accounts over partitions in any order, some events lost, repeated, changed or unreadable."""
    places = st.integers(0, PARTITIONS - 1)
    sent = []
    for account in range(draw(st.integers(1, 4))):
        # Most accounts keep to one partition, as they should.
        home, is_mixed = draw(places), draw(st.booleans())
        for version in range(1, draw(st.integers(1, 7)) + 1):
            copies = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 2, 2, 0]))
            for _ in range(copies):
                amount = draw(st.sampled_from([10] * 15 + [11])) + version
                sent.append(Sent(draw(places) if is_mixed else home, f"account-{account}", version, amount))
        if draw(st.sampled_from([False] * 9 + [True])):
            sent.append(Sent(draw(places), f"account-{account}", draw(st.sampled_from([0, -1]))))
    # Kept in order, shuffled at will: versions come as late as they like.
    return draw(st.permutations(sent)) if draw(st.booleans()) else sent


@given(topics(), st.integers(1, 6))
@example([Sent(0, "a", 1), Sent(1, "a", 2), Sent(0, "a", 3), Sent(1, "a", 2), Sent(2, "a", -1)], 1)
@example([Sent(0, "a", 2), Sent(1, "a", 2, 11), Sent(1, "a", 1)], 2)
def test_any_distribution_is_the_plain_fold(sent, chunk_records):
    """Whole accounts have the row of a plain fold, the others are parked, and one partition gives the same digest."""
    whole, others = folded(sent)
    with replay(sent, chunk_records=chunk_records) as found:
        assert rows(found) == whole
        assert {parked.account_id for parked in found.certificate.parked} == others
        assert found.verdict == ("INCOMPLETE" if others else "COMPLETE")
        assert found.certificate.accounts == len(whole) + len(others)
        copies = Counter((record.account_id, record.version) for record in sent if record.account_id in whole)
        if not others:
            assert found.certificate.events == len(copies)
            assert found.certificate.repeats == len(sent) - len(copies)
        transactions = found.states.value(TRANSACTIONS).filter(
            ~found.states.value(TRANSACTIONS)["account_id"].is_in(list(others))
        )
        assert transactions.height == len(copies)
    with replay([record._replace(partition=0) for record in sent]) as single:
        assert single.certificate.digest == found.certificate.digest


@given(topics(), st.integers(0, PARTITIONS - 1), st.integers(0, 6), st.integers(1, 4))
def test_a_partition_that_stops_vouches_for_none_of_its_accounts(sent, partition, offset, chunk_records):
    """What was seen in an unread partition has no row; what is in others alone is right; the next run is whole."""
    whole, others = folded(sent)
    log = [record for record in sent if record.partition == partition]
    with TemporaryDirectory() as name:
        folder = Path(name)
        with replay(sent, chunk_records=chunk_records, stop=(partition, offset), folder=folder) as found:
            pass
        seen = {record.account_id for record in log[:offset]}
        if len(log) <= offset:
            assert not found.certificate.unread
        else:
            (unread,) = found.certificate.unread
            assert (unread.partition, unread.offset, unread.until) == (partition, offset, len(log))
            assert found.verdict == "INCOMPLETE"
            assert not seen & set(rows(found))
            elsewhere = {record.account_id for record in log}
            expected = {account_id: row for account_id, row in whole.items() if account_id not in elsewhere}
            assert {key: row for key, row in rows(found).items() if key not in elsewhere} == expected
        with replay(sent, chunk_records=chunk_records, folder=folder) as again:
            assert rows(again) == whole
            assert {parked.account_id for parked in again.certificate.parked} == others
    with replay(sent) as unbroken:
        assert again.certificate.digest == unbroken.certificate.digest
        assert again.certificate.events == unbroken.certificate.events
        assert again.certificate.repeats == unbroken.certificate.repeats
