"""Configuration and moments: what is wrong is named with its key, file or option."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from console.moments import parse_moment
from console.settings import FILE_NAME, load_settings
from schemas.errors import ConfigurationError, UsageError


def test_no_file_means_defaults(tmp_path: Path) -> None:
    """A data folder without a file, or that is not there yet, has the defaults."""
    assert load_settings(tmp_path, None).store is None
    assert load_settings(tmp_path / "not yet", None).timezone == "UTC"


def test_file_in_the_data_folder(tmp_path: Path) -> None:
    """The data folder's own file is read."""
    (tmp_path / FILE_NAME).write_text('store = "sqlite:///x.db"\n[import]\ntimezone = "Europe/Berlin"\n')
    settings = load_settings(tmp_path, None)
    assert (settings.store, settings.timezone) == ("sqlite:///x.db", "Europe/Berlin")


@pytest.mark.parametrize(
    ("content", "named"),
    [("stroe = 'x'", "stroe"), ("store = 5", "store"), ("[import", "configuration"), ("import = 3", "import")],
)
def test_wrong_file_names_key_and_file(tmp_path: Path, content: str, named: str) -> None:
    """An unknown key, a wrong type and broken TOML each name what is wrong and where."""
    path = tmp_path / "my.toml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_settings(tmp_path, path)
    assert str(path) in str(caught.value)


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A file that --config names and that is missing is an error, not the defaults."""
    with pytest.raises(ConfigurationError, match=r"gone\.toml"):
        load_settings(tmp_path, tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("words", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("20260131", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-W05-6", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026W056", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        ("2026-01-31T09:30:00.000001+02:00", datetime(2026, 1, 31, 7, 30, 0, 1, tzinfo=UTC)),
    ],
)
def test_moments(words: str, moment: datetime) -> None:
    """A date, however ISO 8601 writes it, is its UTC midnight whatever the zone; a time with a zone is that moment."""
    assert parse_moment(words, zone="Europe/Berlin") == (moment, False)


@pytest.mark.parametrize("words", ["2026-07-31T09:30", "20260731T0930", "2026-07-31 09:30:00.000000"])
def test_moment_without_a_zone(words: str) -> None:
    """A time without a zone is taken in the zone, and said to have none."""
    assert parse_moment(words, zone="Europe/Berlin") == (datetime(2026, 7, 31, 7, 30, tzinfo=UTC), True)


@pytest.mark.parametrize("words", ["", "tomorrow", "2026-13-01", "2026-01-31T25:00", "0001-01-01T00:00:00+23:59"])
def test_no_moment(words: str) -> None:
    """What is no moment names the option and shows how to write one."""
    with pytest.raises(UsageError, match="--until"):
        parse_moment(words, option="--until")


@pytest.mark.parametrize("words", ["2026-03-29T02:30", "2026-10-25T02:30"])
def test_moment_that_the_clocks_skip_or_show_twice(words: str) -> None:
    """A local time that is none or two moments is refused; with its offset it is one."""
    with pytest.raises(UsageError, match="skipped or shown twice"):
        parse_moment(words, zone="Europe/Berlin")
    assert parse_moment(f"{words}+01:00", zone="Europe/Berlin")[0].hour == 1


def test_unknown_zone() -> None:
    """A time zone that does not exist is a configuration error."""
    with pytest.raises(ConfigurationError, match="Mars"):
        parse_moment("2026-01-31T09:30", zone="Mars/Olympus")


def test_a_topic_of_orders_is_configured_or_not(tmp_path: Path) -> None:
    """No topic of orders is read unless the file names one, and a name is never empty."""
    assert load_settings(tmp_path, None).reconcile.orders_topic is None
    path = tmp_path / FILE_NAME
    path.write_text('[reconcile]\norders_topic = "shop-orders"\n')
    assert load_settings(tmp_path, None).reconcile.orders_topic == "shop-orders"
    path.write_text('[reconcile]\norders_topic = ""\n')
    with pytest.raises(ConfigurationError, match="orders_topic"):
        load_settings(tmp_path, None)


def test_no_time_of_a_reconciliation_is_longer_than_a_calendar(tmp_path: Path) -> None:
    """How long a break may stay open is bounded, so that every clock can be set back by it."""
    path = tmp_path / FILE_NAME
    path.write_text("[reconcile]\nalert_after_seconds = 315360000\n")
    assert load_settings(tmp_path, None).reconcile.alert_after_seconds == 315_360_000
    path.write_text("[reconcile]\nalert_after_seconds = 1e12\n")
    with pytest.raises(ConfigurationError, match="alert_after_seconds"):
        load_settings(tmp_path, None)


def test_recovery_has_safe_defaults(tmp_path: Path) -> None:
    """Without a file nothing is settled, nobody is paused, no head goes elsewhere, and an approval lasts a day."""
    settings = load_settings(tmp_path, None)
    assert (settings.recover.lowering, settings.recover.settle, settings.recover.settle_codes) == (
        "never",
        None,
        {},
    )
    assert (settings.recover.approver_differs, settings.recover.approval_hours) == (False, 24.0)
    assert settings.recover.hooks() == (None, None)
    assert (settings.audit.file, settings.audit.topic) == (None, None)


def test_recovery_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks come ready with their secrets, and the file of heads from the folder of the configuration."""
    monkeypatch.setenv("GO_ON_URL", "https://points.example/go-on/s3cret")
    path = tmp_path / FILE_NAME
    path.write_text("""
        [recover]
        lowering = "explained"
        approver_differs = true
        approval_hours = 0.5
        settle = "cancel"
        pause = { command = ["/bin/points", "pause", "all of it"], timeout_seconds = 5 }
        go_on = { webhook = { env = "GO_ON_URL" } }
        [recover.settle_codes]
        "order.payment" = "complete"
        [audit]
        file = "heads/audit.jsonl"
        topic = "ledger-audit"
    """)
    settings = load_settings(tmp_path, None)
    pause, go_on = settings.recover.hooks()
    assert pause is not None
    assert (pause.command, pause.url, pause.timeout_seconds) == (("/bin/points", "pause", "all of it"), None, 5)
    assert go_on is not None
    assert (go_on.command, go_on.url) == ((), "https://points.example/go-on/s3cret")
    assert (settings.recover.lowering, settings.recover.settle) == ("explained", "cancel")
    assert settings.recover.settle_codes == {"order.payment": "complete"}
    assert (settings.recover.approver_differs, settings.recover.approval_hours) == (True, 0.5)
    assert settings.audit.file == str(tmp_path / "heads/audit.jsonl")
    assert settings.audit.topic == "ledger-audit"
    path.write_text(f'[audit]\nfile = "{tmp_path}/elsewhere"\n')
    assert load_settings(tmp_path, None).audit.file == f"{tmp_path}/elsewhere"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('[recover]\nlowering = "always"', "lowering"),
        ("[recover]\napproval_hours = 0", "approval_hours"),
        ('[recover]\nsettle = "fail"', "settle"),
        ('[recover.settle_codes]\n"order.payment" = "drop"', "settle_codes"),
        ('[recover]\npause = "stop"', "pause"),
        ("[recover]\npause = { command = [] }", "pause.command"),
        ('[recover]\npause = { command = [""] }', "pause.command"),
        ('[recover]\npause = { comand = ["stop"] }', "comand"),
        ("[audit]\ntopic = ''", "topic"),
        ("[audit]\nfile = ''", "file"),
    ],
)
def test_wrong_recovery_settings_are_named(tmp_path: Path, content: str, named: str) -> None:
    """What recovery cannot go by is refused when the file is read."""
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ConfigurationError, match=named):
        load_settings(tmp_path, None)


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("{}", "either"),
        ('{ command = ["a"], webhook = "http://b/" }', "either"),
        ('{ webhook = "ftp://b/" }', "no URL of http"),
        ('{ webhook = { env = "NOT_THERE_AT_ALL" } }', "NOT_THERE_AT_ALL"),
    ],
)
def test_a_hook_is_a_command_or_a_webhook(tmp_path: Path, hook: str, why: str) -> None:
    """A hook that is neither or both, or whose URL is none, is refused by its key."""
    (tmp_path / FILE_NAME).write_text(f"[recover]\ngo_on = {hook}\n")
    with pytest.raises(ConfigurationError, match=why) as wrong:
        load_settings(tmp_path, None).recover.hooks()
    assert wrong.value.where == "[recover] go_on"
