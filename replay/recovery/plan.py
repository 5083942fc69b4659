"""The plan of a recovery: a JSON file with every change that it would make, and a hash over all of it.

The hash is SHA-256 over a name of its own and the canonical JSON of everything but the hash: keys sorted, no blanks.
Whoever approves a plan approves that hash, so a file that was edited afterwards is another plan. The run of a plan is
named by its hash, so that a plan is applied once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from replay.differences import Value
from schemas.errors import RefusedError, UsageError

__all__ = [
    "FORMAT",
    "Basis",
    "Change",
    "Decision",
    "Heal",
    "Left",
    "Plan",
    "Settlement",
    "Target",
    "Unlock",
    "read_plan",
    "run_of",
    "sealed",
    "write_plan",
]

FORMAT = "ledger-replay recovery plan 1"

#: What a change goes by: the account's stream, which is whole, or nothing that the log could vouch for.
Basis = Literal["log", "unknown"]

#: What stands in the file for names that Python keeps to itself.
_NAMES = {"from_": "from", "cause": "class"}


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The live rows that would be corrected.

    `kind` is `read_model`, `imported` (the copy that `import accounts` made) or `foreign`; `table` its name there, and
    `database` the URL without a password. A plan is for this ledger and these rows only.
    """

    kind: Literal["read_model", "imported", "foreign"]
    table: str
    database: str


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decided of an account whose basis is unknown.

    `accept`: the log is right, live takes its value; of an account that the log cannot vouch for, live stays as it is.
    `adjust`: the account has `balance` points; where the log is whole a transaction is appended that makes it so.
    """

    action: Literal["accept", "adjust"]
    by: str
    at: str
    reason: str
    balance: int | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=_NAMES):
    """One column of one account that live would get another value in; `row` where a row is made or taken away.

    `from_` and `to` are points, or text for a status or a time; of a `row` they are JSON text of its columns
    (`balance`, `frozen`, `status`, `locked_at`) or null where there is none. `to` is null
    too where nobody knows it (`unknown` without a decision). `log` is what the log says of it, with what the plan
    heals and settles; null where it says nothing. `version` is the account's last version when it was planned, null
    where the log does not know it. `reason` says why in a sentence. `cause` is the class of `drift --explain`, or
    `settled` where live is equal until the plan settles a transaction.
    """

    account_id: str
    field: str
    from_: Value
    to: Value
    log: Value
    basis: Basis
    cause: str
    reason: str
    version: int | None
    decision: Decision | None = None


class Heal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lost or damaged event that comes back from a copy; `why` as of `ledger.importing.healing.PLAN_SCHEMA`."""

    account_id: str
    version: int
    why: str


class Settlement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stale pending transaction and what becomes of it, as an event."""

    account_id: str
    transaction_id: str
    action: Literal["complete", "cancel"]
    type: str
    amount: int
    business_code: str | None
    created_at: str


class Unlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account that has been locked for too long, with nothing pending: unlocked as an event, once it is EQUAL."""

    account_id: str
    locked_at: str
    reason: str


class Left(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left for a person: `kind` is parked, stale_pending, locked, unreadable or uncompared."""

    kind: str
    account_id: str
    reason: str
    transactions: list[str] = []


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a recovery would do, and what it was made of.

    `position` is where live and log were compared: the store's head, or the position of our own read model where that
    is behind. `log_digest` is the digest of the replay up to there, and `live_digest` SHA-256 over the live rows that
    would be changed (canonical JSON, by account): the fingerprints of the input.
    `heal_source` says where lost events would come from: `topic NAME` or `file PATH`. `accounts` narrows the plan to
    some accounts; null is all. `compared`, `drifted` count accounts.
    """

    format: str = FORMAT
    hash: str = ""
    made_at: str
    by: str
    ledger_id: str
    target: Target
    position: int
    log_digest: str
    live_digest: str
    accounts: list[str] | None = None
    compared: int
    drifted: int
    changes: list[Change] = []
    heal_source: str | None = None
    heal: list[Heal] = []
    settle: list[Settlement] = []
    unlock: list[Unlock] = []
    left: list[Left] = []

    def undecided(self) -> Sequence[Change]:
        """Return the changes that wait for a person."""
        return [each for each in self.changes if each.basis == "unknown" and each.decision is None]


def sealed(plan: Plan) -> Plan:
    """Return the plan with the hash of what it says."""
    return msgspec.structs.replace(plan, hash=_hash(plan))


def run_of(plan: Plan) -> str:
    """Return the name of the run of a plan."""
    return f"recovery-{plan.hash[:16]}"


def write_plan(plan: Plan, path: Path) -> None:
    """Write a sealed plan; UsageError where it cannot be written."""
    try:
        path.write_bytes(_rendered(plan))
    except OSError as error:
        raise UsageError(f"cannot write the plan: {error.strerror}", where=str(path)) from error


def read_plan(path: Path) -> Plan:
    """Return the plan of a file, which is just what `write_plan` wrote, but for blanks between its values.

    Raises:
        UsageError: there is no such file, or it is no plan.
        RefusedError: it is a plan that was edited, or one of another version.
    """
    try:
        content = path.read_bytes()
        document = msgspec.json.decode(content)
    except OSError as error:
        raise UsageError(f"cannot read the plan: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise _no_plan(path, str(error)) from error
    if not isinstance(document, dict) or not document.keys() & {"format", "hash"}:
        raise _no_plan(path, "it has neither a format nor a hash")
    if document.get("format") != FORMAT:
        raise _refused(path, f"a plan of another kind: {str(document.get('format'))[:80]!r}")
    try:
        plan = msgspec.json.decode(content, type=Plan)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"the plan was edited: {error}") from error
    # Also what reads as the same value must be as it was: other readers of the file may take it for something else.
    if plan.hash != _hash(plan) or msgspec.json.format(content, indent=2) + b"\n" != _rendered(plan):
        raise _refused(path, "the plan was edited: it does not have the hash that stands in it")
    return plan


def _no_plan(path: Path, why: str) -> UsageError:
    return UsageError(f"not a plan: {why}", where=str(path), next_step="make one with `recover plan`")


def _refused(path: Path, what: str) -> RefusedError:
    return RefusedError(what, where=str(path), next_step="plan again; decisions are made with `recover decide`")


def _rendered(plan: Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n"


def _hash(plan: Plan) -> str:
    content = msgspec.json.encode(msgspec.structs.replace(plan, hash=""), order="sorted")
    return hashlib.sha256(FORMAT.encode() + b"\0" + content).hexdigest()
