"""The one error tree of Ledger Replay.

    LedgerReplayError                  5  failed
    ├── UsageError                     2  bad arguments, unreadable input
    │   └── ConfigurationError         2  the TOML file or a mapping is wrong
    ├── IncompleteError                3  the answer would not be whole
    │   └── PoisonEventError           3  a stored event cannot be read
    ├── RefusedError                   4  a precondition failed, nothing was written
    │   ├── CommandRefused             4  the write model says no to a command
    │   │   ├── AccountClosed
    │   │   ├── AccountExists
    │   │   ├── AccountLocked
    │   │   ├── AccountNotEmpty
    │   │   ├── ConflictingTransaction
    │   │   ├── IllegalTransition
    │   │   ├── InsufficientPoints
    │   │   ├── LedgerFenced
    │   │   ├── UnknownAccount
    │   │   └── UnknownTransaction
    │   ├── PositionMoved              4  another process advanced the position first
    │   └── RunRefused                 4  a recovery run does not take this step now
    ├── PointsOverflow                 5  a sum of an account is past int64
    ├── StoreError                     5  the database did not do what was asked
    ├── HookFailed                     5  what pauses a foreign system, or lets it go on, did not do it
    ├── ArchiveError                   5  the archive's place did not answer, or said no
    └── BrokerError                    5  Kafka did not answer, or not as asked
        └── BrokerRefused              5  Kafka said no: waiting does not help

The number is the exit status that the command line gives for it. Every error says what happened, where
(account, position, file and line) and what to do next; `str()` joins the three into one line.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccountClosed",
    "AccountExists",
    "AccountLocked",
    "AccountNotEmpty",
    "ArchiveError",
    "BrokerError",
    "BrokerRefused",
    "CommandRefused",
    "ConfigurationError",
    "ConflictingTransaction",
    "HookFailed",
    "IllegalTransition",
    "IncompleteError",
    "InsufficientPoints",
    "LedgerReplayError",
    "PointsOverflow",
    "PoisonEventError",
    "PositionMoved",
    "RefusedError",
    "RunRefused",
    "StoreError",
    "UnknownAccount",
    "UnknownTransaction",
    "UsageError",
]


class LedgerReplayError(Exception):
    """Root of the tree: what happened, where, and what to do next."""

    exit_status: ClassVar[int] = 5

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}; {self.next_step}" if self.next_step else text


class UsageError(LedgerReplayError):
    """Arguments or input that cannot be used as they are."""

    exit_status = 2


class ConfigurationError(UsageError):
    """The TOML file, a mapping or an environment variable is wrong."""


class IncompleteError(LedgerReplayError):
    """The answer would not be whole, so it is not given as one."""

    exit_status = 3


class PoisonEventError(IncompleteError):
    """A stored event cannot be read, so its account cannot be served."""


class RefusedError(LedgerReplayError):
    """A precondition failed; nothing was written."""

    exit_status = 4


class CommandRefused(RefusedError):
    """The write model says no to a command, naming why."""


class AccountClosed(CommandRefused):
    """A closed account takes no command."""


class AccountExists(CommandRefused):
    """An account of that id is already open."""


class AccountLocked(CommandRefused):
    """A locked account takes no new transaction."""


class AccountNotEmpty(CommandRefused):
    """An account with points, holds or pending transactions is not closed."""


class ConflictingTransaction(CommandRefused):
    """The transaction id is known with other content."""


class IllegalTransition(CommandRefused):
    """The rules do not allow this change of status."""


class InsufficientPoints(CommandRefused):
    """The account has fewer available points than the command takes."""


class LedgerFenced(CommandRefused):
    """A recovery is under way, and nobody else appends until it ends."""


class UnknownAccount(CommandRefused):
    """No account of that id was opened."""


class UnknownTransaction(CommandRefused):
    """The account has no transaction of that id."""


class PositionMoved(RefusedError):
    """Another process advanced the position first; this one's work is void."""


class RunRefused(RefusedError):
    """A recovery run does not take this step in the state that it is in."""


class PointsOverflow(LedgerReplayError):
    """A sum of an account is past int64."""


class StoreError(LedgerReplayError):
    """The database did not do what was asked."""


class HookFailed(LedgerReplayError):
    """The command or webhook that pauses a foreign system, or lets it go on, did not do it."""


class ArchiveError(LedgerReplayError):
    """The place of an archive did not answer, or said no: nothing is known of what is there.

    `says_no`: it will say so again until somebody changes something, so that waiting does not help.
    """

    def __init__(self, what: str, *, where: str = "", next_step: str = "", says_no: bool = False) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.says_no = says_no


class BrokerError(LedgerReplayError):
    """Kafka did not answer in time, or refused what was asked of it."""


class BrokerRefused(BrokerError):
    """Kafka said no to what was asked, and will say so again until somebody changes something."""
