"""A report as text: what its page says, without its charts, whose numbers stand in the tables."""

from __future__ import annotations

from collections.abc import Iterator

from console.render import plain_table, printable
from console.reports.model import Entry, Report, Section
from schemas import format_time

__all__ = ["plain"]


def plain(report: Report) -> bytes:
    """Return the text of a report."""
    return ("\n".join(_lines(report)) + "\n").encode()


def _lines(report: Report) -> Iterator[str]:
    yield from _titled(report.title, "=")
    yield f"{report.verdict}: {printable(report.headline)}"
    yield ""
    yield from _named([*report.facts, ("made at", format_time(report.made_at))])
    yield ""
    yield from _named([(figure.label, f"{figure.value:,}") for figure in report.figures])
    if report.notes:
        yield ""
        yield from (f"! {printable(note)}" for note in report.notes)
    for section in report.sections:
        yield ""
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield from _titled(section.title, "-")
    yield from (printable(words) for words in section.words)
    if section.table is not None and section.table.height:
        yield plain_table(section.table)
    for number, entry in enumerate(section.entries):
        if number:
            yield ""
        yield from _entry(entry)
    if section.rest:
        yield section.rest


def _entry(entry: Entry) -> Iterator[str]:
    yield f"{printable(entry.title)} ({printable(', '.join(entry.marks))})"
    yield f"  {printable(entry.words)}"
    yield from (f"  {printable(name)}: {printable(value)}" for name, value in entry.facts)
    yield from (f"  - {printable(line)}" for line in entry.log)


def _titled(title: str, line: str) -> list[str]:
    return [title, line * len(title)]


def _named(pairs: list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in pairs) + 2
    return [f"{name + ':':<{width}}{printable(value)}" for name, value in pairs]
