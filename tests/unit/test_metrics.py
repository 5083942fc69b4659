"""Metrics and the endpoint: what they say of a shadow, over real HTTP."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from consumers.health import Health, application, serving
from consumers.metrics import Metrics
from consumers.shadow import Step
from ledger.findings import Counts
from schemas.errors import ConfigurationError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as a scrape gives them."""
    status, text = asked("/metrics", metrics)
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(sorted(sample.labels.values()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def asked(path: str, metrics: Metrics | None = None, health: Health | None = None) -> tuple[int, str]:
    """Ask a served endpoint for a path."""
    app = application((metrics or Metrics()).registry, health or Health(healthy_seconds=60))
    with serving("127.0.0.1:0", app) as address, urllib3.PoolManager() as client:
        answer = client.request("GET", f"http://{address}{path}", retries=False)
        return answer.status, answer.data.decode()


def test_a_step_is_measured() -> None:
    """Events add up over steps, lag and positions are those of the last one."""
    metrics = Metrics(now=lambda: NOW)
    old = NOW - timedelta(seconds=90)
    metrics.stepped(Step(5, 5, 12, 7, old), newest_at=old, now=NOW)
    found = samples(metrics)
    assert found["ledger_replay_shadow_events_total"] == 5
    assert found["ledger_replay_shadow_lag_events"] == 7
    assert found["ledger_replay_shadow_lag_seconds"] == 90
    assert found["ledger_replay_shadow_position{0}"] == 5
    metrics.stepped(Step(7, {0: 9, 3: 4}, {0: 9, 3: 4}, 0, old), newest_at=old, now=NOW)
    found = samples(metrics)
    assert found["ledger_replay_shadow_events_total"] == 12
    assert (found["ledger_replay_shadow_lag_events"], found["ledger_replay_shadow_lag_seconds"]) == (0, 0)
    assert (found["ledger_replay_shadow_position{0}"], found["ledger_replay_shadow_position{3}"]) == (9, 4)


def test_lag_grows_while_the_loop_stands_still() -> None:
    """The lag is that of the moment it is asked for, however long ago the last step was."""
    now = NOW
    metrics = Metrics(now=lambda: now)
    metrics.stepped(Step(5, 5, 12, 7, NOW), newest_at=NOW, now=NOW)
    now = NOW + timedelta(seconds=40)
    assert samples(metrics)["ledger_replay_shadow_lag_seconds"] == 40


def test_a_shadow_that_has_applied_nothing_yet_is_behind() -> None:
    """Where this process has applied no event the lag counts from its start, or from when the shadow had all."""
    now = NOW
    metrics = Metrics(now=lambda: now)
    now = NOW + timedelta(seconds=30)
    metrics.stepped(Step(0, 5, 12, 7, None), newest_at=None, now=now)
    assert samples(metrics)["ledger_replay_shadow_lag_seconds"] == 30
    metrics.stepped(Step(0, 12, 12, 0, None), newest_at=None, now=now)
    assert samples(metrics)["ledger_replay_shadow_lag_seconds"] == 0
    old, now = now - timedelta(hours=5), now + timedelta(seconds=3)
    metrics.stepped(Step(0, 12, 13, 1, None), newest_at=old, now=now)
    assert samples(metrics)["ledger_replay_shadow_lag_seconds"] == 3


def test_the_age_of_the_oldest_chunk_grows_until_it_is_compared() -> None:
    """Before anything is known it counts from the start; then from when the oldest chunk was compared."""
    now = NOW
    metrics = Metrics(now=lambda: now)
    now = NOW + timedelta(seconds=20)
    assert samples(metrics)["ledger_replay_oldest_uncompared_chunk_age_seconds"] == 20
    metrics.compared(NOW + timedelta(seconds=15))
    assert samples(metrics)["ledger_replay_oldest_uncompared_chunk_age_seconds"] == 5
    now += timedelta(seconds=60)
    assert samples(metrics)["ledger_replay_oldest_uncompared_chunk_age_seconds"] == 65


def test_a_clock_that_is_behind_gives_no_negative_lag() -> None:
    """An event recorded after now, by a clock that is ahead, is no negative age."""
    metrics = Metrics(now=lambda: NOW)
    metrics.stepped(Step(1, 1, 2, 1, NOW), newest_at=NOW + timedelta(seconds=5), now=NOW)
    assert samples(metrics)["ledger_replay_shadow_lag_seconds"] == 0


def test_what_an_open_transaction_holds_back_is_measured() -> None:
    """It is no lag: the shadow has all that can be read."""
    metrics = Metrics()
    metrics.stepped(Step(0, {0: 4}, {0: 4}, 0, None, 3), newest_at=None, now=NOW)
    found = samples(metrics)
    assert (found["ledger_replay_held_back_events"], found["ledger_replay_shadow_lag_events"]) == (3, 0)


def test_findings_rounds_and_alerts_are_measured() -> None:
    """Open findings are gauges by account; rounds and alerts are counted by what came of them."""
    metrics = Metrics()
    metrics.counted(Counts(3, 2, 1))
    metrics.rounds.labels("DRIFT").inc()
    metrics.round_seconds.observe(1.5)
    metrics.alerts.labels("drift", "sent").inc()
    found = samples(metrics)
    assert found["ledger_replay_drifted_accounts"] == 3
    assert found["ledger_replay_suspected_accounts"] == 2
    assert found["ledger_replay_uncompared_accounts"] == 1
    assert found["ledger_replay_rounds_total{DRIFT}"] == 1
    assert (found["ledger_replay_round_seconds_count"], found["ledger_replay_round_seconds_sum"]) == (1, 1.5)
    assert found["ledger_replay_alerts_total{drift,sent}"] == 1


def test_two_shadows_in_one_process_are_measured_apart() -> None:
    """Each has a registry of its own, so that two can be made."""
    first, second = Metrics(), Metrics()
    first.counted(Counts(1, 0, 0))
    assert samples(second)["ledger_replay_drifted_accounts"] == 0


def test_health_is_about_the_loop() -> None:
    """The loop is healthy until it made no step for too long, and again after the next one."""
    seconds = 0.0
    health = Health(healthy_seconds=10, clock=lambda: seconds)
    assert asked("/healthz", health=health)[0] == 200
    seconds = 11.0
    status, text = asked("/healthz", health=health)
    assert (status, json.loads(text)["ok"]) == (503, False)
    assert "no step for 11 seconds" in text
    assert asked("/readyz", health=health)[0] == 503
    health.stepped()
    assert asked("/healthz", health=health)[0] == 200


def test_readiness_says_why_not() -> None:
    """It is not ready before it has caught up, nor while something does not answer."""
    health = Health(healthy_seconds=10)
    status, text = asked("/readyz", health=health)
    assert status == 503
    assert "caught up" in text
    health.ready(None)
    assert asked("/readyz", health=health) == (200, '{"ok":true,"why_not":null}\n')
    health.ready("the database says: it is gone")
    status, text = asked("/readyz", health=health)
    assert (status, json.loads(text)["why_not"]) == (503, "the database says: it is gone")
    assert asked("/healthz", health=health)[0] == 200


def test_a_note_is_told_beside_readiness() -> None:
    """What is worth knowing and no reason against relying on it stands beside the answer, and goes again."""
    health = Health(healthy_seconds=10)
    health.ready(None)
    health.note("nothing is reconciled")
    status, text = asked("/readyz", health=health)
    assert (status, json.loads(text)["notes"]) == (200, ["nothing is reconciled"])
    health.note(None)
    assert "notes" not in json.loads(asked("/readyz", health=health)[1])


def test_a_source_that_does_not_answer_makes_it_unready() -> None:
    """While the shadow waits for its source, nobody should rely on it, though the loop moves."""
    health = Health(healthy_seconds=10)
    health.ready(None)
    health.waits_for("no broker answers")
    assert asked("/readyz", health=health)[0] == 503
    assert asked("/healthz", health=health)[0] == 200
    health.waits_for(None)
    assert asked("/readyz", health=health)[0] == 200


def test_other_paths_are_not_there() -> None:
    """A path that means nothing is no success."""
    assert asked("/")[0] == 404
    assert asked("/metrics/more")[0] == 404


@pytest.mark.parametrize("listen", ["here", "127.0.0.1:", "127.0.0.1:99999", ":-1"])
def test_what_is_no_address(listen: str) -> None:
    """An address that is none is said with what was written."""
    with (
        pytest.raises(ConfigurationError, match="no address"),
        serving(listen, application(Metrics().registry, Health(healthy_seconds=1))),
    ):
        pass


def test_an_address_that_somebody_has() -> None:
    """A port that is taken is an error that names it, and nothing is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ConfigurationError, match=listen),
            serving(listen, application(Metrics().registry, Health(healthy_seconds=1))),
        ):
            pass


def test_a_port_alone_is_of_this_machine() -> None:
    """Without a host it listens on loopback only."""
    with serving("0", application(Metrics().registry, Health(healthy_seconds=1))) as address:
        assert address.startswith("127.0.0.1:")
        assert not address.endswith(":0")


def test_a_client_that_says_nothing_holds_nobody_up() -> None:
    """While one client is connected and asks nothing, others are answered, and the end does not wait for it."""
    app = application(Metrics().registry, Health(healthy_seconds=60))
    with serving("127.0.0.1:0", app) as address, urllib3.PoolManager() as client:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port))):
            assert client.request("GET", f"http://{address}/healthz").status == 200
