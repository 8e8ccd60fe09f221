"""Where a device's time goes in three steps of the engine, by kind of kernel. JSON in, JSON out; one process.

On a GPU the kernels are told apart by the names that cuBLAS, FlashAttention, Inductor and ATen give them; on a CPU
the operators are. `busy` is their sum over the wall time: the rest the device waits for the host.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

KINDS = {
    "communication": r"nccl",
    "attention": r"flash|fmha|attention|attn",
    "matrix products": r"gemm|nvjet|cutlass|cublas|xmma|wgmma|aten::mm|addmm|bmm|matmul",
    "optimizer": r"multi_tensor|adam|lerp|_foreach|fused_adam",
    "fused pointwise (Inductor)": r"triton",
    "copies and fills": r"memcpy|memset|copy_|fill_|zero_|aten::_to_copy",
    "reductions and pointwise": r"elementwise|reduce|softmax|norm|index|embedding|aten::",
}


def kind(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def main() -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    payload = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    from trainer.config import TrainConfig
    from trainer.engine import Engine, start_ranks, stop_ranks
    from trainer.model import padded_vocab
    from trainer.reader import Batch

    config, vocab, cuda = TrainConfig.model_validate(payload["config"]), payload["vocab"], torch.cuda.is_available()
    start_ranks()
    engine = Engine(config, padded_vocab(vocab))
    rows = torch.randint(
        vocab, (config.rank_micro_batch, config.seq_len + 1), generator=torch.Generator().manual_seed(0)
    )
    batches = [Batch(rows[:, :-1].numpy(), rows[:, 1:].numpy(), None)] * config.accumulation
    for step in range(1, 4):
        engine.step(batches, step).loss  # noqa: B018
    activities = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        began = time.perf_counter()
        for step in range(4, 7):
            result = engine.step(batches, step)
        loss = result.loss
        wall = time.perf_counter() - began
    spent: dict[str, float] = {}
    for event in found.key_averages():
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[kind(event.key)] = spent.get(kind(event.key), 0.0) + micros / 1e6
    total = sum(spent.values())
    order = sorted(spent.items(), key=lambda entry: -entry[1])
    shares: dict[str, Any] = {name: seconds / total for name, seconds in order}
    engine.close()
    stop_ranks()
    print(json.dumps({"kinds": shares, "busy": total / wall, "loss": loss}), file=out)


if __name__ == "__main__":
    main()
