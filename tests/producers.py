"""Three clients that write to a topic, behind one interface: kafka-python, librdkafka, and Java.

A producer with a transactional id has its transaction begun; one that is closed without an end leaves it open, as a
crash would.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import uuid
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from kafka_broker import JVM, Broker, BrokerUnavailableError, resolve_jars

__all__ = ["CLIENTS", "COMPRESSIONS", "Header", "Placed", "Producer", "open_producer"]

CLIENTS = ("java", "kafka-python", "librdkafka")
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
FLUSH_SECONDS_MAX = 60
#: Where a record went: partition and offset.
Placed = tuple[int, int]
Header = tuple[str, bytes]


class Producer(Protocol):
    """Writes records to one topic."""

    def put(
        self, key: bytes | None, value: bytes | None, *, partition: int | None = None, headers: Sequence[Header] = ()
    ) -> None:
        """Hand over one record; None as the value is a tombstone."""

    def flush(self) -> list[Placed]:
        """Wait until all is in the log, and return where each record since the last flush went, in order of `put`."""

    def commit(self) -> None:
        """End the transaction, its records being valid."""

    def abort(self) -> None:
        """End the transaction, its records being void."""

    def close(self) -> None:
        """Let go of the broker; a transaction that was not ended stays open."""


def open_producer(
    client: str, broker: Broker, topic: str, *, compression: str, transaction_seconds_max: float | None = None
) -> Producer:
    """Return a producer of `client`; transactional where it is said after how long the broker ends the transaction.

    Java and librdkafka are skipped, with the reason, where they are not installed.
    """
    kinds: dict[str, Any] = {"java": _Java, "kafka-python": _KafkaPython, "librdkafka": _Librdkafka}
    settings: dict[str, Any] = {"bootstrap.servers": broker.bootstrap_servers, "compression.type": compression}
    if transaction_seconds_max is not None:
        settings |= {
            "transactional.id": f"ledger-test-{uuid.uuid4().hex}",
            "transaction.timeout.ms": round(transaction_seconds_max * 1000),
        }
    producer: Producer = kinds[client](topic, settings)
    return producer


class _KafkaPython:
    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        from kafka import KafkaProducer

        self._topic = topic
        self._is_transactional = "transactional.id" in settings
        options = {name.replace(".", "_"): value for name, value in settings.items()}
        if options["compression_type"] == "none":
            options["compression_type"] = None
        self._client = KafkaProducer(**options, acks="all", linger_ms=20, allow_auto_create_topics=False)
        self._sent: list[Any] = []
        if self._is_transactional:
            self._client.init_transactions()
            self._client.begin_transaction()

    def put(
        self, key: bytes | None, value: bytes | None, *, partition: int | None = None, headers: Sequence[Header] = ()
    ) -> None:
        self._sent.append(self._client.send(self._topic, value, key, list(headers), partition))

    def flush(self) -> list[Placed]:
        self._client.flush(timeout=FLUSH_SECONDS_MAX)
        placed = [(record.partition, record.offset) for record in (sent.get() for sent in self._sent)]
        self._sent.clear()
        return placed

    def commit(self) -> None:
        self._client.commit_transaction()

    def abort(self) -> None:
        self._client.abort_transaction()

    def close(self) -> None:
        self._client.close()


class _Librdkafka:
    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        confluent_kafka = pytest.importorskip("confluent_kafka", reason="no librdkafka: install `confluent-kafka`")
        self._topic = topic
        self._is_transactional = "transactional.id" in settings
        # Keys go to the same partitions as with the other two clients, which librdkafka does not do by itself.
        same = {"partitioner": "murmur2_random", "enable.idempotence": True, "queue.buffering.max.messages": 1_000_000}
        self._client = confluent_kafka.Producer({**settings, **same, "linger.ms": 20, "batch.size": 1_000_000})
        self._placed: list[Placed | None] = []
        self._failed: list[str] = []
        if self._is_transactional:
            self._client.init_transactions(FLUSH_SECONDS_MAX)
            self._client.begin_transaction()

    def put(
        self, key: bytes | None, value: bytes | None, *, partition: int | None = None, headers: Sequence[Header] = ()
    ) -> None:
        place = len(self._placed)
        self._placed.append(None)

        def delivered(error: object, message: Any) -> None:
            if error is not None:
                self._failed.append(str(error))
            else:
                self._placed[place] = (message.partition(), message.offset())

        where = {} if partition is None else {"partition": partition}
        while True:
            try:
                self._client.produce(self._topic, value, key, headers=list(headers), on_delivery=delivered, **where)
            except BufferError:
                self._client.poll(0.1)
            else:
                break
        if place % 1000 == 0:
            self._client.poll(0)

    def flush(self) -> list[Placed]:
        left = self._client.flush(FLUSH_SECONDS_MAX)
        assert (left, self._failed) == (0, [])
        placed = [place for place in self._placed if place is not None]
        self._placed.clear()
        return placed

    def commit(self) -> None:
        self._client.commit_transaction(FLUSH_SECONDS_MAX)

    def abort(self) -> None:
        self._client.abort_transaction(FLUSH_SECONDS_MAX)

    def close(self) -> None:
        # The client ends with its last reference.
        del self._client


@functools.cache
def _compiling_jars() -> Path:
    try:
        jars = resolve_jars()
    except BrokerUnavailableError as unavailable:
        pytest.skip(str(unavailable))
    java = shutil.which("java") or "java"
    modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True).stdout
    if "jdk.compiler" not in modules:
        pytest.skip("no Java producer: `java` on PATH is without its compiler; install the whole JDK")
    return jars


class _Java:
    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        jars = _compiling_jars()
        program = Path(__file__).with_name("kafka") / "Producer.java"
        options = [f"{name}={value}" for name, value in settings.items() if name != "bootstrap.servers"]
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        command = [
            "java",
            *JVM,
            quiet,
            "-cp",
            f"{jars}/*",
            str(program),
            settings["bootstrap.servers"],
            topic,
            *options,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if "transactional.id" in settings:
            self._say("begin")

    def put(
        self, key: bytes | None, value: bytes | None, *, partition: int | None = None, headers: Sequence[Header] = ()
    ) -> None:
        words = ["send", "-" if partition is None else str(partition), _text(key), _text(value)]
        words += [f"{name}={_text(content)}" for name, content in headers]
        self._write("\t".join(words))

    def flush(self) -> list[Placed]:
        placed = (word.split(":") for word in self._say("flush"))
        return [(int(partition), int(offset)) for partition, offset in placed]

    def commit(self) -> None:
        self._say("commit")

    def abort(self) -> None:
        self._say("abort")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=FLUSH_SECONDS_MAX)
        self._process.stdout.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")

    def _say(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._write(command)
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n").split("\t")
        assert answer[0] == "done", f"the Java producer ended with status {self._process.wait()}"
        return answer[1:]


def _text(content: bytes | None) -> str:
    # A sign before it, so that nothing at all is a word, too.
    return "-" if content is None else f"+{b64encode(content).decode()}"
