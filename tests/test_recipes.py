"""The recipes of manifests/ run from crawl to shards, on a crawl of Python's own documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_engine import QUIET

from pipeline import manifest as manifests
from pipeline import run as driver
from pipeline.executor import InlineExecutor
from stages.ingest import pydoc_crawl

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("c4", "ccnet", "dclm", "gopher", "refinedweb")  # fineweb has its own acceptance test


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crawl") / "pydoc.warc.gz"
    pydoc_crawl.crawl(path, 220)
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_as_it_stands(name: str, crawl: Path, tmp_path: Path) -> None:
    small = [f"sources.0.paths={crawl}", "probes.limit=20"]
    stages = manifests.load(ROOT / "manifests" / f"{name}.yaml", small).entries
    position = [entry.name for entry in stages].index("train_tokenizer") - 1  # the probes come first
    loaded = manifests.load(
        ROOT / "manifests" / f"{name}.yaml", [*small, f"stages.{position}.train_tokenizer.vocab_size=512"]
    )
    result = driver.run(loaded, tmp_path / "run", InlineExecutor, QUIET)
    assert not result.failures
    counts = result.summary["documents"]
    assert counts["in"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    assert counts["kept"] > 0, result.summary["stages"]
    index = json.loads((tmp_path / "run" / "tokens" / "index.json").read_text())
    assert sum(total["rows"] for total in index["totals"].values()) == counts["kept"]
    header = (ROOT / "manifests" / f"{name}.yaml").read_text()
    assert "# Follows:" in header
    assert "# Deviates:" in header
