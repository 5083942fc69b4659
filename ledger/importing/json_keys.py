"""JSON that says one key twice: one reader takes the first value, another the last, so no reader may take it."""

from __future__ import annotations

import json
from typing import Any

import msgspec

__all__ = ["has_keys", "repeated_key"]


def repeated_key(document: str | bytes, value: dict[str, Any]) -> str | None:
    """Return a key that some object of a JSON document has twice, None where there is none.

    `value` is what the document was decoded to.
    """
    text = document if isinstance(document, str) else document.decode()
    inner = value.get("metadata")
    keys = len(value) + (len(inner) if isinstance(inner, dict) else 0)
    if has_keys(msgspec.json.format(text, indent=-1), keys):
        return None
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            found.append(next(key for key in keys if keys.count(key) > 1))

    json.loads(text, object_pairs_hook=note, parse_int=_ignored, parse_float=_ignored)
    return found[0] if found else None


def has_keys(compact: str, keys: int) -> bool:
    """Say whether compact JSON surely has just so many keys: it has these two characters behind each of them."""
    return compact.count('":') == keys


def _ignored(_: str) -> None:
    # A number of thousands of digits is fine here, but Python's own conversion refuses it.
    return None
