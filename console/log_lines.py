"""Log lines of what runs for ever: a JSON document each on stderr, or on a terminal words that people read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog

if TYPE_CHECKING:
    from consumers.reactions import Log

__all__ = ["log_to_stderr"]


def log_to_stderr() -> Log:
    """Return a log whose lines go to stderr: `event`, `level` and `timestamp` (UTC), then what the line is about."""
    is_terminal = sys.stderr.isatty()
    last = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer(serializer=_json)
    logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            last,
        ],
    )
    return cast("Log", logger)


def _json(line: dict[str, Any], **_: object) -> str:
    # What happened stands first, so that lines can be read without a tool.
    ordered = {name: line.pop(name) for name in ("timestamp", "level", "event")} | line
    return msgspec.json.encode(ordered, enc_hook=str).decode()
