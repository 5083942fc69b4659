"""Data files of an archive: each is named by the hash of its bytes, so that the table's log says what they must be.

No reader of Parquet notices a flipped bit, so every file that is read is hashed before. A name is 160 bits of BLAKE2b,
which the table's log keeps for as long as the file is part of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import obstore
import polars as pl
from deltalake import DeltaTable
from obstore.exceptions import BaseError
from obstore.store import LocalStore

from replay.archive import object_store
from replay.archive.causes import cause
from replay.archive.schema import CODED
from schemas.errors import ArchiveError

__all__ = ["DataFile", "Files", "Location", "Written"]

#: Rows of a row group: few enough that one account's history is some milliseconds away, enough to scan fast.
ROW_GROUP_EVENTS = 32_768

_SUFFIX = ".parquet"
_LOG_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")
#: Files that are deleted at once: an object store takes its time for each.
_DELETIONS = 8
_HASH_BYTES = 20

#: Columns whose smallest and largest values the table's log keeps beside each file, for whoever wants to skip some.
_BOUNDED = ("account_id", "version", "position", "effective_at", "recorded_at", "amount")


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """One data file as the table's log says it is; `amount_max` is 0 where no event has an amount."""

    name: str
    bytes: int
    events: int
    first_account: str
    last_account: str
    amount_max: int


class Location(msgspec.Struct, frozen=True):
    """Where an archive is: a local folder, or the URL of an object store with its options (credentials, endpoint)."""

    url: str
    options: dict[str, str] = {}

    @property
    def folder(self) -> Path | None:
        """The local folder, None where it is elsewhere."""
        return None if "://" in self.url else Path(self.url)

    def of(self, name: str) -> str:
        """Return where a file of it is."""
        return f"{self.url.rstrip('/')}/{name}"

    @property
    def reading_options(self) -> dict[str, Any] | None:
        """The options as polars takes them."""
        return None if self.folder is not None else object_store.polars_options(self.options)

    @property
    def log_options(self) -> dict[str, str] | None:
        """The options as deltalake takes them."""
        return None if self.folder is not None else object_store.delta_options(self.options)

    def table(self, version: int | None = None) -> DeltaTable:
        """Return the table that is there; ArchiveError where the place does not answer, or says no."""
        with self.reached():
            return DeltaTable(self.url, version=version, storage_options=self.log_options)

    def reached(self) -> AbstractContextManager[None]:
        """Return a context that asks the place for something: ArchiveError where it does not answer, or says no."""
        return object_store.reaching(self.url, self.options)


class Written(NamedTuple):
    """A data file that is there, and its statistics as Delta's JSON."""

    file: DataFile
    statistics: str


def _encoded(events: pl.DataFrame) -> tuple[Written, bytes]:
    buffer = BytesIO()
    events.with_columns(pl.col(name).cast(kind) for name, kind in CODED.items()).write_parquet(
        buffer, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_EVENTS
    )
    data = buffer.getvalue()
    bounds = events.select(
        *(pl.col(name).min().alias(f"min.{name}") for name in _BOUNDED),
        *(pl.col(name).max().alias(f"max.{name}") for name in _BOUNDED),
    ).row(0, named=True)
    file = DataFile(
        name=blake2b(data, digest_size=_HASH_BYTES).hexdigest() + _SUFFIX,
        bytes=len(data),
        events=events.height,
        first_account=bounds["min.account_id"],
        last_account=bounds["max.account_id"],
        amount_max=bounds["max.amount"] or 0,
    )
    return Written(file, msgspec.json.encode(_statistics(events.height, bounds)).decode()), data


def _statistics(rows: int, bounds: Mapping[str, Any]) -> dict[str, Any]:
    def of(edge: str) -> dict[str, Any]:
        return {name: value for name in _BOUNDED if (value := bounds[f"{edge}.{name}"]) is not None}

    return {"numRecords": rows, "minValues": of("min"), "maxValues": of("max"), "nullCount": {}}


def _log_name(version: int) -> str:
    return f"_delta_log/{version:020}.json"


