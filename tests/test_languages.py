"""Languages: settings from a file beside the manifest, and a word about every language that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from test_engine import go

import stages

stages.load_all()

GERMAN = "Das Haus am See ist alt, und die Fenster sind mit den Jahren blind geworden, aber der Garten ist schön. " * 8
ENGLISH = "The house by the lake is old, and the windows have gone blind with the years, but the garden is fine. " * 8
FRENCH = (
    "La maison au bord du lac est vieille, et les fenêtres sont devenues aveugles avec les années qui passent. " * 8
)

SETTINGS = """
stop_words:
  en: [the, be, to, of, and, that, have, with]
  de: [der, die, und, in, den, von, zu, das]
overrides:
  - where: langid.language == de
    set: {gopher_quality.stop_words_min: 5}
"""


def run(tmp_path: Path, quality: dict, select: dict, identify: bool = True) -> tuple[dict, list[dict]]:
    texts = [ENGLISH, GERMAN, FRENCH]
    rows = [json.dumps({"text": f"{i} {text}", "url": f"http://a.example/{i}"}) for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "languages.yaml").write_text(SETTINGS)
    manifest = {
        "name": "languages",
        "sources": [{"name": "in", "format": "jsonl", "paths": str(tmp_path / "in.jsonl")}],
        "stages": ["extract", *(["langid"] if identify else []), {"gopher_quality": quality}, {"select": select}],
    }
    (tmp_path / "m.yaml").write_text(json.dumps(manifest))
    summary = go(tmp_path / "m.yaml", tmp_path / "run").summary
    return summary, pq.read_table(tmp_path / "run" / "ledger").to_pylist()


def test_stop_words_and_bounds_of_each_language(tmp_path):
    words = {"by": "langid.language", "stop_words": {"from_file": "languages.yaml", "key": "stop_words"}}
    overrides = {"overrides": {"from_file": "languages.yaml", "key": "overrides"}}
    summary, rows = run(tmp_path, words, {"rules": ["gopher_quality"], **overrides})
    assert [row["language"] for row in rows] == ["en", "de", "fr"]
    stop_words = [row["scores"]["gopher_quality"]["stop_words"] for row in rows]
    assert stop_words[0] >= 3
    assert stop_words[1] >= 3
    assert stop_words[2] is None, "no list for French: unknown, and not zero"
    assert [row["verdict"] for row in rows] == ["kept", "dropped", "kept"]
    assert (rows[1]["reason"], rows[1]["threshold"]) == ("gopher_quality.stop_words_min", 5)
    assert any("gopher_quality: has no settings for 1 documents in fr (1)" in line for line in summary["warnings"])


def test_english_is_never_assumed_in_silence(tmp_path):
    summary, _ = run(tmp_path, {}, {"rules": ["gopher_quality.words >= 1"]})
    assert any("gopher_quality: takes for en 2 documents in de (1), fr (1)" in line for line in summary["warnings"])


def test_without_language_identification_the_run_says_what_it_took_for_granted(tmp_path):
    summary, _ = run(tmp_path, {}, {"rules": ["gopher_quality.words >= 1"]}, identify=False)
    expected = "gopher_quality: no stage before it identifies languages; it takes for en every document"
    assert any(expected in line for line in summary["warnings"])
