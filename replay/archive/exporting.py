"""Export of events from an archive: the wire bytes made anew from the columns, where the hash chain proves them.

So what a store has lost comes back from its archive by `import events`. An archive has columns and no bytes: an event
of an older schema version, or with fields that this version does not know, would come out otherwise than it was
appended. The chain at an account's last event tells, and an account of which it does not agree is left out and named.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from ledger.importing.events import lines_to
from ledger.importing.wire import chained, states
from replay.archive.full_replay import replayed_archive, snapshot_of
from replay.archive.reading import reading, slices
from replay.archive.table import Archive
from replay.certificate import Certificate
from replay.engine import Progress
from schemas.chain import GENESIS

__all__ = ["Exported", "export_from_archive"]

#: Events that are made into bytes at once: this bounds memory.
SLICE_EVENTS = 500_000


class Exported(NamedTuple):
    """How many events were written, what was replayed, and the accounts left out since no chain proves their bytes."""

    events: int
    certificate: Certificate
    unproved: list[str]


def export_from_archive(archive: Archive, file: Path | str, *, progress: Progress | None = None) -> Exported:
    """Write the events of every account that is certified as JSON Lines, account by account; "-" is standard output.

    UsageError where there is no archive, or the file cannot be written.
    """
    snapshot = snapshot_of(archive)
    with replayed_archive(archive, snapshot=snapshot) as replay:
        certificate, certified = replay.certificate, replay.rows.select("account_id")
    damaged = {each.file for each in certificate.damaged}
    files = [file for file in snapshot.files if file.name not in damaged]
    written = done = 0
    unproved: list[str] = []
    with lines_to(file) as output:
        for part in slices(archive, files, SLICE_EVENTS):
            with reading(archive):
                rows = part.collect()
            done += rows.height
            events = rows.join(certified, on="account_id", how="semi").sort("account_id", "version")
            lines, wrong = _proved(events)
            if lines.len():
                output.write(b"\n".join([*lines.to_list(), b""]))
            written += lines.len()
            unproved += wrong
            if progress is not None:
                progress(done, snapshot.held.events)
    return Exported(written, certificate, unproved)


def _proved(events: pl.DataFrame) -> tuple[pl.Series, list[str]]:
    """Return the bytes of accounts whose last chain is that of their bytes, and the ids of the others."""
    account_id = pl.col("account_id")
    lines = states(events)
    first = events.select(
        pl.when(account_id.ne_missing(account_id.shift(1))).then(pl.lit(GENESIS, pl.Binary()))
    ).to_series()
    made = events.select("account_id", "version", known="chain").with_columns(made=chained(lines, first), state=lines)
    is_last = account_id.ne_missing(account_id.shift(-1))
    wrong = made.filter(is_last & pl.col("known").ne_missing(pl.col("made")))["account_id"].to_list()
    return made.filter(~account_id.is_in(wrong))["state"], wrong
