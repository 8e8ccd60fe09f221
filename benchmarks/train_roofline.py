"""What one H200 could reach with the trainer as it is written: arithmetic, not a measurement.

    python -m benchmarks.train_roofline

Every part of an optimizer step is counted in FLOPs of matrix products or in bytes that pass through the GPU's memory,
divided by a speed, and added up: nothing overlaps. Matrix products run at 790 TFLOP/s (measured on a large square one)
times a share for their shape, attention at 400 TFLOP/s of causal work, everything else at 4.8 TB/s times 0.8. Bytes
of a block are those of its pointwise kernels: after fusion by Inductor, or one kernel for each operator.
"""

from __future__ import annotations

from benchmarks.common import table
from trainer.model import padded_vocab
from trainer.shape import ModelConfig, named

PRODUCTS, ATTENTION, MEMORY, SPECIFIED = 790e12, 400e12, 4.8e12 * 0.8, 989.4e12
SHARE = {"124m": 0.80, "1b": 0.90}  # of 790: products with a short inner dimension lose more
CHUNK = 4096  # rows of logits at a time, see trainer.loss
RUNS = {"124m": (1024, 64, 8), "1b": (2048, 16, 8)}  # sequence length, rows in a micro batch, micro batches


def block_bytes(shape: ModelConfig, compiled: bool) -> int:
    """Bytes of one token in the pointwise kernels of one block, forward and backward, activations of 16 bits."""
    d, f = shape.hidden_size, shape.intermediate_size
    heads = (shape.num_heads + shape.num_kv_heads) * shape.head_dim
    if compiled:  # two norms, each with what is added before it; rotary; gated activation
        return (18 + 22) * d + (6 + 10) * f + (4 + 4) * heads
    return (20 + 40) * d + (10 + 16) * f + (32 + 40) * heads  # rotary in fp32, one operator after another


def parts(shape: ModelConfig, vocab: int, length: int, rows: int, accumulation: int, share: float,
          compiled: bool) -> dict[str, float]:  # fmt: skip
    """Seconds of one token by part."""
    micro = rows * length
    parameters = shape.parameters(vocab)
    causal = 7 * length * shape.num_heads * shape.head_dim * shape.num_layers  # half of 4 forward and 10 backward
    logits = (6 if compiled else 36) * vocab + 8 * vocab * shape.hidden_size / CHUNK
    weights = (6 + 18) * parameters / micro  # rounded to 16 bits; gradients widened and added up
    update = (28 + 12) * parameters / (micro * accumulation)  # AdamW, clipping
    return {
        "products": 6 * shape.matrix_parameters(vocab) / (PRODUCTS * share),
        "attention": causal / ATTENTION,
        "pointwise": shape.num_layers * block_bytes(shape, compiled) / MEMORY,
        "loss": logits / MEMORY,
        "weights, update": (weights + update) / MEMORY,
    }


def run() -> str:
    lines, vocab = [], padded_vocab(50_257)
    for name, (length, rows, accumulation) in RUNS.items():
        shape = named(name)
        flops = shape.flops_per_token(vocab, length)
        for compiled, share in ((True, 1.0), (True, SHARE[name]), (False, SHARE[name])):
            spent = parts(shape, vocab, length, rows, accumulation, share, compiled)
            total = sum(spent.values())
            how = f"{'compiled' if compiled else 'eager'}, products at {share:.0%} of 790"
            lines.append([f"{name}, T={length}", how, *(f"{1e9 * part:,.0f}" for part in spent.values()),
                          f"{1e-3 / total:,.0f} k", f"{flops / total / SPECIFIED:.0%}"])  # fmt: skip
    names = [f"{part}, ns" for part in spent]
    return table(["model", "how", *names, "tokens/s", "MFU (989)"], lines)


if __name__ == "__main__":
    print(run())
