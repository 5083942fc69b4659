"""The results as a Markdown table, with the machine and the versions they were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["EVENTS_JUDGED_MIN", "Result", "render"]

#: The targets are meant for ledgers from this size on; below it, start-up costs and part-filled batches decide.
EVENTS_JUDGED_MIN = 1_000_000

Measured = dict[str, Any]
PACKAGES = ("polars", "SQLAlchemy", "eventsourcing", "eventsourcing-sqlalchemy", "msgspec")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table: what was measured, ours, what it is compared with, and the target."""

    name: str
    ours: str
    other: str
    value: str
    target: str
    is_met: bool

    @classmethod
    def faster(cls, name: str, ours: list[Measured], peer: list[Measured], *, times_min: float) -> Result:
        """Compare events/s with the peer's."""
        ratio = _rate(ours) / _rate(peer)
        return cls(
            name=name,
            ours=f"{_rate(ours):,.0f} events/s, {_peak(ours)}",
            other=f"library: {_rate(peer):,.0f} events/s, {_peak(peer)}",
            value=f"{ratio:.1f}x",
            target=f"at least {times_min:g}x",
            is_met=ratio >= times_min,
        )

    @classmethod
    def cost(cls, name: str, large: list[Measured], small: list[Measured], *, times_max: float) -> Result:
        """Compare the cost of one event in a large and a small ledger of the same accounts."""
        ratio = _rate(small) / _rate(large)
        return cls(
            name=name,
            ours=f"{large[0]['events']:,} events: {1e6 / _rate(large):.2f} µs each",
            other=f"{small[0]['events']:,} events: {1e6 / _rate(small):.2f} µs each",
            value=f"{ratio:.2f}x",
            target=f"at most {times_max:g}x",
            is_met=ratio <= times_max,
        )

    @classmethod
    def memory(cls, name: str, large: list[Measured], small: list[Measured], *, times_max: float) -> Result:
        """Compare the peak memory over a large and a small ledger of the same accounts."""
        ratio = _peak_bytes(large) / _peak_bytes(small)
        return cls(
            name=name,
            ours=f"{large[0]['events']:,} events: {_peak(large)}",
            other=f"{small[0]['events']:,} events: {_peak(small)}",
            value=f"{ratio:.2f}x",
            target=f"at most {times_max:g}x",
            is_met=ratio <= times_max,
        )

    @classmethod
    def below(cls, name: str, ours: list[Measured], *, bytes_max: float) -> Result:
        """Compare the peak memory with a bound."""
        return cls(
            name=name,
            ours=f"{ours[0]['events']:,} events",
            other="",
            value=_peak(ours),
            target=f"below {bytes_max / 1e9:g} GB",
            is_met=_peak_bytes(ours) < bytes_max,
        )


def render(results: list[Result], *, events: int, runs: int, now: datetime, load_before: float) -> str:
    """Return the whole document; `load_before` says whether the machine was busy with something else."""
    lines = [
        "# Results",
        "",
        f"`make bench SIZE={events}`, {now:%Y-%m-%d}. Medians of {runs} runs in turn, each in a process of its own;",
        "memory is the peak of the whole process, the interpreter and its libraries included.",
        "",
        "| what | ours | compared with | measured | target | |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        verdict = "too small to judge" if events < EVENTS_JUDGED_MIN else "met" if one.is_met else "**missed**"
        lines.append(f"| {one.name} | {one.ours} | {one.other} | {one.value} | {one.target} | {verdict} |")
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            *lines,
            "",
            f"Machine: {_processor()}, {os.cpu_count()} cores, {_memory_bytes() / 2**30:.0f} GiB memory,"
            f" {platform.system()} {platform.machine()}. Load before the first run: {load_before:.1f} processes.",
            f"Versions: Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}.",
            "",
            "The peer is the library at its best: events ready made, 1,000 an `insert_events` call, in the order of",
            "our import, on SQLite with the same journal mode and synchronous setting, without our hash chain and",
            "heads; and a loop over `select_notifications`, 10,000 a page, with msgspec as decoder, that keeps the",
            "same sums in memory, where our rebuild also checks every chain and head and writes a generation.",
            "",
        ]
    )


def _rate(measured: list[Measured]) -> float:
    return median(one["events"] / one["seconds"] for one in measured)


def _peak_bytes(measured: list[Measured]) -> float:
    return max(one["peak_bytes"] for one in measured)


def _peak(measured: list[Measured]) -> str:
    return f"{_peak_bytes(measured) / 1e6:,.0f} MB"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
