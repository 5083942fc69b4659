"""The table of an archive: what it holds at a version, and commits that move it on, one at a time.

A commit carries files, the state of the archive (`State`, in the commit's own information) and two kinds of
application transactions: the source's position, and a number that every commit of ours raises by one, so that of two
processes that write at once one fails, whatever they do. The state has a hash over all data files and itself, so that
a log which lost a file or was changed is noticed; and since a log that lost its newest entry looks like an older one,
the version reached last is kept beside the table too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import msgspec
import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from obstore.exceptions import BaseError

from replay.archive.causes import cause
from replay.archive.files import DataFile, Files, Location, Written
from replay.archive.schema import delta_schema
from replay.archive.state import APPLICATION, FORMAT, State, positions
from schemas.errors import ArchiveError, IncompleteError, LedgerReplayError, PositionMoved, RefusedError, UsageError

__all__ = ["Archive", "Snapshot"]

#: Under this name the state is in a commit's information.
_KEY = "ledgerReplay"

#: Under this one is what no other commit has, so that ours is known where its answer was lost.
_KEY_OF_ONE = "ledgerReplayCommit"


class Snapshot(NamedTuple):
    """An archive at one version of its table; `state` is None where nothing was committed yet."""

    table: DeltaTable
    version: int
    state: State | None
    files: list[DataFile]

    @property
    def held(self) -> State:
        """The state of an archive that something was committed to; UsageError for any other."""
        if self.state is None:
            raise UsageError("there is no archive yet", next_step="make it with `ledger-replay archive`")
        return self.state

    @property
    def table_id(self) -> str:
        """What tells this table from every other, also from one made anew in its place."""
        return str(self.table.metadata().id)


class Archive:
    """The archive at a location; `expected` is the file that remembers the version it reached last."""

    def __init__(self, location: Location, *, expected: Path | None = None) -> None:
        self.location = location
        self.files = Files(location)
        self._expected = expected
        #: The manifest of the state of which all versions were found to be there once each.
        self.added_up: str | None = None
        self._known: Snapshot | None = None
        # A table that was made anew may have as many versions; the log entry of the version is another one then.
        self._known_mark: object = None
        # A handle of its own, which is moved on: those of snapshots stay at their version.
        self._newest: DeltaTable | None = None

    def snapshot(self) -> Snapshot | None:
        """Return the archive as it is now, None where there is none; what is known already is not read again.

        IncompleteError where its log cannot be understood, lost its newest entries, or is not what was committed;
        RefusedError for a table that is none of ours; ArchiveError where the place does not answer, or says no.
        """
        expected = self._read_expected()
        if self._is_newest(expected):
            return self._known
        try:
            table = self.location.table()
        except TableNotFoundError:
            if expected is None:
                return None
            raise self._damaged("the archive is gone, and it was there") from None
        except (DeltaError, OSError, ValueError) as error:
            raise self._damaged(f"the log of the archive cannot be read: {cause(error)}") from error
        if expected is not None and str(table.metadata().id) != expected.table_id:
            raise self._damaged("another table is in the archive's place")
        if expected is not None and table.version() < expected.version:
            lost = f"its newest version is {table.version()}, and it had {expected.version}"
            raise self._damaged(f"the log of the archive has lost its newest entries: {lost}")
        mark = self.files.log_mark(table.version())
        found = self._read(table)
        if expected is not None and (found.state is None or found.state.commits < expected.commits):
            raise self._damaged("the log of the archive has lost what was committed last")
        self._known, self._known_mark, self._newest = found, mark, None
        return found

    def _is_newest(self, expected: _Expected | None) -> bool:
        """Say whether the table is still the one that is known, and at the version that is known."""
        if self._known is None or (expected is not None and expected.version > self._known.version):
            return False
        if self.files.log_mark(self._known.version) != self._known_mark:
            return False
        try:
            if self._newest is None:
                self._newest = self.location.table()
            else:
                with self.location.reached():
                    self._newest.update_incremental()
        except (DeltaError, OSError, ValueError):
            # What is wrong is said where it is opened anew.
            return False
        return self._newest.version() == self._known.version

    def _read(self, table: DeltaTable) -> Snapshot:
        try:
            files, state = _files(table), self._state(table.version())
        except (
            DeltaError,
            BaseError,
            msgspec.MsgspecError,
            pl.exceptions.PolarsError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:
            raise self._damaged(f"the log of the archive cannot be understood: {cause(error)}") from error
        if state is None:
            if files or table.metadata().name != APPLICATION:
                raise RefusedError(
                    "a Delta table that is no archive of ours is there",
                    where=self.location.url,
                    next_step="name another place with --archive",
                )
            return Snapshot(table, table.version(), None, [])
        if state.format != FORMAT:
            raise RefusedError(
                f"the archive has format {state.format}, and this version reads format {FORMAT}",
                where=self.location.url,
                next_step="make it again from its source at another place, or use the version that made it",
            )
        if state.manifest != state.sealed(files).manifest:
            raise self._damaged("the log of the archive is not what was committed: a part of it was lost or changed")
        return Snapshot(table, table.version(), state, files)

    def _state(self, version: int) -> State | None:
        """Return the state of the newest commit of ours up to a version: whoever cleans up commits too.

        The log is read here, since the client's own history is that of the newest version, whatever the table's is.
        """
        while version >= 0 and (entry := self.files.log_entry(version)) is not None:
            for action in entry.splitlines():
                info = msgspec.json.decode(action).get("commitInfo", {})
                if _KEY in info:
                    return msgspec.json.decode(info[_KEY], type=State)
            version -= 1
        return None

    def commit(
        self,
        base: Snapshot | None,
        state: State,
        *,
        added: Sequence[Written] = (),
        removed: Sequence[DataFile] = (),
    ) -> Snapshot:
        """Move the archive on from `base`; PositionMoved where another process did so first, and nothing is changed.

        The files of `added` are there already; they are part of the archive from the commit on, those of `removed`
        no more.
        """
        base = base or self._create()
        gone = {file.name for file in removed}
        files = [*(file for file in base.files if file.name not in gone), *(written.file for written in added)]
        commits = base.state.commits + 1 if base.state else 1
        state = msgspec.structs.replace(state, commits=commits, events=sum(file.events for file in files)).sealed(files)
        own = uuid4().hex
        properties = CommitProperties(
            custom_metadata={_KEY: msgspec.json.encode(state).decode(), _KEY_OF_ONE: own},
            # The client would put a commit behind one that it does not understand.
            max_commit_retries=0,
            app_transactions=[Transaction(APPLICATION, commits), *positions(state)],
        )
        try:
            with self.location.reached():
                base.table.create_write_transaction(
                    [*(_add(written) for written in added), *(_remove(file) for file in removed)],
                    mode="append",
                    schema=delta_schema(),
                    commit_properties=properties,
                )
        except (DeltaError, OSError, ArchiveError) as error:
            if not self._is_there(base.version + 1, own):
                raise self._not_written(error, base.version) from error
        found = self.snapshot()
        if found is None or found.state is None or found.state.commits < commits:
            raise self._damaged("the archive is not what was just committed")
        self._expect(found)
        return found

    def names_at(self, version: int) -> set[str]:
        """Return the names of the data files of a version of the table; none where its log does not tell any more."""
        found = self.snapshot()
        if found is None or not self.has(version, found.version):
            return set()
        return {file.name for file in _files(self.location.table(version))}

    def has(self, version: int, newest: int) -> bool:
        """Say whether the log still tells what a version of the table was made of, given the newest."""
        if version >= newest:
            return version == newest
        try:
            self.location.table(version)
        except DeltaError:
            return False
        return True

    def _create(self) -> Snapshot:
        try:
            with self.location.reached():
                table = DeltaTable.create(
                    self.location.url,
                    delta_schema(),
                    name=APPLICATION,
                    description="Events of a points ledger, each once: (account_id, version) is the key.",
                    # A log that is cleaned up loses what certificates are about, and in the end our state.
                    configuration={"delta.enableExpiredLogCleanup": "false"},
                    storage_options=self.location.log_options,
                )
        except (DeltaError, OSError) as error:
            raise self._not_written(error, -1) from error
        return Snapshot(table, table.version(), None, [])

    def _is_there(self, version: int, own: str) -> bool:
        """Say whether a version is a commit of ours after all: the answer to it may be lost, or what came behind it."""
        try:
            actions = [msgspec.json.decode(line) for line in (self.files.log_entry(version) or b"").splitlines()]
        except (BaseError, OSError, ArchiveError, msgspec.MsgspecError):
            return False
        return any(action.get("commitInfo", {}).get(_KEY_OF_ONE) == own for action in actions)

    def _not_written(self, error: Exception, version: int) -> LedgerReplayError:
        """Return what an error of a commit on top of a version means: the client has one for every reason."""
        if isinstance(error, ArchiveError):
            return error
        try:
            is_moved = self.location.table().version() > version
        except (DeltaError, OSError, ValueError):
            is_moved = False
        if is_moved:
            return PositionMoved(
                "another process moved the archive on first", where=self.location.url, next_step="run it again"
            )
        return ArchiveError(
            f"the archive cannot be written: {cause(error)}",
            where=self.location.url,
            next_step="mend that and run it again: it goes on from what was committed before",
        )

    def _damaged(self, what: str) -> IncompleteError:
        return IncompleteError(
            what,
            where=self.location.url,
            next_step="put the archive back from a copy, or move it away"
            + (f" together with {self._expected}" if self._expected is not None else "")
            + " and make it again with `archive`",
        )

    def _expect(self, found: Snapshot) -> None:
        if self._expected is None or found.state is None:
            return
        table_id = found.table_id
        known = self._read_expected()
        if known is not None and known.table_id == table_id and known.version >= found.version:
            # Another process went further meanwhile.
            return
        text = msgspec.json.encode(_Expected(table_id=table_id, version=found.version, commits=found.state.commits))
        # Of its own name, since others may be at the same.
        new = self._expected.with_name(f"{self._expected.name}.{uuid4().hex}.new")
        new.write_bytes(text)
        new.replace(self._expected)

    def _read_expected(self) -> _Expected | None:
        if self._expected is None or not self._expected.exists():
            return None
        try:
            return msgspec.json.decode(self._expected.read_bytes(), type=_Expected)
        except msgspec.MsgspecError as error:
            raise IncompleteError(
                f"what the archive should be cannot be read: {cause(error)}",
                where=str(self._expected),
                next_step="check the archive with `archive --check`, then delete this file",
            ) from error


class _Expected(msgspec.Struct, frozen=True):
    """The version that an archive reached last, and the number of its newest commit."""

    table_id: str
    version: int
    commits: int = 0


def _files(table: DeltaTable) -> list[DataFile]:
    actions = pl.DataFrame(table.get_add_actions(flatten=True))
    if actions.is_empty():
        return []
    columns = {
        "name": "path",
        "bytes": "size_bytes",
        "events": "num_records",
        "first_account": "min.account_id",
        "last_account": "max.account_id",
    }
    amounts = actions["max.amount"].fill_null(0) if "max.amount" in actions.columns else [0] * actions.height
    rows = actions.select(pl.col(path).alias(name) for name, path in columns.items()).with_columns(amount_max=amounts)
    return [DataFile(**row) for row in rows.sort("name").iter_rows(named=True)]


def _add(written: Written) -> AddAction:
    file = written.file
    return AddAction(file.name, file.bytes, {}, int(time.time() * 1000), True, written.statistics)


def _remove(file: DataFile) -> RemoveAction:
    return RemoveAction(file.name, True, int(time.time() * 1000), size=file.bytes)
