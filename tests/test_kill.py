"""Workers and driver are killed at seeded moments and the run is started again: the same bytes come out.

The undisturbed run uses one worker, the disturbed one two, so the test also shows that their number does not matter.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
from corpus import write_warc

MANIFEST = """\
name: killed
seed: 5
sources:
  - {{name: web, format: warc, paths: "{folder}/*.warc.gz", slice_bytes: 20000}}
stages:
  - extract
  - gopher_quality
  - gopher_repetition
  - select: {{rules: [gopher_quality.words >= 20, gopher_repetition.dup_line_frac <= 0.5]}}
  - exact_dedup
  - near_dedup
  - pii
  - train_tokenizer: {{vocab_size: 512, max_host_share: 1.0}}
  - tokenize
"""
VIEWS = ("ledger", "quarantine", "tokens", "tokenizer")
SEED = 20261121
KILLS = 3


def start(manifest: Path, run_dir: Path, workers: int, mark: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline", "run", str(manifest), "--run-dir", str(run_dir), "-w", str(workers)]
    log = open(run_dir.with_suffix(".log"), "ab")  # noqa: SIM115 - closed with the process
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TAMIS_TEST_MARK": mark})


def marked(mark: str) -> list[psutil.Process]:
    """Every process started by this test, found by the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TAMIS_TEST_MARK") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def end_all(mark: str) -> None:
    for process in marked(mark):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def contents(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for view in VIEWS
        for path in sorted((run_dir / view).rglob("*"))
        if path.is_file()
    }


def test_killed_runs_give_the_same_bytes(tmp_path):
    rng = random.Random(SEED)
    (tmp_path / "in").mkdir()
    for number in range(2):
        write_warc(tmp_path / "in" / f"crawl-{number}.warc.gz", pages=150, seed=number)
    manifest = tmp_path / "m.yaml"
    manifest.write_text(MANIFEST.format(folder=tmp_path / "in"))
    mark = uuid.uuid4().hex
    try:
        calm = start(manifest, tmp_path / "calm", 1, mark)
        assert calm.wait(300) == 0, (tmp_path / "calm.log").read_text()[-2000:]
        kills = {"worker": 0, "driver": 0}
        for attempt in range(KILLS + 1):
            run = start(manifest, tmp_path / "wild", 2, mark)
            if attempt < KILLS:
                kills["worker"] += _kill_a_worker(mark, run, rng)
                deadline = time.monotonic() + rng.uniform(0.2, 4.0)
                while time.monotonic() < deadline and run.poll() is None:
                    time.sleep(0.02)
                if run.poll() is None:
                    run.kill()
                    kills["driver"] += 1
                run.wait()
                end_all(mark)
            else:
                assert run.wait(300) == 0, (tmp_path / "wild.log").read_text()[-2000:]
        assert kills["driver"] >= 1
        assert kills["worker"] >= 1
        assert contents(tmp_path / "calm") == contents(tmp_path / "wild")
        assert len(contents(tmp_path / "calm")) > 8
    finally:
        end_all(mark)


def _kill_a_worker(mark: str, run: subprocess.Popen, rng: random.Random) -> int:
    """SIGKILL one Ray worker that is running a task, as soon as there is one; 0 when the run ended before."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and run.poll() is None:
        busy = []
        for process in marked(mark):
            try:
                if "ray::_remote" in " ".join(process.cmdline()):
                    busy.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if busy:
            time.sleep(rng.uniform(0.0, 1.0))
            try:
                rng.choice(busy).kill()
            except psutil.NoSuchProcess:
                continue
            return 1
        time.sleep(0.1)
    return 0
