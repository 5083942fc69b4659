"""The sections of a report of a recovery: each makes one of the plan, of the audit trail's entries, or of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl

from console.reports.model import Bars, Entry, Section
from console.words import count
from ledger.audit import Recorded
from ledger.recovery_run import STEPS
from replay.certificate import Certificate
from replay.differences import Value
from replay.recovery.outcome import DONE, OUTCOMES, by_account, last_tries
from replay.recovery.plan import Change, Plan
from replay.recovery.targets import ROW, values_of_text
from schemas import format_time

__all__ = [
    "ForPerson",
    "accounts",
    "approvals",
    "approved",
    "by_class",
    "certificates",
    "events",
    "left_for_person",
    "needs_person",
    "outcomes",
    "points",
    "reconciliation",
    "steps",
    "versions",
    "wrong",
]

_NOT_DONE = ("transaction.not_settled", "account.not_unlocked", "row.not_unlocked", "row.not_restored")
#: Rows and entries that a page has; the JSON report has all.
ACCOUNTS_SHOWN_MAX = 500
PERSON_SHOWN_MAX = 500
_REST = "the report in JSON has all"

_CLASSES = {
    "missed_event": "live missed an event",
    "applied_twice": "live applied an event twice",
    "foreign_write": "something other than the log wrote the row",
    "row_missing": "live lost the row, or never made it",
    "row_extra": "live has a row that no event made",
    "log_damaged": "the log itself is damaged here",
    "settled": "live was equal until a stale transaction was settled",
}
_OUTCOMES = {
    "corrected": "live has what the plan says",
    "already": "live had it already",
    "accepted": "a person accepted the gap; nothing was changed",
    "waiting": "a person has to decide",
    "changed_since": "live was changed after the plan was made; left as it is",
    "moved_since": "the account went on after the plan was made; left as it is",
    "other_than_log": "the log does not say what the plan says; left as it is",
    "failed": "live did not take the correction",
    "restored": "corrected, and put back when the run was given up",
}


class ForPerson(NamedTuple):
    """Something that needs a person: what kind, of which account (or none), why, and named values beside it."""

    kind: str
    account_id: str
    reason: str
    facts: list[tuple[str, str]]


def by_class(plan: Plan) -> list[dict[str, Any]]:
    """Return how many accounts and changes each class has, and by how many points balances were to rise and sink."""
    found: dict[str, dict[str, Any]] = {}
    for changes in by_account(plan).values():
        row = found.setdefault(
            changes[0].cause, {"class": changes[0].cause, "accounts": 0, "changes": 0, "points_up": 0, "points_down": 0}
        )
        row["accounts"] += 1
        row["changes"] += len(changes)
        rise = sum(_rise(each) for each in changes)
        row["points_up"] += max(rise, 0)
        row["points_down"] += max(-rise, 0)
    return sorted(found.values(), key=lambda row: (-row["accounts"], row["class"]))


def wrong(plan: Plan) -> Section:
    """Return what was wrong, by class."""
    title, rows = "What was wrong", by_class(plan)
    if not rows:
        return Section(title=title, words=["Live was what the log says."])
    meanings = [_CLASSES.get(row["class"], "") for row in rows]
    table = pl.DataFrame(rows).rename({"points_up": "points to add", "points_down": "points to take"})
    told = ", ".join(f"{row['class']}: {row['accounts']:,}" for row in rows)
    return Section(
        title=title,
        words=[
            f"{plan.drifted:,} of {count(plan.compared, 'account')} drifted when it was planned. Points are those of "
            "balances; of what waited for a person they are what the log says."
        ],
        chart=Bars(
            "Accounts by class",
            f"One bar a class, as long as it has accounts: {told}. The table below has the same numbers.",
            [(row["class"], row["accounts"]) for row in rows],
            "account",
        ),
        table=table.with_columns(pl.Series("meaning", meanings, pl.String)),
    )


def outcomes(numbers: Mapping[str, Any]) -> Section:
    """Return what became of the accounts."""
    title = "What was done"
    found = [(name, numbers["outcomes"][name]) for name in OUTCOMES if numbers["outcomes"][name]]
    if not found:
        return Section(title=title, words=["No account was dealt with."])
    told = ", ".join(f"{name}: {number:,}" for name, number in found)
    return Section(
        title=title,
        words=[
            f"{100 * numbers['success_rate']:.2f} % of {count(numbers['accounts'], 'account')} leave nothing to do: "
            "corrected, right already, or accepted by a person."
        ],
        chart=Bars(
            "Accounts by outcome",
            f"One bar an outcome, as long as it has accounts: {told}. The table below has the same numbers.",
            found,
            "account",
        ),
        table=_table(
            [(name, number, _OUTCOMES[name]) for name, number in found],
            {"outcome": pl.String, "accounts": pl.Int64, "meaning": pl.String},
        ),
    )


def points(numbers: Mapping[str, Any]) -> Section:
    """Return the points before and after, of the accounts that were corrected."""
    rows = [
        (name, *(numbers[name][column] for column in ("before", "after", "added", "taken")))
        for name in ("balance", "frozen")
    ]
    names = ("before", "after", "added", "taken")
    return Section(
        title="Points before and after",
        words=["Sums over the columns that were corrected in live."],
        table=_table(rows, {"points": pl.String} | dict.fromkeys(names, pl.Int128)),
    )


def events(plan: Plan, numbers: Mapping[str, Any]) -> Section:
    """Return what was appended to the log; none of it is ever taken back."""
    settled = Counter(each.action for each in plan.settle)
    told = ", ".join(f"{number:,} to {action}" for action, number in sorted(settled.items()))
    adjusted = {each.account_id for each in plan.changes if each.decision and each.decision.action == "adjust"}
    rows = [
        ("lost events that came back", len(plan.heal), numbers["healed"], plan.heal_source or ""),
        ("stale transactions settled", len(plan.settle), numbers["settled"], told),
        ("accounts adjusted by a person's word", len(adjusted), numbers["adjusted"], ""),
        ("accounts unlocked", len(plan.unlock), numbers["unlocked"], ""),
    ]
    return Section(
        title="What was appended to the log",
        words=["Events stay, whatever becomes of a run."],
        table=_table(rows, {"what": pl.String, "planned": pl.Int64, "done": pl.Int64, "details": pl.String}),
    )


def left_for_person(
    plan: Plan, found: Mapping[str, Recorded], entries: Sequence[Recorded], steps: Mapping[str, Mapping[str, Any]]
) -> list[ForPerson]:
    """Return everything that still needs a person: accounts, transactions, locks, events, rows."""
    left = []
    for account_id, changes in by_account(plan).items():
        entry = found.get(account_id)
        outcome = "" if entry is None else entry.action.removeprefix("account.")
        if entry is not None and outcome not in DONE:
            reason = str(entry.details.get("reason") or _OUTCOMES[outcome])
            left.append(ForPerson(outcome, account_id, reason, [(each.field, _told(each)) for each in changes]))
    for entry in last_tries(entries):
        if entry.action in _NOT_DONE:
            facts = [(name, str(value)) for name, value in entry.details.items() if name != "reason"]
            kind = entry.action.partition(".")[2]
            left.append(ForPerson(kind, entry.account_id or "", str(entry.details.get("reason", "")), facts))
    for missing in steps.get("heal", {}).get("missing", ()):
        words = "the copy did not bring this event back"
        left.append(ForPerson("not_healed", missing["account_id"], words, [("version", str(missing["version"]))]))
    differences = steps.get("verify", {}).get("drifted", ())
    told = {each.account_id for each in left}
    left += [
        ForPerson("differs", name, "live differs from the log still", []) for name in differences if name not in told
    ]
    # A parked account that waits is told already, with its changes.
    for each in plan.left:
        if each.account_id not in told or each.kind != "parked":
            facts = [("transactions", ", ".join(each.transactions))] if each.transactions else []
            left.append(ForPerson(each.kind, each.account_id, each.reason, facts))
    return left


def needs_person(left: Sequence[ForPerson]) -> Section:
    """Return what still needs a person, one by one."""
    shown = [
        Entry(each.account_id or "no known account", [each.kind], each.reason, each.facts)
        for each in left[:PERSON_SHOWN_MAX]
    ]
    return Section(
        title="What still needs a person",
        words=[] if left else ["Nothing."],
        entries=shown,
        rest=_rest(len(left), len(shown), "entries"),
    )


def accounts(plan: Plan, found: Mapping[str, Recorded]) -> Section:
    """Return each change, with what became of its account."""
    rows = [
        (
            each.account_id,
            each.field,
            _text(each.from_, each.field),
            "?" if each.basis == "unknown" and each.decision is None else _text(each.to, each.field),
            each.cause,
            found[each.account_id].action.removeprefix("account.") if each.account_id in found else "",
            "" if each.decision is None else f"{each.decision.action}, {each.decision.by}: {each.decision.reason}",
        )
        for each in sorted(plan.changes, key=lambda each: each.account_id)
    ]
    names = ("account", "field", "from", "to", "class", "outcome", "decision")
    return Section(
        title="Each change",
        words=[] if rows else ["There is none."],
        table=_table(rows[:ACCOUNTS_SHOWN_MAX], dict.fromkeys(names, pl.String)),
        rest=_rest(len(rows), ACCOUNTS_SHOWN_MAX, "changes"),
    )


def steps(results: Mapping[str, Mapping[str, Any]], entries: Sequence[Recorded]) -> Section:
    """Return the steps that are done, when, and by whom."""
    ended = {each.details["step"]: each for each in entries if each.action == "step.completed"}
    rows = [
        (name, format_time(ended[name].at) if name in ended else "", ended[name].by if name in ended else "")
        for name in STEPS
        if name in results
    ]
    words = ["The last one, report, ends with this report."] if rows else ["None is done yet."]
    return Section(title="Steps", words=words, table=_table(rows, dict.fromkeys(("step", "done at", "by"), pl.String)))


def reconciliation(results: Mapping[str, Any]) -> Section:
    """Return what orders and ledger came to."""
    title = "Orders and ledger"
    if not results or results.get("skipped"):
        return Section(title=title, words=[f"Not reconciled: {results.get('reason', 'it was not its turn')}."])
    rows = [(name.replace("_", " "), value) for name, value in results.items() if isinstance(value, int)]
    why_not = results.get("not_kept")
    return Section(
        title=title,
        words=[f"The breaks were not kept: {why_not}."] if why_not else ["`breaks` lists what is open."],
        table=_table(rows, {"what": pl.String, "number": pl.Int64}),
    )


def certificates(results: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return what was replayed before and after."""
    told = {
        "before": (results.get("check", {}).get("system") or {}).get("certificate"),
        "after": results.get("verify", {}).get("certificate"),
    }
    rows = []
    for when, document in told.items():
        if document is not None:
            found = msgspec.convert(document, Certificate)
            parked = len(found.parked)
            rows.append((when, found.verdict, found.store_position, found.events, found.accounts, parked, found.digest))
    columns = {"when": pl.String, "verdict": pl.String, "position": pl.Int64, "events": pl.Int64}
    columns |= {"accounts": pl.Int64, "not certified": pl.Int64, "digest": pl.String}
    return Section(
        title="Certificates",
        words=["A replay of the log from its first event, before the run and after it."]
        if rows
        else ["There is none."],
        table=_table(rows, columns),
    )


