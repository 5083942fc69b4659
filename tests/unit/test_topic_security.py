"""Security options that a client would misread or leave out are refused before any client is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.main import main
from console.settings import FILE_NAME, load_settings
from replay.topic.connection import Connection
from replay.topic.metadata import describe
from replay.topic.security import MECHANISMS, PROTOCOLS, SECURITY_OPTIONS
from schemas.errors import BrokerError, ConfigurationError

LOGIN = {"sasl_mechanism": "PLAIN", "sasl_plain_username": "u", "sasl_plain_password": "p"}
NOWHERE = "127.0.0.1:1"


def _connection(security: dict[str, Any], **more: Any) -> Connection:
    return Connection(bootstrap_servers=NOWHERE, security=security, **more)


def test_the_options_are_those_of_every_client():
    """What is allowed is what all three clients of kafka-python take and what can stand in a file."""
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
    from kafka.net.sasl import SASL_MECHANISMS

    shared = set.intersection(
        *({*client.DEFAULT_CONFIG} for client in (KafkaAdminClient, KafkaConsumer, KafkaProducer))
    )
    named = {name for name in shared if name.startswith(("security_", "sasl_", "ssl_"))}
    assert named - {"ssl_context", "sasl_oauth_token_provider"} == set(SECURITY_OPTIONS)
    assert set(SASL_MECHANISMS) - {"OAUTHBEARER"} == set(MECHANISMS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_right_is_taken(protocol: str, tmp_path: Path):
    """Each protocol with what belongs to it is handed to the client as it is."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    options = {"security_protocol": protocol}
    options |= LOGIN if protocol.startswith("SASL_") else {}
    options |= {"ssl_cafile": str(file), "ssl_check_hostname": False} if protocol.endswith("SSL") else {}  # type: ignore[dict-item]
    assert options.items() <= _connection(options).kafka_python().items()


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"security_protocol": "sasl_ssl", **LOGIN}, "no security_protocol 'sasl_ssl'", "SASL_SSL"),
    ({"security_protocol": "TLS"}, "no security_protocol 'TLS'", "SASL_SSL"),
    ({"security_protocol": True}, "security_protocol is not text", "quotes"),
    (LOGIN, "security_protocol is absent, which means PLAINTEXT", "SASL_PLAINTEXT or SASL_SSL"),
    ({"security_protocol": "PLAINTEXT", **LOGIN}, "security_protocol is PLAINTEXT", "leave sasl_mechanism away"),
    ({"security_protocol": "SSL", **LOGIN}, "security_protocol is SSL", "SASL_PLAINTEXT or SASL_SSL"),
    ({"ssl_check_hostname": False}, "would not be used", "SSL or SASL_SSL"),
    ({"security_protocol": "SASL_PLAINTEXT", **LOGIN, "ssl_cafile": "/x"}, "would not be used", "SASL_SSL"),
    ({"security_protocol": "SASL_SSL"}, "needs a sasl_mechanism", "SCRAM-SHA-512"),
    ({"security_protocol": "SASL_SSL", **LOGIN, "sasl_mechanism": "plain"}, "no sasl_mechanism 'plain'", "PLAIN"),
    ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "no sasl_mechanism", "PLAIN"),
    ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM"}, "only over TLS", "SASL_SSL"),
    (
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-256", "sasl_plain_username": "u"},
        "SCRAM-SHA-256 needs sasl_plain_password",
        "env",
    ),
    ({"security_protocol": "SASL_SSL", **LOGIN, "sasl_plain_password": 1234}, "sasl_plain_password is not", "quotes"),
    ({"security_protocol": "SASL_SSL", **LOGIN, "sasl_plain_username": ""}, "sasl_plain_username is empty", "give"),
    ({"security_protocol": "SSL", "ssl_check_hostname": "false"}, "ssl_check_hostname is not true or false", "without"),
    ({"security_protocol": "SSL", "ssl_cafile": "/not/there.pem"}, "ssl_cafile names no file: /not/there.pem", "path"),
    ({"security_protocol": "SSL", "ssl_password": "p"}, "ssl_password is for a certificate", "ssl_certfile"),
    ({"request_timeout_ms": 5}, "no security option 'request_timeout_ms'", "sasl_mechanism"),
    ({"bootstrap_servers": "x:1"}, "no security option 'bootstrap_servers'", "ssl_cafile"),
    ({"client_id": "x"}, "no security option 'client_id'", "ssl_cafile"),
    ({"ssl_ciphers": "x"}, "no security option 'ssl_ciphers'", "ssl_cafile"),
    ({"security_Protocol": "SSL"}, "no security option 'security_Protocol'", "security_protocol"),
]


