"""Object stores that an archive can be in: their URLs and options, and what they say when they do not do as asked.

Three clients read one archive: deltalake its log, obstore its files whole, polars their columns. Each takes options in
its own way, so they are translated here and nowhere else. What is wrong with a URL or an option is a UsageError before
anything is sent. A store that does not answer or says no is an ArchiveError: only what was read and is wrong, or is
really missing, is damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.exceptions import BaseError
from obstore.store import from_url
from polars.exceptions import PolarsError

from replay.archive.causes import cause
from schemas.errors import ArchiveError, UsageError

__all__ = ["delta_options", "opened", "polars_options", "reaching", "shown"]

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")

#: What is taken where the options do not say otherwise. A log entry is small, so a store that does not answer is known
#: in seconds from the log; a data file may take its time, as long as it comes.
_BOTH = {"connect_timeout": "3s", "retry_timeout": "10s"}
_OF_LOG = {"timeout": "10s"}
_OF_FILES = {"timeout": "10m", "read_timeout": "20s"}

#: Options of the connection, which obstore wants apart from those of the store, and the others without a prefix.
_CLIENT = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "default_content_type",
    "http1_only",
    "http2_keep_alive_interval",
    "http2_keep_alive_timeout",
    "http2_keep_alive_while_idle",
    "http2_max_frame_size",
    "http2_only",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "randomize_addresses",
    "read_timeout",
    "root_certificate",
    "timeout",
    "user_agent",
)
_RETRY = ("max_retries", "retry_timeout")
_PREFIX = re.compile(r"^(?:aws|azure|google)_")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h)?")
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_IS_DURATION = re.compile(r"timeout$|^http2_keep_alive_interval$")

#: Options whose values must never be shown.
_IS_SECRET = re.compile(r"secret|token|password|sas|account_key|access_key$|master_key|customer_key|proxy_url")

#: How the library below all three clients begins to say that a store did not do as asked.
_SAID = re.compile(
    r"Error performing|Generic \w+ error|object-store error|lacked the necessary privileges|"
    r"valid authentication credentials|not yet implemented by|error sending request|Permission denied"
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|(?:bucket|container) does not exist")
#: No object store says of a listing that it is not there, but for a bucket; nor does one answer with a page for people.
_NO_STORE = re.compile(
    r"Error performing list request.*404 Not Found(?!.*<Code>)|404 Not Found[:\s]*<(?:!doctype )?html",
    re.IGNORECASE | re.DOTALL,
)
_NOISE = re.compile(r"\x1b\[[0-9;]*m|↳")
_STATUS = re.compile(r"status code:? *(\d{3} [A-Za-z ]+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")

#: What is known of some things that a place says, and what to do about them: none of them helps itself.
_KNOWN = (
    (
        # Where none are given the machine is asked for some, which only a cloud's has.
        re.compile(r"169\.254\.|latest/(?:api/token|meta-data)|computeMetadata|metadata\.google|metadata/identity"),
        "there are no credentials for the archive's object store",
        "give them under [archive.options], or in the environment",
    ),
    (_NO_BUCKET, "the archive's bucket is not there", "make it first, or name another place with --archive"),
    (
        _NO_STORE,
        "what answers at the archive's endpoint is no object store",
        "check the endpoint under [archive.options]; nothing says that the archive is damaged",
    ),
    (
        re.compile("scheme is not allowed"),
        "the archive's endpoint is not HTTPS",
        "say allow_http = true under [archive.options] to allow that",
    ),
    (
        re.compile("Permission denied"),
        "this user may not read or write the archive",
        "check the folder and its permissions",
    ),
)


class _Options(NamedTuple):
    """Options by who takes them."""

    store: dict[str, str]
    client: dict[str, str]
    retry: dict[str, int]


def _split(options: Mapping[str, str], defaults: Mapping[str, str]) -> _Options:
    found = _Options({}, {}, {})
    for given, value in [*defaults.items(), *options.items()]:
        name = given.lower()
        bare = _PREFIX.sub("", name)
        if bare in _RETRY:
            found.retry[bare] = _count(given, value) if bare == "max_retries" else _milliseconds(given, value)
        elif bare in _CLIENT:
            # A number without a unit is in seconds, which the clients do not know.
            is_number = _IS_DURATION.search(bare) and _DURATION.fullmatch(value)
            found.client[bare] = f"{_milliseconds(given, value)}ms" if is_number else value
        else:
            found.store[name] = value
    return found


def _count(name: str, value: str) -> int:
    if not value.isdecimal():
        raise _wrong(name, "it is a whole number")
    return int(value)


def _milliseconds(name: str, value: str) -> int:
    found = _DURATION.fullmatch(value)
    if found is None:
        raise _wrong(name, "it is a number of seconds, or a time such as 500ms, 10s, 2m")
    return round(float(found[1]) * _MILLISECONDS[found[2] or "s"])


def delta_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return options as deltalake takes them."""
    store, client, retry = _split(options, _BOTH | _OF_LOG)
    text = {name: f"{value}ms" if name == "retry_timeout" else str(value) for name, value in retry.items()}
    return store | client | text | {"backoff_config.max_backoff": "2s"}