def approved(entries: Sequence[Recorded]) -> list[dict[str, str]]:
    """Return who approved the plan, when, why and until when, as the audit trail has it."""
    found = [each for each in entries if each.action == "plan.approved"]
    return [{"by": each.by, "at": format_time(each.at), **_approval(each.details)} for each in found]


def _approval(details: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(details.get(name, "")) for name in ("reason", "expires_at")}


def approvals(entries: Sequence[Recorded]) -> Section:
    """Return who approved the plan, and why."""
    rows = [(each["by"], each["at"], each["expires_at"], each["reason"]) for each in approved(entries)]
    names = ("by", "at", "until", "reason")
    return Section(title="Approvals", table=_table(rows, dict.fromkeys(names, pl.String)))


def versions(found: Mapping[str, str]) -> Section:
    """Return what it was made with."""
    return Section(title="Versions", table=_table(list(found.items()), {"what": pl.String, "version": pl.String}))


def _rise(change: Change) -> int:
    """Return by how many points a balance was to rise, as far as anybody knows."""
    if change.field not in ("balance", ROW):
        return 0
    wanted = change.log if change.basis == "unknown" and change.decision is None else change.to
    if wanted is None and change.field != ROW:
        return 0
    if change.cause == "log_damaged" and change.decision is None:
        return 0
    return _balance(wanted) - _balance(change.from_)


def _balance(value: object) -> int:
    found = values_of_text(value)["balance"] if isinstance(value, str) else value
    return found if isinstance(found, int) else 0


def _told(change: Change) -> str:
    log = "what nobody knows" if change.cause == "log_damaged" else _text(change.log, change.field)
    return f"live had {_text(change.from_, change.field)}, the log says {log}"


def _text(value: Value, field: str) -> str:
    if field == ROW and isinstance(value, str):
        return ", ".join(f"{name} {told}" for name, told in values_of_text(value).items() if told is not None)
    return "nothing" if value is None else str(value)


def _table(rows: Sequence[Sequence[Any]], columns: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=dict(columns), orient="row")


def _rest(whole: int, shown: int, what: str) -> str:
    return f"... and {whole - shown:,} more {what}: {_REST}" if whole > shown else ""
