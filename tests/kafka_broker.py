"""Apache Kafka itself, resolved with Maven from `tests/kafka/pom.xml` and run as one KRaft node on loopback.

No pytest here, so that benchmarks can run the same broker. POSIX only, as are the signals that hurt it.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.maven_jars import MavenError, resolved

__all__ = [
    "JVM",
    "SASL_PASSWORD",
    "SASL_USER",
    "Broker",
    "BrokerUnavailableError",
    "OwnBroker",
    "resolve_jars",
    "running",
]

GIVEN = "LEDGER_REPLAY_BOOTSTRAP_SERVERS"
POM = Path(__file__).with_name("kafka") / "pom.xml"
#: Survives a run, and is the same for all worker processes of one; `make clean` removes it.
CACHE = Path(__file__).parents[1] / "build" / "kafka"
JAVA_VERSION_MIN = 17
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
#: Below the ports that systems hand out to outgoing connections, so that a killed broker gets its own port again.
PORTS = range(12_000, 32_000)
SASL_USER, SASL_PASSWORD = "ledger", "a-password-of-the-tests"
LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{SASL_USER}="{SASL_PASSWORD}";'
#: Starts fast and stays small; how fast the broker is once warm is of no account.
JVM = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config={login}
listener.name.sasl_ssl.plain.sasl.jaas.config={login}
ssl.keystore.type=PKCS12
ssl.keystore.location={keystore}
ssl.keystore.password={password}
ssl.key.password={password}
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=10485760
"""


class BrokerUnavailableError(Exception):
    """There is no way to run a broker here; the message says what to install or to name."""


class Broker:
    """A Kafka cluster that tests may write to: `bootstrap_servers`, and `data`, its folder, where it is our own."""

    def __init__(self, bootstrap_servers: str, data: Path | None = None) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.data = data

    @property
    def is_own(self) -> bool:
        """Whether the suite started it, so that it may be hurt and its files looked at."""
        return self.data is not None


