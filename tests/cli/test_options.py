"""What holds for every command: options anywhere, one JSON document, errors as one line, exit statuses."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from schemas.errors import LedgerReplayError
from tests.cli.conftest import COMMAND, Run, as_process


def test_options_stand_before_or_after_the_command(run: Run, data: Path) -> None:
    """The same option before and after the command gives the same; what stands after wins."""
    before = run("--data", data, "--json", "--now", "2026-05-01", "balances")
    after = run("balances", "--data", data, "--json", "--now", "2026-05-01")
    both = run("--data", "/nowhere", "balances", "--data", data, "--json", "--now", "2026-05-01")
    assert before.document == after.document == both.document
    assert before.document["watermark"] == "2026-05-01T00:00:00.000000Z"


def test_environment_names_the_ledger(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LEDGER_REPLAY_DATA and LEDGER_REPLAY_STORE stand for --data and --store."""
    moved = data.rename(data.with_name("elsewhere"))
    monkeypatch.setenv("LEDGER_REPLAY_DATA", str(moved))
    assert run("balances").status == 0
    monkeypatch.setenv("LEDGER_REPLAY_STORE", f"sqlite:///{moved}/ledger.db")
    monkeypatch.setenv("LEDGER_REPLAY_DATA", "nowhere")
    assert run("balances").status == 0


