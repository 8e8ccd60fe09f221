"""What the engine costs over a bare PyTorch loop of the same model: `python -m benchmarks.bench_engine`.

The same model, data, optimizer and clipping, once in a loop of a dozen lines and once through `trainer.engine`, step
by step in turns in one process, so that a busy machine slows both alike. CPU seconds cover all threads of the process.
"""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import table

THREADS = 2
VOCAB = 4096
TOY = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 80}
SIZES: dict[str, dict[str, Any]] = {
    "toy": {"model": TOY, "seq_len": 32, "global_batch": 16, "micro_batch": 4},
    "tiny": {"model": "tiny", "seq_len": 256, "global_batch": 8, "micro_batch": 4},
    "15m": {"model": "15m", "seq_len": 256, "global_batch": 4, "micro_batch": 4},
}
TURNS = {"toy": 60, "tiny": 16, "15m": 9}


class Micro:
    def __init__(self, rows: int, length: int, seed: int) -> None:
        ids = np.random.default_rng(seed).integers(0, VOCAB, (rows, length + 1))
        self.ids, self.targets, self.segments = ids[:, :-1].copy(), ids[:, 1:].copy(), None


def bare(config: Any) -> Callable[[list[Micro], int], float]:
    """One step of the plain loop: forward, backward, foreach clip, fused AdamW."""
    import torch

    from trainer.model import Llama
    from trainer.optim import make_optimizer, set_learning_rate

    model = Llama(config.shape, VOCAB, config.seed)
    optimizer = make_optimizer(model.canonical_parameters(), config)

    def step(batches: list[Micro], number: int) -> float:
        total = 0.0
        for batch in batches:
            loss = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.targets)) / len(batches)
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip, foreach=True)
        set_learning_rate(optimizer, number, config)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def through_engine(config: Any) -> tuple[Any, Callable[[list[Micro], int], float]]:
    from trainer.engine import Engine

    engine = Engine(config, VOCAB)
    return engine, lambda batches, number: engine.step(batches, number).loss


def measure(steps: dict[str, Callable[[list[Micro], int], float]], config: Any, turns: int) -> dict[str, list[float]]:
    """Median CPU and wall seconds of a step of each, taken in turns; the first three turns warm up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for turn in range(1, turns + 4):
        batches = [Micro(config.rank_micro_batch, config.seq_len, 100 * turn + i) for i in range(config.accumulation)]
        gc.collect()
        order = list(steps) if turn % 2 else list(steps)[::-1]
        for name in order:
            cpu, wall = time.process_time(), time.perf_counter()
            losses[name] = steps[name](batches, turn)
            if turn > 3:
                taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    first, *others = losses.values()
    assert all(abs(loss - first) < 1e-4 for loss in others), losses
    return {name: [statistics.median(column) for column in zip(*pairs, strict=True)] for name, pairs in taken.items()}


def profile(step: Callable[[list[Micro], int], float], config: Any) -> str:
    """Where a step's time goes, by function, the largest first."""
    batches = [Micro(config.rank_micro_batch, config.seq_len, i) for i in range(config.accumulation)]
    profiler = cProfile.Profile()
    profiler.enable()
    for number in range(5):
        step(batches, 50 + number)
    profiler.disable()
    stats = pstats.Stats(profiler)
    whole = stats.total_tt  # type: ignore[attr-defined]
    own = [(tt, name) for (_, _, name), (_, _, tt, _, _) in stats.stats.items()]  # type: ignore[attr-defined]
    largest = sorted(own, reverse=True)[:7]
    inside = sum(tt for (file, _, _), (_, _, tt, _, _) in stats.stats.items() if "deepspeed" in file)  # type: ignore[attr-defined]
    parts = ", ".join(f"`{name.strip('<>')}` {tt / whole:.0%}" for tt, name in largest)
    return f"{parts}; Python of DeepSpeed itself {inside / whole:.1%}"


def run() -> str:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    import torch

    from trainer.config import TrainConfig
    from trainer.engine import start_ranks, stop_ranks

    torch.set_num_threads(THREADS)
    start_ranks()
    rows, notes = [], []
    for name, settings in SIZES.items():
        base = {"steps": 100, "precision": "fp32", "threads": THREADS, **settings}
        configs = {f"ZeRO {stage}": TrainConfig.model_validate(base | {"zero_stage": stage}) for stage in (0, 1)}
        made = {label: through_engine(config) for label, config in configs.items()}
        plain = configs["ZeRO 0"]
        steps = {"bare loop": bare(plain), **{label: step for label, (_, step) in made.items()}}
        found = measure(steps, plain, TURNS[name])
        cpu, wall = found["bare loop"]
        for label, (own_cpu, own_wall) in found.items():
            rows.append([name, label, f"{own_cpu * 1000:.1f}", f"{own_wall * 1000:.1f}", f"{own_cpu / cpu - 1:+.1%}",
                         f"{own_wall / wall - 1:+.1%}"])  # fmt: skip
        notes.append(f"- {name}, ZeRO 0: {profile(steps['ZeRO 0'], plain)}")
        for engine, _ in made.values():
            engine.close()
    stop_ranks()
    return (
        "## The engine against a bare PyTorch loop\n\n"
        f"One rank, {THREADS} threads, fp32, micro batches of 4 sequences: 4 of 32 tokens (toy), 2 of 256 (tiny), one "
        "of 256 (15m); the same losses to 1e-4. The toy does almost no arithmetic: its difference is the engine's "
        "fixed cost of a step in milliseconds, which any real model hides.\n\n"
        + table(["model", "loop", "CPU ms / step", "wall ms / step", "CPU over bare", "wall over bare"], rows)
        + "\n\nWhere a step's time goes, by function:\n\n"
        + "\n".join(notes)
        + "\n"
    )


if __name__ == "__main__":
    print(run())
