"""Our own read model beside the rows of a shadow and the heads, in one snapshot: the database finds what to look at.

An account is plainly equal where both sides have the same row and that row is where the account's head says. Only the
others come back. Values are as the database has them, since a hand-made UPDATE on SQLite may leave anything there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    and_,
    func,
    null,
    or_,
    select,
    true,
    type_coerce,
    union,
)
from sqlalchemy.sql.selectable import FromClause

from ledger.read_model import ROW_SCHEMA
from ledger.tables import ACCOUNTS, EVENTS, HEADS, PARKED, SHADOW_ACCOUNTS

__all__ = ["Keys", "OwnRows", "Row", "Stored", "as_it_is", "past_head"]

#: A row of the read model without its key, in the order of `ROW_SCHEMA`, values as the database has them.
Stored = tuple[Any, ...]

_COLUMNS = tuple(name for name in ROW_SCHEMA if name != "account_id")
_VERSION, _CHAIN = _COLUMNS.index("version"), _COLUMNS.index("chain")

#: Accounts that are asked for by name at once.
ACCOUNTS_AT_ONCE = 2_000


class Keys(NamedTuple):
    """The accounts after one key until another, by code point; None is the beginning or the end."""

    after: str | None
    until: str | None

    def of(self, column: ColumnElement[str]) -> ColumnElement[bool]:
        """Return whether a key is one of them, as SQL."""
        after = true() if self.after is None else column > self.after
        return and_(after, true() if self.until is None else column <= self.until)


class Row(NamedTuple):
    """An account that is not plainly equal: its rows on both sides (None: none there), and its head."""

    account_id: str
    live: Stored | None
    shadow: Stored | None
    head_version: int | None
    head_chain: bytes | None

    @property
    def live_version(self) -> int:
        """The version of the live row, 0 where there is none."""
        return _version(self.live)

    @property
    def shadow_version(self) -> int:
        """The version of the shadow's row, 0 where there is none."""
        return _version(self.shadow)

    @property
    def live_chain(self) -> Any:
        """The chain of the live row, None where there is none."""
        return None if self.live is None else self.live[_CHAIN]


class Range(NamedTuple):
    """What a range of keys came to: how many accounts live has, and those of either side to look at."""

    accounts: int
    rows: list[Row]


