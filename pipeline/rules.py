"""Rules: comparisons of columns, joined by `and`, `or` and `not`, as text that a manifest holds.

    gopher_quality.words >= 50 and (langid.language in [en, de] or langid.score < 0.5)

Three-valued logic, as in SQL, for numbers: a comparison with a null or a NaN is unknown, `false and unknown` is false,
`true or unknown` is true. What an unknown rule means for a document is said by who applies it. Text is two-valued: a
missing language is not `en`, so `==` and `in` are false and `!=` and `not in` true. A bound may be a percentile of a
reference, as in `perplexity.score <= p60`. Cost: one comparison of two arrays for each term.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Value = float | str | tuple

_COMPARE = {">=": pc.greater_equal, "<=": pc.less_equal, ">": pc.greater, "<": pc.less, "==": pc.equal,
            "!=": pc.not_equal}  # fmt: skip
_SIDE = {">=": "_min", ">": "_min", "<=": "_max", "<": "_max"}
_TOKEN = re.compile(
    r"""\s*(?: (?P<list>\[[^\]]*\]) | (?P<quoted>'[^']*'|"[^"]*") | (?P<sign>[()]) | (?P<op>>=|<=|==|!=|>|<)
            | (?P<word>[^\s()<>=!\[\]'"]+) )""",
    re.VERBOSE,
)
_COLUMN = re.compile(r"^[A-Za-z_][\w.-]*$")
_PERCENTILE = re.compile(r"^p(\d{1,2}(?:\.\d+)?|100)$")
_EXPECTED = "expected `column OP value` with OP one of >= <= > < == != in, found {!r}"
MAX_CHARS, MAX_DEPTH = 10_000, 50


@dataclass(frozen=True)
class Rule:
    """A document is kept while `column op value` holds; `name` is the reason that the ledger gives otherwise."""

    column: str
    op: str  # >= <= > < == != in, not in
    value: Value
    name: str

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Rule:
        """`words >= 50`, `label == en`, `label in [en, de]`: one comparison.

        Raises ValueError with the expected form. The default name is the column with `_min` or `_max` for a
        bound, else the column itself.
        """
        found = Expression.parse(text, name)
        if found.rule is None:
            raise ValueError(f"expected one comparison, found {text!r}")
        return found.rule

    @property
    def percentile(self) -> float | None:
        """60.0 for the bound `p60`, else None."""
        match = _PERCENTILE.match(self.value) if self.op in _SIDE and isinstance(self.value, str) else None
        return float(match[1]) if match else None

    def truth(self, array: pa.Array, bound: pa.Array | None = None) -> pa.BooleanArray:
        """Does each value satisfy the rule? Null where a number is null or NaN. `bound` replaces a percentile."""
        numeric = pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)
        if isinstance(self.value, tuple):
            kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
            found = pc.is_in(array, value_set=pa.array(list(self.value)).cast(kind))
            found = pc.invert(found) if self.op == "not in" else found
            return pc.if_else(pc.is_null(array), pa.scalar(None, pa.bool_()), found) if numeric else found
        if numeric:
            numbers = (array.cast(pa.uint8()) if pa.types.is_boolean(array.type) else array).cast(pa.float64())
            numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
            return _COMPARE[self.op](numbers, pa.scalar(self.value, pa.float64()) if bound is None else bound)
        return pc.fill_null(_COMPARE[self.op](array, pa.scalar(str(self.value))), self.op == "!=")

    def holds(self, array: pa.Array) -> np.ndarray:
        """bool array: as `truth`, and a number that is null or NaN (not scored, not applicable) passes."""
        return np.asarray(pc.fill_null(self.truth(array), True), dtype=bool)


