"""`drift --watch` and `watch` as real processes: what they find, tell, serve and end with."""

from __future__ import annotations

import io
import json
import signal
import sqlite3
from pathlib import Path

import pytest
from webhooks import until, webhook

from tests.cli.conftest import NOW, Run, damage, ledger_of
from tests.cli.processes import asked, configure, metrics, running

WRONG = "UPDATE ledger_accounts SET balance = balance + 7 WHERE account_id = 'bob' AND generation > 0"
RIGHT = "UPDATE ledger_accounts SET balance = balance - 7 WHERE account_id = 'bob' AND generation > 0"
EVERYONE = ("carl", "bob", "alice")


@pytest.fixture
def projected(run: Run, data: Path) -> Path:
    """The ledger with a live read model at its head."""
    assert run("project", "--data", data).status == 0
    return data


def test_drift_is_found_told_healed_and_told(projected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage while it runs: a finding, one alert, the metric; repair: healed, one alert; SIGTERM: the answer."""
    with webhook(500) as hook:
        monkeypatch.setenv("HOOK", hook.url)
        # The environment of a test's process is taken over without what configures the product.
        configure(projected, hook)
        with running("drift", "--watch", "--listen", "0", "--data", projected, "--json") as process:
            address = process.wait_for("listening")["address"]
            process.wait_for("round finished")
            assert asked(address, "/healthz")[0] == 200
            assert asked(address, "/readyz")[0] == 200
            assert metrics(address)["ledger_replay_drifted_accounts"] == 0
            damage(projected, WRONG)
            line = process.wait_for("drift found")
            assert (line["account_id"], line["field"], line["live"], line["replayed"]) == (
                "bob",
                "balance",
                "107",
                "100",
            )
            until(lambda: metrics(address)["ledger_replay_drifted_accounts"] == 1)
            process.wait_for("alert sent")
            damage(projected, RIGHT)
            process.wait_for("incident over")
            process.wait_for("alert sent", 2)
            found = metrics(address)
            assert found["ledger_replay_drifted_accounts"] == 0
            assert found['ledger_replay_alerts_total{kind="drift",result="sent"}'] == 1
            assert found['ledger_replay_alerts_total{kind="drift",result="failed"}'] == 1
            assert found["ledger_replay_shadow_events_total"] == 9
            status, out = process.end()
    assert hook.kinds == ["drift", "drift", "healed"]
    assert len({took.headers["Idempotency-Key"] for took in hook.requests}) == 2
    assert hook.requests[0].document["accounts"][0]["account_id"] == "bob"
    assert hook.requests[0].headers["X-Token"] == "t"
    answer = json.loads(out)
    assert (status, answer["verdict"], answer["drifted"], answer["compared"]) == (0, "EQUAL", 0, 3)
    assert process.other == []
    assert hook.url not in str(process.lines)


def test_drift_that_is_open_at_the_end_is_the_answer(projected: Path) -> None:
    """Ctrl-C ends it with the differences that are open, and with status 1."""
    damage(projected, WRONG)
    with running("watch", "--data", projected, "--json") as process:
        process.wait_for("round finished")
        status, out = process.end(signal.SIGINT)
    answer = json.loads(out)
    assert (status, answer["verdict"], answer["drifted"]) == (1, "DRIFT", 1)
    assert [(each["account_id"], each["live"], each["difference"]) for each in answer["accounts"]] == [("bob", 107, 7)]


def test_rounds_end_by_themselves(run: Run, projected: Path) -> None:
    """With a number of rounds the status says what the last came to: 0 EQUAL, 1 DRIFT, 3 INCOMPARABLE."""
    watched = ("drift", "--watch", "--rounds", 1, "--data", projected, "--json")
    said = run(*watched)
    assert (said.status, said.document["verdict"], said.document["rounds"]) == (0, "EQUAL", 1)
    assert (said.document["events"], said.document["position"]) == (9, 9)
    damage(projected, WRONG)
    assert (run(*watched).status, run(*watched).document["drifted"]) == (1, 1)
    damage(projected, RIGHT)
    assert run(*watched).status == 0
    damage(projected, "DELETE FROM stored_events WHERE originator_id = 'bob' AND originator_version = 2")
    said = run(*watched, "--restart")
    assert (said.status, said.document["verdict"], said.document["uncompared"]) == (3, "INCOMPARABLE", ["bob"])


def test_a_round_compares_as_many_as_one_comparison(run: Run, projected: Path) -> None:
    """An account that cannot be compared is not counted as one that was."""
    damage(projected, "DELETE FROM stored_events WHERE originator_id = 'bob' AND originator_version = 2")
    watched = run("drift", "--watch", "--rounds", 1, "--data", projected, "--json").document
    once = run("drift", "--data", projected, "--json").document
    assert (watched["uncompared"], once["uncompared"]) == (["bob"], ["bob"])
    assert watched["compared"] == once["compared"] == 2


def test_live_past_the_head_is_never_equal(run: Run, projected: Path) -> None:
    """Live has events that the store lost: INCOMPARABLE, once and watched, and nothing is projected until a rebuild."""
    damage(projected, "UPDATE ledger_generations SET position = position + 200")
    reason = "the store has lost events, or was put back from a backup"
    for words in ([], ["--watch", "--rounds", 1]):
        said = run("drift", *words, "--data", projected)
        assert (said.status, reason in said.out) == (3, True)
    said = run("drift", "--data", projected, "--json").document
    assert (said["verdict"], said["drifted"], reason in said["why_not"]) == ("INCOMPARABLE", 0, True)
    said = run("drift", "--watch", "--rounds", 1, "--data", projected, "--json").document
    assert (said["verdict"], said["uncompared"]) == ("INCOMPARABLE", sorted(EVERYONE))
    refused = run("project", "--data", projected)
    assert (refused.status, reason in refused.err, "rebuild --promote" in refused.err) == (4, True, True)
    assert run("rebuild", "--promote", "--yes", "--data", projected).status == 0
    assert run("project", "--data", projected).status == 0
    for words in ([], ["--watch", "--rounds", 1]):
        assert run("drift", *words, "--data", projected).status == 0


def test_rounds_end_at_the_head(run: Run, projected: Path) -> None:
    """However small its batches are, what it followed by then is all that there was."""
    configure(projected, more="[watch]\nbatch_events = 4\n")
    said = run("drift", "--watch", "--rounds", 1, "--data", projected, "--json").document
    assert (said["events"], said["position"]) == (9, 9)


def test_the_explanation_is_in_the_document(run: Run, projected: Path) -> None:
    """--explain has in JSON what it has in words, of one comparison and of a watch."""
    damage(projected, WRONG)
    for words in ([], ["--watch", "--rounds", 1]):
        plain = run("drift", *words, "--data", projected, "--json").document
        said = run("drift", *words, "--explain", "--data", projected, "--json").document
        text = run("drift", *words, "--explain", "--data", projected).out
        assert said.keys() - plain.keys() == {"explained", "unexplained_count"}
        (told,) = said["explained"]
        assert (told["account_id"], told["class"], said["unexplained_count"]) == ("bob", "foreign_write", 0)
        for name in ("meaning", "evidence", "how_sure", "next"):
            assert told[name] in text
        assert [event["what"] in text for event in told["events"]] == [True] * told["events_count"]


def test_findings_are_listed(run: Run, projected: Path) -> None:
    """--findings lists what is open, with --all what is healed too, and says where nothing was ever compared."""
    said = run("drift", "--findings", "--data", projected, "--json")
    assert (said.status, said.document["verdict"], said.document["findings"]) == (3, "INCOMPLETE", [])
    damage(projected, WRONG)
    run("drift", "--watch", "--rounds", 1, "--data", projected)
    said = run("drift", "--findings", "--data", projected, "--json")
    assert (said.status, said.document["findings_count"]) == (1, 1)
    (finding,) = said.document["findings"]
    assert (finding["account_id"], finding["field"], finding["state"]) == ("bob", "balance", "drift")
    assert (finding["live"], finding["replayed"], finding["difference"]) == (107, 100, 7)
    assert "bob" in run("drift", "--findings", "--data", projected).out
    damage(projected, RIGHT)
    run("drift", "--watch", "--rounds", 1, "--data", projected)
    said = run("drift", "--findings", "--data", projected, "--json")
    assert (said.status, said.document["verdict"], said.document["findings"]) == (0, "CLEAN", [])
    healed = run("drift", "--findings", "--all", "--data", projected, "--json").document["findings"]
    assert [(each["account_id"], each["state"]) for each in healed] == [("bob", "healed")]


def test_a_shadow_is_forgotten(run: Run, projected: Path) -> None:
    """--forget drops one shadow with what it found, and nothing of any other; the next watch begins anew."""
    damage(projected, WRONG)
    for name in ("shadow", "other"):
        run("drift", "--watch", "--rounds", 1, "--shadow", name, "--data", projected)
    unsure = run("drift", "--forget", "--data", projected)
    assert unsure.status == 2
    assert "this would drop the shadow 'shadow' with 3 rows, and 1 finding" in unsure.err
    assert "--yes" in unsure.err
    said = run("drift", "--forget", "--yes", "--data", projected, "--json")
    assert (said.status, said.document["rows"], said.document["findings"]) == (0, 3, 1)
    left = run("drift", "--findings", "--data", projected, "--json").document
    assert [each["comparison"] for each in left["findings"]] == ["read_model, shadow other"]
    assert list(left["comparisons"]) == ["read_model, shadow other"]
    again = run("drift", "--watch", "--rounds", 1, "--data", projected, "--json")
    assert (again.status, again.document["events"]) == (1, 9)
    with sqlite3.connect(projected / "ledger.db") as connection:
        (incidents,) = connection.execute("SELECT count(*) FROM ledger_incidents").fetchone()
    connection.close()
    assert incidents == 2


def test_a_shadow_that_is_followed_is_not_forgotten(run: Run, projected: Path) -> None:
    """While a process compares it, it stays; once that has ended it may go."""
    with running("watch", "--data", projected) as process:
        process.wait_for("round finished")
        said = run("drift", "--forget", "--yes", "--data", projected)
        assert (said.status, process.child.poll()) == (4, None)
        assert "another process follows" in said.err
        assert process.end()[0] == 0
    assert run("drift", "--forget", "--yes", "--data", projected).status == 0


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 4)])
def test_it_is_asked_before_a_shadow_is_forgotten(
    run: Run, projected: Path, monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    """On a terminal it says what goes and asks."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    run("drift", "--watch", "--rounds", 1, "--data", projected)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    said = run("drift", "--forget", "--data", projected)
    assert said.status == status
    assert "Drop the shadow 'shadow' with 3 rows" in said.err


@pytest.mark.parametrize(("table", "named"), [("nowhere", "no such table"), ("points", "[live.columns]")])
def test_a_wrong_live_table_is_named_before_anything_is_followed(
    run: Run, projected: Path, tmp_path: Path, table: str, named: str
) -> None:
    """It is not found out after hours of catching up."""
    with sqlite3.connect(tmp_path / "live.db") as connection:
        connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY)")
    connection.close()
    configure(projected, more=f'[live]\nurl = "sqlite:///{tmp_path}/live.db"\ntable = "{table}"\n')
    said = run("watch", "--data", projected)
    assert said.status == 2
    assert named in said.err
    assert "caught up" not in said.err


