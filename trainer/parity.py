"""Proof that every parallel mode trains the same model as one rank without DeepSpeed.

A small model takes a few steps on made-up data, once in a bare PyTorch loop on this rank alone (the reference) and
once in each mode, on all ranks. Losses, gradient norms and scores of fixed rows must agree: to 1e-5 in fp32 (1e-4 on
GPUs, whose sums have no fixed order and other kernels compiled), to 2e-3 under 16-bit autocast. Both run on the
engine's kind of device, in full fp32 products. All modes of a world size run one after another in one process group.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.config import TrainConfig
from trainer.engine import Engine
from trainer.loss import IGNORE
from trainer.model import Llama
from trainer.optim import make_optimizer, set_learning_rate

SHAPE = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 80}
VOCAB, STEPS = 128, 4
EXACT, ON_GPU, ROUGH = 1e-5, 1e-4, 2e-3
BASE: dict[str, Any] = {
    "model": SHAPE, "seq_len": 32, "global_batch": 8, "micro_batch": 2, "steps": STEPS, "lr": 3e-3, "warmup": 2,
    "clip": 0.3, "precision": "fp32", "seed": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Mode:
    """One configuration to prove: what differs from BASE, and how near it must come to the reference."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    tolerance: float = EXACT


@dataclass(frozen=True)
class Curve:
    """What a training gave: losses and norms of its steps, log-probabilities of fixed rows at start, middle and end."""

    losses: tuple[float, ...]
    norms: tuple[float, ...]
    scores: tuple[float, ...]

    def second_half(self) -> Curve:
        half, third = len(self.losses) // 2, len(self.scores) // 3
        return Curve(self.losses[half:], self.norms[half:], self.scores[third:])

    def distance(self, other: Curve) -> float:
        """Largest difference, of norms and scores relative to their size."""
        pairs = list(zip(self.losses, other.losses, strict=True))
        for mine, theirs in ((self.norms, other.norms), (self.scores, other.scores)):
            sizes = [max(1.0, abs(value)) for value in theirs]
            pairs += [(a / size, b / size) for a, b, size in zip(mine, theirs, sizes, strict=True)]
        gaps = [abs(a - b) for a, b in pairs]
        return max(gaps) if all(gap == gap for gap in gaps) else float("nan")


@dataclass(frozen=True)
class Outcome:
    mode: Mode
    distance: float  # NaN where the mode gave no number
    seconds: float

    @property
    def tolerance(self) -> float:
        return max(self.mode.tolerance, ON_GPU) if torch.cuda.is_available() else self.mode.tolerance

    @property
    def equal(self) -> bool:
        return self.distance <= self.tolerance


@dataclass(frozen=True)
class MicroBatch:
    ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray | None


def shape(**changes: Any) -> dict[str, Any]:
    return {"model": SHAPE | changes}