def polars_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Return options as polars takes them."""
    store, client, retry = _split(options, _BOTH | _OF_FILES)
    named = {"retry_timeout_ms" if name == "retry_timeout" else name: value for name, value in retry.items()}
    return {**store, **client, **named, "retry_max_backoff_ms": 2_000}


def opened(url: str, options: Mapping[str, str]) -> Any:
    """Return the store at a URL for obstore; UsageError where none can be there, or an option cannot be used."""
    _check(url)
    try:
        return _store(url, options)
    except UsageError:
        raise
    except BaseException as error:
        if not _is_refusal(error):
            raise
        wrong = _wrong_option(url, options, str(error))
        words = _hidden(cause(error), options)
        if wrong is not None:
            raise _wrong(wrong, words) from error
        raise UsageError(
            f"no archive can be there: {words}", where=shown(url), next_step="check the URL and [archive.options]"
        ) from error


def _store(url: str, options: Mapping[str, str]) -> Any:
    store, client, retry = _split(options, _BOTH | _OF_FILES)
    again: dict[str, Any] = {"backoff": {"max_backoff": timedelta(seconds=2)}}
    for name, value in retry.items():
        again[name] = timedelta(milliseconds=value) if name == "retry_timeout" else value
    return from_url(url, config=store, client_options=client, retry_config=again)  # type: ignore[call-overload]  # keys are literals.


def _is_refusal(error: BaseException) -> bool:
    # A panic of the library is a BaseException of no class that can be imported.
    return isinstance(error, (BaseError, ValueError, TypeError)) or type(error).__name__ == "PanicException"


def _wrong_option(url: str, options: Mapping[str, str], said: str) -> str | None:
    """Return the option without which all is well, else one that is spoken of; None where it is none of them."""
    for name in options:
        if _opens(url, {each: value for each, value in options.items() if each != name}):
            return name
    spoken = (name for name, value in options.items() if f"'{name.lower()}'" in said or f'"{value}"' in said)
    return next(spoken, None)


def _opens(url: str, options: Mapping[str, str]) -> bool:
    try:
        _store(url, options)
    except BaseException as error:
        if not _is_refusal(error):
            raise
        return False
    return True


def _wrong(name: str, why: str) -> UsageError:
    return UsageError(
        f"the option {name!r} of the archive's object store cannot be used: {why}",
        where="[archive.options]",
        next_step="see the README for the options and what they may say",
    )


def _check(url: str) -> None:
    """UsageError unless a URL names a place in an object store, and nothing else."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        what = f"no archive can be at a place that begins with {scheme}://"
        advice = "name a folder, or a URL such as s3://bucket/name, gs://bucket/name, az://container/name"
    elif not rest.partition("/")[0]:
        what, advice = "the archive's URL names no bucket", f"say it as {scheme}://bucket/name"
    elif shown(url) != url:
        what = "the archive's URL has a password or a query in it, which no object store takes there"
        advice = "put what they should be told under [archive.options], a secret as { env = ... } or { file = ... }"
    else:
        return
    raise UsageError(what, where=shown(url), next_step=advice)