class Files:
    """The data files of one location; what was found whole is not hashed again by the same instance until it changes.

    What a disk loses without anybody writing to the file is noticed by the next instance.
    """

    def __init__(self, location: Location) -> None:
        """Take a location; UsageError where it is no place for files, or an option of it cannot be used."""
        self._location = location
        self._whole: dict[str, object] = {}
        if location.folder is None:
            _ = self._store

    @cached_property
    def _store(self) -> Any:
        folder = self._location.folder
        if folder is not None:
            # The folder is made here, so only once there is a file to write or to look for.
            return LocalStore(folder, mkdir=True)
        return object_store.opened(self._location.url, self._location.options)

    def names(self) -> set[str]:
        """Return the names of all data files that are there, whether they are part of the archive or not."""
        return set(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all data files that are there by name, whether they are part of the archive or not."""
        return {each["path"]: each["size"] for each in self._listed()}

    def times(self) -> dict[str, datetime]:
        """Return when each data file that is there was written last, by the place's own clock."""
        return {each["path"]: each["last_modified"] for each in self._listed()}

    def log_times(self) -> dict[int, datetime]:
        """Return when each entry of the table's log was written, by the place's own clock."""
        with self._location.reached():
            found = [each for batch in obstore.list(self._store, "_delta_log") for each in batch]
        matches = [(_LOG_ENTRY.fullmatch(each["path"]), each["last_modified"]) for each in found]
        return {int(match[1]): time for match, time in matches if match is not None}

    def _listed(self) -> list[Any]:
        """Return what the place says of its data files; the log has Parquet files of its own, in a folder."""
        with self._location.reached():
            found = [each for batch in obstore.list(self._store) for each in batch]
        return [each for each in found if each["path"].endswith(_SUFFIX) and "/" not in each["path"]]

    def log_entry(self, version: int) -> bytes | None:
        """Return a file of the table's log, None where it is not there."""
        try:
            with self._location.reached():
                return bytes(obstore.get(self._store, _log_name(version)).bytes())
        except FileNotFoundError:
            return None

    def log_mark(self, version: int) -> object:
        """Return what changes when a file of the table's log is another one, None where it is not there."""
        return self._mark(_log_name(version))

    def put(self, events: pl.DataFrame) -> Written:
        """Write events (`ARCHIVE_SCHEMA`, sorted) as a data file; it is there whole or not at all."""
        written, data = _encoded(events)
        try:
            with self._location.reached():
                obstore.put(self._store, written.file.name, data)
        except ArchiveError:
            raise
        except (BaseError, OSError) as error:
            raise self._failed("written", error) from error
        return written

    def delete(self, names: Iterable[str]) -> None:
        """Delete data files; one that is gone already is no matter."""
        with ThreadPoolExecutor(_DELETIONS) as threads:
            for _ in threads.map(self._delete, names):
                pass

    def _delete(self, name: str) -> None:
        try:
            with self._location.reached():
                obstore.delete(self._store, name)
        except ArchiveError:
            raise
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._failed("cleaned", error) from error

    def _failed(self, what: str, error: Exception) -> ArchiveError:
        return ArchiveError(
            f"the archive cannot be {what}: {cause(error)}",
            where=self._location.url,
            next_step="mend that and run it again: it goes on from what was committed before",
        )

    def check(self, files: Iterable[DataFile]) -> dict[str, str]:
        """Return what is wrong with each file that is not what its name says, by name."""
        asked = list(files)
        marks = {file.name: self._mark(file.name) for file in asked}
        whole = {name for name, mark in marks.items() if mark is not None and self._whole.get(name) == mark}
        unknown = [file for file in asked if file.name not in whole]
        # Hashing leaves the interpreter's lock.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = dict(zip((file.name for file in unknown), threads.map(self._problem, unknown), strict=True))
        self._whole.update((name, marks[name]) for name, problem in found.items() if problem is None)
        return {name: problem for name, problem in found.items() if problem is not None}

    def forget(self) -> None:
        """Look at every file again from now on."""
        self._whole.clear()

    def _mark(self, name: str) -> object:
        """Return what changes when a file is written again, None where it is not there."""
        try:
            if self._location.folder is not None:
                found = (self._location.folder / name).stat()
                return found.st_size, found.st_mtime_ns, found.st_ino
            meta = obstore.head(self._store, name)
            return meta["size"], meta["last_modified"], meta.get("e_tag")
        except Exception:  # noqa: BLE001 - whatever it is, it is said where the file is read.
            return None

    def _problem(self, file: DataFile) -> str | None:
        try:
            with self._location.reached():
                data = obstore.get(self._store, file.name).bytes()
        except FileNotFoundError:
            return "the file is missing"
        except ArchiveError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever else a disk says is about what is on it.
            return f"the file cannot be read: {cause(error)}"
        if len(data) != file.bytes:
            return f"the file has {len(data):,} bytes, the table's log says {file.bytes:,}"
        if blake2b(data, digest_size=_HASH_BYTES).hexdigest() + _SUFFIX != file.name:
            return "the file's bytes are not those that were written (hash)"
        return None
