"""Findings: each difference that a comparison found, and its life in the table `ledger_drift_findings`.

    suspected ──> drift ──> healed          a difference that is certain, until live is right again
        │    └──> uncompared ──> healed     an account that could not be compared, until it could
        └──> (gone)                         a suspicion that came to nothing leaves no row

What drifts again after it was healed is a new row, or the old one again where no time has passed. A row is written
when what it says changes: its position and `seen_at` are those of the first look that saw it so. All functions work
inside the caller's transaction; whoever writes findings does so in a write transaction that begins with `lock`, so
that two processes never both see that something is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl
from sqlalchemy import ColumnElement, Connection, delete, func, literal_column, select, text

from ledger import bulk
from ledger.tables import DRIFT_FINDINGS

__all__ = ["Changes", "Counts", "Difference", "Finding", "Keys", "Look", "State", "counts", "found", "listed", "lock"]

State = Literal["suspected", "drift", "uncompared", "healed"]

#: The field of a row that is about the account as a whole.
WHOLE = ""
_SUSPICION = "live and replay differ; whether that lasts is looked at"

_F = DRIFT_FINDINGS.c
#: As a literal, since no database would take a parameter for the condition of an index.
_IS_OPEN = _F.state != literal_column("'healed'")


class Difference(NamedTuple):
    """A column of an account that live has other than replay, for certain; values as text."""

    account_id: str
    field: str
    cause: str
    live: str | None
    replayed: str | None
    difference: str | None
    first_event: str | None
    evidence: str


class Look(NamedTuple):
    """What a comparison saw of some accounts: whoever is in none of these was equal.

    `uncompared` has the reason by account. `position` is the one that both sides were compared at, as JSON.
    """

    differences: Sequence[Difference]
    suspected: Sequence[str]
    uncompared: Mapping[str, str]
    position: str


class Keys(NamedTuple):
    """The accounts behind one key until another, by code point; None is the beginning or the end."""

    after: str | None
    until: str | None


class Finding(NamedTuple):
    """One row of the table; `cause` is the class of the difference."""

    comparison: str
    account_id: str
    field: str
    opened_at: str
    state: State
    cause: str | None
    live: str | None
    replayed: str | None
    difference: str | None
    first_event: str | None
    evidence: str
    position: str
    seen_at: str
    healed_at: str | None


class Changes(NamedTuple):
    """What a look changed: findings that are new, each by what it is now, and those that are over."""

    drifted: list[Finding]
    suspected: list[Finding]
    uncompared: list[Finding]
    healed: list[Finding]


class Counts(NamedTuple):
    """Accounts with open findings of a comparison."""

    drifted: int
    suspected: int
    uncompared: int


def lock(connection: Connection) -> None:
    """Let nobody else write findings or incidents for the rest of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(5417163212)"))


def found(connection: Connection, comparison: str, look: Look, *, among: Keys | Sequence[str], now: str) -> Changes:
    """Note what a look at some accounts came to, and return what that changed.

    `among` are all the accounts that were looked at: whoever of them has an open finding and was equal is healed.
    """
    lock(connection)
    before = _open(connection, comparison, among)
    changes = _Writing(comparison, look, now).of_all(before)
    _write(connection, comparison, changes)
    return Changes(
        drifted=[each for each in changes.new if each.state == "drift"],
        suspected=[each for each in changes.new if each.state == "suspected"],
        uncompared=[each for each in (*changes.new, *changes.worse) if each.state == "uncompared"],
        healed=changes.healed,
    )


def counts(connection: Connection, comparison: str) -> Counts:
    """Return how many accounts have open findings, by what these are."""
    statement = (
        select(_F.state, func.count(_F.account_id.distinct()))
        .where(_F.comparison == comparison, _IS_OPEN)
        .group_by(_F.state)
    )
    by_state: dict[str, int] = dict(connection.execute(statement).tuples().all())
    return Counts(by_state.get("drift", 0), by_state.get("suspected", 0), by_state.get("uncompared", 0))


def listed(
    connection: Connection,
    comparison: str | None = None,
    *,
    states: Sequence[State] = ("suspected", "drift", "uncompared"),
    seen_since: str = "",
    is_explained: bool = False,
    first: int | None = None,
) -> list[Finding]:
    """Return findings of one comparison or of all, by account; those that are open unless `states` says otherwise.

    `seen_since` leaves out what was not seen since a moment, `is_explained` what has no class: suspicions and what
    could not be compared. `first` takes so many and no more.
    """
    statement = select(DRIFT_FINDINGS).where(_F.state.in_(states), _F.seen_at >= seen_since).limit(first)
    if comparison is not None:
        statement = statement.where(_F.comparison == comparison)
    if is_explained:
        statement = statement.where(_F["class"].is_not(None))
    order = (_F.comparison, _F.account_id, _F.field, _F.opened_at)
    return [_finding(row) for row in connection.execute(statement.order_by(*order))]


class _Rows(NamedTuple):
    """Rows to write: `seen` say something new, `worse` were suspected and are uncompared, `gone` leave no trace."""

    new: list[Finding]
    seen: list[Finding]
    worse: list[Finding]
    healed: list[Finding]
    gone: list[Finding]


