"""The gate does what a plain reading of its rules does, event by event, wherever the stream is cut into batches."""

from __future__ import annotations

from collections import Counter

from histories import examples
from hypothesis import given
from hypothesis import strategies as st
from streams import Row, ends_of, fed

ROWS = st.builds(
    Row,
    account_id=st.sampled_from(["a", "b", "c"]),
    version=st.integers(1, 5),
    amount=st.sampled_from([10, 10, 10, 11]),
    is_poison=st.sampled_from([False, False, False, False, True]),
)


@st.composite
def streams(draw) -> list[Row]:
    """Whole streams of three accounts with some events dropped, repeated, changed, unreadable, and moved about."""
    rows = [Row(account_id, version) for version in range(1, 5) for account_id in "abc"]
    kept = draw(st.lists(st.sampled_from(rows), unique=True, min_size=len(rows) - 3)) if draw(st.booleans()) else rows
    return (
        draw(st.permutations([*kept, *draw(st.lists(ROWS, max_size=6))]))
        if draw(st.booleans())
        else [
            *kept,
            *draw(st.lists(ROWS, max_size=6)),
        ]
    )


class Plain:
    """The rules of the gate, read event by event."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.admitted: list[tuple[str, int, int]] = []
        self.repeats: list[tuple[str, int]] = []
        self.waiting: dict[str, dict[int, int]] = {}
        self.contents: dict[tuple[str, int], set[int]] = {}
        self.poison: list[tuple[str, int, int]] = []

    def take(self, position: int, row: Row) -> None:
        """Take in the next event of the stream."""
        if row.is_poison:
            self.poison.append((row.account_id, row.version, position))
            return
        self.contents.setdefault((row.account_id, row.version), set()).add(row.amount)
        behind = self.waiting.setdefault(row.account_id, {})
        if row.version <= self.last.get(row.account_id, 0) or row.version in behind:
            self.repeats.append((row.account_id, row.version))
            return
        behind[row.version] = position
        while (following := self.last.get(row.account_id, 0) + 1) in behind:
            self.admitted.append((row.account_id, following, behind.pop(following)))
            self.last[row.account_id] = following

    def parked(self, ends: dict[str, int]) -> dict[str, tuple[str, int]]:
        """Account to the reason and the version that it is parked for."""
        found: dict[str, tuple[str, int]] = {}
        for account_id, version, _ in self.poison:
            if version > self.last.get(account_id, 0):
                found.setdefault(account_id, ("poison_event", version))
        for account_id, behind in self.waiting.items():
            if behind:
                found.setdefault(account_id, ("version_gap", self.last.get(account_id, 0) + 1))
        for account_id, version in sorted(set(self.repeats)):
            if len(self.contents[account_id, version]) > 1:
                found.setdefault(account_id, ("conflicting_repeat", version))
        for account_id in self.last.keys() | ends.keys():
            version, end = self.last.get(account_id, 0), ends.get(account_id, 0)
            if version != end:
                found.setdefault(account_id, ("head_mismatch", min(version, end) + 1))
        return found


@examples(40)
@given(rows=streams(), places=st.lists(st.integers(0, 20), max_size=4), ends=st.integers(3, 5))
def test_any_stream_in_any_batches_is_gated_as_by_a_plain_reading(rows, places, ends):
    """Repeats, gaps, poison, conflicts and wrong ends come out the same for any cut of any stream."""
    heads = dict.fromkeys("abc", ends)
    plain = Plain()
    for position, row in enumerate(rows, start=1):
        plain.take(position, row)
    for cuts in ((), [place for place in places if place <= len(rows)], range(1, len(rows))):
        found = fed(rows, cuts, ends=ends_of(heads))
        assert Counter(found.admitted) == Counter(plain.admitted)
        assert Counter(found.gate.repeats.rows()) == Counter(plain.repeats)
        assert dict(found.gate.last.select("account_id", "version").rows()) == plain.last
        assert {key: (parked.reason, parked.version) for key, parked in found.parked.items()} == plain.parked(heads)
        assert [poison.position for poison in found.gate.poison] == [position for *_, position in plain.poison]


@examples(25)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    damaged=st.sets(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=3),
    seed=st.randoms(use_true_random=False),
    places=st.lists(st.integers(0, 15), max_size=4),
)
def test_a_broken_chain_stops_its_account_there_in_any_order_of_events(lengths, damaged, seed, places):
    """Of a chained source exactly the events before the first changed one of each account pass."""
    rows = [
        Row(account_id, version, is_broken=(account_id, version) in damaged)
        for account_id, length in zip("abc", lengths, strict=True)
        for version in range(1, length + 1)
    ]
    seed.shuffle(rows)
    stops = {
        account_id: min([version for name, version in damaged if name == account_id and version <= length], default=0)
        for account_id, length in zip("abc", lengths, strict=True)
    }
    for cuts in ((), [place for place in places if place <= len(rows)], range(1, len(rows))):
        found = fed(rows, cuts, chained=True, ends=ends_of({a: n for a, n in zip("abc", lengths, strict=True) if n}))
        passed = Counter(account_id for account_id, _, _ in found.admitted)
        for account_id, length in zip("abc", lengths, strict=True):
            assert passed[account_id] == (stops[account_id] - 1 if stops[account_id] else length)
        named = {key: (parked.reason, parked.version) for key, parked in found.parked.items()}
        assert named == {key: ("poison_event", version) for key, version in stops.items() if version}
