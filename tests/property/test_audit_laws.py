"""Laws of the audit trail: its bytes name one entry only, and the first entry that was touched is the one named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from audit_trails import bad_of, entry, heads_of, record, remade, rows_of, set_head, set_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import Store
from ledger.audit_chain import COLUMNS, Raw, encoded

LAST = 9
TEXTS = COLUMNS[1:7]
NULLABLE = ("run", "account_id")
#: Few and alike, so that fields could easily be taken for each other.
SHORT = st.text("01a\0", max_size=3).map(str.encode)
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4).map(str.encode)
HASHES = st.binary(max_size=33)

_ONE_TRAIL = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def trail(store: Store) -> tuple[Store, list[Raw], bytes]:
    """A store with a trail, its rows, and the hash of its head."""
    record(store, *(entry(number) for number in range(1, LAST + 1)))
    rows = rows_of(store)
    return store, rows, rows[-1].hash


def raw(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[Raw]:
    """Rows of any text."""
    values = dict.fromkeys(TEXTS, texts) | {name: st.none() | texts for name in NULLABLE}
    return st.builds(Raw, number=st.integers(0, 12), **values, previous=texts, hash=st.just(b""))


def fields_of(data: bytes) -> Iterator[bytes | None]:
    """Read the bytes of an entry back, as only one entry could have given them."""
    name, _, rest = data.partition(b"\0")
    assert name == b"ledger-replay audit entry 1"
    while rest:
        mark, rest = rest[0], rest[1:]
        if mark == 0:
            yield None
            continue
        length, rest = int.from_bytes(rest[:8]), rest[8:]
        yield rest[:length]
        rest = rest[length:]


@given(raw(SHORT | WORDS))
def test_the_bytes_of_an_entry_can_be_read_back(row: Raw) -> None:
    """Every field is found again in the bytes, so no other entry has the same ones."""
    assert list(fields_of(encoded(row))) == [str(row.number).encode(), *row[1:-1]]


@given(raw(SHORT), raw(SHORT))
def test_two_entries_have_the_same_bytes_only_if_they_are_the_same(one: Raw, two: Raw) -> None:
    """Fields cannot lend bytes to their neighbours, and nothing is not the same as an empty text."""
    assert (encoded(one) == encoded(two)) == (one == two)


@given(raw(SHORT), st.sampled_from([(a, b) for a in TEXTS for b in TEXTS if a < b]))
def test_bytes_that_move_to_a_neighbour_are_others(row: Raw, names: tuple[str, str]) -> None:
    """What two fields hold together does not decide the bytes."""
    one, two = (getattr(row, name) or b"" for name in names)
    moved = row._replace(**{names[0]: one + two, names[1]: b""})
    assert (encoded(moved) == encoded(row)) == (moved == row)


@st.composite
def edits(draw: st.DrawFn, rows: Sequence[Raw]) -> dict[int, Raw | None]:
    """Some entries, each as it is edited, or None where it is deleted."""
    places = draw(st.sets(st.integers(0, LAST - 1), min_size=1, max_size=4))
    return {place: draw(st.none() | edited(rows[place])) for place in sorted(places)}


def edited(row: Raw) -> st.SearchStrategy[Raw]:
    """The row with some columns, other than its number, that are not as they were; hashes are not made anew."""
    values = {name: WORDS | HASHES.map(bytes.hex).map(str.encode) for name in TEXTS}
    values |= {name: st.none() | WORDS for name in NULLABLE} | {"previous": HASHES, "hash": HASHES}
    changes = st.fixed_dictionaries({}, optional=values)
    return changes.map(lambda given_: row._replace(**given_)).filter(lambda changed: changed != row)


@_ONE_TRAIL
@given(st.data())
def test_the_first_of_any_edits_and_deletions_is_named(
    trail: tuple[Store, list[Raw], bytes], data: st.DataObject
) -> None:
    """Whatever entries are edited in whatever columns, or deleted, the first of them is the first bad one."""
    store, rows, _ = trail
    changes = data.draw(edits(rows))
    left = [changes.get(place, row) for place, row in enumerate(rows)]
    set_rows(store, [row for row in left if row is not None])
    assert bad_of(store) == min(changes) + 1


@_ONE_TRAIL
@given(st.permutations(range(LAST)), st.booleans())
def test_the_first_that_is_not_in_its_place_is_named(
    trail: tuple[Store, list[Raw], bytes], order: list[int], is_linked: bool
) -> None:
    """Entries in another order, under the numbers of their places or with links that look right, are not the chain."""
    store, rows, _ = trail
    moved = [rows[each]._replace(number=place + 1) for place, each in enumerate(order)]
    if is_linked:
        links = [rows[0].previous, *(row.hash for row in moved)]
        moved = [row._replace(previous=link) for row, link in zip(moved, links[:-1], strict=True)]
    set_rows(store, moved)
    wrong = [place + 1 for place, each in enumerate(order) if place != each]
    assert bad_of(store) == min(wrong, default=None)


@_ONE_TRAIL
@given(st.integers(0, LAST), st.integers(1, 3), st.sampled_from(["as they are", "with their own hash", "chained"]))
def test_the_first_that_was_put_in_is_named(
    trail: tuple[Store, list[Raw], bytes], place: int, count: int, kind: str
) -> None:
    """Entries put in anywhere, for which the others moved up, are bad, even where each has the hash that it must."""
    store, rows, _ = trail
    own = [rows[0]._replace(number=place + number + 1, by=b"mallory") for number in range(count)]
    if kind == "with their own hash":
        own = [row._replace(previous=b"\1" * 32) for row in own]
        own = [row._replace(hash=row.digest()) for row in own]
    moved = [row._replace(number=row.number + count) for row in rows[place:]]
    found = [*rows[:place], *own]
    if kind == "chained":
        found = remade([*rows[:place], *(row._replace(previous=rows[0].previous) for row in own)], start=place)
    set_rows(store, [*found, *moved])
    assert bad_of(store) == place + 1


@_ONE_TRAIL
@given(st.integers(1, LAST), st.sampled_from([0, -1, -7, LAST + 1, LAST + 5]))
def test_an_entry_under_another_number_is_named(trail: tuple[Store, list[Raw], bytes], number: int, other: int) -> None:
    """Where an entry has another number, the lower of the two is bad: the one that is missing, or that is none."""
    store, rows, _ = trail
    moved = [row._replace(number=other) if row.number == number else row for row in rows]
    set_rows(store, moved)
    assert bad_of(store) == min(number, other)


@_ONE_TRAIL
@given(st.data())
def test_an_edit_with_a_hash_made_anew_is_named(trail: tuple[Store, list[Raw], bytes], data: st.DataObject) -> None:
    """One entry that was edited and is right in itself again is named: what comes after vouches for the old one."""
    store, rows, _ = trail
    place = data.draw(st.integers(0, LAST - 1))
    changed = data.draw(edited(rows[place]))
    changed = changed._replace(hash=changed.digest())
    set_rows(store, [*rows[:place], changed, *rows[place + 1 :]])
    assert bad_of(store) == (None if changed == rows[place] else place + 1)


@_ONE_TRAIL
@given(st.data())
def test_what_only_heads_kept_elsewhere_can_show(trail: tuple[Store, list[Raw], bytes], data: st.DataObject) -> None:
    """A chain made anew or cut with its head looks whole, and the first head kept elsewhere behind it shows it."""
    store, rows, _ = trail
    place = data.draw(st.integers(0, LAST - 1))
    end = data.draw(st.integers(place, LAST))
    kept = heads_of([rows[each] for each in data.draw(st.sets(st.integers(0, LAST - 1)))])
    left = rows[:end]
    if end > place:
        changed = left[place]._replace(by=b"mallory")
        left = remade([*left[:place], changed, *left[place + 1 :]], start=place)
    set_rows(store, left)
    set_head(store, end, left[-1].hash if left else rows[0].previous)
    assert bad_of(store) is None
    shown = [head.number for head in kept if head.number > place]
    # A head of an entry that was cut off says that the first one behind the end is missing.
    assert bad_of(store, kept) == (min(*shown, end + 1) if shown else None)
