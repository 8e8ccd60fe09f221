"""The engine on toy stages: conservation, fusion, caching, quarantine, resume and determinism."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import pytest
import toy
from rich.console import Console

from pipeline import manifest as manifests
from pipeline import run as driver
from pipeline.errors import ManifestError, TamisError
from pipeline.executor import InlineExecutor
from pipeline.progress import Reporter

STAGES = ["toy_length", "select", "toy_upper", "toy_unique", "toy_count", "toy_sink"]
QUIET = Reporter(Console(quiet=True))


def write_manifest(folder: Path, lines: list[str], stages: list, slice_bytes: int = 200, name: str = "toy") -> Path:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    half = len(lines) // 2
    for number, part in enumerate((lines[:half], lines[half:])):
        path = folder / "in" / f"docs-{number}.txt"
        text = "".join(line + "\n" for line in part)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    body = {
        "name": name,
        "seed": 3,
        "sources": [{"name": "toy", "format": "toy_lines", "paths": f"{folder}/in/*.txt", "slice_bytes": slice_bytes}],
        "stages": stages,
    }
    path = folder / "m.yaml"
    path.write_text(json.dumps(body))  # JSON is YAML
    return path


def documents(count: int = 60) -> list[str]:
    lines = [f"document number {i % 40} with some words" for i in range(count)]
    lines[5], lines[11], lines[17], lines[23] = "!bad record", "!junk page", "ab", "this will explode now"
    return lines


def go(path: Path, run_dir: Path, executor=None) -> driver.RunResult:
    return driver.run(manifests.load(path), run_dir, lambda: executor or InlineExecutor(), QUIET)


def contents(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every file that must not depend on how the run went."""
    found = {}
    for view in ("ledger", "quarantine", "tokens", "toy"):
        for path in sorted((run_dir / view).rglob("*")):
            found[f"{view}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def ledger(run_dir: Path, sql: str = "select * from led"):
    with duckdb.connect() as db:
        db.execute(f"create view led as select * from '{run_dir}/ledger/*.parquet'")
        return db.execute(sql).fetchall()


def test_every_record_has_one_fate(tmp_path):
    result = go(write_manifest(tmp_path, documents(), STAGES), tmp_path / "run")
    assert result.summary["ok"]
    totals = result.summary["documents"]
    assert totals["in"] == 60 == totals["kept"] + totals["dropped"] + totals["quarantined"]
    fates = {(v, s, r): c for v, s, r, c in ledger(
        tmp_path / "run", "select verdict, stage, reason, count(*) from led group by all")}  # fmt: skip
    assert fates["quarantined", "ingest", "broken"] == 1
    assert fates["quarantined", "toy_length", "stage_error"] == 1
    assert fates["dropped", "ingest", "junk"] == 1
    assert fates["dropped", "select", "toy_length.chars_min"] == 1
    assert fates["dropped", "toy_unique", "copy"] > 10
    row = ledger(tmp_path / "run", "select score, threshold, scores.toy_length.chars from led where stage = 'select'")
    assert row == [(2.0, 5.0, 2)]
    for stage in result.summary["stages"]:
        assert stage["in"] == stage["kept"] + stage["dropped"] + stage["quarantined"], stage["name"]
        assert stage["bytes_in"] == sum(stage[f"bytes_{f}"] for f in ("kept", "dropped", "quarantined")), stage["name"]
    with duckdb.connect() as db:
        raw = db.execute(f"select stage, raw from '{tmp_path}/run/quarantine/*.parquet' order by stage").fetchall()
    assert raw == [("ingest", b"!bad record"), ("toy_length", b"this will explode now")]


def test_second_run_does_nothing_and_a_threshold_reruns_only_what_depends(tmp_path):
    path = write_manifest(tmp_path, documents(), STAGES)
    go(path, tmp_path / "run")
    before = contents(tmp_path / "run")
    toy.calls.clear()
    assert not go(path, tmp_path / "run").worked
    changed = write_manifest(
        tmp_path, documents(), [STAGES[0], {"select": {"rules": ["toy_length.chars >= 33"]}}, *STAGES[2:]]
    )
    result = go(changed, tmp_path / "run")
    cached = {stage["name"]: stage["cached"] for stage in result.summary["stages"]}
    assert cached["ingest"]
    assert cached["toy_length"]
    assert not cached["select"]
    assert not cached["toy_unique"]
    assert toy.calls == []
    assert contents(tmp_path / "run") != before
    go(write_manifest(tmp_path, documents(), STAGES), tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("how", ["rows", "reason", "always"])
def test_a_stage_that_loses_documents_fails_the_run(tmp_path, how):
    path = write_manifest(tmp_path, documents(), ["toy_length", "select", {"toy_broken": {"how": how}}])
    result = go(path, tmp_path / "run")
    assert not result.summary["ok"]
    assert any("toy_broken" in failure for failure in result.failures)
    assert not (tmp_path / "run" / "ledger").exists()


def test_slices_and_interruptions_do_not_change_the_bytes_that_count(tmp_path):
    path = write_manifest(tmp_path, documents(), STAGES)
    go(path, tmp_path / "a")

    class Dying(InlineExecutor):
        """Ends the driver after a few tasks, again and again."""

        def __init__(self, tasks: int) -> None:
            self.left = tasks

        def run(self, run_dir, tasks):
            for done in super().run(run_dir, tasks):
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
                yield done

    for _ in range(40):
        try:
            go(path, tmp_path / "b", Dying(3))
            break
        except KeyboardInterrupt:
            continue
    go(path, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_torn_part_is_never_believed(tmp_path):
    path = write_manifest(tmp_path, documents(), STAGES)
    go(path, tmp_path / "run")
    before = contents(tmp_path / "run")
    victim = next((tmp_path / "run" / "stages").glob("toy_upper@*/part-*.parquet"))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    (tmp_path / "run" / "stages" / victim.parent.name / "part-stray.parquet").write_bytes(b"torn")
    result = go(path, tmp_path / "run")
    assert result.worked
    assert contents(tmp_path / "run") == before


def test_order_and_cut_of_the_input_do_not_change_fates(tmp_path):
    lines = documents()
    go(write_manifest(tmp_path / "x", lines, STAGES), tmp_path / "x" / "run")
    go(write_manifest(tmp_path / "y", lines, STAGES, slice_bytes=90), tmp_path / "y" / "run")
    query = "select doc_id, verdict, stage, reason, cluster_id from led order by doc_id"
    assert ledger(tmp_path / "x" / "run", query) == ledger(tmp_path / "y" / "run", query)


def test_an_empty_source_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    path = write_manifest(tmp_path, [], STAGES)
    with pytest.raises(TamisError, match="expected at least one record, found none"):
        go(path, tmp_path / "run")


def test_a_missing_input_is_an_error_before_any_work(tmp_path):
    path = write_manifest(tmp_path, documents(), STAGES)
    loaded = manifests.load(path, [f"sources.0.paths={tmp_path}/nothing/*.txt"])
    with pytest.raises(ManifestError, match="at least one file"):
        driver.run(loaded, tmp_path / "run", InlineExecutor, QUIET)


def test_a_run_that_keeps_nothing_still_ends_with_a_full_ledger(tmp_path):
    stages = [STAGES[0], {"select": {"rules": ["toy_length.chars >= 1000"]}}, "toy_upper", "toy_unique"]
    result = go(write_manifest(tmp_path, documents(), stages), tmp_path / "run")
    assert result.summary["ok"]
    assert result.summary["documents"]["kept"] == 0
    assert ledger(tmp_path / "run", "select count(*) from led") == [(60,)]
    assert any("dropped 100%" in warning for warning in result.summary["warnings"])


def test_nan_from_a_stage_quarantines_its_record(tmp_path):
    path = write_manifest(tmp_path, documents(), ["toy_ratio"])
    result = go(path, tmp_path / "run")
    assert not result.failures
    rows = duckdb.sql(
        f"select error, count(*) from '{tmp_path}/run/quarantine/*.parquet' where stage = 'toy_ratio' group by all"
    ).fetchall()
    assert rows == [("column ratio: expected a finite number or null, found NaN or infinity", 1)]
    worst = duckdb.sql(f"select count(*) from '{tmp_path}/run/ledger/*.parquet' where isnan(scores.toy_ratio.ratio)")
    assert worst.fetchall() == [(0,)]


def test_a_machine_that_would_give_another_result_is_refused(tmp_path, monkeypatch):
    path = write_manifest(tmp_path, documents(), STAGES)

    class OtherMachine(InlineExecutor):
        def run(self, run_dir, tasks):
            monkeypatch.setitem(toy.machine, "program", "2.0")
            return super().run(run_dir, tasks)

    result = go(path, tmp_path / "run", OtherMachine())
    assert "expected '1.0', as when the plan was made, found '2.0'" in result.failures[0]
    monkeypatch.setitem(toy.machine, "program", "2.0")
    assert not go(path, tmp_path / "run").failures, "a plan made there is another plan"
