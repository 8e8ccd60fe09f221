"""`select`: the one place where scores become decisions.

A document is kept while every rule holds. The first that fails is its reason in the ledger, with score and threshold;
all that failed are kept beside it, so that the report can say what only one rule removed. A rule over a number that is
null (not scored, not applicable, undefined) keeps the document unless the rule says `on_null: drop`; a missing text,
such as a language, is simply not the one asked for. Changing a threshold re-runs this stage and what follows it, never
a scoring stage. Cost: a comparison of two arrays for each term.

A manifest writes rules in three forms, and may change them for some documents::

    - select:
        rules:
          - gopher_quality                                  # the thresholds published for that node's variant
          - {use: c4, set: {sentences_min: 5}, skip: [curly]}   # the same, changed by rule name
          - langid.score >= 0.65 or kind in [wiki, book]    # a rule of one's own; `name:` with the form below
          - {keep: "perplexity.score <= p60", name: too_odd, on_null: drop}
        reference: cutoffs                                  # the `percentiles` node that p60 is read from
        overrides:                                          # where several match, the last one that names a rule wins
          - {where: "langid.language in [de, nl]", set: {gopher_quality.mean_word_length_max: 12}}
          - {where: "domain == wikipedia.org", skip: [gopher_quality.stop_words_min]}

Without `rules`, the published rules of every scoring node since the last `select` apply.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.rules import Expression, Rule
from pipeline.stage import Batch, Out, Params, StageError, Tools, doc_stage

PERCENTILES = "percentiles.json"
Bound = float | str | list[str]


class UseRules(Params):
    use: str = Field(description="node whose published rules apply")
    set: dict[str, Bound] = Field({}, description="new bounds, by rule name")
    skip: list[str] = Field([], description="rule names to leave out")


class KeepRule(Params):
    keep: str = Field(description="what a kept document satisfies: `column OP value`, joined by and, or, not")
    name: str | None = Field(None, description="reason in the ledger when it does not")
    on_null: Literal["keep", "drop"] = Field("keep", description="fate of a document for which the rule is unknown")


class Override(Params):
    where: str = Field(description="the documents, as a rule: by language, host, domain, kind, or any score")
    set: dict[str, Bound] = Field({}, description="new bounds, by full rule name")
    skip: list[str] = Field([], description="full names of rules that do not apply to them")


class SelectSpec(Params):
    """The form of a manifest, before rule names are resolved against the nodes."""

    rules: list[str | UseRules | KeepRule] | None = Field(None, description="rules in order; default: all published")
    overrides: list[Override] = Field([], description="other bounds for some documents")
    reference: str = Field("", description="`percentiles` node that bounds such as p60 are read from")


class ResolvedRule(Params):
    """`keep` is the whole rule; a rule of one comparison has it in `column`, `op` and `value` too."""

    name: str
    keep: str
    column: str | None = None
    op: str | None = None
    value: Bound | None = None
    on_null: Literal["keep", "drop"] = "keep"

    def expression(self, value: Bound | None = None) -> Expression:
        """The rule, with another bound where one is given."""
        if self.column is None or self.op is None or self.value is None:
            return Expression.parse(self.keep, self.name)
        bound = self.value if value is None else value
        held = tuple(bound) if isinstance(bound, list) else bound
        return Expression("is", rule=Rule(self.column, self.op, held, self.name))


class Select(Params):
    rules: list[ResolvedRule] = Field(description="rules over qualified columns, in order")
    overrides: list[Override] = Field([], description="other bounds for some documents, in order")
    reference: str = Field("", description="node with percentiles")
    by: str = Field("", description="column that the percentiles are grouped by")


def resolve(
    spec: SelectSpec, published: Mapping[str, list[Rule]], since: list[str], references: Mapping[str, Any]
) -> Select:
    """Expand a manifest's rules. `published` maps each earlier scoring node to its rules (bare columns), `since`
    lists the nodes after the last select, `references` has the parameters of earlier artifact nodes. Raises
    ValueError with what was expected and found."""
    rules: list[ResolvedRule] = []
    for item in spec.rules if spec.rules is not None else list(since):
        if isinstance(item, KeepRule):
            rules.append(_own(item))
        elif isinstance(item, UseRules) or item in published:
            rules += _published(item if isinstance(item, UseRules) else UseRules(use=item), published)
        else:
            rules.append(_own(KeepRule(keep=item)))
    names = [rule.name for rule in rules]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected a name of its own for each rule (add `name:`), found twice: {', '.join(twice)}")
    for override in spec.overrides:
        _check_override(override, {rule.name: rule for rule in rules})
    measured = [rule for r in rules for rule in r.expression().rules() if rule.percentile is not None]
    measured += [
        Rule(r.column, r.op, value, r.name)
        for r in rules
        for override in spec.overrides
        if r.column and r.op and isinstance(value := override.set.get(r.name), str)
        if Rule(r.column, r.op, value, r.name).percentile is not None
    ]
    by = ""
    if measured:
        reference = references.get(spec.reference)
        columns = getattr(reference, "columns", ())
        if reference is None:
            raise ValueError(f"expected `reference:` with an earlier percentiles node for {measured[0].value}, found "
                             f"{spec.reference or 'none'!r}")  # fmt: skip
        missing = sorted({rule.column for rule in measured} - set(columns))
        if missing:
            raise ValueError(f"expected columns that {spec.reference} measures, found {', '.join(missing)}")
        by = getattr(reference, "by", "") or ""
    return Select(rules=rules, overrides=spec.overrides, reference=spec.reference if measured else "", by=by)


def _own(item: KeepRule) -> ResolvedRule:
    found, text = Expression.parse(item.keep, item.name), " ".join(item.keep.split())
    if found.rule is None:
        return ResolvedRule(name=item.name or text, keep=text, on_null=item.on_null)
    return _resolved(found.rule, item.on_null)


def _resolved(rule: Rule, on_null: Literal["keep", "drop"] = "keep") -> ResolvedRule:
    value: Bound = list(rule.value) if isinstance(rule.value, tuple) else rule.value
    shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
    text = f"{rule.column} {rule.op} {shown}"
    return ResolvedRule(name=rule.name, keep=text, column=rule.column, op=rule.op, value=value, on_null=on_null)


def _published(item: UseRules, published: Mapping[str, list[Rule]]) -> list[ResolvedRule]:
    if item.use not in published:
        raise ValueError(
            f"expected a scoring node before this one ({', '.join(published) or 'none'}), found {item.use!r}"
        )
    known = {rule.name for rule in published[item.use]}
    unknown = sorted((set(item.set) | set(item.skip)) - known)
    if unknown:
        raise ValueError(f"expected rule names of {item.use} ({', '.join(sorted(known))}), found {', '.join(unknown)}")
    rules = []
    for rule in published[item.use]:
        if rule.name not in item.skip:
            value = item.set.get(rule.name, rule.value)
            held = tuple(value) if isinstance(value, list) else value
            name, column = f"{item.use}.{rule.name}", f"{item.use}.{rule.column}"
            rules.append(_resolved(replace(rule, column=column, name=name, value=held)))
    return rules


def _check_override(override: Override, rules: Mapping[str, ResolvedRule]) -> None:
    where = Expression.parse(override.where)
    if any(rule.percentile is not None for rule in where.rules()):
        raise ValueError(f"expected fixed bounds in `where`, found {override.where!r}")
    unknown = sorted((set(override.set) | set(override.skip)) - set(rules))
    if unknown:
        raise ValueError(f"expected names of rules in force ({', '.join(rules)}), found {', '.join(unknown)}")
    for name, value in override.set.items():
        if rules[name].column is None:
            raise ValueError(f"expected a rule of one comparison to set a bound of, found {rules[name].keep!r}")
        of_text = isinstance(value, str) and not Rule("x", rules[name].op or "", value, "x").percentile
        if isinstance(value, list) != isinstance(rules[name].value, list) or (of_text and rules[name].op in _ORDERED):
            raise ValueError(f"expected a bound like {rules[name].value!r} for {name}, found {value!r}")


_ORDERED = (">=", "<=", ">", "<")


def _reads(params: Select) -> tuple[str, ...]:
    columns = {column for rule in params.rules for column in rule.expression().columns}
    columns |= {column for override in params.overrides for column in Expression.parse(override.where).columns}
    return tuple(sorted(columns | ({params.by} if params.by else set())))


@functools.lru_cache(maxsize=8)
def _percentiles(path: Path, _mtime_ns: int) -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(path.read_text())


class _Judge:
    """The rules on one batch: masks of the overrides and bounds of the percentiles are made once."""

    def __init__(self, batch: Batch, params: Select, tools: Tools) -> None:
        self.batch, self.params = batch, params
        self.masks = [
            np.asarray(pc.fill_null(Expression.parse(o.where).truth(batch.__getitem__), False), dtype=bool)
            for o in params.overrides
        ]
        if params.reference:
            path = tools.artifact(params.reference) / PERCENTILES
            self.measured = _percentiles(path, path.stat().st_mtime_ns)

    def judge(self, rule: ResolvedRule) -> tuple[np.ndarray, np.ndarray]:
        """(bool: the rule holds, float64: bound in force or NaN) for each row."""
        holds, bound = self._apply(rule, None)
        for override, mask in zip(self.params.overrides, self.masks, strict=True):
            if rule.name in override.skip:
                holds, bound = holds | mask, np.where(mask, np.nan, bound)
            elif rule.name in override.set and mask.any():
                other_holds, other_bound = self._apply(rule, override.set[rule.name])
                holds, bound = np.where(mask, other_holds, holds), np.where(mask, other_bound, bound)
        return holds, bound

    def _apply(self, rule: ResolvedRule, value: Bound | None) -> tuple[np.ndarray, np.ndarray]:
        expression = rule.expression(value)
        bounds = {one: self._bound(one) for one in expression.rules() if one.percentile is not None}
        truth = pc.fill_null(expression.truth(self.batch.__getitem__, bounds), rule.on_null == "keep")
        bound = np.full(self.batch.num_rows, np.nan)
        if expression.rule in bounds:
            bound = np.asarray(bounds[expression.rule].fill_null(np.nan))
        elif expression.rule is not None and isinstance(expression.rule.value, float | int):
            bound[:] = expression.rule.value
        return np.asarray(truth, dtype=bool), bound

    def _bound(self, rule: Rule) -> pa.Array:
        """float64 bound for each row: the percentile of the row's group; null for a group that was not measured."""
        groups = self.measured.get(rule.column)
        if groups is None or rule.percentile is None:
            raise StageError(f"select: expected {rule.column} in the percentiles of {self.params.reference}, found "
                             f"{', '.join(self.measured) or 'none'}")  # fmt: skip
        at = {group: float(np.interp(rule.percentile, np.arange(101), found["p"])) for group, found in groups.items()}
        if not self.params.by:
            return pa.array([at.get("")] * self.batch.num_rows, pa.float64())
        encoded = self.batch[self.params.by].dictionary_encode()
        table = pa.array([at.get(str(group)) for group in encoded.dictionary.to_pylist()], pa.float64())
        return table.take(encoded.indices)


