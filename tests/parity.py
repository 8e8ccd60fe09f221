"""Started by torchrun: proves the modes of this world size, and that checkpoints cross modes and world sizes.

`python -m torch.distributed.run ... tests/parity.py FOLDER [PART_OF_A_NAME]` prints one JSON line for each proof.
Checkpoints lie in FOLDER, so that a session finds those of a session with another number of ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensor_layers
import torch

from trainer import parity
from trainer.engine import Engine, start_ranks, stop_ranks
from trainer.parity import ROUGH, Mode, Outcome, config_of

PIPE = {"pipeline": 2, "zero_stage": 1}
UNTIED = parity.shape(tied=False)
UNEVEN = parity.shape(hidden_size=36, head_dim=6, intermediate_size=82, qk_norm=True)  # 4 ranks divide no norm of 6

# What each world size leaves behind after half of the steps, by folder name.
SAVED: dict[int, dict[str, Mode]] = {
    1: {},
    2: {
        "plain-2": Mode("", {}),
        "zero1-2": Mode("", {"zero_stage": 1}),
        "zero3-2": Mode("", {"zero_stage": 3}),
        "pipe-2": Mode("", PIPE),
        "pipe-untied-2": Mode("", PIPE | UNTIED),
        "tensor-2": Mode("", {"tensor": 2}),
        "uneven-2": Mode("", UNEVEN | {"zero_stage": 3}),
        "muon-2": Mode("", {"optimizer": "muon"}),
    },
    4: {"pipe-tensor-4": Mode("", PIPE | {"tensor": 2}), "zero2-4": Mode("", {"zero_stage": 2})},
}
# What each world size goes on from, and in which mode. Sessions run in the order 2, 4, 1.
RESUMED: dict[int, list[tuple[str, Mode]]] = {
    2: [
        ("zero1-2", Mode("ZeRO 3", {"zero_stage": 3})),
        ("zero3-2", Mode("pipeline", PIPE)),
        ("zero3-2", Mode("ZeRO 2", {"zero_stage": 2})),
        ("pipe-2", Mode("ZeRO 2", {"zero_stage": 2})),
        ("pipe-untied-2", Mode("ZeRO 0", UNTIED)),
        ("tensor-2", Mode("pipeline", PIPE)),
        ("plain-2", Mode("tensor, ZeRO 1", {"tensor": 2, "zero_stage": 1})),
    ],
    4: [
        ("zero3-2", Mode("pipeline x data", PIPE)),
        ("plain-2", Mode("pipeline x tensor", PIPE | {"tensor": 2})),
        ("pipe-2", Mode("ZeRO 3", {"zero_stage": 3})),
        ("uneven-2", Mode("ZeRO 3", UNEVEN | {"zero_stage": 3})),
        ("tensor-2", Mode("tensor x data, ZeRO 3", {"tensor": 2, "zero_stage": 3})),
    ],
    1: [
        ("zero3-2", Mode("ZeRO 1", {"zero_stage": 1})),
        ("tensor-2", Mode("ZeRO 0")),
        ("pipe-tensor-4", Mode("ZeRO 0")),
        ("zero2-4", Mode("ZeRO 3", {"zero_stage": 3})),
        ("pipe-2", Mode("optimizer on the host", {"zero_stage": 2, "offload": "optimizer"})),
        ("muon-2", Mode("Muon", {"optimizer": "muon"}, ROUGH)),
    ],
}
# DeepSpeed's own checkpoints, read back in the mode that wrote them.
RESTARTED: dict[int, list[Mode]] = {
    1: [Mode("ZeRO 0"), Mode("fp16", {"precision": "fp16"}, ROUGH)],
    2: [Mode("ZeRO 2", {"zero_stage": 2}), Mode("ZeRO 3", {"zero_stage": 3}), Mode("pipeline", PIPE),
        Mode("Muon", {"optimizer": "muon"}, ROUGH), Mode("tensor", {"tensor": 2})],
    4: [Mode("pipeline x tensor", PIPE | {"tensor": 2})],
}  # fmt: skip


def main() -> None:
    folder, chosen = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(1)
    start_ranks()
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    matrix = parity.Matrix(ranks)

    def report(kind: str, name: str, outcome: Outcome) -> None:
        row = {"kind": kind, "name": name, "distance": outcome.distance, "equal": outcome.equal, "s": outcome.seconds}
        if rank == 0:
            print("PROOF " + json.dumps(row), flush=True)

    for mode in parity.modes(ranks):
        if chosen in mode.name:
            report("mode", mode.name, matrix.prove(mode))
    for name, mode in SAVED[ranks].items():
        if chosen in name:
            parity.save_half(config_of(mode, ranks), folder / name)
    for name, mode in RESUMED[ranks]:
        if chosen in name:
            report("resumed", f"{name} to {mode.name}", matrix.prove_resumed(mode, folder / name / "step-2"))
    for mode in RESTARTED[ranks]:
        if chosen in "restart":
            path = parity.save_half(config_of(mode, ranks), folder / f"restart-{mode.name}-{ranks}", restart=True)
            report("restarted", mode.name, matrix.prove_resumed(mode, path))
    if ranks == 2 and not chosen:
        tensor_layers.compare()
        report("layers", "tensor", Outcome(Mode("tensor"), 0.0, 0.0))
    if ranks == 1 and not chosen:
        report("weights", "init_from", first_weights(matrix, folder / "zero3-2" / "step-2"))
        report("fp16", "overflow", overflow())
    stop_ranks()


def first_weights(matrix: parity.Matrix, path: Path) -> Outcome:
    """`init_from` takes the weights of a checkpoint and nothing else: its scores are those of the checkpoint."""
    mode = Mode("", {"init_from": str(path)})
    engine = Engine(config_of(mode, 1), parity.VOCAB)
    whole = matrix.expected(config_of(Mode(""), 1)).scores
    middle = whole[len(whole) // 3 : 2 * len(whole) // 3]
    found = parity.probe(engine.config, engine.logprobs)
    first = engine.step(parity.micro_batches(3, engine.config, 0), 1)
    engine.close()
    gap = max(abs(a - b) / abs(b) for a, b in zip(found, middle, strict=True))
    return Outcome(mode, gap if first.loss < 4.75 else float("nan"), 0.0)


def overflow() -> Outcome:
    """fp16: an overflowing step changes no weight, says so, and halves the scale, which a checkpoint keeps."""
    engine = Engine(config_of(Mode("", {"precision": "fp16"}), 1), parity.VOCAB)
    scaler = engine._scaler
    assert scaler is not None
    before = parity.probe(engine.config, engine.logprobs)
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**100})
    lost = engine.step(parity.micro_batches(1, engine.config, 0), 1)
    same = before == parity.probe(engine.config, engine.logprobs)
    halved = engine._scale()["loss_scale"]["scale"] == 2.0**99
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**10})
    kept = engine.step(parity.micro_batches(1, engine.config, 0), 1)
    engine.close()
    sound = lost.skipped and same and halved and not kept.skipped and 0 < kept.norm < 10
    return Outcome(Mode("fp16"), 0.0 if sound else float("nan"), 0.0)


if __name__ == "__main__":
    main()