def test_a_shadow_that_is_there_says_that_it_does_not_start(run: Run, projected: Path) -> None:
    """--start is for a new shadow, or with --restart: that it has no effect is said."""
    words = ("drift", "--watch", "--rounds", 1, "--start", "zero", "--data", projected)
    warned = [" goes on where it is: --start " in run(*words, *more).err for more in ([], [], ["--restart"])]
    assert warned == [False, True, False]


def test_it_follows_what_is_appended(projected: Path) -> None:
    """Events that are appended while it runs are followed, and live rows that have not got them yet are no drift."""
    with running("drift", "--watch", "--listen", "0", "--data", projected, "--json") as process:
        address = process.wait_for("listening")["address"]
        process.wait_for("round finished")
        with ledger_of(projected) as ledger:
            for number in range(50):
                ledger.credit(EVERYONE[number % 3], f"more-{number}", 1)
        rounds = 'ledger_replay_rounds_total{verdict="EQUAL"}'
        done = metrics(address)[rounds]
        until(lambda: metrics(address)[rounds] >= done + 2)
        status, out = process.end()
    answer = json.loads(out)
    assert (status, answer["verdict"], answer["position"]) == (0, "EQUAL", 59)
    assert process.said("drift found") == []


def test_a_live_table_elsewhere_is_watched(run: Run, projected: Path, tmp_path: Path) -> None:
    """A foreign table of [live]: a difference is suspected, then drift; repaired, it is healed."""
    connection = sqlite3.connect(tmp_path / "live.db")
    with connection:
        connection.execute("CREATE TABLE points (id TEXT PRIMARY KEY, balance INT, frozen_amount INT, status TEXT)")
        rows = [("alice", 100, 0), ("bob", 100, 20), ("carl", 99, 0)]
        connection.executemany("INSERT INTO points VALUES (?, ?, ?, 'active')", rows)
    live = f'url = "sqlite:///{tmp_path}/live.db"\ntable = "points"\ncolumns = {{ account_id = "id" }}\n'
    configure(projected, more=f"[live]\n{live}settle_seconds = 0.3\n")
    watched = ("drift", "--live", "--watch", "--rounds", 1, "--data", projected, "--json")
    said = run(*watched)
    assert (said.status, said.document["live"]) == (1, "foreign")
    assert [(each["account_id"], each["live"]) for each in said.document["accounts"]] == [("carl", 99)]
    assert [json.loads(line)["event"] for line in said.err.splitlines() if "carl" in line] == [
        "suspected",
        "drift found",
    ]
    with connection:
        connection.execute("UPDATE points SET balance = 100 WHERE id = 'carl'")
    connection.close()
    assert run(*watched).document["verdict"] == "EQUAL"
    once = run("drift", "--live", "--data", projected, "--json")
    assert (once.status, once.document["verdict"], once.document["compared"]) == (0, "EQUAL", 3)


def test_two_instances_share_the_work(projected: Path) -> None:
    """Of two processes one compares; when it ends the other goes on, and drift is told once by both together."""
    with running("watch", "--data", projected, "--json") as first:
        first.wait_for("round finished")
        with running("watch", "--data", projected, "--json") as second:
            second.wait_for("another process compares; this one follows, and takes over when that one ends")
            damage(projected, WRONG)
            first.wait_for("incident begun")
            assert first.end()[0] == 1
            second.wait_for("round finished")
            status, out = second.end()
    assert (status, json.loads(out)["drifted"]) == (1, 1)
    assert second.said("incident begun") == []
    assert second.said("drift found") == []


def test_it_goes_on_after_kill(projected: Path) -> None:
    """Killed without warning, the next one goes on with the shadow where it is, and finds what drifted meanwhile."""
    with running("watch", "--data", projected) as first:
        first.wait_for("round finished")
        first.end(signal.SIGKILL)
    damage(projected, WRONG)
    # The lease of a process that was killed passes by itself.
    damage(projected, "UPDATE ledger_comparisons SET held_until = '2000-01-01T00:00:00.000000Z'")
    with running("watch", "--data", projected, "--json") as second:
        second.wait_for("incident begun")
        assert second.wait_for("caught up")["events"] == 0
        assert second.end()[0] == 1