@doc_stage(
    "select",
    Select,
    reads=_reads,
    adds=[("failed_rules", pa.list_(pa.string()))],
    drops=True,
    artifacts=lambda p: (p.reference,) if p.reference else (),
)
def select(batch: Batch, params: Select, tools: Tools) -> Out:
    """Keep a document while every rule holds; the first rule that fails gives reason, score and threshold.

    Adds `failed_rules`: list of string, the names of all rules that failed, in order; null where none did.
    """
    n, judge = batch.num_rows, _Judge(batch, params, tools)
    failed = np.zeros((n, len(params.rules)), bool)
    score, threshold = np.full(n, np.nan), np.full(n, np.nan)
    dropped = np.zeros(n, bool)
    for number, rule in enumerate(params.rules):
        holds, bound = judge.judge(rule)
        failed[:, number] = ~holds
        first = ~holds & ~dropped
        if first.any() and rule.column is not None:
            array = batch[rule.column]
            if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
                score[first] = np.asarray(array.cast(pa.float64()).fill_null(np.nan))[first]
                threshold[first] = bound[first]
        dropped |= first
    names = pa.array([rule.name for rule in params.rules], pa.string())
    offsets = np.concatenate(([0], np.cumsum(failed.sum(axis=1)))).astype(np.int32)
    every = names.take(pa.array(np.nonzero(failed)[1], pa.int64()))
    which = pa.array(failed.argmax(axis=1) if len(names) else np.zeros(n, int), pa.int64(), mask=~dropped)
    return Out(
        columns={"failed_rules": pa.ListArray.from_arrays(pa.array(offsets), every, mask=pa.array(~dropped))},
        drop=dropped,
        reason=names.take(which) if len(names) else pa.nulls(n, pa.string()),
        score=pa.array(score, pa.float64(), mask=np.isnan(score)),
        threshold=pa.array(threshold, pa.float64(), mask=np.isnan(threshold)),
    )
