"""How fast the trainer trains on one GPU: MFU, tokens/s and memory, beside torchtitan's and nanochat's model.

    python -m benchmarks.train                 # 124m at 1,024 tokens and 1b at 2,048; minutes on one GPU
    python -m benchmarks.train --smoke         # a tiny model, on any machine: that the benchmark itself works

Ours is the whole trainer as `tamis train` starts it (reader, log, probes, clipping) on shards of random tokens; its
step time is the median row of `train.jsonl` after the warm-up, and `with probes` counts the probes of the run's steps
in. The peers' models run in a bare loop in processes of their own (`benchmarks/peers/train_*.py`, under
$TAMIS_PEERS_PYTHON): that favours them. FLOPs are PaLM's (see `trainer.shape`). The profile says where the device's
time goes in three steps of the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import PEERS, ROOT, table
from benchmarks.train_run import make_run
from trainer.config import TrainConfig
from trainer.model import padded_vocab

VOCAB = 50_257
H100_BF16 = 989e12
COMMON = {"precision": "auto", "lr": 3e-4, "warmup": 5, "probe_limit": 100, "val_limit": 16, "attention": "auto"}
RUNS: dict[str, dict[str, Any]] = {
    "124m": {"model": "124m", "seq_len": 1024, "micro_batch": 64, "global_batch": 512, "steps": 60, "compile": True},
    "1b": {"model": "1b", "seq_len": 2048, "micro_batch": 16, "global_batch": 128, "steps": 30, "compile": True},
}
SMOKE: dict[str, dict[str, Any]] = {
    "smoke": {"model": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
                        "intermediate_size": 128},
              "seq_len": 64, "micro_batch": 2, "global_batch": 4, "steps": 12, "threads": 1},
}  # fmt: skip


def settings(run: dict[str, Any]) -> dict[str, Any]:
    """The training's configuration: probes three times on the way and at the end, one row of the log a step."""
    return {**COMMON, **run, "probe_every": max(1, run["steps"] // 3)}


def ours(config: dict[str, Any], folder: Path, vocab: int) -> dict[str, Any]:
    """Train; the median row, the share of the time for probes, and the largest memory and data wait."""
    run = make_run(folder / "run", vocab, config["seq_len"])
    (folder / "train.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "trainer.launch", "--run", str(run), "--config", str(folder / "train.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"tamis: {done.stderr.strip()}\n" + (run / "train.log").read_text()[-2000:])
    events = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["step"]]  # the row before the first step has the validation alone
    steady = rows[len(rows) // 3 :]
    speed = statistics.median(row["tokens_per_s"] for row in steady)
    training = config["global_batch"] * config["seq_len"] * config["steps"] / speed
    probing = sum(event["seconds"] for event in events if event["event"] == "probed" and event["step"])
    start = next(event for event in events if event["event"] == "start")
    return {
        "tokens_per_s": speed,
        "memory_bytes": max(row["memory_bytes"] for row in rows),
        "data_wait": statistics.median(row["data_wait"] for row in steady),
        "with_probes": speed * training / (training + probing),
        "parameters": start["parameters"],
        "attention": start.get("attention", ""),
    }


def peer(name: str, config: dict[str, Any], vocab: int) -> dict[str, Any] | str:
    """What the peer's script found, or why there is nothing."""
    python = Path(os.environ.get("TAMIS_PEERS_PYTHON", PEERS))
    if not python.exists():
        return f"not installed (no Python at {python})"
    known = subprocess.run([str(python), "-c", f"import {name}"], capture_output=True, text=True)
    if known.returncode:
        return "not installed (" + known.stderr.strip().splitlines()[-1][:80] + ")"
    parsed = TrainConfig.model_validate(config)
    payload = {
        "shape": parsed.shape.model_dump(), "vocab": padded_vocab(vocab), "seq_len": parsed.seq_len,
        "micro_batch": parsed.rank_micro_batch, "accumulation": parsed.accumulation, "compile": parsed.compile,
        "steps": 10, "warmup": 3,
    }  # fmt: skip
    script = ROOT / "benchmarks" / "peers" / f"train_{name}.py"
    done = subprocess.run([str(python), str(script)], input=json.dumps(payload), capture_output=True, text=True)
    if done.returncode:
        return "failed: " + done.stderr.strip().splitlines()[-1][:120]
    return json.loads(done.stdout.strip().splitlines()[-1])


def profile(config: dict[str, Any], vocab: int) -> dict[str, Any]:
    """Share of the device's time by kind of kernel; in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.train_profile"], capture_output=True, text=True, cwd=ROOT,
                          input=json.dumps({"config": config, "vocab": vocab}))  # fmt: skip
    if done.returncode:
        sys.exit(f"profile: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured_peak() -> float:
    code = ("import torch; from trainer.hardware import measure; "
            "print(measure(torch.bfloat16 if torch.cuda.is_available() else torch.float32))")  # fmt: skip
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout)


def run(smoke: bool = False, models: list[str] | None = None, peers: bool = True) -> str:
    runs, vocab = (SMOKE, 500) if smoke else (RUNS, VOCAB)
    top = measured_peak()
    head = ["model", "trainer", "tokens/s", "with probes", "TFLOP/s", "MFU (989)", f"MFU ({top / 1e12:,.3g} measured)",
            "memory GiB", "data wait", "parameters"]  # fmt: skip
    lines, notes, profiles = [], [], []
    for name in models or list(runs):
        config = settings(runs[name])
        shape = TrainConfig.model_validate(config).shape
        flops = shape.flops_per_token(padded_vocab(vocab), config["seq_len"])
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, Any] = {"tamis": ours(config, Path(folder), vocab)}
        for other in ("torchtitan", "nanochat") if peers else ():
            found[other] = peer(other, config, vocab)
        for trainer, row in found.items():
            if isinstance(row, str):
                notes.append(f"{trainer}, {name}: {row}.")
                continue
            rate = row["tokens_per_s"] * row.get("flops_per_token", flops)
            lines.append([
                f"{name}, T={config['seq_len']}", trainer, row["tokens_per_s"], row.get("with_probes", "-"),
                rate / 1e12, f"{rate / H100_BF16:.1%}", f"{rate / top:.1%}", row["memory_bytes"] / 2**30,
                row.get("data_wait", "-"), row["parameters"],
            ])  # fmt: skip
        shares = profile(config, vocab)
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in shares["kinds"].items())
        profiles.append(f"{name} ({found['tamis']['attention']}): {kinds}; busy {shares['busy']:.0%} of the time.")
    parts = ["## Training on one device", table(head, lines), *notes, "Where the time goes:", *profiles]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="a tiny model: any machine, a minute")
    parser.add_argument("--models", nargs="+", choices=list(RUNS), help="these alone")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    options = parser.parse_args()
    import torch

    if not options.smoke and not torch.cuda.is_available():
        parser.error("expected a CUDA device, found none: use --smoke to try the benchmark on a CPU")
    print(run(options.smoke, options.models, not options.no_peers))


if __name__ == "__main__":
    main()
