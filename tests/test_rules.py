"""Rules as text: what parses, what does not and why, and three-valued logic against an obvious evaluator."""

from __future__ import annotations

import contextlib
import math
import operator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rules import MAX_CHARS, Expression, Rule

COLUMNS = {"n": pa.array([1.0, 2.0, None, float("nan"), 5.0]), "i": pa.array([1, 2, None, 4, 5], pa.int32()),
           "s": pa.array(["en", "de", None, "en", "fr"]), "b": pa.array([True, False, None, True, False])}  # fmt: skip


def truth(text: str) -> list[bool | None]:
    return Expression.parse(text).truth(COLUMNS.__getitem__).to_pylist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n >= 2", [False, True, None, None, True]),
        ("i != 4", [True, True, None, False, True]),
        ("s == en", [True, False, False, True, False]),
        ("s == 'en'", [True, False, False, True, False]),
        ("s in [en, 'de']", [True, True, False, True, False]),
        ("s not in [en, de]", [False, False, True, False, True]),
        ("s != en", [False, True, True, False, True]),
        ("i in [1, 4]", [True, False, None, True, False]),
        ("b == 1", [True, False, None, True, False]),
        ("not n >= 2", [True, False, None, None, False]),
        ("n >= 2 and s == en", [False, False, False, None, False]),
        ("n >= 2 or s == en", [True, True, None, True, True]),
        ("n < 2 or i == 2 and s == de", [True, True, None, None, False]),
        ("(n < 2 or i == 2) and s == de", [False, True, False, False, False]),
        ("not (n < 2 or i == 2)", [False, False, None, None, True]),
    ],
)
def test_golden(text, expected):
    assert truth(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column OP value"),
        ("n", "column OP value"),
        ("n =< 2", "column OP value"),
        ("n >= ", "column OP value"),
        ("n >= many", "number or a percentile"),
        ("n >= p101", "number or a percentile"),
        ("n in en", "a list like"),
        ("n >= 2 and", "column OP value"),
        ("n >= 2 n", "`and`, `or` or the end"),
        ("(n >= 2", r"`\)`"),
        ("n >= 2)", "`and`, `or` or the end"),
        ("(" * 100 + "n >= 2" + ")" * 100, "nested"),
        ("n >= 2 or " * (MAX_CHARS // 8) + "n > 1", "characters"),
        ("__import__('os') >= 2", "column OP value"),
    ],
)
def test_what_does_not_parse_says_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message):
        Expression.parse(text)


def test_a_rule_is_one_comparison():
    assert Rule.parse("a.b >= 2") == Rule("a.b", ">=", 2.0, "a.b_min")
    assert Rule.parse("a <= p60").percentile == 60
    assert Rule.parse("a == p60").percentile is None
    with pytest.raises(ValueError, match="one comparison"):
        Rule.parse("a >= 2 and b >= 2")


OPS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq, "!=": operator.ne}
comparison = st.tuples(st.sampled_from(["n", "i"]), st.sampled_from(list(OPS)), st.integers(0, 6))
tree = st.recursive(
    comparison,
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=8,
)


def written(node) -> str:
    if node[0] == "not":
        return f"not ({written(node[1])})"
    if node[0] in ("and", "or"):
        return "(" + f" {node[0]} ".join(written(part) for part in node[1]) + ")"
    return f"{node[0]} {node[1]} {node[2]}"


def slow(node, row: dict) -> bool | None:
    """Kleene logic, row by row."""
    if node[0] == "not":
        value = slow(node[1], row)
        return None if value is None else not value
    if node[0] in ("and", "or"):
        values = [slow(part, row) for part in node[1]]
        decisive = node[0] == "or"
        return decisive if decisive in values else None if None in values else not decisive
    value = row[node[0]]
    return None if value is None or math.isnan(value) else OPS[node[1]](value, node[2])


@given(tree)
def test_logic_equals_the_slow_evaluator(node):
    rows = [
        dict(zip(COLUMNS, values, strict=True))
        for values in zip(*(c.to_pylist() for c in COLUMNS.values()), strict=True)
    ]
    assert truth(written(node)) == [slow(node, row) for row in rows]


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text):
    found = None
    with contextlib.suppress(ValueError):
        found = Expression.parse(text)
    assert found is None or list(found.rules())