class OwnBroker(Broker):
    """A broker of our own in `folder`: its data, settings and output are all there, and its ports stay the same.

    `sasl_bootstrap_servers` is a second listener (SASL_PLAINTEXT, mechanism PLAIN, `SASL_USER` and `SASL_PASSWORD`),
    `tls_bootstrap_servers` a third: the same over TLS (SASL_SSL), its certificate being in `certificate` (PEM).
    """

    def __init__(self, jars: Path, folder: Path) -> None:
        plain, sasl, tls, controller = _free_ports(4)
        self.sasl_bootstrap_servers = f"127.0.0.1:{sasl}"
        self.tls_bootstrap_servers = f"127.0.0.1:{tls}"
        self.certificate = folder / "certificate.pem"
        self.folder = folder
        self.jars = jars
        self._settings = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None
        data = folder / "data"
        super().__init__(f"127.0.0.1:{plain}", data)
        (folder / "tmp").mkdir()
        ports = {"PLAINTEXT": plain, "SASL_PLAINTEXT": sasl, "SASL_SSL": tls}
        listeners = ",".join(f"{protocol}://127.0.0.1:{port}" for protocol, port in ports.items())
        secrets = {"login": LOGIN, "password": SASL_PASSWORD, "keystore": self._make_key()}
        self._settings.write_text(SETTINGS.format(listeners=listeners, controller=controller, data=data, **secrets))
        identity = ("--cluster-id", "bGVkZ2VyLXJlcGxheS10ZQ", "--config", str(self._settings))
        self._run([*self._java(), "kafka.tools.StorageTool", "format", *identity])

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start on the same data and ports as before, and return once a topic can be made."""
        assert not self.is_running, "the broker is already running"
        command = [*self._java(), "kafka.Kafka", str(self._settings)]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd=self.folder,
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def pause(self) -> None:
        """Stop the process in its tracks: connections stay, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the process at once, as a crash does; nothing where it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the process in order, or at once where that takes too long; nothing where it is not running."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def heal(self) -> None:
        """Bring it back from whatever a test did to it: paused, killed or stopped."""
        if self.is_running:
            self.resume()
        else:
            self.kill()
            self.start()

    @property
    def _log(self) -> Path:
        return self.folder / "output.log"

    def _java(self) -> list[str]:
        # Native libraries are unpacked to the temporary folder of Java, and warnings go to the standard error.
        options = (f"-Djava.io.tmpdir={self.folder / 'tmp'}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        return ["java", *JVM, *options, "-cp", f"{self.jars}/*"]

    def _make_key(self) -> Path:
        keystore = self.folder / "keystore.p12"
        # The one that belongs to this Java, wherever the name on PATH leads.
        keytool = str(Path(shutil.which("java") or "java").resolve().with_name("keytool"))
        where = ["-alias", "broker", "-keystore", str(keystore), "-storepass", SASL_PASSWORD]
        name = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-validity", "3650"]
        self._run([keytool, "-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", *name, *where])
        self._run([keytool, "-exportcert", "-rfc", "-file", str(self.certificate), *where])
        return keystore

    def _run(self, command: list[str]) -> None:
        with self._log.open("ab") as output:
            done = subprocess.run(
                command, check=False, stdout=output, stderr=output, env=self._environment(), cwd=self.folder
            )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {self._log.read_text()}")

    def _environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in ("PATH", "JAVA_HOME") if name in os.environ} | {"LC_ALL": "C"}

    def _wait(self) -> None:
        # Imported here, since the jars are resolved and the broker is formatted without a client.
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            if not self.is_running:
                raise RuntimeError(f"Kafka ended as it started: {self._log.read_text()}")
            if _answers(self.bootstrap_servers):
                try:
                    options = {"bootstrap_servers": self.bootstrap_servers, "bootstrap_timeout_ms": 2_000}
                    with KafkaAdminClient(**options, request_timeout_ms=2_000) as admin:
                        # A broker that is not yet let in by the controller is not among them.
                        if admin.describe_cluster()["brokers"]:
                            return
                except KafkaError:
                    pass  # It has its port, and does not answer yet.
            if time.monotonic() > deadline:
                raise RuntimeError(f"Kafka did not start in {START_SECONDS_MAX} s: {self._log.read_text()}")
            time.sleep(0.1)


@contextmanager
def running(jars: Path) -> Iterator[OwnBroker]:
    """Run a broker in a temporary folder for as long as the context lasts."""
    # The folder may change while it is removed only if the broker outlived its own end.
    with tempfile.TemporaryDirectory(prefix="ledger-kafka-", ignore_cleanup_errors=True) as folder:
        broker = OwnBroker(jars, Path(folder))
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


def resolve_jars() -> Path:
    """Return the folder with Kafka's jars, resolved with Maven once for each content of the pom.

    Raises BrokerUnavailableError, with what to do, where Java or Maven are missing or do not get them.
    """
    _check_java()
    try:
        return resolved(POM, CACHE)
    except MavenError as error:
        advice = f"install Maven, give it a repository that has what {POM.name} names, or name a broker in {GIVEN}"
        raise BrokerUnavailableError(f"no Kafka: {error}; {advice}") from None


def _check_java() -> None:
    advice = f"install Java {JAVA_VERSION_MIN} or newer and Maven, or name a broker in {GIVEN}"
    java = shutil.which("java")
    if java is None:
        raise BrokerUnavailableError(f"no Kafka: there is no `java` on PATH; {advice}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < JAVA_VERSION_MIN:
        found = version[1] if version else "of an unknown version"
        raise BrokerUnavailableError(f"no Kafka: `java` on PATH is {found}; {advice}")


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    # Not the seeded generator: worker processes share the seed, and would all choose the same.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BrokerUnavailableError(f"no Kafka: fewer than {count} free ports on 127.0.0.1; name a broker in {GIVEN}")


def _answers(bootstrap_servers: str) -> bool:
    host, _, port = bootstrap_servers.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
