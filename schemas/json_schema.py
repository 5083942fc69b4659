"""JSON Schema of every event, of the ledger and of orders, generated from the structs into `schemas/json/`.

`python -m schemas.json_schema` writes the files; a test says when they are no longer what the structs say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from schemas.events import EVENT_TYPES
from schemas.orders import ORDER_EVENT_TYPES

__all__ = ["generate", "write"]

FOLDER = Path(__file__).parent / "json"


def generate() -> dict[str, bytes]:
    """Return file name to JSON Schema document (draft 2020-12), one for each event."""
    kinds: dict[str, type[msgspec.Struct]] = {**EVENT_TYPES, **ORDER_EVENT_TYPES}
    return {f"{tag}.json": _document(tag, cls) for tag, cls in kinds.items()}


def write(folder: Path = FOLDER) -> None:
    """Write the generated documents into `folder`."""
    folder.mkdir(exist_ok=True)
    for name, document in generate().items():
        (folder / name).write_bytes(document)


def _document(tag: str, cls: type[msgspec.Struct]) -> bytes:
    _, components = msgspec.json.schema_components([cls])
    body: dict[str, Any] = components[cls.__name__]
    # `extra` is where unknown fields are kept in memory; on the wire they stand beside the known ones.
    body["properties"].pop("extra")
    body["additionalProperties"] = True
    body["required"] = sorted({*body["required"], "event"})
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": tag, **body}
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


if __name__ == "__main__":
    write()
