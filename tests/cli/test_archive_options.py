"""Where an archive is, options that do not go together, following, and an archive of a topic, by the command line."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from topic_asked import held, publish_to
from topic_memory import FakeReader

from ledger.store import Store
from schemas import decode
from tests.cli.conftest import COMMAND, NOW, START, Run, damage, ledger_of

EVENTS = ("--from", "topic", "--topic", "events")


def test_two_places_do_not_share_what_is_remembered(run: Run, data: Path) -> None:
    """Archives elsewhere have files of their own that remember them; file:// is the folder that it names."""
    for place in ("one", "two"):
        assert run("archive", "--archive", place, "--data", data, "--json").document["appended"] == 9
    assert run("archive", "--archive", Path("one").absolute().as_uri(), "--data", data, "--json").document[
        "appended"
    ] == (0)
    assert len(list(data.glob("archive-*.json"))) == 2
    assert not (data / "archive.json").exists()
    assert run("archive", "--archive", data / "archive", "--data", data).status == 0
    assert (data / "archive.json").exists()
    shutil.rmtree("one")
    assert run("archive", "--archive", "one", "--data", data).status == 3
    assert run("archive", "--archive", "two", "--data", data).status == 0


def test_the_configuration_names_the_place(run: Run, data: Path) -> None:
    """[archive] says where it is, from the file's own folder, with secrets from elsewhere; --archive is from here."""
    config = data / "ledger-replay.toml"
    config.write_text('[archive]\nurl = "configured"\n')
    assert run("archive", "--data", data).status == 0
    assert (data / "configured").is_dir()
    assert not Path("configured").exists()
    other = Path("etc") / "other.toml"
    other.parent.mkdir()
    other.write_text('[archive]\nurl = "../beside"\n')
    assert run("archive", "--data", data, "--config", other).status == 0
    assert Path("beside").is_dir()
    assert run("archive", "--archive", "named", "--data", data, "--json").document["appended"] == 9
    assert Path("named").is_dir()
    config.write_text(f'[archive]\nurl = "{Path("absolute").absolute()}"\n')
    assert run("archive", "--data", data).status == 0
    assert Path("absolute").is_dir()
    config.write_text('[archive]\nurl = "s3://bucket/x"\n[archive.options]\naws_secret_access_key = { env = "NONE" }\n')
    said = run("archive", "--data", data)
    assert said.status == 2
    assert "NONE is not set" in said.err
    config.write_text('[archive]\nurl = "s3://bucket/x"\n[archive.options]\nnonsense = "1"\n')
    said = run("archive", "--data", data)
    assert said.status == 2
    assert "nonsense" in said.err
    said = run("archive", "--archive", "soup://x/y", "--data", data)
    assert said.status == 2
    assert "soup://x/y" in said.err
    said = run("archive", "--archive", data / "ledger.db", "--data", data)
    assert said.status == 2
    assert "is a file" in said.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("archive", "--check", "--compact"), "--check"),
        (("archive", "--check", "--from", "topic"), "--check"),
        (("archive", "--follow", "--compact"), "--follow"),
        (("archive", "--older-than", "1"), "--vacuum"),
        (("archive", "--dry-run"), "--vacuum"),
        (("archive", "--vacuum", "--compact", "--dry-run"), "--dry-run"),
        (("archive", "--status", "--check"), "stands alone"),
        (("archive", "--status", "--vacuum", "--dry-run"), "--status"),
        (("archive", "--from", "archive"), "--from store or topic"),
        (("archive", "--topic", "other"), "--from topic"),
        (("rebuild", "--archive", "x"), "--from archive"),
        (("rebuild", "--from", "archive", "--topic", "other"), "--from topic"),
        (("rebuild", "--from", "archive", "--until", "x"), "--until 'x'"),
        (("rebuild", "--from", "archive", "--until", "12"), "position 12 is not in the archive"),
        (("rebuild", "--from", "archive", "--until", "0:1"), "0:1 is not in the archive"),
        (("balances", "--from", "archive", "--at", "12"), "it holds its store up to 11"),
        (("balances", "--from", "archive", "--workers", "2"), "--from topic"),
        (("balances", "--archive", "x"), "--from archive"),
        (("graph", "alice-2", "--from", "topic"), "--from store or archive"),
    ],
)
def test_what_does_not_go_together_is_bad_usage(run: Run, archived: Path, words: tuple[str, ...], named: str) -> None:
    """Status 2, and the line names the option and what to say instead."""
    said = run(*words, "--data", archived)
    assert (said.status, said.out) == (2, "")
    assert named in said.err


