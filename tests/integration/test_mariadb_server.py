"""The MariaDB under test, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tests import mariadb_server as server


def test_without_maven_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Maven is missing, the suite says so and what to install."""
    monkeypatch.setattr(server, "CACHE", tmp_path)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(server.MariadbUnavailableError, match="no `mvn` on PATH; install Java and Maven"):
        server.resolve_programs()


def test_another_system_has_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system that the programs are not for, nothing is downloaded and the system is named."""
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(server.MariadbUnavailableError, match="this is Darwin-"):
        server.resolve_programs()


@pytest.mark.mariadb
def test_it_listens_on_loopback_only(mariadb_url: str) -> None:
    """The server is a MariaDB that only this machine can reach, with a database of the test's own."""
    engine = create_engine(mariadb_url)
    with engine.connect() as connection:
        version, address, name = connection.execute(text("SELECT VERSION(), @@bind_address, DATABASE()")).one()
    engine.dispose()
    assert "MariaDB" in version
    assert (address, name) == ("127.0.0.1", make_url(mariadb_url).database)