class _Writing:
    """The rules of a finding's life, for one look."""

    def __init__(self, comparison: str, look: Look, now: str) -> None:
        self._comparison = comparison
        self._now = now
        self._position = look.position
        self._differences: dict[str, list[Difference]] = {}
        for each in look.differences:
            self._differences.setdefault(each.account_id, []).append(each)
        self._suspected = frozenset(look.suspected)
        self._uncompared = look.uncompared
        self._rows = _Rows([], [], [], [], [])

    def of_all(self, before: dict[str, dict[str, Finding]]) -> _Rows:
        """Return what to write where these are the open findings by account and field."""
        for account_id in sorted({*before, *self._differences, *self._suspected, *self._uncompared}):
            self._of_one(account_id, before.get(account_id, {}))
        return self._rows

    def _of_one(self, account_id: str, open_: dict[str, Finding]) -> None:
        whole = open_.get(WHOLE)
        drifted = {field: each for field, each in open_.items() if field != WHOLE}
        differences = self._differences.get(account_id, [])
        reason = self._uncompared.get(account_id)
        is_suspected = account_id in self._suspected
        if differences or not (is_suspected or reason is not None):
            fields = {each.field for each in differences}
            self._rows.healed.extend(self._over(each) for field, each in drifted.items() if field not in fields)
        for each in differences:
            self._certain(each, drifted.get(each.field), whole)
        if reason is not None:
            self._cannot_compare(account_id, whole, reason)
        elif is_suspected and not differences:
            # An account that is known to drift is not suspected again: it stays what it is until it is seen equal.
            if whole is None and not drifted:
                self._rows.new.append(self._whole(account_id, "suspected", _SUSPICION, self._now))
        elif whole is not None:
            is_suspicion = whole.state == "suspected"
            (self._rows.gone if is_suspicion else self._rows.healed).append(
                whole if is_suspicion else self._over(whole)
            )

    def _certain(self, each: Difference, open_: Finding | None, whole: Finding | None) -> None:
        suspected_at = whole.opened_at if whole is not None and whole.state == "suspected" else self._now
        finding = Finding(
            self._comparison,
            each.account_id,
            each.field,
            open_.opened_at if open_ is not None else suspected_at,
            "drift",
            *each[2:],
            position=self._position,
            seen_at=self._now,
            healed_at=None,
        )
        if open_ is None:
            self._rows.new.append(finding)
        elif not _is_same(open_, finding):
            self._rows.seen.append(finding)

    def _cannot_compare(self, account_id: str, whole: Finding | None, reason: str) -> None:
        opened_at = self._now if whole is None else whole.opened_at
        finding = self._whole(account_id, "uncompared", reason, opened_at)
        rows = self._rows
        if whole is None:
            rows.new.append(finding)
        elif whole.state == "suspected":
            rows.worse.append(finding)
        elif not _is_same(whole, finding):
            rows.seen.append(finding)

    def _whole(self, account_id: str, state: State, evidence: str, opened_at: str) -> Finding:
        key = (self._comparison, account_id, WHOLE, opened_at, state)
        return Finding(*key, None, None, None, None, None, evidence, self._position, self._now, None)

    def _over(self, finding: Finding) -> Finding:
        return finding._replace(state="healed", seen_at=self._now, healed_at=self._now, position=self._position)


def _open(connection: Connection, comparison: str, among: Keys | Sequence[str]) -> dict[str, dict[str, Finding]]:
    """Return the open findings of some accounts, by account and field."""
    by_account: dict[str, dict[str, Finding]] = {}
    for condition in _among(among):
        statement = select(DRIFT_FINDINGS).where(_F.comparison == comparison, _IS_OPEN, *condition)
        for row in connection.execute(statement):
            by_account.setdefault(row.account_id, {})[row.field] = _finding(row)
    return by_account


def _among(among: Keys | Sequence[str]) -> Iterator[list[ColumnElement[bool]]]:
    if isinstance(among, Keys):
        after = [] if among.after is None else [_F.account_id > among.after]
        yield after + ([] if among.until is None else [_F.account_id <= among.until])
        return
    for start in range(0, len(among), bulk.KEYS_PER_QUERY):
        yield [_F.account_id.in_(among[start : start + bulk.KEYS_PER_QUERY])]


def _write(connection: Connection, comparison: str, rows: _Rows) -> None:
    # A suspicion that is certain now goes on in the rows of its columns; one that came to nothing leaves no row.
    over = {each.account_id for each in rows.new if each.state == "drift"} | {each.account_id for each in rows.gone}
    suspicion = (_F.comparison == comparison, _F.field == WHOLE, _F.state == "suspected")
    for condition in _among(sorted(over)):
        connection.execute(delete(DRIFT_FINDINGS).where(*suspicion, *condition))
    # Many may drift at once, and a statement a row would outlast the lease of the comparison.
    changed = [_values(each) for each in (*rows.new, *rows.seen, *rows.worse, *rows.healed)]
    bulk.upsert_rows(connection, DRIFT_FINDINGS, pl.DataFrame(changed, schema=_SCHEMA))


#: All columns of the table are text.
_SCHEMA: dict[str, pl.DataType] = {column.name: pl.String() for column in DRIFT_FINDINGS.columns}


def _is_same(open_: Finding, seen: Finding) -> bool:
    return open_ == seen._replace(position=open_.position, seen_at=open_.seen_at)


def _values(finding: Finding) -> dict[str, Any]:
    values = finding._asdict()
    values["class"] = values.pop("cause")
    return values


def _finding(row: Any) -> Finding:
    values = dict(row._mapping)  # noqa: SLF001 - the public name of a row as a mapping.
    values["cause"] = values.pop("class")
    return Finding(**values)
