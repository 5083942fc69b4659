"""The first steps of a run: is the system fit for it, is the plan still of what is there, and the backup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ledger.recovery_run import RecoveryRun
from replay.full_replay import replayed
from replay.recovery.backup import write_backup
from replay.recovery.failpoints import failpoint
from replay.recovery.outcome import by_account, is_gap, is_waiting
from replay.recovery.plan import Plan, sealed
from replay.recovery.planning import target_of
from replay.recovery.rows import state_of
from replay.recovery.table_target import TableTarget
from replay.recovery.targets import LiveRow
from replay.recovery.work import Work
from replay.store_source import StoreSource
from schemas.errors import RefusedError

__all__ = ["Fingerprints", "back_up", "check", "fingerprints", "refuse_other", "way_back", "written_accounts"]

ACCOUNTS_PER_READ = 5_000


class Fingerprints(msgspec.Struct, frozen=True, kw_only=True):
    """What is no more as it was planned: accounts that moved on in the log, and that live has otherwise by now."""

    moved_since: int
    changed_since: int
    already: int


def refuse_other(work: Work, recovery: RecoveryRun, *, needs_copy: bool = True) -> None:
    """Refuse a plan of another ledger, other live rows or another run, or that heals from a copy that is not given.

    And one that does not say what its hash was made of: somebody approved that.
    """
    plan, live = work.plan, work.target.live
    if sealed(plan).hash != plan.hash:
        raise _stale("the plan was changed: it does not have the hash that stands in it", "read it anew, or plan again")
    if plan.ledger_id != work.store.ledger_id:
        raise _stale("the plan is of another ledger", "apply it where it was made")
    target = target_of(work.store, live)
    if plan.target != target:
        raise _stale(
            f"the plan is of other live rows: of {plan.target.kind} {plan.target.table} in {plan.target.database}, "
            f"and these are {target.kind} {target.table} in {target.database}",
            "name the same table, with the options that `recover plan` was given",
        )
    if recovery.plan_hash not in ("", plan.hash):
        raise _stale("the run is of another plan", "see `recover status`")
    if needs_copy and plan.heal and work.around.healing is None:
        raise _stale(
            f"the plan heals {len(plan.heal):,} events from {plan.heal_source}, which is not given",
            "name it as `recover plan` was told it",
        )


def check(work: Work) -> None:
    """Check the system and the plan's fingerprints; RefusedError where a run would not know what it does."""
    failpoint("check:begun")
    system = None if work.around.check is None else work.around.check()
    told = msgspec.to_builtins(system)
    if system is not None and system.severity == "critical":
        reason = "nothing is whole that could be replayed: the system's state is critical"
        with work.changing() as (recovery, connection):
            recovery.need_intervention(reason, {"system": told}, work.now)
            work.record(connection, [work.entry("run.needs_intervention", reason=reason, system=told)])
        work.alert("manual_intervention_required", {"reason": reason, "system": told})
        raise RefusedError(
            reason, where=f"run {work.run!r}", next_step=f"see `recover check`; {way_back(work.plan)}, then plan again"
        )
    disk = None if system is None else system.part("disk")
    if disk is not None and disk.state == "degraded":
        raise RefusedError(
            f"the disk has no room for the backup: {disk.words}",
            where=f"run {work.run!r}",
            next_step=f"{disk.next_step or 'make room first'}, then `recover resume`",
        )
    work.done("check", {"system": told, "fingerprints": fingerprints(work)})
    failpoint("check:done")


def way_back(plan: Plan) -> str:
    """Return how a store that nothing could be replayed from comes back: whole, from the copy that the plan names."""
    kind, _, name = (plan.heal_source or "").partition(" ")
    if plan.heal and kind == "topic":
        return f"`import events --from topic --topic {name}` brings the events back without a run"
    if plan.heal and kind == "file":
        return f"`import events {name}` brings the events back without a run"
    return "bring the store back from a backup first"


def fingerprints(work: Work) -> Fingerprints:
    """Compare what is there with what was planned; RefusedError where the log is not what it was."""
    plan, moved = work.plan, 0
    with StoreSource.snapshot(work.store) as source:
        head = source.head()
        if head < plan.position:
            raise _stale(
                f"the store ends at position {head:,}, and the plan was made at {plan.position:,}: it has lost events",
                "see `recover check`",
            )
        with replayed(source, until=plan.position, progress=work.events("check")) as replay:
            digest = replay.certificate.digest
        if digest != plan.log_digest:
            raise _stale("the log up to the position of the plan is not what it was", "see `verify`, then plan again")
        versions = {each.account_id: each.version for each in plan.changes}
        heads = work.store.heads(source.connection, list(versions)).select("account_id", "version")
        moved = sum(versions[account_id] != version for account_id, version in heads.iter_rows())
    return _of_live(work, moved)


def _of_live(work: Work, moved: int) -> Fingerprints:
    """Count how the live rows of the plan are."""
    groups = by_account(work.plan)
    counts = {"to": 0, "from": 0, "other": 0}
    if isinstance(work.target, TableTarget):
        for some, rows in _read(work.target, list(groups)):
            for account_id in some:
                if not is_waiting(groups[account_id]) and not is_gap(groups[account_id]):
                    counts[state_of(groups[account_id], rows.get(account_id))[0]] += 1
            work.keep()
    return Fingerprints(moved_since=moved, changed_since=counts["other"], already=counts["to"])


def back_up(work: Work) -> None:
    """Write the rows that may change and prove them readable; of our own read model the live generation stays."""
    failpoint("backup:begun")
    target = work.target
    if isinstance(target, TableTarget):
        accounts = written_accounts(work.plan)
        results = write_backup(work.folder, _rows(work, target, accounts))._asdict()
    else:
        results = {"generation": target.generation()}
    work.done("backup", results)
    failpoint("backup:done")


def written_accounts(plan: Plan) -> list[str]:
    """Return the accounts whose live rows a run may write, in order."""
    changed = {account_id for account_id, changes in by_account(plan).items() if not is_waiting(changes)}
    return sorted(changed | {each.account_id for each in plan.unlock})


def _rows(work: Work, target: TableTarget, accounts: Sequence[str]) -> Iterator[tuple[str, LiveRow | None]]:
    for some, rows in _read(target, accounts):
        work.keep()
        yield from ((account_id, rows.get(account_id)) for account_id in some)


def _read(target: TableTarget, accounts: Sequence[str]) -> Iterator[tuple[Sequence[str], dict[str, LiveRow]]]:
    for start in range(0, len(accounts), ACCOUNTS_PER_READ):
        some = accounts[start : start + ACCOUNTS_PER_READ]
        yield some, target.rows(some)


def _stale(what: str, next_step: str) -> RefusedError:
    return RefusedError(what, where="the plan", next_step=next_step)
