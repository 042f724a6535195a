"""YAML: plain data with lines; its traps, bombs and mistakes as sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.errors import Mistakes
from edge.yamlfile import BROKEN, MAX_BYTES, parse_yaml, read_yaml


def complaints(text: str) -> list[str]:
    try:
        return [str(problem) for problem in parse_yaml(text).problems]
    except Mistakes as mistakes:
        return [str(problem) for problem in mistakes.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0", 0),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("y", "y"),
        ("N", "N"),
        ("10.0.0.5", "10.0.0.5"),
        ("3.1.1", "3.1.1"),
        ("tcp://h:502", "tcp://h:502"),
        ('"no"', "no"),
        ("'12:30'", "12:30"),
        ('"010"', "010"),
        ("sbs-96", "sbs-96"),
    ],
)
def test_plain_words_are_what_they_look_like(text: str, value: Any) -> None:
    document = parse_yaml(f"a: {text}\n")
    assert document.problems == []
    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("no", "true or false"),
        ("Yes", "true or false"),
        ("ON", "true or false"),
        ("off", "true or false"),
        ("True", "small letters"),
        ("12:30", "base of 60"),
        ("1:30:07.5", "base of 60"),
        ("010", "octal"),
        ("0o17", "octal"),
        ("00", "octal"),
        ("0b11", "binary"),
        ("1_000", "text to others"),
        ("2026-01-01", "date"),
        ("2026-01-01T10:00:00Z", "date"),
        (".inf", "finite"),
        ("-.INF", "finite"),
        (".nan", "finite"),
        ("99999999999999999999999", "too large"),
        ("1e999", "too large"),
    ],
)
def test_words_that_readers_differ_on_are_refused(word: str, why: str) -> None:
    document = parse_yaml(f"x: 1\na: {word}\n")
    (problem,) = document.problems
    assert (problem.path, problem.line) == ("a", 2)
    assert word in problem.message
    assert why in problem.message + problem.mend
    assert document.data == {"x": 1, "a": BROKEN}


def test_a_trap_is_found_in_a_key_too() -> None:
    assert complaints("a:\n  on: 1\n  12:30: 2\n") == [
        "a (line 2): `on` is true or false to some YAML readers and a word to others. "
        'Write true or false, or "on" in quotes.',
        "a (line 3): `12:30` is a number to the base of 60 to some YAML readers. "
        'Write "12:30" in quotes if it is a text.',
    ]


def test_every_value_knows_its_line() -> None:
    document = parse_yaml("# comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       1: 3}\n")
    assert document.data == {"a": {"b": 1, "c": ["x", {"d": 2, 1: 3}]}}
    lines = {
        path: document.line(path) for path in ("a", "a.b", "a.c", "a.c[0]", "a.c[1]", "a.c[1].d", "a.c[1].1")
    }
    assert lines == {"a": 2, "a.b": 3, "a.c": 4, "a.c[0]": 5, "a.c[1]": 6, "a.c[1].d": 6, "a.c[1].1": 7}
    assert document.line("a.c[1].absent") == 6
    assert document.line("absent") == 2


def test_a_duplicate_key_names_both_lines_and_the_first_counts() -> None:
    document = parse_yaml("a: 1\nb: 2\na: 3\n")
    assert [str(problem) for problem in document.problems] == [
        "a (line 3): `a` stands here twice, first in line 1. Delete one of them."
    ]
    assert document.data == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\n", "`&x` is an anchor"),
        ("a: *x\n", "`*x` is an alias"),
        ("<<: {a: 1}\n", "`<<` merges"),
        ("a: !!python/object/apply:os.system [ls]\n", "`!!python/object/apply:os.system` is a tag"),
        ("a: !secret x\n", "`!secret` is a tag"),
        ("[1, 2]: 3\n", "A key is not a plain word"),
        ("? {a: 1}\n: 3\n", "A key is not a plain word"),
        ("null: 3\n", "A key is missing"),
    ],
)
def test_what_is_not_plain_data_is_refused(text: str, said: str) -> None:
    (first, *_) = complaints(text)
    assert "(line 1)" in first
    assert said in first


def test_all_mistakes_come_at_once() -> None:
    found = complaints("a: no\nb: 010\nb: 1\nc: *x\nd: [1_0, on]\n")
    assert [complaint.partition(":")[0] for complaint in found] == [
        "a (line 1)",
        "b (line 2)",
        "b (line 3)",
        "c (line 4)",
        "d[0] (line 5)",
        "d[1] (line 5)",
    ]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a:\n\tb: 1\n\tc: 2\n", 2, "tab"),
        ("a: [1,\nb: 2\n", 3, "missing"),
        ("a: 'x\n", 1, "not closed"),
        ("a: b: c\n", 1, "a `:` too many"),
        ("a: 1\n b: 2\n", 2, "indented wrongly"),
        ("a: @x\n", 1, "cannot begin"),
        ("- a\nb: c\n", 2, "indented differently"),
        ('a: "\\q"\n', 1, "escape"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: 1\nb: \x07\n", 2, "control character"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(Mistakes) as caught:
        parse_yaml(text)
    first = caught.value.problems[0]
    assert first.line == line
    assert said in first.message
    assert first.mend


def test_traps_before_a_syntax_error_are_not_lost() -> None:
    assert [complaint[:10] for complaint in complaints("a: no\nb: [\n")] == ["a (line 1)", "(line 3): "]


@pytest.mark.parametrize(
    "bomb", ["[" * 200_000, "{a: " * 100_000, "- " * 100_000, "a: " + "[" * 40 + "]" * 40]
)
def test_nesting_is_bounded(bomb: str) -> None:
    (complaint,) = complaints(bomb)
    assert "Nested deeper than 32 levels" in complaint


def test_an_alias_bomb_does_not_unfold() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30)]
    document = parse_yaml("\n".join(lines))
    assert document.data["a29"] == [BROKEN, BROKEN]
    assert len(document.problems) == 30 + 2 * 29


def test_files_that_cannot_be_read_are_said_so(tmp_path: Path) -> None:
    large, latin = tmp_path / "large.yaml", tmp_path / "latin.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    latin.write_bytes(b"a: 1\nb: gr\xfcn\n")
    for path, said in (
        (tmp_path / "absent.yaml", "There is no file"),
        (tmp_path, "is a folder"),
        (large, "larger than 1 MiB"),
        (latin, "(line 2): The file is not UTF-8 text"),
    ):
        with pytest.raises(Mistakes) as caught:
            read_yaml(path)
        assert said in str(caught.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc2\xb5l\n")
    assert read_yaml(path).data == {"a": "µl"}