def test_the_database_goes_away_for_a_while(projected: Path) -> None:
    """While the database does not answer it is not ready and says so; when it is back it goes on."""
    with running("watch", "--data", projected, "--listen", "0", "--json") as process:
        address = process.wait_for("listening")["address"]
        process.wait_for("round finished")
        damage(projected, "ALTER TABLE ledger_shadow_positions RENAME TO elsewhere")
        process.wait_for("does not answer")
        assert asked(address, "/readyz")[0] == 503
        assert asked(address, "/healthz")[0] == 200
        damage(projected, "ALTER TABLE elsewhere RENAME TO ledger_shadow_positions")
        process.wait_for("goes on")
        until(lambda: asked(address, "/readyz")[0] == 200)
        assert process.end()[0] == 0


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[watch]\nlisten = 5", "listen"),
        ("[watch]\nload = 1", "load"),
        ("[watch]\nload_max = 2", "load_max"),
        ('[alerts]\nwebhook = "ftp://x"', "[alerts] webhook"),
        ('[alerts]\nwebhook = "http://"', "[alerts] webhook"),
        ('[alerts]\nwebhook = "http://[x/y"', "[alerts] webhook"),
        ('[alerts]\nwebhook = "http://host:port/"', "[alerts] webhook"),
        ('[alerts]\nwebhook = { env = "NOT_SET" }', "NOT_SET"),
        ('[alerts]\nwebhook = "http://x"\nheaders = { "a b" = "c" }', "[alerts.headers]"),
        ('[alerts]\nwebhook = "http://x"\nheaders = { a = "b\\nc" }', "[alerts.headers]"),
        ('[alerts]\ninterval = "x"', "interval"),
        ('[live]\nurl = "sqlite:///x"', "table"),
        ('[live]\nurl = { env = "NOT_SET" }\ntable = "t"', "NOT_SET"),
        ('[live]\nurl = "sqlite:///x"\ntable = "t"\nsettle = 1', "settle"),
        ('[live]\nurl = "sqlite:///x"\ntable = "t"\npartitions = 0', "partitions"),
        ('[watch]\nlisten = "nowhere"', "nowhere"),
    ],
)
def test_a_wrong_configuration_is_named(run: Run, projected: Path, toml: str, named: str) -> None:
    """What is wrong under [live], [watch] or [alerts] ends it before it begins, named with its key."""
    configure(projected, more=toml)
    said = run("watch", "--data", projected)
    assert said.status == 2
    assert named in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--rounds", "1"], "--watch"),
        (["--start", "zero"], "--watch"),
        (["--listen", "0"], "--watch"),
        (["--from", "topic"], "--watch"),
        (["--all"], "--findings"),
        (["--findings", "--watch"], "--findings"),
        (["--findings", "--explain"], "--explain"),
        (["--shadow", "other"], "--watch or --forget"),
        (["--yes"], "--forget"),
        (["--forget", "--findings"], "--forget"),
        (["--forget", "--watch"], "--forget"),
        (["--forget", "--shadow", "other", "--yes"], "no shadow 'other'"),
        (["--own", "--live"], "--own and --live"),
        (["--live"], "[live]"),
        (["--watch", "--start", "nowhere"], "nowhere"),
        (["--watch", "--start", "99", "--rounds", "1"], "generation"),
        (["--watch", "--from", "archive"], "archive"),
        (["--watch", "--topic", "t"], "--from topic"),
    ],
)
def test_options_that_make_no_sense_together(run: Run, projected: Path, words: list[str], named: str) -> None:
    """Options without effect, and values that mean nothing, are bad usage and named."""
    said = run("drift", "--data", projected, *words)
    assert said.status == 2
    assert named in said.err


def test_a_shadow_starts_from_a_generation(run: Run, data: Path) -> None:
    """--start takes the rows of a rebuilt generation over, so that nothing is followed again."""
    assert run("rebuild", "--promote", "--data", data).status == 0
    said = run("drift", "--watch", "--rounds", 1, "--start", 1, "--data", data, "--json")
    assert (said.status, said.document["events"], said.document["compared"]) == (0, 0, 3)


def test_the_same_moment_can_be_told_again(run: Run, projected: Path) -> None:
    """With --now drift can come, go and come back at one moment: it is open again, and nothing fails."""
    words = ("drift", "--watch", "--rounds", 1, "--data", projected, "--now", NOW, "--json")
    statuses = []
    for change in (WRONG, RIGHT, WRONG):
        damage(projected, change)
        statuses.append(run(*words).status)
    assert statuses == [1, 0, 1]
    assert run(*words).document["rejected"] == 0
