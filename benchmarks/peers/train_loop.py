"""The training loop that the peers' models run in: random tokens, forward, backward, clip, step, timed.

Input of a script that uses it: `{"shape": {...}, "vocab": V, "seq_len": T, "micro_batch": B, "accumulation": A,
"steps": N, "warmup": W}`. Output: tokens_per_s (median step after the warm-up), memory_bytes, loss.
"""

import statistics
import time

import torch


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(payload: dict, parameters, loss_of, optimizer) -> dict:
    """`loss_of(ids, targets)` is the mean loss of one micro batch; what the optimizer updates is `parameters`."""
    where, cuda = device(), torch.cuda.is_available()
    rows, length, accumulation = payload["micro_batch"], payload["seq_len"], payload["accumulation"]
    tokens = torch.randint(payload["vocab"], (8, rows, length + 1), generator=torch.Generator().manual_seed(0)).to(
        where
    )
    parameters, seconds, loss = list(parameters), [], torch.zeros(())
    for step in range(payload["warmup"] + payload["steps"]):
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for part in range(accumulation):
            batch = tokens[(step * accumulation + part) % len(tokens)]
            loss = loss_of(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
            (loss / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        if step >= payload["warmup"]:
            seconds.append(time.perf_counter() - began)
    return {
        "tokens_per_s": rows * length * accumulation / statistics.median(seconds),
        "memory_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "loss": float(loss),
    }
