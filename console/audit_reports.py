"""The heads that reports of recoveries name: files outside the database that vouch for the trail up to an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from ledger.audit_chain import Head

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ReportHead", "report_heads"]


class ReportHead(NamedTuple):
    """A report, and the head that it names."""

    file: Path
    head: Head


class _Said(msgspec.Struct):
    number: Annotated[int, msgspec.Meta(ge=0)]
    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class _Report(msgspec.Struct):
    ledger_id: str
    audit_head: _Said


def report_heads(folder: Path, ledger_id: str) -> tuple[list[ReportHead], list[str]]:
    """Return the heads of the reports in a folder, by name, and why a file of such a name has none."""
    found, why_not = list[ReportHead](), list[str]()
    for file in sorted(folder.glob("recovery-*.json")):
        try:
            said = msgspec.json.decode(file.read_bytes(), type=_Report)
        except (OSError, ValueError, RecursionError) as error:
            why_not.append(f"{file} vouches for nothing, it cannot be read as a report: {error}")
            continue
        if said.ledger_id != ledger_id:
            why_not.append(f"{file} vouches for nothing here: it is of ledger {said.ledger_id}")
            continue
        found.append(ReportHead(file, Head(said.audit_head.number, said.audit_head.hash)))
    return found, why_not