def shown(url: str) -> str:
    """Return a place without what may be secret in it: a user, a password, and everything behind a question mark."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    place = re.split("[?#]", rest, maxsplit=1)[0]
    end = "" if place == rest else rest[len(place)] + "***"
    # A password may have a slash in it, and then it goes on behind that.
    user, at, behind = place.rpartition("@")
    # Of Azure the name of the container stands where others have that of a user.
    is_container = scheme.lower() in ("abfs", "abfss") and ":" not in user
    if at and not is_container and (":" in user or "/" not in user):
        place = f"***@{behind}"
    return f"{scheme}://{place}{end}"


def _hidden(words: str, options: Mapping[str, str]) -> str:
    for name, value in options.items():
        if value and _IS_SECRET.search(name.lower()):
            words = words.replace(value, "***")
    words = re.sub(r"(?<=://)[^/\s@]+@", "***@", words)
    return re.sub(r"\?[^\s\"']*\w=[^\s\"']*", "?***", words)


@contextmanager
def reaching(url: str, options: Mapping[str, str]) -> Iterator[None]:
    """Ask a place for something: ArchiveError where it does not answer, or says no."""
    try:
        yield
    except (BaseError, DeltaError, OSError, PolarsError) as error:
        words = _NOISE.sub("", str(error))
        if not _is_failure(error, words, is_folder="://" not in url):
            raise
        what, advice, says_no = _explained(words, error, options)
        raise ArchiveError(what, where=shown(url), next_step=advice, says_no=says_no) from error


def _is_failure(error: BaseException, words: str, *, is_folder: bool) -> bool:
    """Say whether it is the place that fails, and not what is there."""
    if isinstance(error, (CommitFailedError, TableNotFoundError)):
        return False
    if is_folder:
        # Whatever else a disk says, it says of what is on it.
        return isinstance(error, PermissionError) or "Permission denied" in words
    if _NO_BUCKET.search(words):
        return True
    if isinstance(error, FileNotFoundError) or "404 Not Found" in words:
        return _NO_STORE.search(words) is not None
    return isinstance(error, BaseError) or _SAID.search(words) is not None


def _explained(words: str, error: BaseException, options: Mapping[str, str]) -> tuple[str, str, bool]:
    """Return what a place said, what to do about it, and whether it will say so until that is done."""
    flat = ": ".join(line.strip() for line in words.splitlines() if line.strip())
    for pattern, what, advice in _KNOWN:
        if pattern.search(flat):
            return what, advice, True
    status, code = _STATUS.search(flat), _CODE.search(flat)
    if status is None:
        what = f"the archive's object store cannot be reached: {_unanswered(flat) or _hidden(cause(error), options)}"
        advice = (
            "check the endpoint and the network; how long to wait is said by timeout and retry_timeout under "
            "[archive.options]"
        )
        return what, advice, False
    said = f"{status[1].strip()}{f', {code[1]}' if code else ''}"
    if status[1].startswith(("401", "403")):
        what = f"the archive's object store says no: {said}"
        return what, "check the credentials under [archive.options], and what they may do there", True
    return f"the archive's object store failed: {said}", "run it again; nothing says that the archive is damaged", False


def _unanswered(flat: str) -> str:
    """Return why nothing came, as far as it is known."""
    if re.search(r"[Cc]onnection ?[Rr]efused", flat):
        return "connection refused"
    if re.search(r"timed out|kind: Timeout|TimedOut", flat):
        return "no answer in time"
    if "dns error" in flat:
        return "its name is not known"
    return "no connection" if re.search(r"\(Connect\)|kind: Connect", flat) else ""
