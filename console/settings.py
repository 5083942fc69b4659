"""The configuration: `ledger-replay.toml` in the data folder or named by --config, checked as it is read.

    store = "postgresql://ledger@db/points"    # where events and read models are; default: ledger.db beside it

    [import]                                   # how rows of the old system are read; see `import --map`
    timezone = "Europe/Berlin"

    [kafka]
    bootstrap_servers = "kafka-1:9092,kafka-2:9092"
    topic = "ledger-events"                    # the topic of the event stream
    client = "kafka-python"                    # or "librdkafka"; default: librdkafka where it is installed
    stall_timeout_seconds = 60                 # how long to wait for brokers and records before giving up

    [kafka.security]                           # kafka-python's option names, whichever client drains
    security_protocol = "SASL_SSL"
    sasl_mechanism = "SCRAM-SHA-512"
    sasl_plain_username = "ledger"
    sasl_plain_password = { env = "KAFKA_PASSWORD" }      # or { file = "/run/secrets/kafka" }

    [archive]
    url = "s3://points/archive"                # or a folder, from that of this file; default: archive in --data

    [archive.options]                          # of the object store, as its URL's scheme has them
    aws_region = "eu-central-1"
    connect_timeout = 3                        # a number is in seconds; true, false and numbers need no quotes
    aws_access_key_id = { env = "ARCHIVE_KEY" }
    aws_secret_access_key = { env = "ARCHIVE_SECRET" }

    [live]                                     # the live table of another system, which `watch` compares
    url = { env = "LIVE_URL" }                 # SQLAlchemy's; or the URL itself, where it holds no password
    table = "accounts"
    columns = { frozen_amount = "hold" }       # columns, statuses, amount_scale and timezone are as under [import]
    partitions = 1                             # how many writers feed it side by side
    settle_seconds = 10                        # how long a difference must last before it is drift
    unsettled_seconds = 300                    # how long it may change before the account is uncompared

    [live.mark]                                # what says how far live is, where something does; then nothing settles
    column = "last_transaction"                # of each row; or query = "SELECT ..." of the whole table
    of = "transaction"                         # or "version"; of a query "transaction" or "position"

    [watch]
    listen = "127.0.0.1:9105"                  # /metrics, /healthz and /readyz; default: nothing listens
    chunk_seconds = 0.25                       # how long comparing one chunk may take
    load_max = 0.5                             # the share of the time that may be spent comparing
    healthy_seconds = 60                       # how long without a step before /healthz says so
    batch_events = 5000                        # events of a transaction while following

    [alerts]
    webhook = { file = "/run/secrets/webhook" }           # or the URL itself
    headers = { Authorization = { env = "ALERT_TOKEN" } }
    interval_seconds = 300                     # the least time between the alerts of two incidents
    timeout_seconds = 10

    [reconcile]
    grace_seconds = 900                        # how long after its last fact an order may be out of order
    timing_seconds = 604800                    # how far payment and completion of an order may lie apart
    orders_topic = "orders"                    # the topic that `watch` and `reconcile --watch` read the orders from
    alert_after_seconds = 3600                 # how long a break may stay open before the webhook is told

    [recover]
    lowering = "never"                         # what lowers live waits for a person; "explained": unless an event does
    approver_differs = false                   # whether who approves a plan must not be who made it
    approval_hours = 24                        # how long an approval holds
    settle = "cancel"                          # stale pending transactions: "complete" or "cancel"; default: left
    pause = { command = ["/usr/local/bin/points", "pause"] }    # before live is changed: its writers must rest
    go_on = { webhook = { env = "POINTS_GO_ON_URL" }, timeout_seconds = 60 }     # after it; or the URL itself

    [recover.settle_codes]                     # the same by business code, which goes first
    "order.payment" = "complete"

    [audit]                                    # where the head of the audit trail is written too
    file = "/mnt/elsewhere/audit-heads.jsonl"  # or a path from the folder of this file
    topic = "ledger-audit"

Options win over environment variables, and those over the file. Secrets belong into the environment or into a
file, not into arguments.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from consumers.hooks import Hook

__all__ = [
    "DEFAULT_TOPIC",
    "FILE_NAME",
    "AlertSettings",
    "ArchiveSettings",
    "AuditSettings",
    "HookSettings",
    "KafkaSettings",
    "ReconcileSettings",
    "RecoverSettings",
    "Secret",
    "Settings",
    "WatchSettings",
    "load_settings",
]

FILE_NAME = "ledger-replay.toml"
DEFAULT_TOPIC = "ledger-events"


class Secret(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that stands elsewhere: in an environment variable, or in a file (its last line break is not part)."""

    env: str | None = None
    file: str | None = None

    def read(self, where: str) -> str:
        """Return the value; ConfigurationError where it is not there."""
        if (self.env is None) == (self.file is None):
            raise ConfigurationError(
                "a secret is either { env = ... } or { file = ... }",
                where=where,
                next_step="name the environment variable or the file that holds it, one of the two",
            )
        if self.env is not None:
            try:
                return os.environ[self.env]
            except KeyError:
                raise ConfigurationError(
                    f"the environment variable {self.env} is not set",
                    where=where,
                    next_step=f"set {self.env}, or name the secret's file with {{ file = ... }}",
                ) from None
        try:
            return Path(str(self.file)).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"cannot read the secret: {error}", where=where, next_step="check the file, and who may read it"
            ) from error


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[kafka]`; see `replay.topic.Connection` for what the values mean."""

    bootstrap_servers: str | None = None
    topic: str = DEFAULT_TOPIC
    client: Literal["kafka-python", "librdkafka"] | None = None
    stall_timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    workers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    security: dict[str, str | int | bool | Secret] = {}

    def options(self) -> dict[str, str | int | bool]:
        """Return the security options with the secrets read."""
        where = "[kafka.security]"
        return {
            name: value.read(f"{where} {name}") if isinstance(value, Secret) else value
            for name, value in self.security.items()
        }


class ArchiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[archive]`: where it is (as read, a folder from that of the file), and what a store there is told."""

    url: str | None = None
    options: dict[str, str | bool | int | float | Secret] = {}

    def values(self) -> dict[str, str]:
        """Return the options as text, with the secrets read."""
        where = "[archive.options]"
        return {
            name: value.read(f"{where} {name}") if isinstance(value, Secret) else _text(value)
            for name, value in self.options.items()
        }


class WatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[watch]`: how what follows and compares for ever does so."""

    listen: str | None = None
    chunk_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.25
    load_max: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    healthy_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    batch_events: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[alerts]`: the webhook that is told, and how often at most."""

    webhook: str | Secret | None = None
    headers: dict[str, str | Secret] = {}
    interval_seconds: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0

    def url(self) -> str | None:
        """Return the URL of the webhook, None where none is configured; ConfigurationError where it is none."""
        return None if self.webhook is None else _web_url(self.webhook, "[alerts] webhook")

    def header_values(self) -> dict[str, str]:
        """Return the headers with the secrets read; ConfigurationError for what no header can be."""
        where = "[alerts.headers]"
        values = {
            name: value.read(f"{where} {name}") if isinstance(value, Secret) else value
            for name, value in self.headers.items()
        }
        for name, value in values.items():
            if not (_HEADER_NAME.fullmatch(name) and value.isprintable() and value.isascii()):
                raise ConfigurationError(
                    f"the header {name!r} has a character that no header can have",
                    where=where,
                    next_step="headers are one line of plain ASCII text",
                )
        return values


class ReconcileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[reconcile]`: when a mismatch of orders and ledger is a break, and when somebody is told of it.

    `orders_topic` is the topic that a reconciliation that never stops reads orders from; without it, it goes on with
    where they came from first.
    """

    grace_seconds: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 900.0
    timing_seconds: Annotated[float, msgspec.Meta(ge=0, le=315_360_000)] = 604_800.0
    orders_topic: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    alert_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=315_360_000)] = 3_600.0


class HookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What pauses a foreign system or lets it go on: a command (its arguments; no shell reads them) or a webhook."""

    command: Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)] | None = None
    webhook: str | Secret | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 60.0

    def hook(self, where: str) -> Hook:
        """Return the hook with its secret read; `where` names its key. ConfigurationError where it is not one."""
        # Not before somebody asks for it: most commands need none, and it takes its time.
        from consumers import hooks

        if (self.command is None) == (self.webhook is None):
            raise ConfigurationError(
                "a hook is either { command = [...] } or { webhook = ... }",
                where=where,
                next_step="give one of the two",
            )
        url = None if self.webhook is None else _web_url(self.webhook, where)
        return hooks.Hook(command=self.command or (), url=url, timeout_seconds=self.timeout_seconds)


class RecoverSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[recover]`: what a recovery may do by itself, who approves it, and what pauses the foreign system.

    `lowering` is of live tables; our own read model is what the log says, and goes by it where an event explains it.
    `settle` is what becomes of a stale pending transaction whose business code `settle_codes` does not have; None
    leaves it.
    """

    lowering: Literal["explained", "never"] = "never"
    approver_differs: bool = False
    approval_hours: Annotated[float, msgspec.Meta(gt=0, le=8_760)] = 24.0
    settle: Literal["complete", "cancel"] | None = None
    settle_codes: dict[str, Literal["complete", "cancel"]] = {}
    pause: HookSettings | None = None
    go_on: HookSettings | None = None

    def hooks(self) -> tuple[Hook | None, Hook | None]:
        """Return what pauses and what lets go on, None where there is none; ConfigurationError where one is wrong."""
        pause = None if self.pause is None else self.pause.hook("[recover] pause")
        return pause, None if self.go_on is None else self.go_on.hook("[recover] go_on")


class AuditSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[audit]`: a file and a topic that the head of the audit trail is written to, outside the database.

    `file` is, as read, a path from the folder of the configuration.
    """

    file: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    topic: Annotated[str, msgspec.Meta(min_length=1)] | None = None


#: What a name of a header is made of.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _web_url(given: str | Secret, where: str) -> str:
    url = given.read(where) if isinstance(given, Secret) else given
    if not _is_web(url):
        raise ConfigurationError("the webhook is no URL of http or https", where=where, next_step="correct it")
    return url


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port checks it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _text(value: str | bool | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"imports": "import"}):
    """What the file may say. `imports` is the table `[import]`, whose keys are those of a mapping file.

    `live` is the table `[live]`, which is checked where it is used (`replay.comparison.live_table`).
    """

    store: str | None = None
    imports: dict[str, Any] = {}
    kafka: KafkaSettings = KafkaSettings()
    archive: ArchiveSettings = ArchiveSettings()
    live: dict[str, Any] = {}
    watch: WatchSettings = WatchSettings()
    alerts: AlertSettings = AlertSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    recover: RecoverSettings = RecoverSettings()
    audit: AuditSettings = AuditSettings()

    @property
    def timezone(self) -> str:
        """The zone that times without one are taken in."""
        return str(self.imports.get("timezone", "UTC"))


def load_settings(data: Path, config: Path | None) -> Settings:
    """Return the settings of `config`, else of the data folder's own file, else the defaults.

    ConfigurationError names file and key where something is wrong, or the file where it was named and is missing.
    """
    path = config or data / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        if config is None and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return Settings()
        raise ConfigurationError(f"cannot read the configuration: {error.strerror}", where=str(path)) from error
    try:
        found = msgspec.toml.decode(content, type=Settings)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigurationError(f"the configuration is wrong: {error}", where=str(path)) from error
    audit = found.audit
    if audit.file is not None:
        audit = msgspec.structs.replace(audit, file=str(path.parent / audit.file))
    return msgspec.structs.replace(found, archive=_from_folder(found.archive, path.parent), audit=audit)


def _from_folder(archive: ArchiveSettings, folder: Path) -> ArchiveSettings:
    """Return the settings with a folder that is taken from that of the file, whatever folder the command runs in."""
    if archive.url is None or "://" in archive.url:
        return archive
    return msgspec.structs.replace(archive, url=str(folder / archive.url))