def modes(ranks: int) -> list[Mode]:
    """The matrix of a world size: 1, 2 or 4 ranks cover every mode; other sizes get the ZeRO stages."""
    found = [Mode(f"ZeRO {stage}", {"zero_stage": stage}) for stage in (0, 1, 2, 3)]
    if ranks == 1:
        found += [
            Mode("accumulation 8", {"micro_batch": 1}),
            Mode("no accumulation", {"micro_batch": 8}),
            Mode("activation checkpointing", {"activation_checkpointing": True}),
            Mode("no clipping, ZeRO 1", {"clip": 0.0, "zero_stage": 1}),
            Mode("no clipping", {"clip": 0.0}),
            Mode("Muon", {"optimizer": "muon"}, ROUGH),  # its Newton-Schulz steps run in bf16
            *(Mode(f"optimizer on the host, ZeRO {s}", {"offload": "optimizer", "zero_stage": s}) for s in (1, 2, 3)),
            Mode("parameters on the host, ZeRO 3", {"offload": "parameters", "zero_stage": 3}),
            *(Mode(f"bf16, ZeRO {s}", {"precision": "bf16", "zero_stage": s}, ROUGH) for s in (0, 1, 2, 3)),
            Mode("fp16", {"precision": "fp16"}, ROUGH),
            Mode("compiled blocks", {"compile": True}),
            Mode("compiled blocks, documents", {"compile": True, "document_mask": True}),
            Mode("compiled blocks, bf16", {"compile": True, "precision": "bf16"}, ROUGH),
            Mode("documents, bf16", {"document_mask": True, "precision": "bf16", **shape(qk_norm=True)}, ROUGH),
        ]
    if ranks == 2:
        found += [
            Mode("pipeline 2, compiled blocks", {"pipeline": 2, "zero_stage": 1, "compile": True}),
            Mode("tensor 2", {"tensor": 2}),
            Mode("tensor 2, ZeRO 1", {"tensor": 2, "zero_stage": 1}),
            Mode("tensor 2, QK-norm", {"tensor": 2, **shape(qk_norm=True)}),
            Mode("tensor 2, biases", {"tensor": 2, **shape(bias=True)}),
            Mode("tensor 2, ZeRO 3", {"tensor": 2, "zero_stage": 3}),
            Mode("tensor 2, compiled blocks", {"tensor": 2, "compile": True}),
            Mode("tensor 2, bf16", {"tensor": 2, "precision": "bf16"}, ROUGH),
            Mode("pipeline 2", {"pipeline": 2, "zero_stage": 1}),
            Mode("pipeline 2, untied", {"pipeline": 2, "zero_stage": 1, **shape(tied=False)}),
            Mode("pipeline 2, activation checkpointing",
                 {"pipeline": 2, "zero_stage": 1, "activation_checkpointing": True}),
            Mode("pipeline 2, documents", {"pipeline": 2, "zero_stage": 1, "document_mask": True}),
            Mode("pipeline 2, accumulation 8", {"pipeline": 2, "zero_stage": 1, "micro_batch": 1}),
            Mode("pipeline 2, bf16", {"pipeline": 2, "zero_stage": 1, "precision": "bf16"}, ROUGH),
            Mode("untied, ZeRO 3", {"zero_stage": 3, **shape(tied=False)}),
            Mode("documents, ZeRO 0", {"document_mask": True}),
            Mode("documents, ZeRO 3", {"zero_stage": 3, "document_mask": True}),
            Mode("activation checkpointing, ZeRO 3", {"zero_stage": 3, "activation_checkpointing": True}),
            Mode("z-loss, ZeRO 2", {"zero_stage": 2, "z_loss": 1e-3}),
            Mode("Muon", {"optimizer": "muon"}, ROUGH),
            Mode("bf16, ZeRO 2", {"zero_stage": 2, "precision": "bf16"}, ROUGH),
            Mode("bf16, ZeRO 3", {"zero_stage": 3, "precision": "bf16"}, ROUGH),
            Mode("fp16", {"precision": "fp16"}, ROUGH),
        ]  # fmt: skip
    if ranks == 4:
        found += [
            Mode("tensor 2 x data 2", {"tensor": 2}),
            *(Mode(f"tensor 2 x data 2, ZeRO {s}", {"tensor": 2, "zero_stage": s}) for s in (1, 2, 3)),
            Mode("pipeline 2 x data 2", {"pipeline": 2, "zero_stage": 1}),
            Mode("pipeline 2 x data 2, untied, documents",
                 {"pipeline": 2, "zero_stage": 1, "document_mask": True, **shape(tied=False)}),
            Mode("pipeline 4", {"pipeline": 4, "zero_stage": 1}),
            Mode("pipeline 4, stages of 2, 2, 1 and 1 blocks", {"pipeline": 4, "zero_stage": 1, **shape(num_layers=6)}),
            Mode("pipeline 2 x tensor 2", {"pipeline": 2, "tensor": 2, "zero_stage": 1}),
            Mode("pipeline 2 x tensor 2, documents",
                 {"pipeline": 2, "tensor": 2, "zero_stage": 1, "document_mask": True}),
            Mode("pipeline 2 x tensor 2, bf16",
                 {"pipeline": 2, "tensor": 2, "zero_stage": 1, "precision": "bf16"}, ROUGH),
        ]  # fmt: skip
    return found


def config_of(mode: Mode, ranks: int) -> TrainConfig:
    return TrainConfig.model_validate(BASE | {"ranks": ranks, "threads": 1} | mode.changes)


def global_batch(step: int, config: TrainConfig) -> MicroBatch:
    """The rows of optimizer step `step` (int64 [global_batch, T]): a sequence that a model can learn in part."""
    rng = np.random.default_rng([step % 3, 17])
    rows, length = config.global_batch, config.seq_len
    ids = rng.integers(0, VOCAB, (rows, length + 1))
    ids[:, 1::2] = (ids[:, 0:-1:2] * 3 + 1) % VOCAB
    targets = ids[:, 1:].copy()
    targets[0, -5:] = IGNORE
    segments = (rng.random((rows, length)) < 0.15).cumsum(1).astype(np.int32) if config.document_mask else None
    return MicroBatch(ids[:, :-1].copy(), targets, segments)


def micro_batches(step: int, config: TrainConfig, data_rank: int) -> list[MicroBatch]:
    """A data rank's share of a step, in the order of `trainer.reader`."""
    whole, rows = global_batch(step, config), config.rank_micro_batch
    starts = [(turn * config.data_ranks + data_rank) * rows for turn in range(config.accumulation)]
    cuts = [slice(start, start + rows) for start in starts]
    return [MicroBatch(whole.ids[c], whole.targets[c], None if whole.segments is None else whole.segments[c])
            for c in cuts]  # fmt: skip