@dataclass(frozen=True)
class Expression:
    """A tree: `op` is `and`, `or` or `not` over `parts`, or `is` for the comparison `rule`."""

    op: str
    parts: tuple[Expression, ...] = ()
    rule: Rule | None = None

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Expression:
        """Read an expression. Raises ValueError: `expected ..., found ...`."""
        if len(text) > MAX_CHARS:
            raise ValueError(f"expected a rule of at most {MAX_CHARS} characters, found {len(text)}")
        reader = _Reader(text, name)
        found = reader.any_of(0)
        if reader.kind != "end":
            raise ValueError(f"expected `and`, `or` or the end of the rule, found {reader.token!r} in {text!r}")
        return found

    def rules(self) -> Iterator[Rule]:
        """Every comparison, from left to right."""
        if self.rule is not None:
            yield self.rule
        for part in self.parts:
            yield from part.rules()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(sorted({rule.column for rule in self.rules()}))

    def truth(
        self, columns: Callable[[str], pa.Array], bounds: Mapping[Rule, pa.Array] | None = None
    ) -> pa.BooleanArray:
        """Truth for each row (null: unknown). `columns(name)` gives the arrays, `bounds` those of percentiles."""
        if self.rule is not None:
            return self.rule.truth(columns(self.rule.column), (bounds or {}).get(self.rule))
        found = [part.truth(columns, bounds) for part in self.parts]
        if self.op == "not":
            return pc.invert(found[0])
        result = found[0]
        for other in found[1:]:
            result = pc.and_kleene(result, other) if self.op == "and" else pc.or_kleene(result, other)
        return result


class _Reader:
    """Recursive descent over the tokens of one rule: `or` binds weakest, then `and`, then `not`."""

    def __init__(self, text: str, name: str | None) -> None:
        self.text, self.name, self.at = text, name, 0
        self.kind, self.token = "end", ""
        self.next()

    def next(self) -> str:
        """Step to the next token; returns the one left behind."""
        left = self.token
        if not self.text[self.at :].strip():
            self.kind, self.token = "end", ""
            return left
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup is None:
            raise ValueError(_EXPECTED.format(self.text))
        self.kind, self.token, self.at = match.lastgroup, match[match.lastgroup], match.end()
        return left

    def any_of(self, depth: int) -> Expression:
        parts = [self.all_of(depth)]
        while self.kind == "word" and self.token == "or":
            self.next()
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Expression("or", tuple(parts))

    def all_of(self, depth: int) -> Expression:
        parts = [self.negated(depth)]
        while self.kind == "word" and self.token == "and":
            self.next()
            parts.append(self.negated(depth))
        return parts[0] if len(parts) == 1 else Expression("and", tuple(parts))

    def negated(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            raise ValueError(f"expected at most {MAX_DEPTH} nested parentheses, found more")
        if self.kind == "word" and self.token == "not":
            self.next()
            return Expression("not", (self.negated(depth + 1),))
        if self.token == "(" and self.kind == "sign":
            self.next()
            inner = self.any_of(depth + 1)
            if not (self.kind == "sign" and self.token == ")"):
                raise ValueError(f"expected `)`, found {self.token or 'the end'!r} in {self.text!r}")
            self.next()
            return inner
        return Expression("is", rule=self.comparison())

    def comparison(self) -> Rule:
        expected = _EXPECTED.format(self.text)
        if self.kind != "word" or not _COLUMN.match(self.token):
            raise ValueError(expected)
        column = self.next()
        op = self.next() if self.kind in ("op", "word") else ""
        if op == "not":
            op = f"not {self.next()}"
        if op in ("in", "not in"):
            if self.kind != "list":
                raise ValueError(f"expected a list like [en, de] after `{op}`, found {self.token or 'the end'!r}")
            items = (item.strip().strip("'\"") for item in self.next()[1:-1].split(","))
            return Rule(column, op, tuple(item for item in items if item), self.name or column)
        if op not in _COMPARE or self.kind not in ("word", "quoted"):
            raise ValueError(expected)
        quoted, raw = self.kind == "quoted", self.next()
        rule = Rule(column, op, raw[1:-1] if quoted else raw, self.name or column + _SIDE.get(op, ""))
        if quoted:
            return rule
        try:
            rule = replace(rule, value=float(raw))
        except ValueError:
            if op in _SIDE and rule.percentile is None:
                raise ValueError(f"expected a number or a percentile like p60 after `{op}`, found {raw!r}") from None
        return rule
