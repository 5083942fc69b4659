"""Fenced blocks of a Markdown file, and whether real output is what the file shows."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["NEEDS", "Block", "Command", "anchors", "blocks", "commands", "links", "matches"]

#: What a block can say that it needs, where others have a file name.
NEEDS = ("kafka",)

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: its language, the words after it (a file name, or one of `NEEDS`), its text, its first line."""

    language: str
    name: str
    needs: str
    body: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Command:
    """A `$ ` line of a console block with the output shown below it."""

    text: str
    output: str
    line: int


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks in order."""
    found = []
    for match in FENCE.finditer(document):
        language, _, name = match["info"].strip().partition(" ")
        line = document.count("\n", 0, match.start()) + 1
        word = name.strip()
        needs, name = (word, "") if word in NEEDS else ("", word)
        found.append(Block(language=language, name=name, needs=needs, body=match["body"], line=line))
    return found


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block; a line that ends in a backslash goes on in the next."""
    found: list[tuple[str, list[str], int]] = []
    is_continued = False
    for number, line in enumerate(block.body.splitlines(), start=block.line + 1):
        if is_continued:
            text, output, start = found[-1]
            found[-1] = (f"{text}\n{line.removeprefix('> ')}", output, start)
        elif line.startswith("$ "):
            found.append((line.removeprefix("$ "), [], number))
        else:
            assert found, f"line {number}: output before the first command"
            found[-1][1].append(line)
        is_continued = line.endswith("\\") and (is_continued or line.startswith("$ "))
    return [Command(text=text, output="\n".join(output), line=line) for text, output, line in found]


def matches(shown: str, real: str) -> bool:
    """Say whether real output is what is shown.

    A line of only `...` stands for any lines, none too; `...` within a line for any text of that line. Spaces at
    line ends and empty lines at the end do not count.
    """
    pattern = ""
    for line in _lines(shown):
        if line.strip() in ("...", "…"):
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(part) for part in re.split(r"\.\.\.|…", line)) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(real))) is not None


def links(document: str) -> list[str]:
    """Return the targets of links and images outside fenced blocks."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", document))
    inline = re.findall(r"\]\(\s*<?([^)\s>]+)", prose)
    return [*inline, *re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.MULTILINE)]


def anchors(document: str) -> set[str]:
    """Return the fragment names of the headings."""
    headings = re.findall(r"^#{1,6} +(.+?) *#*$", FENCE.sub("", document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines
