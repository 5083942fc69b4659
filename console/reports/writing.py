"""Files that a report is written to: their ending says in which form."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.answer import Answer
from schemas.errors import UsageError

if TYPE_CHECKING:
    from console.reports.model import Report

__all__ = ["ReportFiles", "need_report_files", "write_report"]

ENDINGS = (".html", ".json", ".txt")

ReportFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write a report too: one HTML page, JSON or text, by the ending .html, .json or .txt; may be given again.",
    ),
]


def need_report_files(files: Sequence[Path], *, output: Path | None = None) -> None:
    """Let files pass that a report can be written to; UsageError for any other, before work is done for it."""
    from console.render import need_place

    for number, file in enumerate(files):
        if file.suffix.lower() not in ENDINGS:
            raise UsageError(
                "there is no report of this ending", where=str(file), next_step=f"use {', '.join(ENDINGS)}"
            )
        others = [*files[:number], *([output] if output is not None else [])]
        if file.absolute() in [other.absolute() for other in others]:
            raise UsageError("two things would be written to one file", where=str(file), next_step="name another")
        need_place(file)


def write_report(report: Report, files: Sequence[Path]) -> dict[Path, str]:
    """Write a report to files and return the SHA-256 of each; UsageError where one cannot be written."""
    from console.render import write_file

    digests = {}
    for file in files:
        content = _rendered(report, file.suffix.lower())
        write_file(file, lambda opened, content=content: opened.write(content))  # type: ignore[misc]
        sys.stderr.write(f"written to {file}\n")
        digests[file] = hashlib.sha256(content).hexdigest()
    return digests


def _rendered(report: Report, ending: str) -> bytes:
    if ending == ".json":
        from console.render import document

        return document(Answer(verdict=report.verdict, fields=report.document))
    if ending == ".txt":
        from console.reports.plain import plain

        return plain(report)
    from console.reports.page import page

    return page(report)