def test_follow_ends_with_its_answer(run: Run, data: Path) -> None:
    """It takes in what is appended meanwhile, and Ctrl-C ends it tidily."""
    command = [*COMMAND, "archive", "--follow", "--data", str(data)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(data, 1)
        with ledger_of(data) as ledger:
            ledger.credit("carl", "carl-2", 1, effective_at=START)
        _wait_for(data, 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out == "COMPLETE: 10 events appended; the archive holds 10 events, up to position 10 of the store\n"


def _wait_for(data: Path, version: int) -> None:
    entry = data / "archive" / "_delta_log" / f"{version:020}.json"
    end = time.monotonic() + 30
    while not entry.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert entry.exists()


@pytest.fixture
def on_topic(data: Path, monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    """The ledger's events on a topic in memory, which the command line reads; the ledger published them."""
    store = Store.at(data)
    with store.snapshot() as connection:
        (raw,) = store.read(connection)
    reader = FakeReader(held([decode(state, position=at) for at, state in enumerate(raw["state"], start=1)]), 3, None)  # type: ignore[arg-type]
    publish_to(store, 9)
    store.close()

    @contextmanager
    def opened(*_: object) -> Iterator[FakeReader]:
        yield reader

    monkeypatch.setattr("consumers.archiver.open_reader", opened)
    monkeypatch.setattr("replay.topic.rebuild.topic_named", lambda *_: reader.topic)
    monkeypatch.setenv("LEDGER_REPLAY_BOOTSTRAP_SERVERS", "nowhere:1")
    return reader


def test_an_archive_of_a_topic(run: Run, data: Path, on_topic: FakeReader) -> None:
    """Its position is the topic's; it goes on there, is rebuilt from up to offsets, and has the store's watermark."""
    said = run("archive", *EVENTS, "--data", data, "--now", NOW, "--json")
    position = {"0": 4, "1": 3, "2": 2}
    assert (said.status, said.document["appended"], said.document["position"]) == (0, 9, position)
    assert said.document["watermark"] == "2026-05-01T00:00:00.000000Z"
    again = run("archive", *EVENTS, "--data", data, "--now", NOW, "--json").document
    assert (again["appended"], again["position"]) == (0, position)
    rebuilt = run("rebuild", "--from", "archive", "--promote", "--data", data, "--json").document
    assert (rebuilt["promoted"], rebuilt["certificate"]["topic"]) == (True, "events")
    store = run("rebuild", "--data", data, "--json").document["certificate"]
    assert rebuilt["certificate"]["digest"] == store["digest"]
    early = run("rebuild", "--from", "archive", "--until", "0:2,1:3,2:0", "--data", data, "--json").document
    assert (early["certificate"]["events"], early["certificate"]["position"]) == (5, {"0": 2, "1": 3, "2": 0})
    for words in ((), ("--at", "0:2,1:3,2:0"), ("--as-of", "2026-04-30")):
        asked = run("balances", "--from", "archive", *words, "--data", data, "--json").document
        assert asked["verdict"] == "COMPLETE"
        assert asked["certificate"]["digest"] == (early if "--at" in words else rebuilt)["certificate"]["digest"]
    refused = run("archive", "--data", data)
    assert refused.status == 4
    assert "another source" in refused.err


def test_an_archive_of_a_topic_without_a_ledger(run: Run, data: Path, on_topic: FakeReader) -> None:
    """The topic is enough; then nothing says up to which moment it is whole, and running again changes nothing."""
    words = ("archive", *EVENTS, "--data", "alone", "--json")
    said = run(*words)
    assert (said.status, said.document["appended"], said.document["watermark"]) == (0, 9, None)
    assert run(*words).document == said.document | {"appended": 0}
    asked = run("balances", "--from", "archive", "--as-of", "2026-04-30", "--data", "alone")
    assert asked.status == 3
    assert "up to which moment the archive is whole is not known: bring it up to date with `archive`" in asked.out


def test_a_topic_that_was_made_again_is_refused(run: Run, data: Path, on_topic: FakeReader) -> None:
    """Its archive is neither added to nor rebuilt from by a ledger that knows another topic of that name."""
    run("archive", *EVENTS, "--data", data)
    damage(data, "UPDATE ledger_topics SET topic_id = 'other'")
    for words in (("archive", *EVENTS), ("rebuild", "--from", "archive")):
        assert run(*words, "--data", data).status == 4
