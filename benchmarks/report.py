"""The results as a Markdown table, with the machine and the versions they were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["EVENTS_JUDGED_MIN", "Result", "render"]

#: The targets are meant for ledgers from this size on; below it, start-up costs and part-filled batches decide.
EVENTS_JUDGED_MIN = 1_000_000

Measured = dict[str, Any]

_TOPIC = (
    "The topic is what our relay made of the same ledger: 6 partitions, zstd, on a real Apache Kafka of one node on",
    "this machine. An empty loop takes the records of its partitions and does nothing with them; its settings are",
    "those of our reader, and its processes start with the client alone. Ours is a whole replay: read, decoded, gated,",
    "folded, merged, with certificate and digest; with links it makes the chain of every event too, as `rebuild` does,",
    "without them it is what `balances` does. The clock starts on both sides when the reading processes are asked for,",
    "so that their start counts, and stops when all records were read, or the certificate is there. Memory of several",
    "processes is the first one's peak and for each other one that of the largest of them.",
    "",
)
_ARCHIVE = (
    "The archive is made in columns: accounts of skewed sizes, a tenth of the events holds, as many that settle them.",
    "DuckDB reads the same files, with as many threads as there are cores, into a table in memory; PostgreSQL has the",
    "same rows, whole, with an index on the account. Ours ends with the rows of all accounts in memory. Hashes of the",
    "files and the digest are timed beside it.",
    "",
    "What bounds the targets that are missed, and what was tried: BOUNDS.md.",
    "",
)
PACKAGES = (
    "polars",
    "SQLAlchemy",
    "eventsourcing",
    "eventsourcing-sqlalchemy",
    "msgspec",
    "kafka-python",
    "crc32c",
    "confluent-kafka",
    "deltalake",
    "duckdb",
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table: what was measured, ours, what it is compared with, and the target.

    `is_met` is None where there is nothing to meet: a figure without a target, or what could not be measured.
    """

    name: str
    ours: str
    other: str
    value: str
    target: str
    is_met: bool | None

    @classmethod
    def faster(
        cls, name: str, ours: list[Measured], peer: list[Measured], *, times_min: float | None, than: str = "library"
    ) -> Result:
        """Compare events/s with the peer's; without `times_min` the ratio is only shown.

        An empty loop's memory is not shown: nobody chooses between the two for it.
        """
        ratio = _rate(ours) / _rate(peer)
        memory = "" if than.startswith("empty") else f", {_peak(peer)}"
        return cls(
            name=name,
            ours=f"{_rate(ours):,.0f} events/s, {_peak(ours)}",
            other=f"{than}: {_rate(peer):,.0f} events/s{memory}",
            value=f"{ratio:.2f}x" if ratio < 1 else f"{ratio:.1f}x",
            target="" if times_min is None else f"at least {times_min:g}x",
            is_met=None if times_min is None else ratio >= times_min,
        )

    @classmethod
    def figure(cls, name: str, ours: list[Measured]) -> Result:
        """Show events/s that are compared with nothing."""
        rate = f"{_rate(ours):,.0f} events/s"
        return cls(name=name, ours=f"{rate}, {_peak(ours)}", other="", value=rate, target="", is_met=None)

    @classmethod
    def missing(cls, name: str, why: str) -> Result:
        """Say that something was not measured, and why."""
        return cls(name=name, ours="not measured", other=why, value="", target="", is_met=None)

    @classmethod
    def noted(cls, name: str, ours: str, value: str) -> Result:
        """Show a figure that nothing is asked of."""
        return cls(name=name, ours=ours, other="", value=value, target="", is_met=None)

    @classmethod
    def within(cls, name: str, ours: str, value: float, unit: str, *, value_max: float) -> Result:
        """Compare a figure with a bound."""
        return cls(
            name=name,
            ours=ours,
            other="",
            value=f"{value:.2f} {unit}",
            target=f"at most {value_max:g} {unit}",
            is_met=value <= value_max,
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
        verdict = _verdict(one, events)
        lines.append(f"| {one.name} | {one.ours} | {one.other} | {one.value} | {one.target} | {verdict} |")
    packages = ", ".join(filter(None, map(_package, PACKAGES)))
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
            *_TOPIC,
            *_ARCHIVE,
        ]
    )


def _verdict(one: Result, events: int) -> str:
    if one.is_met is None:
        return ""
    if events < EVENTS_JUDGED_MIN:
        return "too small to judge"
    return "met" if one.is_met else "**missed**"


def _package(name: str) -> str:
    """Return a package with its version, nothing for an extra that is not installed."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


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
