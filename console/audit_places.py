"""The places outside the database that keep the heads of the audit trail, as the configuration names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from console.run import Run
    from ledger.audit_heads import Outside

__all__ = ["outside_heads"]


def outside_heads(run: Run, ledger_id: str) -> list[Outside]:
    """Return the file and the topic of `[audit]`, as far as there are any; ConfigurationError without brokers."""
    from ledger.audit_heads import HeadFile

    settings = run.settings.audit
    found: list[Outside] = []
    if settings.file is not None:
        found.append(HeadFile(Path(settings.file), ledger_id))
    if settings.topic is not None:
        from consumers.audit_topic import AuditTopic

        found.append(AuditTopic(run.kafka(), settings.topic, ledger_id))
    return found
