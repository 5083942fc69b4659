"""Checkpoints of a running replay: position and state in one file, written together or not at all.

A checkpoint belongs to one ledger or one partition of a topic, one set of projections at their versions, and one
version of the column library whose frames it holds; one of another kind is not used. The file is written beside the
old one, synced and renamed over it, with a BLAKE2b-256 of its content in front, so a kill at any moment leaves the
old or the new one, and a damaged one is seen and not used. It goes when the run that wrote it is done.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import msgspec
import polars as pl

from projections import Projection
from replay.gate import LAST_SCHEMA, Gate
from replay.states import States
from schemas import PoisonEvent

__all__ = ["CHECKPOINT_EVENTS", "Checkpoint", "Checkpoints"]

#: Positions between two checkpoints.
CHECKPOINT_EVENTS = 1_000_000

_HASH_BYTES = 32


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A position and everything a replay knew there; frames are serialised by the column library."""

    kind: str = ""
    position: int
    events: int
    last: bytes
    waiting: bytes | None
    repeats: bytes
    poison: list[PoisonEvent]
    let_go: list[str]
    parts: dict[str, list[bytes]]

    @classmethod
    def of(cls, position: int, events: int, gate: Gate, states: States) -> Checkpoint:
        """Return the checkpoint of a gate and its states right after the event at `position`."""
        return cls(
            position=position,
            events=events,
            last=_pack(gate.last),
            waiting=None if gate.waiting is None else _pack(gate.waiting),
            repeats=_pack(gate.repeats),
            poison=gate.poison,
            let_go=sorted(gate.let_go),
            parts={name: [_pack(part) for part in parts] for name, parts in states.dump().items()},
        )

    def gate(self) -> Gate:
        """Return the gate as it was."""
        return Gate(
            last=_unpack(self.last).select(LAST_SCHEMA.names()),
            waiting=None if self.waiting is None else _unpack(self.waiting),
            poison=list(self.poison),
            repeats=_unpack(self.repeats),
            let_go=set(self.let_go),
        )

    def states(self) -> dict[str, list[pl.DataFrame]]:
        """Return the states as they were, for `States.restore`."""
        return {name: [_unpack(part) for part in parts] for name, parts in self.parts.items()}


class Checkpoints:
    """Where one kind of run keeps its checkpoint; `identity` is what it replays: a ledger, or a topic's partition."""

    def __init__(
        self,
        folder: Path,
        identity: str,
        projections: tuple[Projection, ...],
        *,
        every_events: int = CHECKPOINT_EVENTS,
    ) -> None:
        kinds = ",".join(f"{projection.name}:{projection.version}" for projection in projections)
        self.kind = f"{identity} {kinds} polars:{pl.__version__}"
        self.path = folder / f"rebuild-{identity}.checkpoint"
        self._every_events = every_events
        self._position = 0

    def is_due(self, position: int) -> bool:
        """Say whether enough events passed since the last one."""
        return position - self._position >= self._every_events

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint on disk, atomically."""
        content = msgspec.msgpack.encode(msgspec.structs.replace(checkpoint, kind=self.kind))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(_hash(content))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        self._position = checkpoint.position

    def load(self, until: int) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None where there is none that fits a run until `until`."""
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        content = data[_HASH_BYTES:]
        if data[:_HASH_BYTES] != _hash(content):
            return None
        checkpoint = msgspec.msgpack.decode(content, type=Checkpoint)
        if checkpoint.kind != self.kind or checkpoint.position > until:
            return None
        self._position = checkpoint.position
        return checkpoint

    def clear(self) -> None:
        """Remove the checkpoint: the run is done, or is to start from zero."""
        self.path.unlink(missing_ok=True)


def _hash(content: bytes) -> bytes:
    return blake2b(content, digest_size=_HASH_BYTES, person=b"ledger-ckpt-1").digest()


def _pack(frame: pl.DataFrame) -> bytes:
    file = BytesIO()
    frame.serialize(file)
    return file.getvalue()


def _unpack(data: bytes) -> pl.DataFrame:
    return pl.DataFrame.deserialize(BytesIO(data))
