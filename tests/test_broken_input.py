"""Bad input through the whole engine: it is quarantined and counted, and the run goes on; a full disk is survived."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import duckdb
import pytest
from corpus import write_warc
from rich.console import Console

from pipeline import manifest as manifests
from pipeline import run as driver
from pipeline.commit import PartWriter
from pipeline.executor import InlineExecutor
from pipeline.progress import Reporter

STAGES = ["extract", "gopher_quality", {"select": {"rules": ["gopher_quality.words >= 5"]}}, "exact_dedup"]
FATES = ("kept", "dropped", "quarantined")


def go(folder: Path, sources: list[dict], run_dir: Path | None = None) -> tuple[driver.RunResult, Path]:
    path = folder / "m.yaml"
    path.write_text(json.dumps({"name": "bad", "sources": sources, "stages": STAGES}))
    run_dir = run_dir or folder / "run"
    result = driver.run(manifests.load(path), run_dir, InlineExecutor, Reporter(Console(quiet=True)))
    return result, run_dir


def fates(run_dir: Path) -> list[tuple]:
    sql = "select source, verdict, stage, reason, count(*) from read_parquet(?) group by all order by all"
    with duckdb.connect() as db:
        return db.execute(sql, [f"{run_dir}/ledger/*.parquet"]).fetchall()


def test_mixed_and_broken_sources_end_with_a_fate_for_every_record(tmp_path):
    write_warc(tmp_path / "web.warc.gz", pages=40, seed=1)
    text = "These are words of a document that a person wrote."
    lines = [
        json.dumps({"text": text, "url": "http://a.example/1"}).encode(),
        b"{not json",
        b'{"text": "nul \\u0000 byte in this text of several words"}',
        b'{"text": "lone surrogate \\ud800 in this text of several words"}',
        b'{"html": "<p>' + text.encode() + b' Twice.</p>", "url": "http://a.example/2"}',
        b"\xff\xfe\x00",
    ]
    (tmp_path / "docs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    torn = (tmp_path / "web.warc.gz").read_bytes()
    (tmp_path / "torn.warc.gz").write_bytes(torn[: len(torn) // 2])
    sources = [
        {"name": "web", "format": "warc", "paths": str(tmp_path / "web.warc.gz")},
        {"name": "torn", "format": "warc", "paths": str(tmp_path / "torn.warc.gz")},
        {"name": "lines", "format": "jsonl", "paths": str(tmp_path / "docs.jsonl")},
    ]
    result, run_dir = go(tmp_path, sources)
    assert result.summary["ok"]
    totals = result.summary["documents"]
    assert totals["in"] == sum(totals[fate] for fate in FATES)
    found = fates(run_dir)
    by_source = {name: sum(row[4] for row in found if row[0] == name) for name in ("web", "torn", "lines")}
    assert by_source["lines"] == 6
    assert by_source["web"] >= 40
    quarantined = {(row[0], row[2]) for row in found if row[1] == "quarantined"}
    assert {("web", "ingest"), ("torn", "ingest"), ("lines", "ingest")} <= quarantined
    with duckdb.connect() as db:
        rows = db.execute(
            "select source, error, raw from read_parquet(?) where source = 'lines'", [f"{run_dir}/quarantine/*.parquet"]
        ).fetchall()
    assert all(error for _, error, _ in rows)
    assert any(raw and b"not json" in raw for _, _, raw in rows)


def test_real_broken_files_do_not_stop_a_run(tmp_path, shared_data):
    result, run_dir = go(tmp_path, [{"name": "warc", "format": "warc", "paths": f"{shared_data}/warc/*"}])
    assert result.summary["ok"]
    totals = result.summary["documents"]
    assert totals["in"] == sum(totals[fate] for fate in FATES)
    assert totals["quarantined"] >= 4
    with duckdb.connect() as db:
        files = db.execute("select distinct file from read_parquet(?)", [f"{run_dir}/quarantine/*.parquet"]).fetchall()
    assert any("clipped" in name for (name,) in files)
    assert any("trunc" in name for (name,) in files)


def test_a_disk_that_fills_up_fails_the_run_and_the_next_one_continues(tmp_path, monkeypatch):
    write_warc(tmp_path / "web.warc.gz", pages=60, seed=2)
    sources = [{"name": "web", "format": "warc", "paths": str(tmp_path / "web.warc.gz"), "slice_bytes": 9000}]
    go(tmp_path, sources, tmp_path / "calm")
    written = {"batches": 0}
    plain = PartWriter.write

    def write(self, batch):
        written["batches"] += 1
        if written["batches"] == 9:
            self._stream.write(b"half a pa")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        plain(self, batch)

    monkeypatch.setattr(PartWriter, "write", write)
    result, run_dir = go(tmp_path, sources, tmp_path / "full")
    assert not result.summary["ok"]
    assert "No space left" in result.failures[0]
    assert "web.warc.gz" in result.failures[0]
    monkeypatch.undo()
    result, run_dir = go(tmp_path, sources, tmp_path / "full")
    assert result.summary["ok"]
    assert fates(run_dir) == fates(tmp_path / "calm")


def succeeds(folder: Path, sources: list[dict], run_dir: Path) -> bool:
    try:
        return go(folder, sources, run_dir)[0].summary["ok"]
    except OSError:
        return False


def test_a_really_full_disk(tmp_path, monkeypatch):
    """On a file system of 400 kB that grows afterwards; skipped where this user may not mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tamis", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    monkeypatch.setattr(driver, "MIN_FREE_BYTES", 0)
    try:
        write_warc(tmp_path / "web.warc.gz", pages=400, seed=3)
        sources = [{"name": "web", "format": "warc", "paths": str(tmp_path / "web.warc.gz"), "slice_bytes": 30000}]
        assert not succeeds(tmp_path, sources, small / "run")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True, capture_output=True)
        assert succeeds(tmp_path, sources, small / "run")
        assert succeeds(tmp_path, sources, tmp_path / "calm")
        assert fates(small / "run") == fates(tmp_path / "calm")
    finally:
        subprocess.run(["umount", str(small)], check=True, capture_output=True)
