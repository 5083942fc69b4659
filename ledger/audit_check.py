"""Whether the audit trail is whole: a walk along the chain that names the first bad entry, and why it is.

What can be known: every entry vouches for all before it, the row of the head for all, and a head kept elsewhere for
all up to its entry. So an edit, a deletion, an insertion, another order and a cut tail are seen, and the entry that is
named is the first one that was touched, as long as something that was not touched vouches for it. Where somebody also
made every later hash anew and the row of the head with them, only heads kept elsewhere show it: then the first entry
that has such a head and does not match it is named, and what was touched may begin before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from sqlalchemy import Connection, func, select

from ledger.audit_chain import Head, HeadRow, Raw, fetched, genesis, head_row, raw_rows
from ledger.recovery_tables import AUDIT

__all__ = ["Bad", "Verified", "verify"]

_ROWS_PER_QUERY = 10_000


class Bad(msgspec.Struct, frozen=True):
    """The first entry that is not as it was written, or is not there, and how that is known."""

    number: int
    reason: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk came to: how many rows there are, the head as its row says (None: it says nothing), what is bad."""

    entries: int
    head: Head | None
    first_bad: Bad | None


def verify(connection: Connection, ledger_id: str, known: Iterable[Head] = ()) -> Verified:
    """Walk along the whole chain and return what it came to; `known` are heads that were kept elsewhere.

    Read `known` before this transaction began: a head is kept elsewhere after its entries are there.
    """
    row = head_row(connection)
    count = connection.execute(select(func.count()).select_from(AUDIT)).scalar_one()
    walk = _Walk(connection, genesis(ledger_id), row, known)
    return Verified(entries=count, head=row.head, first_bad=walk.first_bad())


class _Walk:
    """One walk: the last entry that was good, by number and hash, and what else vouches for entries."""

    def __init__(self, connection: Connection, start: bytes, row: HeadRow, known: Iterable[Head]) -> None:
        self._connection = connection
        self._genesis = start
        self._row = row
        self._known: dict[int, set[str]] = {}
        for each in known:
            self._known.setdefault(each.number, set()).add(each.hash)
        self._number = 0
        self._hash = start

    def first_bad(self) -> Bad | None:
        """Return the first bad entry, None where all are good."""
        doubt = self._vouched()
        for row in self._rows():
            bad = self._of(row)
            if bad is not None:
                # What the head does not know may be so only because of what was put in before it.
                return bad if doubt is None or bad.number < doubt.number else doubt
            doubt = doubt or self._vouched()
        return doubt or self._of_end()

    def _rows(self) -> Iterator[Raw]:
        statement = raw_rows(self._connection).order_by(AUDIT.c.number).limit(_ROWS_PER_QUERY)
        rows = fetched(self._connection, statement)
        while rows:
            yield from rows
            # Rows of other numbers, which nobody wrote by the ledger, have ended the walk by now.
            rows = fetched(self._connection, statement.where(AUDIT.c.number > self._number))

    def _of(self, row: Raw) -> Bad | None:
        """Return what is bad with the next row, or take it as the last that was good."""
        number = self._number + 1
        if row.number != number or row.misplaced is not None:
            return self._of_number(row, number)
        if row.previous != self._hash or row.digest() != row.hash:
            return self._of_link(row)
        self._number, self._hash = number, row.hash
        return None

    def _of_number(self, row: Raw, number: int) -> Bad:
        """Return what is bad where a row is not the one of a number, or is none."""
        head = self._row.head
        if type(row.number) is not int or row.number == number:
            column = row.misplaced or "number"
            return Bad(number, f"its column {column!r} has a value that the ledger never writes")
        if row.number < number:
            return Bad(row.number, "there is no such entry: the first one has the number 1")
        if head is not None and head.number < number:
            return Bad(row.number, _unknown_to(head))
        return Bad(number, f"it is missing: entry {row.number} comes next")

    def _of_link(self, row: Raw) -> Bad:
        """Return which entry was changed where one does not follow on the one before it."""
        number = row.number
        if row.previous == self._hash:
            return Bad(number, "it was changed: what it says does not give its hash")
        if row.digest(previous=self._hash) == row.hash:
            return Bad(number, "it was changed: it does not name the hash of the entry before it")
        if row.digest() == row.hash:
            return self._of_neighbours(row)
        return self._put_in(row) or Bad(number, "it was changed, or another entry was put in its place")

    def _put_in(self, row: Raw) -> Bad | None:
        """Return the first that was put in before a row that only has another number than it had, None for others."""
        origin = self._behind(row.previous)
        if origin is None or origin >= row.number or row.digest(number=origin) != row.hash:
            return None
        return Bad(origin, f"it was put in: what is entry {row.number} now was entry {origin}")

    def _of_neighbours(self, row: Raw) -> Bad:
        """Return which of two entries was made anew, both whole in themselves: what comes after vouches for the second.

        Both may be, where nothing vouches for it.
        """
        first, second = self._number, row.number
        if first == 0:
            return Bad(second, "it does not begin this ledger's trail: it was changed, or is of another ledger")
        follower = select(AUDIT.c.previous).where(AUDIT.c.number == second + 1)
        found = self._connection.execute(follower, execution_options={"ledger_binary": True}).cursor.fetchone()
        head = self._row.head
        is_vouched = found is not None and found[0] == row.hash
        if is_vouched or (head is not None and head == Head(second, row.hash.hex())):
            return Bad(first, f"it was changed and its hash made anew: entry {second} follows on another one")
        return Bad(second, f"it was changed and its hash made anew: it does not follow on entry {first}")

    def _behind(self, digest: bytes) -> int | None:
        """Return the number behind the good entry of a hash, None where there is no such."""
        if digest == self._genesis:
            return 1
        statement = select(AUDIT.c.number).where(AUDIT.c.number <= self._number, AUDIT.c.hash == digest)
        found = self._connection.execute(statement).first()
        return None if found is None else int(found[0]) + 1

    def _vouched(self) -> Bad | None:
        """Return what is bad with the last entry in the eyes of the head's row, and of heads kept elsewhere."""
        number, digest, head = self._number, self._hash.hex(), self._row.head
        if head is not None and head.number < number:
            return Bad(number, _unknown_to(head))
        if head is not None and head.number == number and head.hash != digest:
            return Bad(
                number, "it is not the one that the head names: it was changed and its hash made anew, or the head"
            )
        if self._known.get(number, {digest}) != {digest}:
            since = max((each for each in self._known if each < number), default=0)
            return Bad(
                number,
                f"it is not the one that a head kept elsewhere names: it or an entry after {since} was changed, and "
                "every hash behind that made anew",
            )
        return None

    def _of_end(self) -> Bad | None:
        """Return what is bad behind the last row."""
        number, head = self._number + 1, self._row.head
        beyond = max(self._known, default=0)
        if head is not None and head.number > self._number:
            return Bad(number, f"it is missing: the head says that there are {head.number}")
        if beyond > self._number:
            return Bad(number, f"it is missing: a head kept elsewhere names entry {beyond}")
        if head is None and (self._number or self._row.is_there):
            return Bad(number, "the row of the head is lost or damaged: whether entries were cut off here is not known")
        return None


def _unknown_to(head: Head) -> str:
    return f"the head knows nothing of it: it ends with entry {head.number}"
