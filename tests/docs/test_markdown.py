"""Every fenced block of the documents is executed, and every link of them leads somewhere.

How to write a block, by its language; blocks of one document run from top to bottom in one empty folder:

console  `$ ` begins a command of bash, a line that ends in a backslash goes on in the next line; the lines below it are
         its output, standard output and error together, as they are without a terminal, 100 columns wide. A command
         must succeed; where a failure is the point, show its status: `$ ledger-replay verify; echo "exit status $?"`.
         In what is shown, a line of only `...` stands for any lines, and `...` within a line for any text.
python   runs on its own in that folder; each `# > text` comment is one line that it prints, or the next block is a
         `text` block with all that it prints. With neither, it prints nothing. `...` stands for any text here too.
sh       set-up that a test cannot repeat: only `git clone`, `cd`, `make TARGET` and `python -m venv`/`pip install`
         lines, and each TARGET must exist.
NAME     any language with a file name after it (```csv points.csv) is written to that file, for later blocks.
json     must be JSON. `toml` must be TOML. `mermaid` and `text` are pictures.

With the word `kafka` after the language (```console kafka), a block needs a broker: it runs where there is one, in one
run with all blocks of the document, and finds it in LEDGER_REPLAY_BOOTSTRAP_SERVERS. Other blocks cannot build on it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import zip_longest
from pathlib import Path

import pytest
from kafka_broker import OwnBroker
from topics import delete_topics

from tests.docs.markdown import Block, Command, anchors, blocks, commands, links, matches

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ON_A_BROKER = [path for path in DOCUMENTS if any(block.needs for block in blocks((ROOT / path).read_text()))]
#: The topics that blocks of the documents make.
TOPICS = ("ledger-events", "shop.")
SECONDS_MAX = 300
SET_UP = re.compile(
    r"(git clone \S+( \S+)?|cd \S+|make(?P<targets>( [\w=-]+)+)|python3? -m venv \S+|\S*pip install .+|\. \S+)"
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_blocks_do_what_they_show(path: Path, tmp_path: Path) -> None:
    """Every fenced block of a document that needs nothing else does what the document says."""
    _check_all([block for block in blocks((ROOT / path).read_text()) if not block.needs], tmp_path, path)


@pytest.mark.kafka
@pytest.mark.parametrize("path", ON_A_BROKER, ids=str)
def test_blocks_on_a_broker_do_what_they_show(path: Path, tmp_path: Path, own_kafka: OwnBroker) -> None:
    """Every fenced block of a document that needs a broker does with a real one what the document says."""
    # They use names that users use, so the broker is our own, and earlier topics of these names go.
    document = (ROOT / path).read_text()
    for name in TOPICS:
        delete_topics(own_kafka, prefix=name)
    try:
        _check_all(blocks(document), tmp_path, path, brokers=own_kafka.bootstrap_servers)
    finally:
        for name in TOPICS:
            delete_topics(own_kafka, prefix=name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link of a document leads to a file, and every fragment to a heading."""
    broken = []
    for link in links((ROOT / path).read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (ROOT / path).parent / name if name else ROOT / path
        if not target.exists() or (fragment and fragment not in anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_shown_output_is_compared_strictly() -> None:
    """Output matches what is shown only where it differs in nothing but what the dots stand for."""
    assert matches("a\nb  c\n", "a\nb  c")
    assert matches("a\n...\nd", "a\nb\nc\nd\n")
    assert matches("a\n...\nd", "a\nd")
    assert matches("took ... s", "took 1.25 s")
    assert not matches("took ... s", "took 1.25 s\nmore")
    assert not matches("a.c", "abc")
    assert not matches("", "a")
    assert not matches("a", "")
    assert not matches("a ... c", "a\nc")


def test_commands_are_read_with_their_output() -> None:
    """A console block is read as its commands, each with the lines below it."""
    block = Block(language="console", name="", needs="", body="$ one \\\n  more\nout\n$ two\n", line=10)
    assert [(command.text, command.output, command.line) for command in commands(block)] == [
        ("one \\\n  more", "out", 11),
        ("two", "", 14),
    ]


@pytest.mark.parametrize(
    "document",
    [
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ echo one; false\none\n```\n",
        "```python\nprint(1)  #> 2\n```\n",
        "```python\nprint(1)\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```sh\nmake no-such-target\n```\n",
        "```sh\nrm -rf .\n```\n",
        "```json\n{\n```\n",
        "```unknown\nsomething\n```\n",
        "```\nno language\n```\n",
    ],
)
def test_a_block_that_lies_is_found(document: str, tmp_path: Path) -> None:
    """A document whose block does something other than it shows fails the test of blocks."""
    found = blocks(document)
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        _check(found[0], found[1] if len(found) > 1 else None, tmp_path, "here")


def test_a_block_that_is_true_passes(tmp_path: Path) -> None:
    """Blocks of one document see the files of those before them."""
    document = (
        "```csv points.csv\na,b\n1,2\n```\n\n"
        "```console\n$ cat points.csv\na,...\n1,2\n$ ls; echo done\n...\ndone\n```\n\n"
        "```python\nprint(open('points.csv').readline().strip())  #> a,b\n```\n\n"
        "```sh\nmake test SIZE=1  # all\n```\n"
    )
    found = blocks(document)
    assert [block.language for block in found] == ["csv", "console", "python", "sh"]
    for block in found:
        _check(block, None, tmp_path, "here")


def test_a_block_that_needs_a_broker_finds_it(tmp_path: Path) -> None:
    """The word `kafka` is what a block needs and no file name, and where the broker is stands in the environment."""
    document = "```console kafka\n$ echo at $LEDGER_REPLAY_BOOTSTRAP_SERVERS; ls\nat here:9\n```\n"
    found = blocks(document)
    assert [(block.needs, block.name) for block in found] == [("kafka", "")]
    _check_all(found, tmp_path, Path("document"), brokers="here:9")
    with pytest.raises(AssertionError):
        _check_all(found, tmp_path, Path("document"))


def _check_all(found: list[Block], folder: Path, path: Path, *, brokers: str = "") -> None:
    for block, following in zip_longest(found, found[1:]):
        _check(block, following, folder, f"{path}:{block.line}", brokers=brokers)


def _check(block: Block, following: Block | None, folder: Path, where: str, *, brokers: str = "") -> None:
    if block.name:
        (folder / block.name).write_text(block.body)
    match block.language:
        case "console":
            for command in commands(block):
                _run_console(command, folder, where, brokers)
        case "python":
            _run_python(block, following, folder, where, brokers)
        case "sh":
            _check_set_up(block, where)
        case "json":
            json.loads(block.body)
        case "toml":
            tomllib.loads(block.body)
        case "mermaid" | "text" | "csv" | "jsonl" | "sql" if block.name or block.language in ("mermaid", "text"):
            assert block.body.strip(), f"{where}: empty"
        case _:
            pytest.fail(f"{where}: nothing says how to check a {block.language!r} block")


def _run_console(command: Command, folder: Path, where: str, brokers: str) -> None:
    done = _run(["bash", "-c", f"set -o pipefail\n{command.text}"], folder, brokers)
    where = f"{where} (line {command.line})"
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout}"
    assert matches(command.output, done.stdout), f"{where}: shown\n{command.output}\nreal\n{done.stdout}"


def _run_python(block: Block, following: Block | None, folder: Path, where: str, brokers: str) -> None:
    shown = "\n".join(re.findall(r"# ?> ?(.*)$", block.body, re.MULTILINE))
    if not shown and following is not None and following.language == "text":
        shown = following.body
    done = _run([sys.executable, "-c", block.body], folder, brokers)
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout}"
    assert matches(shown, done.stdout), f"{where}: shown\n{shown}\nreal\n{done.stdout}"


def _check_set_up(block: Block, where: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.body.splitlines():
        text = line.partition("#")[0].strip()
        known = SET_UP.fullmatch(text)
        assert not text or known, f"{where}: not a set-up line: {text}"
        if known and known["targets"]:
            words = {word for word in known["targets"].split() if "=" not in word}
            assert words <= targets, f"{where}: no such target: {sorted(words - targets)}"


def _run(arguments: list[str], folder: Path, brokers: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_REPLAY_")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    environment = kept | {"PATH": path, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    if brokers:
        environment["LEDGER_REPLAY_BOOTSTRAP_SERVERS"] = brokers
    return subprocess.run(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
