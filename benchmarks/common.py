"""What the benchmarks share: input data, CPU time of one function, peers in a virtual environment of their own.

A benchmark prints ratios against peers on the same input in the same run. CPU seconds are those of this process and
its children, so a busy machine changes them less than the clock; numbers still belong to a quiet machine.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
# Items of the data beside the project, by probe task.
PROBE_FILES = {
    "hellaswag": "hellaswag_validation_1000.jsonl",
    "openbookqa": "openbookqa_test_500.jsonl",
    "commonsense_qa": "commonsenseqa_validation_1221.jsonl",
    "piqa": "piqa_validation_half_919.jsonl.gz",
    "arc_easy": "arc_easy_validation_half_285.jsonl.gz",
    "arc_challenge": "arc_challenge_validation_half_150.jsonl.gz",
}


def cpu_seconds() -> float:
    """User and system time of this process and of the children that ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def best(function: Callable[[], Any], repeat: int = 3) -> float:
    """Least CPU seconds of `repeat` calls, after one call that warms caches and compiles."""
    function()
    times = []
    for _ in range(repeat):
        gc.collect()
        start = cpu_seconds()
        function()
        times.append(cpu_seconds() - start)
    return min(times)


def need(*parts: str) -> Path:
    """A file or folder of the benchmark data; ends the program with a clear line where it is absent."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        sys.exit(f"benchmark data: expected {path}, found nothing; benchmarks need the data folder beside the project")
    return path


def english_documents(count: int = 20_000, chars: int = 1300) -> list[str]:
    """`count` English texts of about `chars` characters, cut at white space from the near-duplicate gold set."""
    texts = pq.read_table(need("neardup", "docs.parquet"), columns=["text", "lang"])
    joined = [t for t, lang in zip(texts["text"].to_pylist(), texts["lang"].to_pylist(), strict=True) if lang == "en"]
    pieces: list[str] = []
    for text in joined:
        at = 0
        while at < len(text) and len(pieces) < count:
            end = text.find(" ", at + chars)
            pieces.append(text[at : end if end >= 0 else len(text)])
            at += len(pieces[-1]) + 1
        if len(pieces) >= count:
            break
    return [piece for piece in pieces if len(piece) >= chars // 2]


def peer(script: str, payload: dict[str, Any], timeout: float = 1800) -> Any:
    """Run a script of `benchmarks/peers/` under the peers' Python: JSON in, the last line of its output as JSON back.

    The environment is made by `make peers` from benchmarks/peers.txt and shares nothing with the project's own.
    """
    python = Path(os.environ.get("TAMIS_PEERS_PYTHON", PEERS))
    if not python.exists():
        sys.exit(f"peers: expected a Python at {python}, found none; run `make peers`")
    command = [str(python), str(ROOT / "benchmarks" / "peers" / script)]
    done = subprocess.run(command, input=json.dumps(payload), capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        sys.exit(f"peer {script}: ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; floats with three significant digits."""

    def cell(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) and abs(value) < 100 else (
            f"{value:,.0f}" if isinstance(value, float | int) else str(value)
        )  # fmt: skip

    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows])
