"""The torchrun sessions of tests/parity.py, each started once and shared by the tests that read its lines."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIRST = {4: 2, 1: 4}  # a session reads the checkpoints of the one before


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tamis-parity-")  # removed when the interpreter ends


def folder() -> Path:
    return Path(_temporary().name)


@functools.cache
def proofs(ranks: int) -> list[dict[str, Any]]:
    """Every line of the session with this many ranks; AssertionError with its output if it failed."""
    if ranks in FIRST:
        proofs(FIRST[ranks])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["tests/parity.py", str(folder())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    lines = [line.partition("PROOF ")[2] for line in done.stdout.splitlines()]
    return [json.loads(line) for line in lines if line]


def named(ranks: int, kind: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in proofs(ranks) if row["kind"] == kind}
