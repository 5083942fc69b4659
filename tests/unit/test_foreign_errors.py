"""What the database of a live table says before there is a connection: what is waited for, and what is not."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from replay.comparison.foreign_errors import named
from schemas.errors import LedgerReplayError, StoreError, UsageError

FAILED = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('FATAL:  password authentication failed for user "reader"', UsageError),
        ('FATAL:  Ident authentication failed for user "reader"', UsageError),
        ('FATAL:  database "points" does not exist', UsageError),
        ('FATAL:  role "reader" does not exist', UsageError),
        ('FATAL:  role "reader" is not permitted to log in', UsageError),
        ('FATAL:  permission denied for database "points"', UsageError),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "reader", database "points"', UsageError),
        ("fe_sendauth: no password supplied", UsageError),
        ("FATAL:  the database system is starting up", StoreError),
        ("FATAL:  sorry, too many clients already", StoreError),
        ("Connection refused", StoreError),
    ],
)
def test_who_is_not_let_in_is_no_outage(said: str, kind: type[LedgerReplayError]) -> None:
    """PostgreSQL's driver gives words only: those of a refusal are the operator's to mend, others are waited for."""
    error = OperationalError("", None, psycopg.OperationalError(FAILED + said))
    with pytest.raises(kind, match="the database says"), named("here"):
        raise error
