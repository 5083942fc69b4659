"""What may be said of an archive's object store: URLs and options, checked before anything is sent anywhere."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from console.settings import load_settings
from replay.archive.files import Files, Location
from replay.archive.object_store import delta_options, polars_options, shown
from replay.archive.table import Archive
from schemas.errors import ArchiveError, ConfigurationError, UsageError

S3 = "s3://bucket/archive"
OPTIONS = {
    "aws_access_key_id": "id",
    "aws_secret_access_key": "very-secret",
    "aws_region": "nowhere",
    "aws_endpoint_url": "http://127.0.0.1:1",
}


@pytest.mark.parametrize(
    "options",
    [
        {"allow_http": "true"},
        {"aws_allow_http": "true"},
        {"ALLOW_HTTP": "TRUE"},
        {"timeout": "5"},
        {"timeout": "2.5"},
        {"aws_timeout": "1m"},
        {"timeout": "1m 30s"},
        {"http2_max_frame_size": "20000"},
        {"connect_timeout": "500ms", "max_retries": "3", "retry_timeout": "20"},
        {"AWS_REGION": "elsewhere"},
    ],
)
def test_options_of_the_connection_are_taken(options):
    """Options of the store, of its connection and of trying again stand beside one another, as deltalake takes them."""
    Files(Location(S3, OPTIONS | options))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_http", "maybe"),
        ("aws_allow_http", "maybe"),
        ("timeout", "soon"),
        ("retry_timeout", "soon"),
        ("max_retries", "many"),
        ("max_retries", "-1"),
        ("nonsense", "1"),
        ("allow_unsafe_rename", "true"),
        ("default_headers", "{}"),
        ("root_certificate", "no certificate"),
        ("azure_timeout_of_mine", "1"),
        ("aws_virtual_hosted_style_request", "perhaps"),
        ("proxy_url", "::"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(name, value):
    """A wrong option is bad usage that names it, and shows no secret."""
    with pytest.raises(UsageError, match=f"option '{name}'") as caught:
        Files(Location(S3, OPTIONS | {name: value}))
    assert "very-secret" not in str(caught.value)


def test_a_panic_of_the_library_does_not_come_out():
    """Options that the library breaks off at leave nothing on stderr, in a process of their own too."""
    code = (
        "from replay.archive.files import Files, Location\n"
        f"for name in ('allow_http', 'aws_timeout', 'http2_max_frame_size', 'proxy_url'):\n"
        f"    try: Files(Location('{S3}', {{name: 'x'}}))\n"
        "    except Exception: pass\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_secret_is_not_repeated():
    """The value of an option that is a secret is not in the words about it."""
    with pytest.raises(UsageError) as caught:
        Files(Location(S3, OPTIONS | {"aws_virtual_hosted_style_request": "very-secret"}))
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://host/x", "https://host/x", "hdfs://host/x", "memory:///x", "ftp://host/x", "s3://", "s3:///x", "az://c/x"],
)
def test_a_url_where_no_archive_can_be_is_bad_usage(url):
    """Places that deltalake, obstore and polars do not all know are bad usage that names them."""
    with pytest.raises(UsageError) as caught:
        Files(Location(url))
    assert caught.value.where == url


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("s3://user:hush@bucket/x", "s3://***@bucket/x"),
        ("s3://user:hu/sh@bucket/x", "s3://***@bucket/x"),
        ("s3://hush@bucket/x", "s3://***@bucket/x"),
        ("http://user:hush@host/x", "http://***@host/x"),
        ("abfss://container:hush@account.dfs.core.windows.net/x", "abfss://***@account.dfs.core.windows.net/x"),
        ("az://container/x?sig=hush", "az://container/x?***"),
        ("s3://bucket/x#hush", "s3://bucket/x#***"),
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_shown(url, seen):
    """A URL with a password or a query is bad usage, and shown without them."""
    assert shown(url) == seen
    with pytest.raises(UsageError) as caught:
        Files(Location(url))
    assert caught.value.where == seen
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["/a/b@c", "s3://bucket/x@y", "abfss://container@account.dfs.core.windows.net/x"])
def test_a_url_without_a_secret_is_shown_as_it_is(url):
    """An @ is no password by itself."""
    assert shown(url) == url


def test_each_client_is_told_in_its_own_way():
    """What is said wins over what is taken by default, for all clients; numbers are seconds."""
    given = {"AWS_Timeout": "7", "retry_timeout": "2m", "max_retries": "3", "aws_region": "r"}
    delta, polars = delta_options(given), polars_options(given)
    assert (delta["timeout"], delta["retry_timeout"], delta["max_retries"]) == ("7000ms", "120000ms", "3")
    assert (polars["timeout"], polars["retry_timeout_ms"], polars["max_retries"]) == ("7000ms", 120_000, 3)
    assert delta["aws_region"] == polars["aws_region"] == "r"
    assert delta["connect_timeout"] == polars["connect_timeout"] == "3000ms"


def test_options_may_be_true_false_and_numbers(tmp_path):
    """[archive.options] takes booleans and numbers beside texts and secrets; anything else is said."""
    config = tmp_path / "ledger-replay.toml"
    config.write_text("[archive.options]\nallow_http = true\ntimeout = 5\nconnect_timeout = 2.5\naws_region = 'r'\n")
    assert load_settings(tmp_path, None).archive.values() == {
        "allow_http": "true",
        "timeout": "5",
        "connect_timeout": "2.5",
        "aws_region": "r",
    }
    config.write_text("[archive.options]\nallow_http = [true]\n")
    with pytest.raises(ConfigurationError, match=r"archive\.options"):
        load_settings(tmp_path, None)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A web server that says the same to everything; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815 - these are the names.

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("body", [b"<html>Not here</html>", b"404 page not found", b""])
@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_no_object_store_is_no_damage(tmp_path, body, is_known):
    """A web server that knows no such page is a wrong endpoint, whether an archive was there before or not."""
    expected = tmp_path / "archive.json"
    if is_known:
        expected.write_text('{"table_id":"1","version":3,"commits":3}')
    with answering(404, body) as url:
        place = Location(S3, OPTIONS | {"aws_endpoint_url": url, "allow_http": "true"})
        with pytest.raises(ArchiveError, match=r"is no object store.*check the endpoint"):
            Archive(place, expected=expected).snapshot()
        with pytest.raises(ArchiveError, match="is no object store"):
            Files(place).sizes()


def test_a_missing_object_is_no_failure():
    """What a store says is not there is not there."""
    with answering(404, b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>") as url:
        files = Files(Location(S3, OPTIONS | {"aws_endpoint_url": url, "allow_http": "true"}))
        assert files.log_entry(1) is None


def test_a_missing_bucket_is_named():
    """A store that knows no such bucket says so."""
    with answering(404, b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code></Error>") as url:
        files = Files(Location(S3, OPTIONS | {"aws_endpoint_url": url, "allow_http": "true"}))
        with pytest.raises(ArchiveError, match="bucket is not there"):
            files.sizes()
