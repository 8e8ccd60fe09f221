"""`tamis why`: the fate of a document, every rule that it failed, bounds of overrides included."""

from __future__ import annotations

import io

import duckdb
from rich.console import Console
from test_engine import documents, go, write_manifest

from pipeline import why


def test_every_failed_rule_is_named(tmp_path):
    rules = [
        {"keep": "toy_length.chars >= 40 or kind == wiki", "name": "joined"},
        "toy_length.chars >= 34",
        "toy_length.chars <= 100",
    ]
    override = {"where": "domain == other.example", "set": {"toy_length.chars_max": 1}}
    select = {"select": {"rules": rules, "overrides": [override]}}
    go(write_manifest(tmp_path, documents(), ["toy_length", select]), tmp_path / "run")
    query = f"select doc_id from '{tmp_path}/run/ledger/*.parquet' where reason = 'joined' and len(failed_rules) = 2"
    doc_id = duckdb.sql(query).fetchall()[0][0]
    out = io.StringIO()
    why.explain(tmp_path / "run", doc_id, Console(file=out, width=160))
    text = out.getvalue()
    assert "dropped by select: joined" in text
    assert "failed    joined, toy_length.chars_min" in text
    assert "toy_length.chars >= 40 or kind == wiki (select)" in " ".join(text.split())
    assert text.count("fails") == 2
    assert text.count("holds") == 1
