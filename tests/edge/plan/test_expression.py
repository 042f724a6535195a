"""The expression language against a second, tiny evaluator, and against whatever text there is."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.plan.expression import MAX_DEPTH, MAX_LENGTH, MAX_PARTS, ExpressionError, parse

NAMES: dict[str, Any] = {
    "x": 3,
    "y": 2.5,
    "yes": True,
    "word": "ab",
    "read.absorbance": 0.25,
    "read.spectrum": [3.0, 1.0, 2.0],
    "read.nothing": [],
    "huge": 10**400,
    "nan": float("nan"),
    "inf": float("inf"),
    "none": None,
}


def value(text: str) -> Any:
    return parse(text).evaluate(NAMES.__getitem__)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("2 - 3 - 4", -5),
        ("24 / 4 / 2", 3.0),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("- 2 * -3", 6),
        ("--2", 2),
        ("+2 - +3", -1),
        (".5 + 1.", 1.5),
        ("1e3", 1000.0),
        ("2E-2", 0.02),
        ("1 < 2", True),
        ("1 + 1 == 2", True),
        ("not 1 == 2", True),
        ("not not true", True),
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("not false and false", False),
        ("1 < 2 and 2 < 1 or 'a' == 'a'", True),
        ("'a' < \"b\"", True),
        ("word == 'ab'", True),
        ("word != 'ab'", False),
        ("x * y", 7.5),
        ("read.absorbance < 0.3", True),
        ("min(3, x, 2)", 2),
        ("min(read.spectrum)", 1.0),
        ("max(read.spectrum) + len(read.spectrum)", 6.0),
        ("abs(-4)", 4),
        ("round(2.345, 2)", 2.35),
        ("round(7.6)", 8),
        ("round(1234, -2)", 1200),
        ("len('four')", 4),
        ("True == true", True),
        ("false != False", False),
        ("1 == true", False),
        ("0 == false", False),
        ("1 != true", True),
        ("'1' == 1", False),
        ("false and none", False),
        ("true or none", True),
        ("none == none", True),
        ("  1\t+\n1  ", 2),
    ],
)
def test_values(text: str, wanted: Any) -> None:
    found = value(text)
    assert found == pytest.approx(wanted) if isinstance(wanted, float) else found == wanted
    assert isinstance(found, bool) == isinstance(wanted, bool)


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "ends where a value is missing"),
        ("1 +", 3, "ends where a value is missing"),
        ("1 $ 2", 2, "`$` does not belong"),
        ("1 +  @", 5, "`@` does not belong"),
        ("a.b.c", 3, "`.` does not belong"),
        ("(1 + 2", 6, "is missing for the bracket at character 1"),
        ("1 + 2)", 5, "unexpected `)`"),
        ("1 2", 2, "unexpected `2`"),
        ("1 < 2 < 3", 6, "cannot be chained"),
        ("1 == 2 != 3", 7, "cannot be chained"),
        ("1 + and", 4, "`and` stands where a value is missing"),
        ("* 3", 0, "`*` stands where a value is missing"),
        ("eval(1)", 0, "there is no function `eval`"),
        ("2 + abs()", 4, "`abs` does not take 0 values"),
        ("abs(1, 2)", 0, "`abs` does not take 2 values"),
        ("min(1", 5, "is missing for the bracket at character 4"),
        ("Upper", 0, "`Upper` is no name"),
        ("x.Upper", 0, "`x.Upper` is no name"),
        ("_x", 0, "`_x` is no name"),
        ("'open", 0, "`'` does not belong"),
        (r"'a\'b'", 0, "`'` does not belong"),
        ("1e999", 0, "not finite"),
        ("9" * 400, 0, "not finite"),
        ("٣ + 1", 0, "does not belong"),
        ("x ** 2", 3, "`*` stands where a value is missing"),
        ("x if yes else y", 2, "unexpected `if`"),
        ("[1]", 0, "`[` does not belong"),
        ("lambda: 1", 6, "`:` does not belong"),
    ],
)
def test_a_mistake_is_shown_at_its_character(text: str, position: int, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert says in caught.value.message
    assert caught.value.position == position
    assert str(caught.value).endswith(f"(at character {position + 1})")


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("1 / 0", 2, "division by zero"),
        ("1 // (x - 3)", 2, "division by zero"),
        ("5 % 0", 2, "division by zero"),
        ("1 + 'a'", 4, "the text `a` stands where a number is needed"),
        ("true + 1", 0, "`true` stands where a number is needed"),
        ("-yes", 1, "`true` stands where a number is needed"),
        ("1 and true", 0, "`1` stands where true or false is needed"),
        ("true and 1", 9, "`1` stands where true or false is needed"),
        ("not 1", 4, "stands where true or false is needed"),
        ("word < 1", 0, "the text `ab` stands where a number is needed"),
        ("1 < word", 4, "the text `ab` stands where a number is needed"),
        ("min(read.nothing)", 0, "`min` of an empty list"),
        ("len(3)", 0, "`len` takes a text or a list"),
        ("abs(read.spectrum)", 0, "stands where a number is needed"),
        ("round(1, 0.5)", 0, "whole number of digits"),
        ("round(1, 13)", 0, "whole number of digits"),
        ("1e300 * 10", 6, "not finite"),
        ("round(1e300) * round(1e300)", 13, "not finite"),
        ("huge * 1.0", 0, "not finite"),
        ("huge + 1", 0, "not finite"),
        ("min(1, nan)", 0, "not finite"),
        ("inf > 1", 0, "not finite"),
        ("round(inf)", 0, "not finite"),
        ("none + 1", 0, "`none` stands where a number is needed"),
    ],
)
def test_what_cannot_be_computed_is_said(text: str, position: int, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert says in caught.value.message
    assert caught.value.position == position


def test_an_unknown_name_is_the_lookups_own_error() -> None:
    with pytest.raises(LookupError):
        value("unknown + 1")


def test_bounds_in_length_depth_and_parts() -> None:
    parse("1" + " " * (MAX_LENGTH - 1))
    with pytest.raises(ExpressionError, match=f"limit is {MAX_LENGTH}"):
        parse("1" + " " * MAX_LENGTH)
    parse("(" * (MAX_DEPTH - 1) + "1" + ")" * (MAX_DEPTH - 1))
    with pytest.raises(ExpressionError, match="nested deeper"):
        parse("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH)
    parse("+".join(["1"] * (MAX_PARTS // 2)))
    with pytest.raises(ExpressionError, match=f"more than {MAX_PARTS} parts"):
        parse("+".join(["1"] * (MAX_PARTS // 2 + 1)))
    assert value("not " * 150 + "true") is True
    with pytest.raises(ExpressionError, match="parts"):
        parse("not " * MAX_PARTS + "true")


def test_large_whole_numbers_become_floats_and_stay_finite() -> None:
    assert value("9007199254740993") == pytest.approx(9007199254740993)
    assert isinstance(value("9007199254740993"), float)
    assert isinstance(value("9007199254740992"), int)


def test_names_are_all_that_it_reads() -> None:
    assert parse("x + min(read.absorbance, y) * 2 == 'z'").names() == {"x", "read.absorbance", "y"}
    assert parse("true and 'x' == \"y\"").names() == set()


KINDS = {"n": "number", "s": "string", "b": "boolean", "l": "list"}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1", "number"),
        ("'a'", "string"),
        ("true", "boolean"),
        ("n", "number"),
        ("s", "string"),
        ("l", "list"),
        ("unknown", None),
        ("unknown + 1", "number"),
        ("n < 1", "boolean"),
        ("s < 'a'", "boolean"),
        ("unknown < 'a'", "boolean"),
        ("unknown < unknown", "boolean"),
        ("n == s", "boolean"),
        ("b and not unknown", "boolean"),
        ("min(l)", "number"),
        ("max(unknown)", "number"),
        ("min(n, unknown)", "number"),
        ("len(s) + len(l)", "number"),
        ("-n", "number"),
    ],
)
def test_the_type_is_told_without_running(text: str, kind: str | None) -> None:
    assert parse(text).kind(KINDS) == kind


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("s + 1", 0),
        ("1 + b", 4),
        ("n and b", 0),
        ("not s", 4),
        ("s < 1", 0),
        ("n < 'a'", 4),
        ("-s", 1),
        ("l < 1", 0),
        ("abs(l)", 4),
        ("min(l, 1)", 4),
        ("len(n)", 4),
        ("max(s)", 4),
        ("1 + (b or b)", 7),
    ],
)
def test_types_that_do_not_fit_are_found_without_running(text: str, position: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text).kind(KINDS)
    assert caught.value.position == position


# ---- against a second evaluator ---------------------------------------------------------------------------

LEVEL = {"or": 1, "and": 2, "not": 3} | dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), 4)
LEVEL |= {"+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "neg": 7}
CHAIN_LEFT = {"or", "and", "+", "-", "*", "/", "//", "%"}

Tree = tuple[Any, ...]


class Undefined(Exception):
    """The reference has no value for this tree."""


def reference(tree: Tree) -> Any:
    head, *rest = tree
    if head == "const":
        return rest[0]
    if head == "name":
        return NAMES[rest[0]]
    if head in ("and", "or"):
        left = truth(reference(rest[0]))
        return left if left == (head == "or") else truth(reference(rest[1]))
    values = [reference(child) for child in rest]
    if head == "not":
        return not truth(values[0])
    if head in ("==", "!="):
        a, b = values
        same = (type(a) is bool) == (type(b) is bool) and a == b
        return same == (head == "==")
    if head in LEVEL and LEVEL[head] == 4 and all(isinstance(v, str) for v in values):
        return eval("a " + head + " b", {}, {"a": values[0], "b": values[1]})
    numbers = [number(v) for v in values]
    if head == "neg":
        return -numbers[0]
    if head in LEVEL and LEVEL[head] == 4:
        return eval("a " + head + " b", {}, {"a": numbers[0], "b": numbers[1]})
    if head in ("min", "max", "abs"):
        return min(numbers) if head == "min" else max(numbers) if head == "max" else abs(numbers[0])
    try:
        return number(eval("a " + head + " b", {}, {"a": numbers[0], "b": numbers[1]}))
    except ZeroDivisionError:
        raise Undefined from None


def truth(found: Any) -> bool:
    if not isinstance(found, bool):
        raise Undefined
    return found


def number(found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= 1e300:
        raise Undefined
    return found


def written(tree: Tree) -> tuple[str, int]:
    """(text, level) with only the brackets it needs."""
    head, *rest = tree
    if head == "const":
        return (repr(rest[0]) if not isinstance(rest[0], bool) else str(rest[0]).lower()), 9
    if head == "name":
        return rest[0], 9
    if head in ("min", "max", "abs"):
        return f"{head}({', '.join(written(child)[0] for child in rest)})", 9
    level = LEVEL[head]
    if head in ("not", "neg"):
        return ("not " if head == "not" else "-") + bracketed(rest[0], level), level
    left = bracketed(rest[0], level if head in CHAIN_LEFT else level + 1)
    return f"{left} {head} {bracketed(rest[1], level + 1)}", level


def bracketed(tree: Tree, least: int) -> str:
    text, level = written(tree)
    return text if level >= least else f"({text})"


numbers_ = st.one_of(st.integers(0, 50), st.floats(0.001, 1e6, allow_nan=False).map(lambda x: round(x, 3)))
leaves = st.one_of(
    numbers_.map(lambda n: ("const", n)),
    st.booleans().map(lambda b: ("const", b)),
    st.sampled_from(["a", "ab", "", "b c"]).map(lambda s: ("const", s)),
    st.sampled_from(["x", "y", "yes", "word", "read.absorbance"]).map(lambda n: ("name", n)),
)


def branches(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    binary = st.sampled_from([sign for sign in LEVEL if sign not in ("not", "neg")])
    return st.one_of(
        st.tuples(binary, inner, inner),
        st.tuples(st.sampled_from(["not", "neg", "abs"]), inner),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner),
    )


@settings(max_examples=400, deadline=None)
@given(st.recursive(leaves, branches, max_leaves=12))
def test_agrees_with_the_reference(tree: Tree) -> None:
    text, _ = written(tree)
    expression = parse(text)
    try:
        wanted = reference(tree)
    except Undefined:
        with pytest.raises(ExpressionError):
            expression.evaluate(NAMES.__getitem__)
        return
    found = expression.evaluate(NAMES.__getitem__)
    assert isinstance(found, bool) == isinstance(wanted, bool)
    assert found == pytest.approx(wanted, rel=1e-12) if isinstance(wanted, float) else found == wanted


PIECES = st.sampled_from(
    [
        "1",
        "2.5",
        "1e9",
        "x",
        "read.absorbance",
        "word",
        "'a'",
        '"b"',
        "(",
        ")",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "<",
        "<=",
        "==",
        "!=",
        "and",
        "or",
        "not",
        "min(",
        "max(",
        "abs(",
        "round(",
        "len(",
        ",",
        "true",
        "false",
        "9999999999999999",
        "1e300",
        "huge",
        "nan",
        "inf",
        "read.spectrum",
        "none",
        "'",
        ".",
        "$",
    ]
)


def judged(text: str) -> ExpressionError | None:
    """Parse, type and evaluate; every other exception than the two that are declared comes out."""
    try:
        expression = parse(text)
        expression.kind(KINDS)
        for lookup in (NAMES.__getitem__, dict.fromkeys(expression.names(), 1e300).__getitem__):
            with contextlib.suppress(LookupError):
                expression.evaluate(lookup)
    except ExpressionError as error:
        return error
    return None


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map(" ".join)))
def test_any_text_ends_in_a_value_or_a_sentence(text: str) -> None:
    began = time.process_time()
    said = judged(text)
    assert said is None or 0 <= said.position <= len(text)
    assert time.process_time() - began < 2.0


def test_the_worst_texts_of_full_length_end_quickly() -> None:
    began = time.process_time()
    for piece in ("(", "-", "not ", " ", "'", "1+", "min(", "1,", "9", "a.", ".", "1e", "x<"):
        text = (piece * MAX_LENGTH)[:MAX_LENGTH]
        try:
            expression = parse(text)
        except ExpressionError:
            continue
        expression.evaluate(lambda name: 1)
    assert time.process_time() - began < 2.0
