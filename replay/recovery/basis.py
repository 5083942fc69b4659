"""What a change goes by: the log, where it is whole and explains the live row; else only what a person says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from replay.differences import Drifted
from replay.recovery.plan import Basis

__all__ = ["SETTLED", "Policy", "basis_of", "reason_of", "sentence"]

#: The cause of a change whose row was equal: a transaction that the plan settles makes it another.
SETTLED = "settled"
#: What an account has too much of must be explained by an event before live is lowered.
_HELD = ("balance", "frozen")
_EXPLAINED = ("missed_event", "applied_twice", "row_missing")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What those who run the ledger have said beforehand, in the `[recover]` table of the TOML file.

    `lowering`: live is lowered by the log where one of its events explains it (`explained`), or only after a person
    said so (`never`). Stale pending transactions are settled as `settle_codes` says of their business code, others as
    `settle` says; null leaves them for a person.
    """

    lowering: Literal["explained", "never"] = "explained"
    settle: Literal["complete", "cancel"] | None = None
    settle_codes: dict[str, Literal["complete", "cancel"]] = {}


def basis_of(entries: Sequence[Drifted], lowering: str) -> Basis:
    """Return what all changes of one account go by, given its differences from a log that is whole."""
    cause = entries[0].cause
    sinks = any(each.field in _HELD and each.difference is not None and each.difference > 0 for each in entries)
    if sinks and lowering == "never":
        return "unknown"
    is_explained = cause in _EXPLAINED or (cause == "foreign_write" and not sinks)
    return "log" if is_explained else "unknown"


def reason_of(entries: Sequence[Drifted], basis: Basis) -> str:
    """Return in a sentence why the changes of one account are made, or wait for a person."""
    first = entries[0]
    if first.cause == "row_extra":
        return "The log has no event of this account: perhaps it lost the account, perhaps live should not have it."
    held = [each for each in entries if each.field in _HELD and each.difference is not None and each.difference > 0]
    if basis == "log" or not held:
        return sentence(first.evidence)
    told = " and ".join(f"{each.difference:,} points more {_where(each.field)}" for each in held)
    if first.cause in _EXPLAINED:
        return sentence(f"live has {told}; {first.evidence}, but live is never lowered before a person says so")
    return sentence(f"live has {told} than the log explains: perhaps the log lost something that live still knows")


def sentence(text: str) -> str:
    """Return a text that begins with a capital and ends with a full stop."""
    return f"{text[:1].upper()}{text[1:]}" if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _where(field: str) -> str:
    return "frozen" if field == "frozen" else "in the balance"
