"""Whether tests run whole or sampled, for those whose size depends on it."""

from __future__ import annotations

import os

__all__ = ["FULL"]

#: `make test-full` runs every case at its full size.
FULL = bool(os.environ.get("LEDGER_REPLAY_TEST_FULL"))
