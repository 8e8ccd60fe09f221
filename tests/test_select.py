"""Selection: rules, overrides, percentiles, nulls, files with values, and what each rule alone removed."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy  # noqa: F401 - registers the toy stages
from pydantic import Field
from test_engine import documents, go, write_manifest

from pipeline import manifest as manifests
from pipeline import select as selection
from pipeline.errors import ManifestError
from pipeline.rules import Rule
from pipeline.select import KeepRule, Override, SelectSpec, UseRules
from pipeline.stage import Batch, Params

PUBLISHED = {"q": [Rule.parse("words >= 50"), Rule.parse("ratio <= 0.5"), Rule("lang", "in", ("en",), "lang")]}


class Measured(Params):
    columns: list[str] = Field(["q.words"])
    by: str = "l.language"


class Folder:
    seed, node = 0, "select"

    def __init__(self, path: Path) -> None:
        self.path = path

    def artifact(self, node: str) -> Path:
        return self.path


def batch(words, ratio=None, languages=None) -> Batch:
    n = len(words)
    return Batch(
        {
            "q.words": pa.array(words, pa.int32()),
            "q.ratio": pa.array(ratio or [0.1] * n, pa.float64()),
            "q.lang": pa.array(["en"] * n),
            "l.language": pa.array(languages or ["en"] * n),
            "domain": pa.array([f"d{i}.org" for i in range(n)]),
        },
        n,
    )


def run(spec: SelectSpec, rows: Batch, tools=None):
    params = selection.resolve(spec, PUBLISHED, ["q"], {"cut": Measured()})
    return selection.select(rows, selection.Select.model_validate(params.model_dump(mode="json")), tools)


def test_first_reason_all_failures_score_and_threshold():
    out = run(SelectSpec(), batch([100, 10, 20], [0.1, 0.1, 0.9]))
    assert list(out.drop) == [False, True, True]
    assert out.reason.to_pylist() == [None, "q.words_min", "q.words_min"]
    assert out.columns["failed_rules"].to_pylist() == [None, ["q.words_min"], ["q.words_min", "q.ratio_max"]]
    assert out.score.to_pylist() == [None, 10, 20]
    assert out.threshold.to_pylist() == [None, 50, 50]


def test_null_keeps_unless_the_rule_says_drop():
    rows = batch([None, 10, None])
    assert list(run(SelectSpec(rules=["q.words >= 50"]), rows).drop) == [False, True, False]
    rule = KeepRule(keep="q.words >= 50 and q.ratio <= 1", name="both", on_null="drop")
    out = run(SelectSpec(rules=[rule]), rows)
    assert list(out.drop) == [True] * 3
    assert out.reason.to_pylist() == ["both"] * 3
    assert out.score.null_count == 3, "a rule of several comparisons has no single score"


def test_the_last_override_that_names_a_rule_wins():
    overrides = [
        Override(where="l.language in [de, ja]", set={"q.words_min": 5}),
        Override(where="l.language == ja", skip=["q.ratio_max"], set={"q.words_min": 30}),
    ]
    rows = batch([10, 10, 10, 40], [0.9, 0.1, 0.9, 0.9], ["en", "de", "ja", "ja"])
    out = run(SelectSpec(overrides=overrides), rows)
    failed = out.columns["failed_rules"].to_pylist()
    assert failed == [["q.words_min", "q.ratio_max"], None, ["q.words_min"], None]
    assert out.threshold.to_pylist() == [50, None, 30, None]


def test_percentiles_by_group(tmp_path):
    levels = {"": np.linspace(0, 1000, 101), "en": np.linspace(0, 100, 101), "de": np.linspace(0, 10, 101)}
    body = {"q.words": {group: {"n": 500, "p": list(map(float, p))} for group, p in levels.items()}}
    (tmp_path / "percentiles.json").write_text(json.dumps(body))
    rows = batch([59, 61, 5, 7, 7], languages=["en", "en", "de", "de", "fr"])
    out = run(SelectSpec(rules=["q.words <= p60.5"], reference="cut"), rows, Folder(tmp_path))
    assert list(out.drop) == [False, True, False, True, False], "a language that was not measured: unknown, kept"
    assert out.threshold.to_pylist() == pytest.approx([None, 60.5, None, 6.05, None])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SelectSpec(rules=["q.words <= p60"]), "`reference:`"),
        (SelectSpec(rules=["q.ratio <= p60"], reference="cut"), "columns that cut measures"),
        (SelectSpec(rules=["q.words >= 5", "q.words >= 7"]), "name of its own"),
        (SelectSpec(rules=[UseRules(use="r")]), "scoring node before"),
        (SelectSpec(rules=[UseRules(use="q", skip=["words"])]), "rule names of q"),
        (SelectSpec(overrides=[Override(where="l.language = de")]), "column OP value"),
        (SelectSpec(overrides=[Override(where="l.language == de", skip=["words"])]), "names of rules in force"),
        (SelectSpec(overrides=[Override(where="l.language == de", set={"q.words_min": "many"})]), "a bound like"),
        (SelectSpec(rules=[KeepRule(keep="q.words > 1 or q.ratio > 1", name="two")],
                    overrides=[Override(where="domain == a", set={"two": 3})]), "one comparison"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(spec, message):
    with pytest.raises(ValueError, match=message):
        selection.resolve(spec, PUBLISHED, ["q"], {"cut": Measured()})


def manifest(tmp_path, select: dict) -> Path:
    return write_manifest(tmp_path, documents(), ["toy_length", {"select": select}])


def test_values_may_live_in_a_file_beside_the_manifest(tmp_path):
    (tmp_path / "settings.yaml").write_text("short:\n  rules: [toy_length.chars >= 30]\n")
    (tmp_path / "rules.txt").write_text("# a list\n\ntoy_length.chars >= 30\n")
    for value in ({"from_file": "settings.yaml", "key": "short.rules"}, {"from_file": "rules.txt"}):
        loaded = manifests.load(manifest(tmp_path, {"rules": value}))
        assert [rule.name for rule in loaded.entries[1].params.rules] == ["toy_length.chars_min"]
    for value, message in [
        ({"from_file": "../secret.yaml"}, "in the manifest's folder"),
        ({"from_file": "/etc/passwd"}, "in the manifest's folder"),
        ({"from_file": "none.txt"}, "a readable text file"),
        ({"from_file": "settings.yaml", "key": "short.rule"}, "found rules"),
        ({"from_file": "rules.txt", "keys": "x"}, "from_file: path"),
    ]:
        with pytest.raises(ManifestError, match=message):
            manifests.load(manifest(tmp_path, {"rules": value}))


def test_the_summary_says_what_each_rule_alone_removed(tmp_path):
    rules = ["toy_length.chars >= 33", {"keep": "toy_length.chars >= 34", "name": "longer"}, "toy_length.chars >= 1"]
    rules[2] = {"keep": "toy_length.chars >= 1", "name": "any"}
    path = manifest(tmp_path, {"rules": rules})
    summary = go(path, tmp_path / "run").summary
    rows = pq.read_table(tmp_path / "run" / "ledger").to_pylist()
    failed = [row["failed_rules"] for row in rows if row["failed_rules"] is not None]
    by_name = {row["rule"]: row for row in summary["impact"]["rules"]}
    assert list(by_name) == ["toy_length.chars_min", "longer", "any"]
    for name, row in by_name.items():
        assert row["failed"] == sum(name in names for names in failed)
        assert row["first"] == sum(r["reason"] == name for r in rows)
        assert row["only"] == sum(names == [name] for names in failed)
    assert by_name["longer"]["only"] > 0
    assert by_name["toy_length.chars_min"]["only"] == by_name["any"]["failed"] == 0
    seen = summary["stages"][2]["in"]
    assert {row["seen"] for row in by_name.values()} == {seen}
    source = summary["impact"]["by"]["source"][0]
    assert (source["documents"], source["kept"]) == (len(rows), sum(row["verdict"] == "kept" for row in rows))
    assert source["rules"]["longer"] == {"failed": by_name["longer"]["failed"], "only": by_name["longer"]["only"]}


def test_kind_and_licence_come_from_the_source(tmp_path):
    path = manifest(tmp_path, {"rules": ["toy_length.chars >= 5 or kind in [wiki]"]})
    body = json.loads(path.read_text())
    body["sources"][0] |= {"kind": "wiki", "licence": "cc-by-sa-4.0"}
    path.write_text(json.dumps(body))
    go(path, tmp_path / "run")
    row = duckdb.sql(
        f"select count(distinct kind), min(kind), min(licence), count(*) filter (stage = 'select'), min(domain) "
        f"from '{tmp_path}/run/ledger/*.parquet'"
    ).fetchall()[0]
    assert row == (1, "wiki", "cc-by-sa-4.0", 0, "toy.example")