@pytest.mark.parametrize(("security", "what", "step"), WRONG)
def test_what_would_not_do_what_it_says_is_refused(security: dict[str, Any], what: str, step: str):
    """A wrong name, value or combination is named with what would be right, and no secret is shown."""
    with pytest.raises(ConfigurationError) as caught:
        _connection(security)
    assert what in caught.value.what
    assert step in str(caught.value.next_step)
    assert caught.value.where == "[kafka.security]"
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 86_401.0])
def test_patience_has_an_end(seconds: float):
    """No, endless or undefined patience is refused, as a client would misread it."""
    with pytest.raises(ConfigurationError, match="stall_timeout_seconds"):
        _connection({}, stall_timeout_seconds=seconds)


def test_librdkafka_with_a_wrong_value_is_a_configuration_error(tmp_path: Path):
    """What only librdkafka finds wrong, such as a certificate that is none, is said as the configuration's fault."""
    pytest.importorskip("confluent_kafka")
    from replay.topic.client import open_reader

    path = tmp_path / "cert.pem"
    path.write_text("no certificate")
    wrong = _connection({"security_protocol": "SSL", "ssl_certfile": str(path)}, client="librdkafka")
    with pytest.raises(ConfigurationError, match=r"ssl\.certificate\.location") as caught, open_reader(wrong, "t"):
        pass
    assert caught.value.where == "[kafka]"


def test_no_broker_may_be_a_wrong_login():
    """Where nobody answers, the next step names the security options, if there are any."""
    with pytest.raises(BrokerError) as caught:
        describe(_connection({"security_protocol": "SASL_PLAINTEXT", **LOGIN}, stall_timeout_seconds=0.5), "t")
    assert "[kafka.security]" in str(caught.value.next_step)
    with pytest.raises(BrokerError) as caught:
        describe(_connection({}, stall_timeout_seconds=0.5), "t")
    assert "[kafka.security]" not in str(caught.value.next_step)


def test_the_command_line_refuses_before_it_connects(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A protocol in small letters ends `publish` at once: nothing is sent in the clear."""
    (tmp_path / FILE_NAME).write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[kafka.security]\n' + SMALL)
    assert main(["--data", str(tmp_path), "publish"]) == 2
    assert "there is no security_protocol 'sasl_ssl'" in capsys.readouterr().err


SMALL = (
    'security_protocol = "sasl_ssl"\nsasl_mechanism = "PLAIN"\nsasl_plain_username = "u"\nsasl_plain_password = "p"\n'
)


@pytest.mark.parametrize(
    ("secret", "what", "step"),
    [
        ('{ env = "LEDGER_NOT_SET" }', "LEDGER_NOT_SET is not set", "set LEDGER_NOT_SET"),
        ('{ env = "A", file = "b" }', "either", "one of the two"),
        ("{}", "either", "one of the two"),
        ('{ file = "/not/there" }', "cannot read", "check the file"),
    ],
)
def test_a_secret_that_is_not_there_says_what_to_do(secret: str, what: str, step: str, tmp_path: Path):
    """Each way in which a secret can be missing has a next step."""
    (tmp_path / FILE_NAME).write_text(f"[kafka.security]\nsasl_plain_password = {secret}\n")
    with pytest.raises(ConfigurationError, match=what) as caught:
        load_settings(tmp_path, None).kafka.options()
    assert step in str(caught.value.next_step)


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "86401"])
def test_patience_of_the_file_is_checked_as_it_is_read(seconds: str, tmp_path: Path):
    """The file's patience is a number of seconds up to a day."""
    (tmp_path / FILE_NAME).write_text(f"[kafka]\nstall_timeout_seconds = {seconds}\n")
    with pytest.raises(ConfigurationError, match="stall_timeout_seconds"):
        load_settings(tmp_path, None)