def test_options_win_over_the_environment(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins over its variable, before the command as well as after it."""
    monkeypatch.setenv("LEDGER_REPLAY_DATA", "nowhere")
    monkeypatch.setenv("LEDGER_REPLAY_STORE", "sqlite:///nowhere.db")
    store = f"sqlite:///{data}/ledger.db"
    assert run("--data", data, "--store", store, "balances").status == 0
    assert run("balances", "--data", data, "--store", store).status == 0
    assert run("balances").status == 2


def test_configuration_names_the_store(run: Run, data: Path, tmp_path: Path) -> None:
    """The TOML file says where the store is; an unknown key in it is named with its file, status 2."""
    config = tmp_path / "my.toml"
    config.write_text(f'store = "sqlite:///{data}/ledger.db"\n')
    assert run("balances", "--config", config, "--data", "nowhere").status == 0
    config.write_text("kafka = 5\n")
    said = run("balances", "--config", config)
    assert said.status == 2
    assert "kafka" in said.err
    assert str(config) in said.err


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (["balances", "nobody", "--data", "{data}"], 2, "nobody"),
        (["history", "nobody", "--data", "{data}"], 2, "nobody"),
        (["graph", "nothing", "--data", "{data}"], 2, "nothing"),
        (["balances", "", "--data", "{data}"], 2, "no account '' in"),
        (["history", "", "--data", "{data}"], 2, "no account '' in"),
        (["verify", "--account", "", "--data", "{data}"], 2, "no account '' in"),
        (["balances", "--data", "nowhere"], 2, "nowhere"),
        (["balances", "--store", "sqlite:///nowhere.db"], 2, "nowhere.db"),
        (["balances", "--store", "mysql://u:secret@h/d"], 2, "mysql"),
        (["balances", "--store", "no url"], 2, "no url"),
        (["balances", "--store", "postgresql://u:secret@localhost:1/none"], 5, "--store"),
        (["balances", "--data", "{data}/ledger.db/below"], 2, "below"),
        (
            ["import", "transactions", "--from-url", "postgresql://u:secret@localhost:1/x", "--table", "t"],
            2,
            "localhost",
        ),
        (
            ["drift", "--data", "{data}", "--against", "postgresql://u:secret@localhost:1/x", "--table", "t"],
            2,
            "localhost",
        ),
        (["balances", "--data", "{data}", "--at", "99"], 2, "99"),
        (["balances", "--data", "{data}", "--at", "-1"], 2, "-1"),
        (["balances", "--data", "{data}", "--as-of", "soon"], 2, "--as-of 'soon'"),
        (["balances", "--data", "{data}", "--recorded-as-of", "soon"], 2, "--recorded-as-of 'soon'"),
        (["balances", "--data", "{data}", "--now", "soon"], 2, "--now"),
        (["balances", "--data", "{data}", "--format", "xml"], 2, "xml"),
        (["balances", "--data", "{data}", "--format", "parquet"], 2, "--output"),
        (["balances", "--data", "{data}", "--output", "{data}/ledger.db/x.csv"], 2, "x.csv"),
        (["balances", "--nonsense"], 2, "--nonsense"),
        (["nonsense"], 2, "nonsense"),
        (["balances", "--from", "archive", "--data", "{data}"], 2, "there is no archive"),
        (["history", "alice", "--from", "archive", "--data", "{data}"], 2, "there is no archive"),
        (["history", "alice", "--from", "topic", "--data", "{data}"], 2, "store or archive"),
        (["graph", "alice-1", "--from", "archive", "--data", "{data}"], 2, "there is no archive"),
        (["graph", "alice-1", "--archive", "x", "--data", "{data}"], 2, "--from archive"),
        (["rebuild", "--from", "archive", "--data", "{data}"], 2, "there is no archive"),
        (["rebuild", "--from", "nonsense", "--data", "{data}"], 2, "nonsense"),
        (["generations", "promote", "7", "--data", "{data}"], 2, "7"),
        (["drift", "--data", "{data}"], 2, "project"),
        (["drift", "--data", "{data}", "--table", "accounts"], 2, "--against"),
        (["generate", "--data", "{data}"], 2, "--output"),
    ],
)
def test_error_is_one_line_and_one_document(run: Run, data: Path, words: list[str], status: int, named: str) -> None:
    """Each error names what is wrong in one line on stderr, and with --json in the one document on stdout."""
    filled = [word.format(data=data) for word in words]
    said = run(*filled)
    assert said.status == status
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert named in said.err
    assert "secret" not in said.err
    told = run(*filled, "--json")
    assert told.status == status
    assert told.document["verdict"] == ("REFUSED" if status == 4 else "FAILED")
    assert told.document["error"]["exit_status"] == status


READERS = (
    ("balances",),
    ("history", "alice"),
    ("graph", "t-1"),
    ("verify",),
    ("verify", "--fix-stale", "cancel"),
    ("drift",),
    ("generations",),
    ("generations", "list"),
    ("generations", "promote", "1"),
    ("export", "events", "events.jsonl"),
    ("project",),
    ("rebuild",),
    ("archive",),
)


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_reading_makes_no_ledger(run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """What brings nothing in leaves nothing behind where there is no ledger, nor in somebody else's database."""
    for where in (("--data", tmp_path / "new"), ("--store", f"sqlite:///{tmp_path}/new.db")):
        said = run(*words, *where)
        assert (said.status, said.out) == (2, "")
        assert "new" in said.err
    assert list(tmp_path.iterdir()) == []
    connection = sqlite3.connect(tmp_path / "prod.db")
    with connection:
        connection.execute("CREATE TABLE customers (id)")
    said = run(*words, "--store", f"sqlite:///{tmp_path}/prod.db")
    assert (said.status, said.out) == (2, "")
    assert "prod.db" in said.err
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    connection.close()
    assert tables == [("customers",)]


@pytest.mark.parametrize(
    "shown",
    [["--format", "csv"], ["--format", "parquet", "--output", "x.parquet"], ["--output", "x.csv"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "words",
    [
        ["import", "transactions", "rows.csv"],
        ["import", "accounts", "rows.csv"],
        ["import", "events", "rows.jsonl"],
        ["export", "events", "out.jsonl"],
        ["project"],
        ["rebuild"],
        ["generations", "promote", "1"],
        ["demo"],
    ],
    ids=" ".join,
)
def test_form_without_a_table_is_refused_before_any_work(
    run: Run, data: Path, tmp_path: Path, words: list[str], shown: list[str]
) -> None:
    """What answers with no table refuses CSV and Parquet and has done nothing: no row, no generation, no file."""
    (tmp_path / "rows.csv").write_text("")
    run("project", "--data", data)
    before = run("generations", "--data", data, "--json").document, sorted(tmp_path.rglob("*"))
    where = [] if words == ["demo"] else ["--data", data]
    said = run(*words, *shown, *where)
    assert (said.status, said.out) == (2, "")
    assert "there is no format" in said.err
    assert (run("generations", "--data", data, "--json").document, sorted(tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("output", ["ledger-data", "ledger-data/ledger.db/x.txt"])
def test_output_that_cannot_be_written_is_refused_before_any_work(run: Run, data: Path, output: str) -> None:
    """A folder, or a place below a file, is no output: status 2, and no generation was written."""
    said = run("rebuild", "--data", data, "--output", output)
    assert (said.status, said.out) == (2, "")
    assert "cannot write the output" in said.err
    assert run("generations", "--data", data, "--json").document["generations"] == []


def test_time_without_a_zone_is_said_once(run: Run, data: Path) -> None:
    """--now without a zone is taken in the configured zone and that is said once; a date is its UTC midnight."""
    (data / "ledger-replay.toml").write_text('[import]\ntimezone = "Asia/Shanghai"\n')
    said = run("balances", "--data", data, "--json", "--now", "2026-05-01T08:00")
    assert said.document["watermark"] == "2026-05-01T00:00:00.000000Z"
    assert said.err == "note: times without a zone are taken in Asia/Shanghai\n"
    for words in ("2026-05-01", "20260501"):
        said = run("balances", "--data", data, "--json", "--now", words)
        assert (said.document["watermark"], said.err) == ("2026-05-01T00:00:00.000000Z", "")


def test_traceback_only_with_debug(run: Run, data: Path) -> None:
    """The traceback is there with --debug and only then; the line and the status stay."""
    plain, debug = run("balances", "nobody", "--data", data), run("balances", "nobody", "--data", data, "--debug")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_unexpected_error_is_one_line(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours that nobody foresaw ends as one line with status 5."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("line\nbreak")

    monkeypatch.setattr("replay.balances", broken)
    said = run("balances", "--data", data)
    assert said.status == LedgerReplayError.exit_status == 5
    assert said.err.count("\n") == 1
    assert "KeyError" in said.err
    assert "--debug" in said.err


def test_broken_database_file_is_one_line(run: Run, tmp_path: Path) -> None:
    """A file that is no database is an error of the store that names it."""
    (tmp_path / "ledger-data").mkdir()
    (tmp_path / "ledger-data" / "ledger.db").write_bytes(b"not a database" * 100)
    said = run("balances")
    assert said.status == 5
    assert "not a database" in said.err
    assert "Traceback" not in said.err


def test_output_formats_agree(run: Run, data: Path, tmp_path: Path) -> None:
    """CSV, JSON and Parquet files hold the same rows."""
    for ending in ("csv", "json", "parquet"):
        assert run("balances", "--data", data, "--output", tmp_path / f"rows.{ending}").status == 0
    columns = ["account_id", "balance", "frozen", "available", "pending_credit", "pending_debit", "status", "version"]
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    assert rows.columns == [*columns, "last_effective_at"]
    csv = pl.read_csv(tmp_path / "rows.csv", try_parse_dates=True)
    assert csv.select(columns).rows() == rows.select(columns).rows()
    told = run("balances", "--data", data, "--json").document["accounts"]
    assert [tuple(row[name] for name in columns) for row in told] == rows.select(columns).rows()


def test_start_is_fast_enough_to_import_nothing_heavy() -> None:
    """--help needs neither the database nor the write model."""
    script = (
        "import sys; from console.main import main; main(['--help']); "
        "print([name for name in ('sqlalchemy', 'eventsourcing', 'rustworkx') if name in sys.modules])"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_and_no_arguments(run: Run) -> None:
    """--version says the version; no command shows the help as a usage error."""
    assert run("--version").out.startswith("ledger-replay ")
    assert run().status == 2


@pytest.mark.parametrize("words", [["balances", "--format", "csv"], ["export", "events", "-"]])
def test_reader_of_a_pipe_may_go(data: Path, words: list[str]) -> None:
    """A pipe that closes early ends the command as a shell tool would end, without a word."""
    command = [*COMMAND, *words, "--data", str(data)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert process.returncode == 141
    assert err in ("", "verdict COMPLETE\n")


def test_ctrl_c_ends_a_follower_with_its_answer(data: Path) -> None:
    """A follower that is interrupted says where it is, with status 0."""
    command = [*COMMAND, "project", "--follow", "--data", str(data)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as process:
        _wait_until_projected(data)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "position 9" in out
    assert err == ""


def test_ctrl_c_ends_any_command_tidily(data: Path) -> None:
    """Ctrl-C in the middle of a command, here an import that waits for more: status 130 and no traceback."""
    root = Path(__file__).parents[2]
    command = [*COMMAND, "import", "events", "-", "--data", str(data)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root) as process:
        assert process.stdin is not None
        # More than any pipe holds: once it is written, the command has read of it and wants more.
        process.stdin.write("not an event\n" * 200_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        out, err = process.communicate()
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted\n")


@pytest.mark.parametrize("module", ["typer", "console.app", "sqlalchemy", "polars"])
def test_ctrl_c_during_start_up_ends_tidily(data: Path, module: str) -> None:
    """Ctrl-C while a library is being imported: status 130 and no traceback."""
    script = f"""
import signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from console.main import main
sys.exit(main(["balances", "--data", {str(data)!r}]))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([COMMAND[0], "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def _wait_until_projected(data: Path) -> None:
    for _ in range(200):
        connection = sqlite3.connect(data / "ledger.db")
        try:
            if connection.execute("SELECT count(*) FROM ledger_generations WHERE position = 9").fetchone()[0]:
                return
        finally:
            connection.close()
        time.sleep(0.05)
    raise AssertionError("the follower did not get to the head")


def test_as_a_process(data: Path) -> None:
    """Started as a process, the answer is on stdout and nothing else is."""
    done = as_process("balances", "--data", data, "--format", "csv")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("account_id,balance,")
    assert done.stderr == "verdict COMPLETE\n"