class OwnRows:
    """The rows under two numbers, the live one and a shadow's, and all heads, in the connection's snapshot."""

    def __init__(self, connection: Connection, live: int, shadow: int) -> None:
        self._connection = connection
        self._numbers = (live, shadow)

    def keys(self, after: str | None, rows: int) -> tuple[Keys, list[int]]:
        """Return the next range of about so many accounts, and how many heads, live rows and shadow's rows it has.

        It is read off the indexes, by heads: so many of them, fewer where a side has far more rows than heads.
        """
        sides: list[tuple[Table, int | None]] = [(HEADS, None), *zip(_TABLES, self._numbers, strict=True)]
        keys = Keys(after, self._key(*sides[0], Keys(after, None), rows))
        counts = [
            rows if keys.until else self._count(*sides[0], keys),
            *(self._count(*side, keys) for side in sides[1:]),
        ]
        crowded = [self._key(*side, keys, rows) for side, count in zip(sides, counts, strict=True) if count > 2 * rows]
        if crowded:
            keys = Keys(after, min(key for key in crowded if key is not None))
            counts = [self._count(*side, keys) for side in sides]
        return keys, counts

    def compared(self, keys: Keys, counts: list[int], *, until: int | None = None) -> Range:
        """Compare a range of `keys`: the accounts that live has, and all of either side that are not plainly equal.

        An account is so only where the event that its head is about is in the log, and with `until` where that is at or
        before a position. The latter costs about as much as the comparison, so it is not always done.
        """
        found = self._rows(keys, until)
        # Every row of a side has a head, less those that came back without one; more rows than that are strays.
        for at, count in enumerate(counts[1:]):
            if count > counts[0] - sum(row[1 + at] is None for row in found if row.head_version is not None):
                known = {row.account_id for row in found}
                found += [
                    row for row in self._strays(keys, _TABLES[at], self._numbers[at]) if row.account_id not in known
                ]
        return Range(counts[1], found)

    def account_ids(self, keys: Keys) -> list[str]:
        """Return the accounts of a range that have a head, or a row on either side, in order."""
        sides: list[tuple[Table, int | None]] = [(HEADS, None), *zip(_TABLES, self._numbers, strict=True)]
        parts = [
            select(table.c.account_id).where(keys.of(table.c.account_id), _is_of(table, number))
            for table, number in sides
        ]
        return sorted(str(name) for name in self._connection.execute(union(*parts)).scalars())

    def cut(self, keys: Keys, found: Range, until: str) -> tuple[Keys, Range]:
        """Let a range that was compared end at an earlier key."""
        kept = [row for row in found.rows if row.account_id <= until]
        keys = Keys(keys.after, until)
        return keys, Range(self._count(_TABLES[0], self._numbers[0], keys), kept)

    def of_accounts(self, account_ids: list[str]) -> list[Row]:
        """Return some accounts that have a head, or a row on either side, equal or not."""
        ids = HEADS.c.account_id.in_(account_ids)
        statement = select(*self._columns()).select_from(self._joined(Keys(None, None))).where(ids)
        found = [_row(values) for values in self._connection.execute(statement)]
        missing = sorted(set(account_ids) - {row.account_id for row in found})
        return found + self._headless(missing)

    def appended(self, keys: Keys, after: int) -> list[str]:
        """Return the accounts of a range with events after a position, all of which are looked at."""
        statement = select(EVENTS.c.originator_id).where(EVENTS.c.id > after)
        # The range is not asked for in SQL: the database would read the whole index of accounts for it.
        found = {str(account_id) for account_id in self._connection.execute(statement).scalars()}
        return [name for name in found if _is_within(name, keys)]

    def parked(self, keys: Keys) -> list[dict[str, str]]:
        """Return what is parked in a range, by account: of the live side, and of the shadow."""
        return [
            {
                row.account_id: f"{row.reason} at version {row.version}"
                for row in self._connection.execute(
                    select(PARKED).where(PARKED.c.generation == number, keys.of(PARKED.c.account_id))
                )
            }
            for number in self._numbers
        ]

    def _rows(self, keys: Keys, until: int | None) -> list[Row]:
        live, shadow = _LIVE, _SHADOW
        # Looked up by the store's index, and where no position is asked for in that alone.
        is_end = (EVENTS.c.originator_id == HEADS.c.account_id) & (EVENTS.c.originator_version == HEADS.c.version)
        joined = self._joined(keys).outerjoin(EVENTS, and_(is_end, keys.of(EVENTS.c.originator_id)))
        differs = [
            *(live.c[name].is_distinct_from(shadow.c[name]) for name in _COLUMNS),
            live.c.version.is_distinct_from(HEADS.c.version),
            live.c.chain.is_distinct_from(HEADS.c.chain),
            EVENTS.c.originator_id.is_(None),
        ]
        if until is not None:
            differs.append(EVENTS.c.id > until)
        statement = select(*self._columns()).select_from(joined).where(keys.of(HEADS.c.account_id))
        return [_row(values) for values in self._connection.execute(statement.where(or_(*differs)))]

    def _joined(self, keys: Keys) -> FromClause:
        """Heads, and the rows of both sides beside them."""
        joined: FromClause = HEADS
        for side, number in zip((_LIVE, _SHADOW), self._numbers, strict=True):
            # The range is said of each side too: a database does not conclude it from that of the heads.
            is_same = and_(side.c.generation == number, side.c.account_id == HEADS.c.account_id)
            joined = joined.outerjoin(side, and_(is_same, keys.of(side.c.account_id)))
        return joined

    def _columns(self) -> list[ColumnElement[Any]]:
        sides = [as_it_is(side.c[name]) for side in (_LIVE, _SHADOW) for name in _COLUMNS]
        # As `Store.heads` reads them: a hand-made UPDATE may have left something else there.
        head = (HEADS.c.version.cast(BigInteger), HEADS.c.chain.cast(LargeBinary))
        return [HEADS.c.account_id, *head, *sides]

    def _strays(self, keys: Keys, table: Table, number: int) -> list[Row]:
        """Return the accounts with a row under a number and no head."""
        has_head = select(HEADS.c.account_id).where(HEADS.c.account_id == table.c.account_id).exists()
        statement = select(table.c.account_id).where(table.c.generation == number, ~has_head)
        found = self._connection.execute(statement.where(keys.of(table.c.account_id))).scalars()
        return self._headless([str(account_id) for account_id in found.all()])

    def _headless(self, account_ids: list[str]) -> list[Row]:
        """Return accounts without a head that have a row on either side."""
        sides: list[dict[str, Stored]] = [{}, {}]
        for side, table, number in zip(sides, _TABLES, self._numbers, strict=True):
            for start in range(0, len(account_ids), ACCOUNTS_AT_ONCE):
                some = table.c.account_id.in_(account_ids[start : start + ACCOUNTS_AT_ONCE])
                columns = (as_it_is(table.c[name]) for name in _COLUMNS)
                statement = select(table.c.account_id, *columns).where(table.c.generation == number, some)
                side |= {str(name): tuple(values) for name, *values in self._connection.execute(statement)}
        known = sorted(sides[0].keys() | sides[1].keys())
        return [Row(account_id, sides[0].get(account_id), sides[1].get(account_id), None, None) for account_id in known]

    def _count(self, table: Table, number: int | None, keys: Keys) -> int:
        statement = select(func.count()).select_from(table).where(keys.of(table.c.account_id), _is_of(table, number))
        return int(self._connection.execute(statement).scalar_one())

    def _key(self, table: Table, number: int | None, keys: Keys, rows: int) -> str | None:
        """Return the key that so many rows of a range reach, None where it has fewer."""
        key = table.c.account_id
        statement = select(key).where(keys.of(key), _is_of(table, number)).order_by(key).limit(1).offset(rows - 1)
        found = self._connection.execute(statement).scalar()
        return None if found is None else str(found)


