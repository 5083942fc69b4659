"""The state of an archive: what it holds, where reading goes on, and what is held back; one for each commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b

import msgspec
from deltalake import Transaction
from msgspec import UNSET, UnsetType

from replay.archive.files import DataFile
from replay.certificate import Position, Unread
from replay.gate import Parked
from schemas import PoisonEvent

__all__ = ["APPLICATION", "FORMAT", "State", "positions"]

#: The application whose number every commit raises.
APPLICATION = "ledger-replay"

#: Of how files and state are written; an archive of another one is refused.
FORMAT = 2


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds: everything that the source had up to `position`, less the accounts that are parked.

    `source` is `store` or `topic`, `source_id` the ledger's or the topic's. `reread` is the position that reading goes
    on from, which of a topic is before `position` while an account waits behind a gap. `watermark` is the newest moment
    of the recorded clock up to which the archive is known to hold all that the store had, null where that is not known.
    `events` counts the rows, `accounts` those who have any or are parked. Of an account of a store that is parked the
    position is that of its first event which was not let through. `unread` are the partitions of a topic that have more
    than could be read. `repeats` are the versions, by account, that came
    more than once for accounts that are parked: they are compared again at the end of every run. Of a topic `records`
    counts the events that were read, each time that they came, `waiting` those that wait behind a gap (unset where that
    is not known), and `elsewhere` has, by account, the last version that also came at a place which the one in the
    archive says nothing of: in another partition, or before it; null for so many accounts that it may be any.
    `concluded` is false between the commits of one run, when no account was held against its end yet. `commits` is the
    number that every commit raises; `manifest` is over files and state.
    """

    commits: int
    source: str
    source_id: str
    ledger_id: str
    position: Position
    reread: Position
    events: int
    accounts: int
    topic: str | None = None
    watermark: datetime | None = None
    parked: list[Parked] = []
    poison: list[PoisonEvent] = []
    unread: list[Unread] = []
    repeats: dict[str, list[int]] = {}
    # What is unset is not written, so the hash over a state that does not have it stays what it was.
    records: int | UnsetType = UNSET
    waiting: int | UnsetType = UNSET
    elsewhere: dict[str, int] | UnsetType | None = UNSET
    concluded: bool = True
    manifest: str = ""
    format: int = FORMAT

    @property
    def dropped(self) -> int | None:
        """How many events were left out since they had come before, None where that is not known."""
        if self.source == "store":
            # A store has one row for each version.
            return 0
        if isinstance(self.records, UnsetType) or isinstance(self.waiting, UnsetType):
            return None
        return self.records - self.events - self.waiting

    def sealed(self, files: Sequence[DataFile]) -> State:
        """Return the state with the hash over itself and the files that belong to it."""
        content = msgspec.json.encode(
            [msgspec.structs.replace(self, manifest=""), sorted(files, key=lambda file: file.name)]
        )
        return msgspec.structs.replace(self, manifest=blake2b(content, digest_size=32).hexdigest())


def positions(state: State) -> list[Transaction]:
    """Return the source's position as application transactions of the table."""
    application = f"{APPLICATION}:{state.source}:{state.source_id}"
    if isinstance(state.position, int):
        return [Transaction(application, state.position)]
    return [Transaction(f"{application}:{partition}", offset) for partition, offset in sorted(state.position.items())]
