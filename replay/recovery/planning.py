"""What a recovery would do: live compared with the log, as a plan that says why and by what right. Read-only.

Both sides are compared as `drift` compares them, and everything in the plan is as of the position of that comparison.
An account that went on meanwhile, on either side, is left, and said to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy.engine import URL, make_url
from sqlalchemy.util import immutabledict

from ledger import Ledger
from ledger.store import Store
from ledger.tables import ACCOUNTS, IMPORTED_ACCOUNTS
from projections import INTEGRITY
from replay.certificate import Certificate
from replay.comparison.live_table import LiveTable
from replay.comparison.once import drift_once
from replay.differences import Drifted, Value
from replay.drift import Drift, drift
from replay.engine import Progress
from replay.explain import Cause, explain_accounts
from replay.full_replay import Replay, replayed
from replay.locks import locks_of
from replay.recovery.basis import Policy
from replay.recovery.changes import Ground, changes_of, differences, ground_of, settled_ground, unvouched
from replay.recovery.healed import Healing, Patient, healed_accounts
from replay.recovery.leftovers import Unreadable, locks_left, parked_left, stale_left, uncompared_left
from replay.recovery.live_rows import LiveRows, digest_of, live_rows
from replay.recovery.plan import Change, Left, Plan, Settlement, Target, sealed
from replay.recovery.settling import Settled, rows_after, settled
from replay.rows import stored_rows
from replay.store_source import StoreSource
from replay.verify import integrity_findings
from schemas import format_time
from schemas.errors import UsageError

__all__ = ["Healing", "Policy", "make_plan", "target_of"]


def make_plan(
    store: Store,
    live: LiveTable | None,
    *,
    policy: Policy,
    accounts: Sequence[str] | None = None,
    heal: Healing | None = None,
    now: datetime,
    by: str,
    progress: Progress | None = None,
    rejects: Callable[[pl.DataFrame], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    certified: Callable[[Certificate], None] | None = None,
) -> Plan:
    """Return the sealed plan of a recovery of a live table, or of our own read model where `live` is null.

    `accounts` narrows it to some; `rejects` is given the live rows that cannot be read, `certified` the
    certificate of the replay that the plan goes by. Nothing is written.

    Raises:
        UsageError: an account of `accounts` is in neither side; there is no such table, or no read model.
        StoreError: a database does not answer.
    """
    scope = None if accounts is None else sorted(set(accounts))
    unreadable = Unreadable(live, rejects)
    if live is None:
        compared = drift(store, live="read_model", progress=progress)
    else:
        compared = drift_once(store, live, rejects=unreadable.add, progress=progress, sleep=sleep)
    until = compared.certificate.store_position
    with ExitStack() as stack:
        source = stack.enter_context(StoreSource.snapshot(store))
        replay = stack.enter_context(replayed(source, [INTEGRITY], until=until, progress=progress))
        said, patient, healed = _said(store, source, replay, now), Patient(), None
        if heal is not None:
            patient = stack.enter_context(healed_accounts(store, heal, scope))
        if patient.store is not None:
            alone = stack.enter_context(StoreSource.snapshot(patient.store))
            healed = _said(patient.store, alone, stack.enter_context(replayed(alone, [INTEGRITY])), now)
        maker = _Maker(store, live, policy, scope, now, compared, said, patient, healed, unreadable)
        if certified is not None:
            certified(replay.certificate)
        return sealed(maker.plan(by=by, heal_source=None if heal is None else heal.source))


def target_of(store: Store, live: LiveTable | None) -> Target:
    """Return what a plan calls the live rows: of our own read model, of the imported rows, or of a foreign table."""
    own = _told(store.url)
    if live is None:
        return Target(kind="read_model", table=str(ACCOUNTS.name), database=own)
    database = _told(make_url(live.url))
    is_imported = live.table == IMPORTED_ACCOUNTS.name and database == own
    return Target(kind="imported" if is_imported else "foreign", table=str(live.table), database=database)


def _told(url: URL) -> str:
    """Return a URL without its password, the same one for a file from whatever folder and by whatever path."""
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).resolve()))
    elif url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    told = {name: value for name, value in url.query.items() if "pass" not in name}
    return url._replace(password=None, query=immutabledict(told)).render_as_string()


@dataclass(frozen=True)
class _Said:
    """What a store says at the position of the comparison: rows, who is parked and why, versions, stale transactions.

    `versions` are of all accounts that have an event or a head; of a parked one that of its head.
    """

    store: Store
    source: StoreSource
    replay: Replay
    rows: pl.DataFrame
    parked: dict[str, str]
    versions: dict[str, int]
    stale: dict[str, list[str]]


def _said(store: Store, source: StoreSource, replay: Replay, now: datetime) -> _Said:
    parked = {
        each.account_id: f"{each.reason} at version {each.version}: {each.details}".removesuffix(": ")
        for each in replay.certificate.parked
    }
    heads = store.heads(source.connection, list(parked))
    last = replay.gate.last.filter(~pl.col("account_id").is_in(list(parked)))
    versions = pl.concat([part.select("account_id", "version") for part in (last, heads)])
    found = integrity_findings(replay, now).filter(pl.col("code") == "stale_pending_transaction")
    stale: dict[str, list[str]] = {}
    # In the order in which they were made.
    for account_id, transaction_id in found.sort("position").select("account_id", "transaction_id").iter_rows():
        if account_id not in parked:
            stale.setdefault(account_id, []).append(transaction_id)
    rows = stored_rows(replay.rows, replay.gate)
    return _Said(store, source, replay, rows, parked, dict(versions.iter_rows()), stale)


@dataclass(frozen=True)
class _Maker:
    """Makes the plan of one comparison; `healed` is what the accounts of the patient say, null where none is healed."""

    store: Store
    table: LiveTable | None
    policy: Policy
    scope: list[str] | None
    now: datetime
    compared: Drift
    said: _Said
    patient: Patient
    healed: _Said | None
    unreadable: Unreadable

    def plan(self, *, by: str, heal_source: str | None) -> Plan:
        """Return the plan, not sealed yet."""
        entries, moved = self._entries()
        grounds = {name: ground_of(each, self._lowering) for name, each in entries.items()}
        made = self._settled(grounds, moved)
        settlements: dict[str, list[Settlement]] = {}
        for each in made.settle:
            settlements.setdefault(each.account_id, []).append(each)
        grounds = {name: settled_ground(own) for name, own in settlements.items()} | grounds
        changes = self._changes(grounds, made)
        locks = locks_of(self.said.source, self.said.replay, now=self.now, live=self.live.locked)
        unlock, stuck = locks_left(
            locks, {(each.account_id, each.transaction_id) for each in made.settle}, self._is_wanted
        )
        left = [*moved.values(), *made.left, *stuck, *parked_left(self.parked), *self.patient.left]
        left += self.unreadable.left(self.live.unread, is_narrowed=self.scope is not None)
        changed = sorted({each.account_id for each in changes})
        certificate = self.said.replay.certificate
        return Plan(
            made_at=format_time(self.now),
            by=by,
            ledger_id=self.store.ledger_id,
            target=target_of(self.store, self.table),
            position=certificate.store_position,
            log_digest=certificate.digest,
            live_digest=digest_of(self._live_of(changed), self.live.fields),
            accounts=self.scope,
            compared=self.compared.compared,
            drifted=self.compared.drifted,
            changes=changes,
            heal_source=heal_source,
            heal=self.patient.heal,
            settle=made.settle,
            unlock=unlock,
            left=sorted(left, key=lambda each: (each.account_id, each.kind, each.reason, each.transactions)),
        )

    @property
    def _lowering(self) -> str:
        """How a row may be lowered; the rows of our own read model tell a lost event from one that was missed."""
        return "explained" if self.table is None else self.policy.lowering

    @cached_property
    def parked(self) -> dict[str, str]:
        """The accounts of the plan that nobody can vouch for, even once everything is healed, and why."""
        parked = {name: why for name, why in self.said.parked.items() if name not in self._treated}
        parked |= {} if self.healed is None else self.healed.parked
        return {name: parked[name] for name in sorted(parked) if self._is_wanted(name)}

    @cached_property
    def rows(self) -> pl.DataFrame:
        """What replay says once everything is healed (`ROW_SCHEMA`), settlements apart."""
        if self.healed is None:
            return self.said.rows
        is_treated = pl.col("account_id").is_in(list(self._treated))
        return pl.concat([self.said.rows.filter(~is_treated), self.healed.rows])

    @cached_property
    def live(self) -> LiveRows:
        """The live rows of all accounts that the plan may say something of.

        UsageError for an account that was asked for and is on neither side.
        """
        found = live_rows(self.store, self.table, self._asked)
        known = {*found.rows["account_id"], *found.unread, *self.said.versions, *self.said.parked, *self._treated}
        unknown = [each for each in self.scope or () if each not in known]
        if unknown:
            shown = ", ".join(map(repr, unknown[:_NAMED_MAX]))
            more = f" and {len(unknown) - _NAMED_MAX:,} more" if len(unknown) > _NAMED_MAX else ""
            raise UsageError(
                f"neither the log nor live has these accounts: {shown}{more}", next_step="check the ids of --accounts"
            )
        return found

    @cached_property
    def _asked(self) -> list[str]:
        told = {each.account_id for each in self.compared.accounts} | set(self.compared.suspected)
        told |= {*self.compared.uncompared, *self.said.parked, *self.said.stale, *self._treated}
        return sorted({*(each for each in told if self._is_wanted(each)), *(self.scope or ())})

    @cached_property
    def _treated(self) -> frozenset[str]:
        return frozenset(self.patient.account_ids)

    @cached_property
    def _wanted(self) -> frozenset[str]:
        return frozenset(self.scope or ())

    def _is_wanted(self, account_id: str) -> bool:
        return self.scope is None or account_id in self._wanted

    def _entries(self) -> tuple[dict[str, list[Drifted]], dict[str, Left]]:
        """Return how accounts differ whose log is whole, and what is left of those that cannot be compared."""
        told: dict[str, list[Drifted]] = {}
        for entry in self.compared.accounts:
            told.setdefault(entry.account_id, []).append(entry)
        causes = {name: Cause(each[0].cause, each[0].first_event, each[0].evidence) for name, each in told.items()}
        ids = [each for each in self._asked if each not in self.parked and each not in self.live.unread]
        live = self.live._replace(rows=_of(self.live.rows, ids))
        found = differences(live, _of(self.rows, ids), causes | self._causes_of_treated())
        left = {}
        suspected, uncompared = set(self.compared.suspected), set(self.compared.uncompared)
        for name in (each for each in ids if each not in self._treated):
            if name in suspected:
                left[name] = "it differs, and did not settle"
            elif name in uncompared:
                left[name] = "it could not be compared"
            elif _values(found.get(name, [])) != _values(told.get(name, [])):
                left[name] = "its live row or its events changed while it was planned, or live is behind the log"
        kept = {name: each for name, each in found.items() if name not in left}
        return kept, {name: uncompared_left(name, why) for name, why in left.items()}

    def _causes_of_treated(self) -> dict[str, Cause]:
        if self.healed is None:
            return {}
        ids = [each for each in sorted(self._treated) if each not in self.parked and each not in self.live.unread]
        rows = pl.DataFrame({"account_id": ids}, schema={"account_id": pl.String}).join(
            self.live.rows, on="account_id", how="left"
        )
        until = self.healed.replay.certificate.store_position
        return explain_accounts(self.healed.source, rows, until=until, fields=self.live.fields)

    def _settled(self, grounds: Mapping[str, Ground], moved: Mapping[str, Left]) -> Settled:
        """Settle what is stale of accounts whose live row agrees with the log, or will by the log alone."""
        total = Settled([], [], [])
        # What a settlement takes from an account that differs could be what the log lost.
        unlowered = grounds.keys() if self._lowering == "never" else ()
        for said in (self.said, self.healed):
            stale: dict[str, list[str]] = {}
            for name, transaction_ids in () if said is None else said.stale.items():
                if not self._is_wanted(name) or (said is self.said and name in self._treated):
                    continue
                if name in moved or name in self.live.unread:
                    total.left.extend(
                        stale_left(name, each, "its live row was not compared") for each in transaction_ids
                    )
                elif name in grounds and grounds[name].basis == "unknown":
                    total.left.extend(
                        stale_left(name, each, "its account waits for a person") for each in transaction_ids
                    )
                else:
                    stale[name] = transaction_ids
            if said is not None and stale:
                ledger = Ledger(said.store)
                made = settled(ledger, stale, said.versions, policy=self.policy, now=self.now, unlowered=unlowered)
                total = Settled(*(whole + part for whole, part in zip(total, made, strict=True)))  # type: ignore[operator]
        return total

    def _changes(self, grounds: Mapping[str, Ground], made: Settled) -> list[Change]:
        after = rows_after(_of(self.rows, grounds), made.events)
        changes = changes_of(self.live, after, grounds, self.said.versions)
        rows = {row["account_id"]: row for row in self._live_of(self.parked)}
        changes += [
            unvouched(name, rows.get(name), why, self.said.versions.get(name))
            for name, why in self.parked.items()
            if name not in self.live.unread
        ]
        return sorted(changes, key=lambda each: each.account_id)

    def _live_of(self, account_ids: Iterable[str]) -> list[dict[str, Any]]:
        return _of(self.live.rows, account_ids).sort("account_id").to_dicts()


def _of(rows: pl.DataFrame, account_ids: Iterable[str]) -> pl.DataFrame:
    return rows.filter(pl.col("account_id").is_in(list(account_ids)))


def _values(found: Iterable[Drifted]) -> set[tuple[str, Value, Value]]:
    return {(each.field, each.live, each.replayed) for each in found}


#: How many unknown accounts are named.
_NAMED_MAX = 5
