"""What is compared, a chunk at a time: the pair of two sides, and what a chunk of it came to."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from replay.certificate import Position
from replay.differences import Drifted

__all__ = ["Chunk", "Pair", "Settled", "Uncompared"]


class Uncompared(msgspec.Struct, frozen=True, kw_only=True):
    """An account that could not be compared, and why: its log is damaged, or it never held still."""

    account_id: str
    reason: str


class Settled(NamedTuple):
    """What became of suspected accounts: drifted for certain, the same after all, or not to be compared."""

    drifted: list[Drifted]
    same: list[str]
    uncompared: list[Uncompared]


class Chunk(NamedTuple):
    """The accounts after the key before it until `until` (None: to the end of the round), all of them.

    `compared` counts accounts of either side less the uncompared, `drifted` has each difference that is certain,
    explained; `suspected` are accounts that differ and may still settle. `position` is the one that both sides were
    compared at; `rejected` counts live rows that could not be read.
    """

    until: str | None
    compared: int
    drifted: list[Drifted]
    suspected: list[str]
    uncompared: list[Uncompared]
    position: Position
    rejected: int = 0


class Pair(Protocol):
    """Live rows and what replay says of them."""

    name: str

    def begin(self, after: str | None) -> None:
        """Begin a round, or go on with one behind a key."""

    def chunk(self, rows: int) -> Chunk:
        """Compare the next accounts, about so many; every account of either side is in exactly one chunk of a round."""

    def settle(self) -> Settled:
        """Look at the suspected accounts once more; nothing where a pair is compared at one position."""

    def close(self) -> None:
        """Let go of connections and snapshots; the next round begins anew."""
