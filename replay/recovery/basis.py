"""What a change goes by: the log, where it is whole and explains the live row; else only what a person says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from replay.differences import Drifted, Value
from replay.recovery.plan import Basis

__all__ = ["SETTLED", "Policy", "basis_of", "reason_of", "sentence"]

#: The cause of a change whose row was equal: a transaction that the plan settles makes it another.
SETTLED = "settled"
#: What an account has too much of must be explained by an event before live is lowered.
_HELD = ("balance", "frozen")
_EXPLAINED = ("missed_event", "applied_twice", "row_missing")
#: The less an account may still do, the more; what is no status of ours is like an active one.
_STRICTNESS = {"active": 0, "locked": 1, "closed": 2}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What those who run the ledger have said beforehand, in the `[recover]` table of the TOML file.

    `lowering`: a live table is lowered by the log where one of its events explains it (`explained`), or only after a
    person said so (`never`), since an event that the log lost may be worth as much as the one that explains it. The
    rows of our own read model have a version and a chain, which tell the two apart. Stale pending transactions are
    settled as `settle_codes` says of their business code, others as `settle` says; null leaves them for a person.
    """

    lowering: Literal["explained", "never"] = "never"
    settle: Literal["complete", "cancel"] | None = None
    settle_codes: dict[str, Literal["complete", "cancel"]] = {}


def basis_of(entries: Sequence[Drifted], lowering: str) -> Basis:
    """Return what all changes of one account go by, given its differences from a log that is whole."""
    cause, sinks = entries[0].cause, bool(_sinking(entries))
    if sinks and lowering == "never":
        return "unknown"
    is_explained = cause in _EXPLAINED or (cause == "foreign_write" and not sinks and not _loosened(entries))
    return "log" if is_explained else "unknown"


def reason_of(entries: Sequence[Drifted], basis: Basis) -> str:
    """Return in a sentence why the changes of one account are made, or wait for a person."""
    first = entries[0]
    if first.cause == "row_extra":
        return "The log has no event of this account: perhaps it lost the account, perhaps live should not have it."
    held, loosened = _sinking(entries), _loosened(entries)
    if basis == "log" or not (held or loosened):
        return sentence(first.evidence)
    if not held:
        return sentence(
            f"live {loosened}, which nothing in the log explains: perhaps the log lost that, or it was set by hand"
        )
    told = " and ".join(f"{each.difference:,} points more {_where(each.field)}" for each in held)
    if first.cause in _EXPLAINED:
        return sentence(f"live has {told}; {first.evidence}, but an event that the log lost would explain it as well")
    return sentence(f"live has {told} than the log explains: perhaps the log lost something that live still knows")


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}" if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _sinking(entries: Sequence[Drifted]) -> list[Drifted]:
    """Return the points that live has too much of."""
    return [each for each in entries if each.field in _HELD and each.difference is not None and each.difference > 0]


def _loosened(entries: Sequence[Drifted]) -> str:
    """Return what of a lock or a closing would be undone, in words; empty where nothing would."""
    for each in entries:
        if each.field == "status" and _strictness(each.live) > _strictness(each.replayed):
            return f"is {each.live}"
        # Times are text of one form, so that they sort as what they say.
        if each.field == "locked_at" and each.replayed is not None and str(each.live or "") > str(each.replayed):
            return f"was locked again at {each.live}"
    return ""


def _strictness(status: Value) -> int:
    return _STRICTNESS.get(str(status), 0)


def _where(field: str) -> str:
    return "frozen" if field == "frozen" else "in the balance"
