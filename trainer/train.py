"""The training loop of one rank: read, step, evaluate, log, checkpoint.

A step's rows are written before its checkpoint, so a checkpoint vouches for every row up to its step; rows after
it are cut off on resumption. Evaluation and checkpoints do not count into tokens/s.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.data import DataError, Sequences, TokenIndex, build_cache, order
from trainer.engine import Engine, start_ranks, stop_ranks
from trainer.model import Llama, hf_config, padded_vocab
from trainer.optim import learning_rate
from trainer.probes import Probes, turns
from trainer.rundir import Events, TrainingError, input_digest, latest

ERROR_MARK = "trainer-error: "
EVENT_INTERVAL_S = 0.5


class Trainer:
    """Everything one rank holds. `events` is None on ranks other than 0."""

    def __init__(self, run: Path, config: TrainConfig, events: Events | None) -> None:
        self.run, self.config, self.events = run, config, events
        self.index = TokenIndex.read(run / "tokens")
        self.fingerprint = config.fingerprint(input_digest(self.index.digest, run / "probes"))
        found = latest(run / "checkpoints")
        self.step = int(found[1]["step"]) if found else 0
        model = Llama(config.shape, padded_vocab(self.index.vocab_size), config.seed)
        self.parameters = config.shape.parameters(model.vocab_size)
        restore = checkpoint.load(found[0]) if found else None
        self.engine = Engine(model, config, restore, self.step)
        self._open_data()
        tokenizer = run / "tokenizer" / "tokenizer.json"
        self.probes = Probes(run / "probes", tokenizer, config.probe_limit, config.seq_len, self.index.eos_id)
        self.logs: dict[str, IO[str]] = {}
        if events:
            self.logs = {name: (run / name).open("a") for name in ("train.jsonl", "probes.jsonl")}

    def _open_data(self) -> None:
        config, cache = self.config, self.run / ".cache"
        if self.engine.rank == 0:
            for split in ("train", "validation"):
                build_cache(self.index, split, cache)
        self.engine.barrier()
        self.data = Sequences(self.index, "train", cache, config.seq_len, config.seed)
        self.validation = Sequences(self.index, "validation", cache, config.seq_len, config.seed)
        if not self.data.size:
            raise DataError(
                f"{self.index.folder}: expected more than seq_len={config.seq_len} training tokens, found "
                f"{len(self.data.tokens)}: keep more documents, or lower train.seq_len"
            )

    def train(self) -> None:
        config, total = self.config, self.config.total_steps
        self._emit_start()
        if self.step == 0 and config.probe_every:
            self._write("probes.jsonl", self._probe())
        spent, since, told = 0.0, self.step, 0.0
        while self.step < total:
            began = time.perf_counter()
            step = self.step + 1
            lr = learning_rate(step, config)
            loss, norm = self.engine.step(self._micro_batches(), lr)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingError(f"step {step}: the loss is {loss} and the gradient norm {norm}: lower train.lr")
            self.step = step
            spent += time.perf_counter() - began
            evaluate = step == total or (config.probe_every > 0 and step % config.probe_every == 0)
            save = step == total or (config.checkpoint_every > 0 and step % config.checkpoint_every == 0)
            speed = (step - since) * config.global_batch * config.seq_len / spent
            if step == total or time.monotonic() - told > EVENT_INTERVAL_S:
                told = time.monotonic()
                left = (total - step) * config.global_batch * config.seq_len / speed
                self._emit("step", step=step, steps=total, loss=round(loss, 4), tokens_per_s=round(speed),
                           eta_s=round(left, 1))  # fmt: skip
            if evaluate or step % config.log_every == 0:
                row: dict[str, Any] = {
                    "step": step,
                    "loss": loss,
                    "tokens": step * config.global_batch * config.seq_len,
                }
                row |= {"tokens_per_s": round(speed, 1), "lr": lr, "grad_norm": norm}
                self._write("train.jsonl", [row | (self._validate() if evaluate else {})])
                spent, since = 0.0, step
            if evaluate:
                self._write("probes.jsonl", self._probe())
            if save:
                self._save()
        self._emit("done", step=self.step, steps=total, already=False)

    def _micro_batches(self) -> Iterator[np.ndarray]:
        """This rank's share of the next global batch: micro batch g of rank r follows those of the ranks before."""
        rows, config, engine = self.config.rank_micro_batch, self.config, self.engine
        first = self.step * config.global_batch
        for start in range(first, first + config.global_batch, rows * engine.ranks):
            mine = start + engine.rank * rows
            yield self.data.at(np.arange(mine, mine + rows))

    def _validate(self) -> dict[str, float]:
        """Mean loss and bits per byte over a fixed sample of the validation sequences."""
        count = min(self.config.val_limit, self.validation.size)
        if not count:
            return {}
        numbers = order(np.arange(count), self.validation.size, 0)
        groups = np.array_split(numbers, -(-count // self.config.rank_micro_batch))
        nll = np.zeros(1)
        for turn, mine in turns(len(groups), self.engine.rank, self.engine.ranks):
            rows = self.validation.take(groups[turn])
            logprobs = self.engine.logprobs(rows[:, :-1].copy(), rows[:, 1:].copy())
            nll -= logprobs.sum() * mine
        loss = float(self.engine.gather(nll)[0]) / (count * self.config.seq_len)
        sums = self.index.totals["validation"]
        return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) * sums["tokens"] / sums["text_bytes"]}

    def _probe(self) -> list[dict[str, Any]]:
        began = time.perf_counter()
        rows = self.probes.evaluate(self.engine.logprobs, self.engine.gather, self.engine.rank, self.engine.ranks)
        rows = [{"step": self.step, **row} for row in rows]
        for row in rows:
            self._emit("probe", steps=self.config.total_steps, **row)
        self._emit("probed", step=self.step, items=sum(row["n"] for row in rows),
                   seconds=round(time.perf_counter() - began, 2))  # fmt: skip
        return rows

    def _save(self) -> None:
        tensors = self.engine.tensors()
        for log in self.logs.values():
            os.fsync(log.fileno())
        if self.engine.rank == 0:
            config, vocab = self.config, padded_vocab(self.index.vocab_size)
            state = {
                "step": self.step,
                "samples": self.step * config.global_batch,
                "fingerprint": self.fingerprint,
                "tokens_digest": self.index.digest,
                "config": config.model_dump(),
            }
            hf = hf_config(config.shape, vocab, config.seq_len, self.index.eos_id)
            path = checkpoint.save(self.run / "checkpoints", self.step, tensors, state, hf, config.keep_last)
            self._emit("checkpoint", step=self.step, path=str(path))
        self.engine.barrier()

    def _emit_start(self) -> None:
        config = self.config
        sequences = config.total_steps * config.global_batch
        self._emit("start", step=self.step, steps=config.total_steps, parameters=self.parameters, ranks=config.ranks,
                   threads=torch.get_num_threads(), sequences=self.data.size,
                   epochs=round(sequences / self.data.size, 2), probes=sorted(self.probes.tasks))  # fmt: skip

    def _emit(self, event: str, **fields: Any) -> None:
        if self.events:
            self.events.emit(event, **fields)

    def _write(self, name: str, rows: list[dict[str, Any]]) -> None:
        if name in self.logs:
            self.logs[name].write("".join(json.dumps(row) + "\n" for row in rows))
            self.logs[name].flush()


def train_rank(run: Path, config: TrainConfig, events: Events | None) -> None:
    """Train as the rank that the environment describes, from the latest checkpoint on."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    start_ranks()
    trainer = Trainer(run, config, events)
    trainer.train()
    for log in trainer.logs.values():
        log.close()
    stop_ranks()


def main() -> None:
    """One of several ranks, started by torchrun. The error line is marked for the launcher, who reads the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("config", type=Path)
    args = parser.parse_args()
    try:
        events = Events() if os.environ["RANK"] == "0" else None
        train_rank(args.run, TrainConfig.model_validate_json(args.config.read_text()), events)
    except Exception as error:
        traceback.print_exc()
        print(f"{ERROR_MARK}{describe(error)}", file=sys.stderr, flush=True)
        os._exit(1)  # the other ranks wait in a collective: an orderly teardown would wait for them


def describe(error: BaseException) -> str:
    """One line: the message of an error of ours, the type as well for any other."""
    ours = type(error).__module__.startswith("trainer.")
    text = " ".join(str(error).split()) or "no message"
    return text if ours else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
