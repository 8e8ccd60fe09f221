"""Each parallel mode follows the loss curve, the gradient norms and the scores of one rank without DeepSpeed."""

from __future__ import annotations

import math

import pytest
from parity_sessions import named

pytest.importorskip("deepspeed")

# Named here as well, so that a mode cannot leave the matrix unseen.
MUST = {
    1: ["ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3", "accumulation 8", "activation checkpointing", "no clipping", "Muon",
        "optimizer on the host, ZeRO 1", "optimizer on the host, ZeRO 2", "optimizer on the host, ZeRO 3",
        "parameters on the host, ZeRO 3", "bf16, ZeRO 0", "bf16, ZeRO 3", "fp16", "compiled blocks",
        "compiled blocks, documents", "compiled blocks, bf16", "documents, bf16"],
    2: ["ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3", "tensor 2", "tensor 2, ZeRO 1", "tensor 2, QK-norm",
        "tensor 2, biases", "tensor 2, bf16", "pipeline 2", "pipeline 2, untied", "pipeline 2, documents",
        "pipeline 2, activation checkpointing", "pipeline 2, accumulation 8", "pipeline 2, bf16",
        "pipeline 2, compiled blocks", "tensor 2, compiled blocks", "tensor 2, ZeRO 3",
        "untied, ZeRO 3", "documents, ZeRO 3", "z-loss, ZeRO 2", "Muon", "fp16"],
    4: ["ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3", "tensor 2 x data 2", "tensor 2 x data 2, ZeRO 3", "pipeline 4",
        "pipeline 4, stages of 2, 2, 1 and 1 blocks",
        "pipeline 2 x data 2", "pipeline 2 x tensor 2", "pipeline 2 x tensor 2, documents",
        "pipeline 2 x tensor 2, bf16"],
}  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4, 1])
def test_every_mode_equals_one_rank(ranks):
    found = named(ranks, "mode")
    assert not set(MUST[ranks]) - found.keys()
    wrong = {name: row["distance"] for name, row in found.items() if not row["equal"]}
    assert not wrong
    rough = ("bf16", "fp16", "Muon")
    exact = [row["distance"] for name, row in found.items() if not any(word in name for word in rough)]
    assert max(exact) <= 1e-5
    assert all(math.isfinite(row["distance"]) for row in found.values())


def test_fp16_skips_a_step_that_overflows():
    assert named(1, "fp16")["overflow"]["equal"]


def test_a_difference_is_seen():
    """The comparison itself: a wrong norm, loss or score in one place is not equal, nor is NaN."""
    from trainer.parity import EXACT, Curve

    curve = Curve((4.0, 3.0), (0.5, 0.25), (-20.0, -30.0))
    assert curve.distance(curve) == 0
    others = [
        Curve((4.0, 3.0001), curve.norms, curve.scores),
        Curve(curve.losses, (0.5, 0.2501), curve.scores),
        Curve(curve.losses, curve.norms, (-20.0, -30.01)),
        Curve(curve.losses, (0.5, float("nan")), curve.scores),
    ]
    assert not any(curve.distance(other) <= EXACT for other in others)
