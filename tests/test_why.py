"""`tamis why`: the fate of a document, every rule that it failed, bounds of overrides included."""

from __future__ import annotations

import io
import json

import duckdb
from rich.console import Console
from test_engine import documents, go, write_manifest

import stages
from pipeline import why

stages.load_all()


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


def test_edits_are_shown_and_personal_data_is_not(tmp_path):
    text = "The first line ends well.\nThis one has no end mark\nWrite to jane.doe@site.org for the rest."
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": text, "url": "http://a.example/1"}) + "\n")
    manifest = {
        "name": "edits",
        "sources": [{"name": "in", "format": "jsonl", "paths": str(tmp_path / "in.jsonl")}],
        "stages": ["extract", "c4", "pii"],
    }
    (tmp_path / "m.yaml").write_text(json.dumps(manifest))
    go(tmp_path / "m.yaml", tmp_path / "run")
    out = io.StringIO()
    why.explain(tmp_path / "run", "http://a.example/1", Console(file=out, width=160), with_edits=True)
    told = out.getvalue()
    assert "c4 took out or replaced:\n    | This one has no end mark" in told
    assert "pii took out or replaced:\n    | email, bytes" in told
    assert "jane" not in told
