"""compose.yaml, as far as it can be checked without Docker: what it runs, and to whom it opens it."""

from __future__ import annotations

import re

from tests.docs.generate import ROOT

COMPOSE = (ROOT / "compose.yaml").read_text()


def test_the_broker_is_the_one_under_test() -> None:
    """The Kafka that compose.yaml runs is of the version that the tests run."""
    pom = (ROOT / "tests/kafka/pom.xml").read_text()
    tested = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([\d.]+)</version>", pom)
    assert tested is not None
    assert re.findall(r"image: apache/kafka:(\S+)", COMPOSE) == [tested[1]]


def test_ports_are_open_to_this_machine_only() -> None:
    """Every port of compose.yaml is published on loopback, where its comments say that it is."""
    published = re.findall(r'^ +- "([^"]*:\d+)"$', COMPOSE, re.MULTILINE)
    assert len(published) == 2
    for address, port in (port.rsplit(":", 1) for port in published):
        assert address == f"127.0.0.1:{port}"
        assert re.search(rf"^#.*127\.0\.0\.1:{port}\b", COMPOSE, re.MULTILINE), port
