"""What becomes of an account that is not plainly equal: it is replayed alone up to the position of live, and judged."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl
from sqlalchemy import Connection

from ledger import shadows
from ledger.read_model import ROW_SCHEMA, Generation
from ledger.shadows import Shadow
from ledger.store import Store
from replay.comparison.chunk import Uncompared
from replay.comparison.own_rows import Row, Stored
from replay.comparison.own_typed import is_strange, stored, strange, typed
from replay.differences import OWN_FIELDS, Drifted
from replay.explain import entries, explained
from replay.gate import Parked
from replay.steps import Steps, steps
from replay.store_source import StoreSource

__all__ = ["Judge", "Verdicts"]

_COLUMNS = tuple(name for name in ROW_SCHEMA if name != "account_id")


class Verdicts(NamedTuple):
    """Differences that are certain, and accounts that could not be compared."""

    drifted: list[Drifted]
    uncompared: list[Uncompared]


class Judge:
    """Judges accounts by the log up to the position of live, in the snapshot of the connection.

    `parked` is what is parked on the live side, and on that of the shadow, by account.
    """

    def __init__(
        self,
        store: Store,
        connection: Connection,
        live: Generation,
        shadow: Shadow,
        parked: list[dict[str, str]],
    ) -> None:
        self._source = StoreSource(store, connection)
        self._live = live
        self._live_parked, self._shadow_parked = parked
        # A topic's offsets say nothing of the store; a shadow that follows the store is at a position of it.
        at = shadows.positions(connection, shadow).get(0) if shadow.source == "store" else None
        self._is_shadow_ahead = at is not None and at >= live.position
        self._follows_store = at is not None

    def judged(self, rows: list[Row]) -> Verdicts:
        """Judge some accounts."""
        if not rows:
            return Verdicts([], [])
        found = steps(self._source, [row.account_id for row in rows], until=self._live.position)
        uncompared = [
            Uncompared(account_id=row.account_id, reason=reason)
            for row in rows
            if (reason := self._why_uncompared(row.account_id, found.parked)) is not None
        ]
        # The log of an account that outgrew its columns is whole. Its row waits where the batch before left it, which
        # depends on how batches were cut, so it is judged at its version, as any live row that waits.
        damaged = {name: each for name, each in found.parked.items() if each.reason != "overflow"}
        waiting = self._live_parked.keys() | found.parked.keys()
        waits = {row.account_id: row.live_version for row in rows if row.account_id in waiting - damaged.keys()}
        judged = Steps(_until_versions(found.frame, waits), damaged)
        said = stored(judged.rows())
        wrong = [row for row in rows if _is_wrong(row, said.get(row.account_id), damaged)]
        shadow_wrong = [row for row in rows if self._is_shadow_wrong(row, said.get(row.account_id), found.parked)]
        drifted = _drifted(wrong, said, judged) + _drifted(shadow_wrong, said, judged, shadow=True)
        return Verdicts(drifted, uncompared)

    def _why_uncompared(self, account_id: str, parked: dict[str, Parked]) -> str | None:
        if account_id in parked:
            found = parked[account_id]
            return f"{found.reason} at version {found.version}: {found.details}".removesuffix(": ")
        if account_id in self._live_parked:
            return f"live waits: {self._live_parked[account_id]}"
        reason = self._shadow_parked.get(account_id)
        return None if reason is None else f"the shadow waits: {reason}"

    def _is_shadow_wrong(self, row: Row, said: Stored | None, parked: dict[str, Parked]) -> bool:
        """Whether the shadow's row differs where live is what the log says, and no position can explain it."""
        name = row.account_id
        if (
            row.live == row.shadow
            or row.live != said
            or any(name in some for some in (parked, self._live_parked, self._shadow_parked))
        ):
            return False
        if row.shadow is not None and row.shadow_version == row.live_version:
            return True
        if row.shadow_version > (row.head_version or 0) or row.shadow_version < 0:
            return True
        return self._follows_store and (row.shadow_version < row.live_version) == self._is_shadow_ahead


def _is_wrong(row: Row, said: Stored | None, damaged: dict[str, Parked]) -> bool:
    """Whether live differs from what the log says; where that cannot vouch for it, from the shadow at its version."""
    if row.live == said:
        return False
    # How far each side came before the log was damaged, or what it waits for was missing, is nobody's fault.
    return row.account_id not in damaged or (row.live != row.shadow and row.live_version == row.shadow_version)


def _until_versions(frame: pl.DataFrame, versions: dict[str, int]) -> pl.DataFrame:
    """Let the steps of some accounts end at a version."""
    if not versions:
        return frame
    ends = pl.DataFrame({"account_id": list(versions), "until": list(versions.values())}, schema=_ENDS)
    kept = frame.join(ends, on="account_id", how="left", maintain_order="left")
    is_kept = pl.col("until").is_null() | (pl.col("version") <= pl.col("until"))
    return kept.filter(is_kept).drop("until")


_ENDS = {"account_id": pl.String, "until": pl.Int64}


def _drifted(rows: list[Row], said: dict[str, Stored], found: Steps, *, shadow: bool = False) -> list[Drifted]:
    """Return each difference of accounts of which live is wrong, or the shadow's row, explained."""
    told: list[Drifted] = []
    plain: list[tuple[Any, ...]] = []
    for row in rows:
        # Beside a log that cannot vouch for the account there is only the other row.
        other = row.shadow if shadow or row.account_id in found.parked else said.get(row.account_id)
        sides = [side for side in (row.live, other) if side is not None]
        if any(map(is_strange, sides)):
            told.extend(strange(row.account_id, row.live, other, "shadow_wrong" if shadow else "foreign_write"))
        else:
            live, replayed = ((None,) * len(_COLUMNS) if side is None else typed(side) for side in (row.live, other))
            plain.append((row.account_id, *live, *replayed))
    if not plain:
        return told
    wrong = pl.DataFrame(plain, schema=_WRONG, orient="row").sort("account_id")
    return told + entries(wrong, explained(found, wrong, fields=OWN_FIELDS), fields=OWN_FIELDS)


_WRONG = {**ROW_SCHEMA, **{f"replayed_{name}": ROW_SCHEMA[name] for name in _COLUMNS}}