def _is_of(table: Table, number: int | None) -> ColumnElement[bool]:
    return true() if number is None else table.c.generation == number


def _is_within(account_id: str, keys: Keys) -> bool:
    # Strings of Python sort by code point, as the keys do in the database.
    return (keys.after is None or account_id > keys.after) and (keys.until is None or account_id <= keys.until)


_TABLES = (ACCOUNTS, SHADOW_ACCOUNTS)
_LIVE, _SHADOW = ACCOUNTS.alias("live_rows"), SHADOW_ACCOUNTS.alias("shadow_rows")


def past_head(position: int, head: int) -> str:
    """Return why nothing is certain of a read model that is at a position past the store's head."""
    return (
        f"live is at position {position:,} of the store, whose head is {head:,}: the store has lost events, or was put "
        "back from a backup; bring the events back first (`import events`), or `rebuild --promote`"
    )


def as_it_is(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column whose values no type of ours reads."""
    return type_coerce(column, null().type)


def _row(values: Any) -> Row:
    account_id, version, chain, *rest = values
    sides = (tuple(rest[: len(_COLUMNS)]), tuple(rest[len(_COLUMNS) :]))
    # No row has all columns null: most of them cannot be.
    live, shadow = (None if all(value is None for value in side) else side for side in sides)
    return Row(str(account_id), live, shadow, version, chain)


def _version(side: Stored | None) -> int:
    version = 0 if side is None else side[_VERSION]
    return version if isinstance(version, int) else -1
