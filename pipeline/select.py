"""`select`: the one place where scores become decisions.

Rules name a column and a bound; a document is kept while all of them hold, and the first that fails is its
reason in the ledger, with score and threshold. A null score passes: the rule does not apply to that document.
Changing a threshold re-runs this stage and what follows it, never a scoring stage. Cost: one comparison of two
arrays for each rule.

A manifest writes rules in three forms::

    - select:
        rules:
          - gopher_quality                                  # the thresholds published for that node's variant
          - {use: c4, set: {sentences_min: 5}, skip: [curly]}   # the same, changed by rule name
          - langid.score >= 0.65                            # a rule of one's own; `name:` with the form below
          - {keep: "perplexity.score <= 900", name: too_odd}

Without `rules`, the published rules of every scoring node since the last `select` apply.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Out, Params, Rule, Tools, doc_stage


class UseRules(Params):
    use: str = Field(description="node whose published rules apply")
    set: dict[str, float | str] = Field({}, description="new bounds, by rule name")
    skip: list[str] = Field([], description="rule names to leave out")


class KeepRule(Params):
    keep: str = Field(description="`column OP value` that a kept document satisfies")
    name: str | None = Field(None, description="reason in the ledger when it does not")


class SelectSpec(Params):
    """The form of a manifest, before rule names are resolved against the nodes."""

    rules: list[str | UseRules | KeepRule] | None = Field(None, description="rules in order; default: all published")


class ResolvedRule(Params):
    column: str
    op: Literal[">=", "<=", ">", "<", "==", "!=", "in", "not in"]
    value: float | str | list[str]
    name: str

    def rule(self) -> Rule:
        value = tuple(self.value) if isinstance(self.value, list) else self.value
        return Rule(self.column, self.op, value, self.name)


class Select(Params):
    rules: list[ResolvedRule] = Field(description="rules over qualified columns, in order")


def resolve(spec: SelectSpec, published: dict[str, list[Rule]], since: list[str]) -> Select:
    """Expand a manifest's rules. `published` maps each earlier scoring node to its rules (bare columns), `since`
    lists the nodes after the last select. Raises ValueError with what was expected and found."""
    resolved: list[Rule] = []
    for item in spec.rules if spec.rules is not None else list(since):
        if isinstance(item, KeepRule):
            resolved.append(_own(item.keep, item.name))
        elif isinstance(item, UseRules) or item in published:
            resolved += _published(item if isinstance(item, UseRules) else UseRules(use=item), published)
        else:
            resolved.append(_own(item, None))
    return Select(
        rules=[
            ResolvedRule(
                column=rule.column,
                op=rule.op,  # type: ignore[arg-type]
                value=list(rule.value) if isinstance(rule.value, tuple) else rule.value,
                name=rule.name,
            )
            for rule in resolved
        ]
    )


def _own(text: str, name: str | None) -> Rule:
    return Rule.parse(text, name)


def _published(item: UseRules, published: dict[str, list[Rule]]) -> list[Rule]:
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
            rules.append(replace(rule, column=f"{item.use}.{rule.column}", name=f"{item.use}.{rule.name}", value=value))
    return rules


@doc_stage("select", Select, reads=lambda p: tuple(sorted({r.column for r in p.rules})), drops=True)
def select(batch: Batch, params: Select, tools: Tools) -> Out:
    """Keep a document while every rule holds; the first rule that fails gives reason, score and threshold."""
    n = batch.num_rows
    drop = np.zeros(n, bool)
    which = np.full(n, -1, np.int64)
    score = np.full(n, np.nan)
    threshold = np.full(n, np.nan)
    for number, resolved in enumerate(params.rules):
        rule = resolved.rule()
        array = batch[rule.column]
        failed = ~rule.holds(array) & ~drop
        if not failed.any():
            continue
        drop |= failed
        which[failed] = number
        if isinstance(rule.value, float | int):
            threshold[failed] = rule.value
            score[failed] = np.asarray(array.cast(pa.float64()).fill_null(np.nan))[failed]
    names = pa.array([rule.name for rule in params.rules] or [""])
    reason = names.take(pa.array(which, pa.int64(), mask=which < 0))
    return Out(
        drop=drop,
        reason=reason,
        score=pa.array(score, pa.float64(), mask=np.isnan(score)),
        threshold=pa.array(threshold, pa.float64(), mask=np.isnan(threshold)),
    )
