"""How to reach Kafka: brokers, security, patience, and which client drains.

Security options carry kafka-python's names, as that is the client that is always there; for librdkafka they are
translated here, and one that has no translation is refused rather than left out.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import msgspec

from replay.topic.security import check_security
from schemas.errors import ConfigurationError

__all__ = ["CLIENT_ID", "Client", "Connection"]

CLIENT_ID = "ledger-replay"

Client = Literal["kafka-python", "librdkafka"]

#: kafka-python's security options and librdkafka's properties of the same meaning.
_LIBRDKAFKA_NAMES = {
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "sasl_kerberos_service_name": "sasl.kerberos.service.name",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_crlfile": "ssl.crl.location",
}

#: Milliseconds that one request may take before the client tries again; patience is counted over these.
REQUEST_TIMEOUT_MS = 10_000

#: Milliseconds for the first contact: an address that is wrong should not take as long as a broker that restarts.
CONTACT_TIMEOUT_MS = 15_000
RECONNECT_BACKOFF_MS_MAX = 1_000

#: A day of patience; the clients take no endless one.
STALL_TIMEOUT_SECONDS_MAX = 86_400


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where the brokers are and how to talk to them.

    `bootstrap_servers` is `host:port`, several by comma. `stall_timeout_seconds` is how long a replay waits for
    brokers that do not answer, or for records that do not come, before it ends INCOMPLETE. `client` is the one
    that drains topics; everything else is done by kafka-python. ConfigurationError for what no client would do as
    it reads.
    """

    bootstrap_servers: str
    security: dict[str, str | int | bool] = {}
    stall_timeout_seconds: float = 60.0
    client: Client = "kafka-python"

    def __post_init__(self) -> None:
        """Check the options before any client is made with them."""
        if not 0 < self.stall_timeout_seconds <= STALL_TIMEOUT_SECONDS_MAX:
            raise ConfigurationError(
                f"stall_timeout_seconds is {self.stall_timeout_seconds}",
                where="[kafka]",
                next_step=f"give a number of seconds up to {STALL_TIMEOUT_SECONDS_MAX}",
            )
        check_security(self.security)

    def kafka_python(self) -> dict[str, Any]:
        """Return what every client of kafka-python is made with."""
        return {
            "bootstrap_servers": self.bootstrap_servers.split(","),
            "client_id": CLIENT_ID,
            "bootstrap_timeout_ms": min(CONTACT_TIMEOUT_MS, self._milliseconds),
            "request_timeout_ms": min(REQUEST_TIMEOUT_MS, self._milliseconds),
            "reconnect_backoff_max_ms": min(RECONNECT_BACKOFF_MS_MAX, self._milliseconds),
            **self.security,
        }

    def librdkafka(self) -> dict[str, Any]:
        """Return what a consumer of librdkafka is made with; ConfigurationError for an option it has not."""
        if find_spec("confluent_kafka") is None:
            raise ConfigurationError(
                "the client librdkafka is not installed",
                where="[kafka] client",
                next_step="pip install 'ledger-replay[librdkafka]', or use kafka-python",
            )
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": CLIENT_ID,
            "socket.timeout.ms": max(1_000, min(REQUEST_TIMEOUT_MS, self._milliseconds)),
            "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MS_MAX,
            **dict(self._translated()),
        }

    @property
    def _milliseconds(self) -> int:
        return max(1, round(self.stall_timeout_seconds * 1_000))

    def _translated(self) -> list[tuple[str, str | int | bool]]:
        found: list[tuple[str, str | int | bool]] = []
        for name, value in self.security.items():
            if name == "ssl_check_hostname":
                found.append(("ssl.endpoint.identification.algorithm", "https" if value else "none"))
            elif name in _LIBRDKAFKA_NAMES:
                found.append((_LIBRDKAFKA_NAMES[name], value))
            else:
                raise ConfigurationError(
                    f"the client librdkafka has no option for {name!r}",
                    where="[kafka.security]",
                    next_step="use client = 'kafka-python'",
                )
        return found
