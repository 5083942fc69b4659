"""`recover report`: the report of a run as files, noted in the audit trail, and a file checked against the trail."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from console.answer import Answer
from console.audit_places import outside_heads
from console.recover_apply import run_named
from console.recover_audit import kept_outside, outsides_of
from console.render import printable
from console.reports.plain import plain
from console.reports.recovery import FORMAT, Reported, numbers_of, recovery_report
from console.reports.recovery_sections import approved
from console.reports.writing import write_report
from console.words import count, first_few
from ledger import audit
from ledger.audit_runs import told_results
from ledger.recovery_runs import Runs
from replay.recovery.applying import plan_of
from replay.recovery.outcome import final_entries
from replay.recovery.plan import Plan
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.reports.model import Report
    from console.run import Run
    from ledger.audit import Recorded
    from ledger.recovery_run import RecoveryRun
    from ledger.store import Store
    from replay.recovery.work import Work

__all__ = ["report", "verify_report", "write_reports"]

WRITTEN = "report.written"
ENDINGS = ("html", "json", "txt")
_LIBRARIES = ("eventsourcing", "SQLAlchemy", "psycopg", "polars", "msgspec", "deltalake", "kafka-python")
#: What the entry of the end of a run, or of its going on, makes of its status.
_STATUSES = {
    "run.started": "running",
    "run.resumed": "running",
    "run.failed": "failed",
    "run.needs_intervention": "manual_intervention_required",
    "run.completed": "completed",
    "run.aborted": "aborted",
}
_RUN = re.compile(rb"\brecovery-[0-9a-f]{16}\b")


def write_reports(run: Run, store: Store, work: Work, ending: Mapping[str, Any]) -> dict[str, Any]:
    """Write the report of a run that is about to end, in every form, and return files and digests for the trail."""
    made = _report(run, store, work.plan, work.state(), status=str(ending["status"]), reason=str(ending["reason"]))
    files = [run.reports / f"{work.run}.{each}" for each in ENDINGS]
    return _details(write_report(made, files), made)


def report(run: Run, name: str | None, files: Sequence[Path], *, by: str) -> Answer:
    """Return the report of a run in words; written to files, it is noted in the audit trail."""
    with run.ledger() as store:
        wanted = run_named(store, name)
        recovery = Runs(store).get(wanted)
        if recovery is None:
            raise UsageError(f"there is no run {wanted!r}", next_step="see `recover status`")
        made = _report(
            run, store, plan_of(run.data, wanted), recovery, status=recovery.status, reason=recovery.reason or ""
        )
        notes = []
        if files:
            outsides, now = outsides_of(run, store), run.now
            details = _details(write_report(made, files), made)
            with store.writing() as connection:
                entry = audit.Entry(action=WRITTEN, by=by, at=now, run=wanted, details=details)
                audit.append(connection, store.ledger_id, [entry])
            notes = kept_outside(store, outsides, now)
    return Answer(
        verdict=made.verdict,
        fields={**made.document, "report": [str(file) for file in files]},
        summary=plain(made).decode().splitlines(),
        notes=notes,
    )


def _report(run: Run, store: Store, plan: Plan, recovery: RecoveryRun, *, status: str, reason: str) -> Report:
    with store.snapshot() as connection:
        head = audit.head(connection, store.ledger_id)
        entries = audit.entries(connection, run=recovery.id)
    return recovery_report(
        Reported(
            plan=plan,
            recovery=recovery,
            status=status,
            reason=reason,
            made_at=run.now,
            entries=entries,
            head=head,
            versions=_versions(),
        )
    )


def _details(digests: Mapping[Path, str], made: Report) -> dict[str, Any]:
    files = [{"file": str(file), "sha256": digest} for file, digest in digests.items()]
    return {"files": files, "head": made.document["audit_head"], "status": made.document["status"]}


def _versions() -> dict[str, str]:
    found = {"ledger-replay": _version("ledger-replay"), "Python": platform.python_version()}
    return found | {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def verify_report(run: Run, file: Path) -> Answer:
    """Check a report against the audit trail: its digest, the chain, and of JSON its numbers, added up again."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the report: {error.strerror}", where=str(file)) from error
    digest = hashlib.sha256(content).hexdigest()
    with run.ledger() as store:
        kept = [head for outside in outside_heads(run, store.ledger_id) for head in outside.heads()]
        with store.snapshot() as connection:
            chain = audit.verify(connection, store.ledger_id, kept)
            written = audit.entries(connection, actions=[WRITTEN])
            entry = next((each for each in reversed(written) if digest in _digests(each)), None)
            name = _run_of(content, entry)
            findings = [] if entry is not None else [_unknown(digest, name, written)]
            document = _document_of(file, content)
            if document is not None:
                findings += _differences(document, audit.entries(connection, run=document["run"]), store.ledger_id)
            if entry is not None:
                findings += _outdated(entry, audit.entries(connection, run=entry.run, actions=list(_STATUSES)))
    if chain.first_bad is not None:
        findings.append(f"the audit trail was changed, entry {chain.first_bad.number}: {chain.first_bad.reason}")
    checked = "its numbers are those of the trail, " if document is not None else ""
    return Answer(
        verdict="FINDINGS" if findings else "CLEAN",
        fields={
            "report": str(file),
            "sha256": digest,
            "run": name,
            "entry": None if entry is None else entry.number,
            "is_recomputed": document is not None,
            "findings": findings,
            "entries": chain.entries,
            "head": None if chain.head is None else chain.head._asdict(),
        },
        summary=[
            f"{file}: {count(len(findings), 'finding')}"
            if findings or entry is None
            else f"{file} is the report that entry {entry.number:,} of the audit trail names, written by {entry.by}; "
            f"{checked}and the trail is whole: {count(chain.entries, 'entry', 'entries')}",
            *first_few([printable(each) for each in findings], "findings"),
        ],
    )


