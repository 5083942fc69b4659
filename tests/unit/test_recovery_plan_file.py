"""The file of a plan: what is read is what was written, and nothing that was edited is taken for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import change, whole_plan

from replay.recovery.plan import read_plan, run_of, sealed, write_plan
from schemas.errors import RefusedError, UsageError

VALUES = st.one_of(
    st.none(), st.integers(-(2**70), 2**70), st.text(max_size=8), st.booleans(), st.just([]), st.just({}), st.just(1.5)
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON document that has a value, the document itself apart."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a place."""
    edited = deepcopy(document)
    inside = edited
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return edited


def test_round_trip(tmp_path: Path) -> None:
    """A plan that was written is read as it was, integers past int64 and evil ids included."""
    plan = whole_plan(changes=[change(from_=2**70, to=-(2**80)), change(account_id="\u2028\x00'\\")])
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    assert run_of(plan) == f"recovery-{plan.hash[:16]}"


def test_names_in_the_file(tmp_path: Path) -> None:
    """The file calls a change's values `from` and `class`, as people do."""
    write_plan(whole_plan(), tmp_path / "plan.json")
    first = json.loads((tmp_path / "plan.json").read_text())["changes"][0]
    assert (first["from"], first["to"], first["class"]) == (3, 2, "missed_event")


@given(st.data())
@settings(max_examples=300)
def test_any_edit_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever value of the file is made another, reading it is REFUSED."""
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    write_plan(whole_plan(), file)
    document = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(places(document))))
    value = data.draw(VALUES)
    edited = changed(document, path, value)
    if json.dumps(edited) == json.dumps(document):
        return
    file.write_text(json.dumps(edited, ensure_ascii=False))
    with pytest.raises(RefusedError):
        read_plan(file)


@given(st.data())
@settings(max_examples=100)
def test_any_added_or_missing_field_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A field more or less, anywhere in the file, is REFUSED: also one that has its default."""
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    write_plan(whole_plan(accounts=None, left=[]), file)
    document = json.loads(file.read_text())
    objects = [(), *(path for path in places(document) if isinstance(_at(document, path), dict))]
    inside = _at(edited := deepcopy(document), data.draw(st.sampled_from(objects)))
    if data.draw(st.booleans()):
        inside["more"] = data.draw(VALUES)
    else:
        del inside[data.draw(st.sampled_from(sorted(inside)))]
    file.write_text(json.dumps(edited, ensure_ascii=False))
    with pytest.raises(RefusedError):
        read_plan(file)


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"position": 17', b'"position": 17.0'),
        (b'"position": 17', b'"position": 9, "position": 17'),
        (b'"by": "ada"', b'"by": "\\u0061da"'),
        (b'"position": 17', b'"position": ' + b"9" * 5000),
        (b'"left": [', b'"left": ' + b"[" * 100_000),
    ],
)
def test_same_value_in_other_bytes_is_refused(tmp_path: Path, before: bytes, after: bytes) -> None:
    """What another reader may take for another value is an edit too."""
    file = tmp_path / "plan.json"
    write_plan(whole_plan(), file)
    content = file.read_bytes()
    assert before in content
    file.write_bytes(content.replace(before, after, 1))
    with pytest.raises((RefusedError, UsageError)):
        read_plan(file)


def test_other_blanks_are_taken(tmp_path: Path) -> None:
    """A plan that another tool has laid out anew is still that plan."""
    plan = whole_plan()
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan))
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'"plan"', b"\xff", b"[" * 100_000])
def test_what_is_no_plan(tmp_path: Path, content: bytes) -> None:
    """A file that is no plan at all is bad input, and said to be."""
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(UsageError, match="not a plan"):
        read_plan(tmp_path / "plan.json")


def test_no_file_and_no_place(tmp_path: Path) -> None:
    """A plan that cannot be read, or not be written, names the file."""
    with pytest.raises(UsageError, match=r"cannot read the plan.*none\.json"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot write the plan"):
        write_plan(whole_plan(), tmp_path / "none" / "plan.json")


def test_another_version_is_refused(tmp_path: Path) -> None:
    """A plan of another version of the format is named as that."""
    write_plan(sealed(whole_plan(format="ledger-replay recovery plan 2")), tmp_path / "plan.json")
    with pytest.raises(RefusedError, match="plan of another kind"):
        read_plan(tmp_path / "plan.json")


def test_undecided_and_hash() -> None:
    """Undecided are the unknown changes without a decision, and every value counts for the hash."""
    waits = change(basis="unknown", to=None)
    plan = whole_plan(changes=[change(), waits])
    assert plan.undecided() == [waits]
    assert len({plan.hash, whole_plan().hash, whole_plan(by="bob").hash}) == 3
