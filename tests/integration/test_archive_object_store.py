"""The whole life of an archive in a real object store, and what is said of a store that is not there or says no."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import msgspec
import obstore
import pytest
from archives import check_exactly_once, commits_of, said, said_by_store
from ledgers import append
from object_store_server import READER, STRANGER, ObjectStore, free_ports
from obstore.store import S3Store
from samples import account_stream
from topic_cases import history

from console.main import main
from consumers.archiver import archive_store
from ledger import Store
from replay.archive.checking import check
from replay.archive.compaction import compact
from replay.archive.files import Location
from replay.archive.table import Archive
from replay.archive.vacuuming import vacuum
from schemas.errors import ArchiveError, IncompleteError, PositionMoved

pytestmark = pytest.mark.object_store

ROOT = Path(__file__).parents[2]
EVENTS = 60
Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger of 60 events of eight accounts."""
    store = Store.at(tmp_path)
    append(store, *history(8, EVENTS))
    yield store
    store.close()


def archive_at(place: ObjectStore, folder: Path) -> Archive:
    """Return the archive at a place as a process that starts now sees it."""
    return Archive(Location(place.url, place.options), expected=folder / "archive.json")


def client(place: ObjectStore) -> S3Store:
    """Return a client of a place, which knows nothing of archives."""
    options = {name.removeprefix("aws_"): value for name, value in place.options.items() if name != "allow_http"}
    bucket, _, prefix = place.url.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix=prefix, config=options, client_options={"allow_http": True})


def objects(place: ObjectStore, ending: str = "") -> list[str]:
    """Return the names of the objects at a place that end so."""
    return sorted(
        each["path"] for batch in obstore.list(client(place)) for each in batch if each["path"].endswith(ending)
    )


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], object_store: ObjectStore) -> Run:
    """Return the command line with the archive at a place: exit status, JSON document, and what is on stderr."""

    def said_by(*words: str, place: ObjectStore = object_store) -> tuple[int, dict[str, Any], str]:
        options = "".join(f"{name} = {json.dumps(value)}\n" for name, value in place.options.items())
        (tmp_path / "ledger-replay.toml").write_text(f"[archive]\nurl = '{place.url}'\n[archive.options]\n{options}")
        capfd.readouterr()
        status = main([*words, "--data", str(tmp_path), "--json"])
        out, err = capfd.readouterr()
        return status, msgspec.json.decode(out), err

    return said_by


def test_the_whole_life_of_an_archive(object_store, store, tmp_path):
    """Appended to twice, compacted, checked and vacuumed, it says what the store says, and remembers its version."""
    with commits_of(20):
        assert archive_store(archive_at(object_store, tmp_path), store).appended == EVENTS
        assert said(archive_at(object_store, tmp_path)) == said_by_store(store)
        append(store, *account_stream("new", 9))
        assert archive_store(archive_at(object_store, tmp_path), store).appended == 9
    assert archive_store(archive_at(object_store, tmp_path), store).appended == 0
    check_exactly_once(archive_at(object_store, tmp_path))
    before = objects(object_store, ".parquet")
    archive = archive_at(object_store, tmp_path)
    found = compact(archive)
    assert found is not None
    assert len(found.files) < len(before)
    assert said(archive_at(object_store, tmp_path)) == said(archive) == said_by_store(store)
    assert check(archive_at(object_store, tmp_path)).verdict == "COMPLETE"
    vacuum(archive_at(object_store, tmp_path), store, older_than_hours=0)
    assert objects(object_store, ".parquet") == [file.name for file in found.files]
    assert said(archive_at(object_store, tmp_path)) == said_by_store(store)
    assert json.loads((tmp_path / "archive.json").read_bytes())["version"] == found.version


def test_the_command_line_gives_the_same_digest(run, object_store, store):
    """Archive, check, balances and rebuild work by the configuration alone, with the store's digest."""
    assert run("archive")[1]["appended"] == EVENTS
    assert run("archive", "--compact")[0] == 0
    assert run("archive", "--check")[1]["verdict"] == "COMPLETE"
    digests = {
        run(*words)[1]["certificate"]["digest"]
        for words in (
            ["balances", "--from", "store"],
            ["balances", "--from", "archive"],
            ["rebuild", "--from", "archive", "--promote"],
        )
    }
    assert digests == {said_by_store(store).digest}
    assert object_store.options["aws_secret_access_key"] not in str(run("archive", "--check"))


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_a_damaged_object_is_named(object_store, store, tmp_path, damage):
    """A flipped bit and a missing object are INCOMPLETE, named, and no account of the file has a number."""
    archive_store(archive_at(object_store, tmp_path), store)
    [name] = objects(object_store, ".parquet")
    if damage == "flip":
        data = bytearray(obstore.get(client(object_store), name).bytes())
        data[len(data) // 2] ^= 1
        obstore.put(client(object_store), name, bytes(data))
    else:
        obstore.delete(client(object_store), name)
    found = check(archive_at(object_store, tmp_path))
    assert (found.verdict, [each.file for each in found.damaged]) == ("INCOMPLETE", [name])
    assert ("hash" if damage == "flip" else "missing") in found.damaged[0].reason
    assert said(archive_at(object_store, tmp_path)).rows == {}


@pytest.mark.parametrize("entry", [0, 1, 2, -1])
def test_a_deleted_log_entry_is_noticed(object_store, store, tmp_path, entry):
    """Whichever entry of the log is lost, the archive is INCOMPLETE and not an older one."""
    with commits_of(20):
        archive_store(archive_at(object_store, tmp_path), store)
    entries = [name for name in objects(object_store, ".json") if name.startswith("_delta_log/")]
    assert len(entries) >= 4
    obstore.delete(client(object_store), entries[entry])
    with pytest.raises(IncompleteError, match="log of the archive"):
        archive_at(object_store, tmp_path).snapshot()


def test_a_deleted_archive_is_noticed(object_store, store, tmp_path):
    """An archive that was there and is gone is not made again by itself."""
    archive_store(archive_at(object_store, tmp_path), store)
    obstore.delete(client(object_store), objects(object_store))
    with pytest.raises(IncompleteError, match="is gone"):
        archive_store(archive_at(object_store, tmp_path), store)


def test_archivers_at_once(object_store, store, tmp_path):
    """Of several that begin at once each one wins or is told so, and each event is there once."""

    def work(barrier: Barrier) -> object:
        archive = archive_at(object_store, tmp_path)
        barrier.wait()
        try:
            return archive_store(archive, store)
        except PositionMoved as error:
            return error

    told = 0
    for number in range(4):
        barrier = Barrier(3)
        with commits_of(20), ThreadPoolExecutor(3) as threads:
            outcomes = list(threads.map(work, [barrier] * 3))
        told += sum(isinstance(each, PositionMoved) for each in outcomes)
        archive_store(archive_at(object_store, tmp_path), store)
        check_exactly_once(archive_at(object_store, tmp_path))
        assert said(archive_at(object_store, tmp_path)) == said_by_store(store)
        append(store, *account_stream(f"new-{number}", 30))
    assert told > 0


def test_one_of_two_that_began_together_is_told(object_store, store, tmp_path):
    """The conditional put lets the first of two commits on one version in, and the second changes nothing."""
    archive_store(archive_at(object_store, tmp_path), store)
    rivals = [archive_at(object_store, tmp_path) for _ in range(2)]
    bases = [each.snapshot() for each in rivals]
    rivals[0].commit(bases[0], bases[0].held)
    names = objects(object_store)
    with pytest.raises(PositionMoved):
        rivals[1].commit(bases[1], bases[1].held)
    assert objects(object_store) == names
    assert said(archive_at(object_store, tmp_path)) == said_by_store(store)


def start(store: Store, place: ObjectStore, expected: Path) -> subprocess.Popen[str]:
    """Start a process that archives in small commits, and wait until it begins."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "tests.integration.object_store_archiver"]
    process = subprocess.Popen(
        [*command, f"sqlite:///{store.url.database}", place.url, str(expected)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    json.dump(place.options, process.stdin)
    process.stdin.close()
    assert process.stdout.readline() == "began\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_killed_archiver_is_finished_by_the_next(object_store, store, tmp_path, seed):
    """Killed at any moment of an append, nothing is lost or there twice, and the next run goes on."""
    append(store, *account_stream("long", 1_000))
    chance = random.Random(seed)
    for _ in range(3):
        process = start(store, object_store, tmp_path / "archive.json")
        with process:
            time.sleep(chance.uniform(0.05, 0.8))
            process.kill()
    archive_store(archive_at(object_store, tmp_path), store)
    check_exactly_once(archive_at(object_store, tmp_path))
    assert said(archive_at(object_store, tmp_path)) == said_by_store(store), f"seed {seed}"


@contextmanager
def silent() -> Iterator[str]:
    """Yield the endpoint of a server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def nobody() -> str:
    """Return an endpoint that nobody listens on."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


COMMANDS = (["archive"], ["archive", "--check"], ["balances", "--from", "archive"], ["rebuild", "--from", "archive"])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_store_that_cannot_be_reached_is_no_damage(run, object_store, store, words):
    """An endpoint that nobody listens on is FAILED, exit status 5, and says so."""
    run("archive")
    away = object_store.with_options(aws_endpoint_url=nobody())
    status, document, err = run(*words, place=away)
    assert (status, document["verdict"], document["error"]["kind"]) == (5, "FAILED", "ArchiveError")
    assert "cannot be reached: connection refused" in err
    assert "timeout" in err
    assert "Debug source" not in err


def test_a_store_that_never_answers_is_no_damage(run, object_store, store):
    """What takes a connection and does not answer is FAILED after the timeout that was asked for."""
    with silent() as endpoint:
        away = object_store.with_options(aws_endpoint_url=endpoint, timeout="500ms", retry_timeout="1s")
        status, document, err = run("archive", place=away)
    assert (status, document["verdict"]) == (5, "FAILED")
    assert "no answer in time" in err


@pytest.mark.parametrize(
    "options",
    [{"aws_access_key_id": STRANGER}, {"aws_access_key_id": "unknown"}, {"aws_secret_access_key": "not-the-secret"}],
)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_store_that_says_no_is_no_damage(run, object_store, store, words, options):
    """Credentials that are wrong or have no rights are FAILED, exit status 5, and no secret is shown."""
    run("archive")
    status, document, err = run(*words, place=object_store.with_options(**options))
    assert (status, document["verdict"], document["error"]["kind"]) == (5, "FAILED", "ArchiveError")
    assert "says no: 403 Forbidden" in err
    assert not any(name.startswith("aws_secret") and value in err for name, value in options.items())


def test_a_reader_reads_and_does_not_write(run, object_store, store):
    """Who may only read gets every answer, and is told so where something is to be written."""
    run("archive")
    reader = object_store.with_options(aws_access_key_id=READER)
    assert run("balances", "--from", "archive", place=reader)[0] == 0
    append(store, *account_stream("new", 9))
    status, document, err = run("archive", place=reader)
    assert (status, document["verdict"]) == (5, "FAILED")
    assert "says no: 403 Forbidden" in err


def test_missing_credentials_are_no_damage(run, object_store, store):
    """Where nobody gives credentials, the machine is asked, and what it does not give is FAILED."""
    bare = {name: value for name, value in object_store.options.items() if "access_key" not in name}
    # The machine that the tests run on is not asked.
    place = object_store._replace(options=bare | {"aws_metadata_endpoint": nobody(), "retry_timeout": "1s"})
    status, document, err = run("archive", place=place)
    assert (status, document["verdict"]) == (5, "FAILED")
    assert "there are no credentials" in err


def test_a_bucket_that_is_not_there_is_no_damage(run, object_store, store):
    """A bucket that nobody made is said, and is not an archive that lost everything."""
    place = object_store._replace(url="s3://nobody-made-this/archive").with_options(aws_access_key_id=READER)
    status, document, err = run("balances", "--from", "archive", place=place)
    assert (status, document["verdict"]) == (5, "FAILED")
    assert re.search("bucket is not there|says no", err)


def test_a_store_that_goes_away_is_no_damage(object_store, store, tmp_path):
    """An archive that is open when its store goes away has no damaged file, whatever is asked of it."""
    archive_store(archive_at(object_store, tmp_path), store)
    archive = archive_at(object_store.with_options(aws_access_key_id=STRANGER), tmp_path)
    whole = archive_at(object_store, tmp_path).snapshot()
    for ask in (
        lambda: archive.files.check(whole.files),
        archive.files.names,
        lambda: archive.files.log_entry(0),
        archive.snapshot,
    ):
        with pytest.raises(ArchiveError):
            ask()
