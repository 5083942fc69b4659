"""What an archiver says of an archive that it brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from replay.archive.appending import Appending
from replay.archive.state import State
from replay.certificate import COMPLETE, INCOMPLETE
from replay.topic.client import PartitionStopped

__all__ = ["Archived", "archived"]


class Archived(NamedTuple):
    """Where an archive is: COMPLETE, or INCOMPLETE with what is `parked` or could not be read (`unread`)."""

    verdict: str
    appended: int
    state: State
    version: int
    unread: list[str]


def archived(target: Appending, state: State, appended: int, stops: Sequence[PartitionStopped] = ()) -> Archived:
    """Return where an archive is; `stops` are partitions that could not be read again, to compare what came twice."""
    verdict = INCOMPLETE if state.parked or state.poison or state.unread else COMPLETE
    unread = [
        f"partition {each.partition}, offset {each.offset}: {each.reason}: {each.details}" for each in state.unread
    ]
    known = {each.partition for each in state.unread}
    again = [each for each in stops if each.partition not in known]
    unread += [f"{each}; what came more than once could not be compared" for each in again]
    return Archived(verdict, appended, state, target.version or 0, unread)
