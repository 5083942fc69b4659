"""Differences of live from the log, account by account, as changes: from, to, by what right, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from ledger.read_model import ROW_SCHEMA
from replay.differences import FOREIGN_FIELDS, Drifted, Value, differs
from replay.explain import Cause, entries
from replay.recovery.basis import SETTLED, basis_of, reason_of, sentence
from replay.recovery.live_rows import LiveRows, value_of
from replay.recovery.plan import Basis, Change, Settlement
from replay.recovery.targets import ROW, row_text

__all__ = ["Ground", "changes_of", "differences", "ground_of", "unvouched"]

_NO_CAUSE = Cause("", None, "")
#: Of an account whose events are yet to be written nobody knows these.
_UNWRITTEN = ("chain", "last_effective_at")


class Ground(NamedTuple):
    """What all changes of one account go by."""

    basis: Basis
    cause: str
    reason: str


def differences(
    live: LiveRows, said: pl.DataFrame, causes: Mapping[str, Cause] | None = None
) -> dict[str, list[Drifted]]:
    """Return how live rows differ from rows of a replay (`ROW_SCHEMA`), by account and in order of it.

    The rows are those of the same accounts, and every one of them counts.
    """
    told = said.select(pl.col(name).alias(f"replayed_{name}") for name in ROW_SCHEMA)
    both = live.rows.join(told, left_on="account_id", right_on="replayed_account_id", how="full", coalesce=True)
    wrong = both.filter(pl.any_horizontal(differs(name, live.fields) for name in live.fields)).sort("account_id")
    known = dict.fromkeys(wrong["account_id"].to_list(), _NO_CAUSE) | dict(causes or {})
    found: dict[str, list[Drifted]] = {}
    for entry in entries(wrong, known, fields=live.fields):
        found.setdefault(entry.account_id, []).append(entry)
    return found


def ground_of(found: Sequence[Drifted], lowering: str) -> Ground:
    """Return what the changes of an account that differs from a whole log go by."""
    basis = basis_of(found, lowering)
    return Ground(basis, found[0].cause, reason_of(found, basis))


def settled_ground(settle: Iterable[Settlement]) -> Ground:
    """Return what the changes of an account go by that is equal until the plan settles its transactions."""
    told = [f"transaction {each.transaction_id!r} is {_DONE[each.action]}" for each in settle]
    return Ground("log", SETTLED, sentence(f"by this plan {' and '.join(told)}"))


def changes_of(
    live: LiveRows,
    after: pl.DataFrame,
    grounds: Mapping[str, Ground],
    versions: Mapping[str, int],
) -> list[Change]:
    """Return what live would have to become to be `after` (`ROW_SCHEMA`, of the accounts of the grounds)."""
    wanted = live._replace(rows=live.rows.filter(pl.col("account_id").is_in(list(grounds))))
    rows_live, rows_after = _by_account(wanted.rows), _by_account(after)
    found = []
    for account_id, differing in differences(wanted, after).items():
        mine, its = rows_live.get(account_id), rows_after.get(account_id)
        for field, from_, to in _fields(differing, mine, its, has_locked_at=live.has_locked_at):
            found.append(_change((account_id, field), from_, to, grounds[account_id], versions.get(account_id)))
    return found


def _fields(
    differing: Sequence[Drifted], live: dict[str, Any] | None, after: dict[str, Any] | None, *, has_locked_at: bool
) -> Iterable[tuple[str, Any, Any]]:
    """Yield field, live value and value after, of an account that differs."""
    if live is None or after is None:
        yield ROW, _whole(live), _whole(after)
        return
    fields = [each.field for each in differing if not (each.field in _UNWRITTEN and after[each.field] is None)]
    # A time that live has not is no difference; but a lock that is set gets its time, where the table has one.
    if "status" in fields and after["status"] == "locked" and has_locked_at and live["locked_at"] is None:
        fields.append("locked_at")
    for field in dict.fromkeys(fields):
        yield field, value_of(live[field]), value_of(after[field])


def _change(key: tuple[str, str], from_: Value, log: Value, ground: Ground, version: int | None) -> Change:
    return Change(
        account_id=key[0],
        field=key[1],
        from_=from_,
        to=log if ground.basis == "log" else None,
        log=log,
        basis=ground.basis,
        cause=ground.cause,
        reason=ground.reason,
        version=version,
    )


def unvouched(account_id: str, live: dict[str, Any] | None, reason: str, version: int | None) -> Change:
    """Return the change of an account that the log cannot vouch for: what it should be nobody knows."""
    ground = Ground("unknown", "log_damaged", sentence(f"the log cannot vouch for this account: {reason}"))
    field, from_ = (ROW, None) if live is None else ("balance", live["balance"])
    return _change((account_id, field), from_, None, ground, version)


def _whole(row: dict[str, Any] | None) -> str | None:
    return None if row is None else row_text({name: value_of(row[name]) for name in FOREIGN_FIELDS})


def _by_account(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["account_id"]: row for row in rows.iter_rows(named=True)}


_DONE = {"complete": "completed", "cancel": "cancelled"}