def probe(config: TrainConfig, scores: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> list[float]:
    """Scores of rows of another length than those of training, mostly ignored, in an odd number."""
    batch = global_batch(99, config)
    targets = batch.targets.copy()
    targets[:, ::2] = IGNORE
    found = [*scores(batch.ids[:3, :21], targets[:3, :21]), *scores(batch.ids[3:, :9], targets[3:, :9])]
    return [float(score) for score in found]


def reference(config: TrainConfig) -> Curve:
    """The same training in a bare PyTorch loop: fp32, whole batches, this process alone, on its own device."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    model = Llama(config.shape, VOCAB, config.seed, z_loss=config.z_loss).to(device)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    optimizer = make_optimizer(model.canonical_parameters(), config)

    def scores(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return -model(tensor(ids), tensor(targets), None, True).double().sum(1).cpu().numpy()

    losses, norms, found = [], [], probe(config, scores)
    for step in range(1, config.total_steps + 1):
        if step == config.total_steps // 2 + 1:
            found += probe(config, scores)
        batch = global_batch(step, config)
        segments = None if batch.segments is None else tensor(batch.segments)
        loss = model(tensor(batch.ids), tensor(batch.targets), segments)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or float("inf"))))
        set_learning_rate(optimizer, step, config)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return Curve(tuple(losses), tuple(norms), (*found, *probe(config, scores)))


def train(engine: Engine, first: int, last: int) -> tuple[list[float], list[float]]:
    """Losses and norms of the steps `first` to `last`."""
    results = [engine.step(micro_batches(s, engine.config, engine.data_rank), s) for s in range(first, last + 1)]
    return [result.loss for result in results], [result.norm for result in results]


def save_half(config: TrainConfig, folder: Path, restart: bool = False) -> Path:
    """Train the first half of the steps and leave a checkpoint."""
    engine = Engine(config, VOCAB, backend=_backend())
    try:
        half = config.total_steps // 2
        train(engine, 1, half)
        state = {"step": half}
        return engine.save_restart(folder, state) if restart else engine.save(folder, state, {})
    finally:
        engine.close()


def finish(config: TrainConfig, path: Path) -> Curve:
    """Train the second half from a checkpoint."""
    engine = Engine(config, VOCAB, path)
    try:
        scores = probe(config, engine.logprobs)
        losses, norms = train(engine, config.total_steps // 2 + 1, config.total_steps)
        scores += probe(config, engine.logprobs)
    finally:
        engine.close()
    return Curve(tuple(losses), tuple(norms), tuple(scores))


def _backend() -> str:
    """What compiles: on a CPU, where Inductor's C++ takes minutes, only the graphs are proven."""
    return "inductor" if torch.cuda.is_available() else "aot_eager"


def run(config: TrainConfig) -> Curve:
    """The training in the mode of `config`, on all ranks together; evaluation comes between its steps."""
    engine = Engine(config, VOCAB, backend=_backend())
    try:
        scores = probe(config, engine.logprobs)
        half = config.total_steps // 2
        losses, norms = train(engine, 1, half)
        scores += probe(config, engine.logprobs)
        more = train(engine, half + 1, config.total_steps)
        scores += probe(config, engine.logprobs)
    finally:
        engine.close()
    return Curve(tuple(losses + more[0]), tuple(norms + more[1]), tuple(scores))


class Matrix:
    """Runs modes and compares them; references are computed once for each training that they stand for."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        torch.set_float32_matmul_precision("highest")  # no TF32, which keeps 10 bits of each factor
        torch.backends.cudnn.allow_tf32 = False
        self._references: dict[str, Curve] = {}

    def expected(self, config: TrainConfig) -> Curve:
        key = config.model_copy(update={"precision": "fp32"}).fingerprint("")
        if key not in self._references:
            self._references[key] = reference(config)
        return self._references[key]

    def prove(self, mode: Mode) -> Outcome:
        """Collective: the whole training in this mode. An error in it is raised on every rank that sees it."""
        config = config_of(mode, self.ranks)
        expected, began = self.expected(config), time.perf_counter()
        return Outcome(mode, run(config).distance(expected), time.perf_counter() - began)

    def prove_resumed(self, mode: Mode, path: Path) -> Outcome:
        """Collective: the second half in this mode, from a checkpoint that any mode left after the first half."""
        config = config_of(mode, self.ranks)
        expected, began = self.expected(config), time.perf_counter()
        curve = finish(config, path)
        return Outcome(mode, curve.distance(expected.second_half()), time.perf_counter() - began)


def table(outcomes: list[Outcome], ranks: int) -> str:
    """Lines for a terminal, one for each mode."""
    width = max(len(outcome.mode.name) for outcome in outcomes)
    lines = [f"{ranks} rank{'s' if ranks > 1 else ''}, against one rank without DeepSpeed (largest difference)"]
    for outcome in outcomes:
        verdict = "equal" if outcome.equal else "DIFFERS"
        lines.append(
            f"  {outcome.mode.name:<{width}}  {outcome.distance:8.1e}  {verdict} (within {outcome.tolerance:.0e})"
        )
    return "\n".join(lines)