def _digests(entry: Recorded) -> list[str]:
    files = entry.details.get("files", [])
    return [str(each.get("sha256")) for each in files if isinstance(each, dict)]


def _run_of(content: bytes, entry: Recorded | None) -> str | None:
    """Return the run that a report is of: as the trail says, else the first that it names itself."""
    if entry is not None:
        return entry.run
    found = _RUN.search(content)
    return None if found is None else found.group().decode()


def _unknown(digest: str, name: str | None, written: Sequence[Recorded]) -> str:
    of_run = [each for each in written if name is not None and each.run == name]
    known = f"; entry {of_run[-1].number:,} names other digests for {name}" if of_run else ""
    return f"no entry of the audit trail names this file: SHA-256 {digest} was never written{known}"


def _outdated(written: Recorded, ends: Sequence[Recorded]) -> list[str]:
    """Return what has become of the run since its report was written, where that says another status."""
    head, said = written.details.get("head"), written.details.get("status")
    number = head.get("number") if isinstance(head, dict) else None
    later = [each for each in ends if isinstance(number, int) and each.number > number]
    if not later or _STATUSES[later[-1].action] == said:
        return []
    return [
        f"the report says that the run is {said}, and it is {_STATUSES[later[-1].action]} since entry "
        f"{later[-1].number:,} of the audit trail: `recover report` makes a new one"
    ]


def _document_of(file: Path, content: bytes) -> dict[str, Any] | None:
    """Return what a report in JSON says; None for one of another form, or what is no report of a recovery."""
    if file.suffix.lower() != ".json":
        return None
    try:
        found = msgspec.json.decode(content)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(found, dict) and found.get("format") == FORMAT
    return found if is_ours and _RUN.fullmatch(str(found.get("run")).encode()) else None


def _differences(document: Mapping[str, Any], entries: Sequence[Recorded], ledger_id: str) -> list[str]:
    """Return what a report says otherwise than the entries up to its head add up to."""
    head = document.get("audit_head")
    number = head.get("number") if isinstance(head, dict) else None
    if not isinstance(head, dict) or not isinstance(number, int):
        return ["it does not say up to which entry of the audit trail it was made"]
    findings = []
    if document.get("ledger_id") != ledger_id:
        findings.append(f"it is of ledger {document.get('ledger_id')}, and this is {ledger_id}")
    of_report = [each for each in entries if each.number <= number]
    if of_report and of_report[-1].number == number and of_report[-1].hash != head.get("hash"):
        findings.append(f"entry {number:,} has the hash {of_report[-1].hash}, and the report says {head.get('hash')}")
    said, real = document.get("numbers"), numbers_of(of_report)
    for path, value in _flat(real).items():
        told = _flat(said).get(path) if isinstance(said, dict) else None
        if told != value:
            findings.append(f"{path}: the report says {told}, the audit trail says {value}")
    return findings + _differing_steps(document, of_report) + _differing_accounts(document, of_report)


def _differing_steps(document: Mapping[str, Any], entries: Sequence[Recorded]) -> list[str]:
    """Return what a report says otherwise of approvals and of the results of steps."""
    findings = []
    if document.get("approvals") != approved(entries):
        findings.append("its approvals are not those of the audit trail")
    steps = document.get("steps")
    known = {each.details.get("step"): each.details for each in entries if each.action == "step.completed"}
    for name in sorted({*map(str, known), *(steps if isinstance(steps, dict) else {})}):
        said = steps.get(name) if isinstance(steps, dict) else None
        if said is None or {"step": name, **told_results(said)} != known.get(name):
            findings.append(f"step {name}: the report has other results than the audit trail")
    return findings


def _differing_accounts(document: Mapping[str, Any], entries: Sequence[Recorded]) -> list[str]:
    known = {name: each.action.removeprefix("account.") for name, each in final_entries(entries).items()}
    listed = document.get("accounts")
    told = {
        str(each.get("account_id")): each.get("outcome")
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict) and each.get("outcome") is not None
    }
    return [
        f"account {name}: the report says {told.get(name)}, the audit trail says {known.get(name)}"
        for name in sorted(map(str, {*known, *told}))
        if told.get(name) != known.get(name)
    ]


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{before}{name}"
        found |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found
