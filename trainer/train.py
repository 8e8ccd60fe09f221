"""The training loop of one rank: read, step, evaluate, log, checkpoint.

Nothing in a step waits for the device: the loss of a step on a GPU is read while the next one runs, so what a loss
may cause (a report, an error) comes one step late but names the right step. A step's rows are written before its
checkpoint, so a checkpoint vouches for every row up to its step; rows after it are cut off on resumption. Evaluation
and checkpoints do not count into tokens/s. The garbage collector runs between steps only where a step pauses anyway.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from trainer import watch
from trainer.begin import prepare, start_table
from trainer.config import TrainConfig
from trainer.engine import Engine, StepResult, start_ranks, stop_ranks
from trainer.first_weights import embedding_rows
from trainer.hardware import local_ranks, peak
from trainer.hf import hf_config
from trainer.launch import ERROR_MARK, describe, read_config, set_threads
from trainer.lineage import documents_of_step
from trainer.logs import PROBES, TRAIN, Logs
from trainer.meter import Meter
from trainer.optim import learning_rate
from trainer.pacer import Pacer
from trainer.policy import autocast_dtype
from trainer.probes import BATCH_TOKENS, GPU_BATCH_TOKENS, Probes
from trainer.reader import Reader
from trainer.rundir import CHECKPOINTS, RESTART, Events, TrainingError, input_digest, lock
from trainer.stop import Stop
from trainer.tokens import TokenIndex
from trainer.validation import Validation

EVENT_INTERVAL_S = 0.5
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Trainer:
    """Everything one rank holds. `events` is None on ranks other than 0, as are `logs`."""

    def __init__(self, run: Path, config: TrainConfig, events: Events | None) -> None:
        self.run, self.config, self.events = run, config, events
        self.index = TokenIndex.read(run / "tokens")
        self.fingerprint = config.fingerprint(input_digest(self.index.digest, run / "probes", config.init_from))
        if events:
            self.lock = lock(run)
        tokenizer = run / "tokenizer" / "tokenizer.json"
        self.vocab = embedding_rows(config.init_from, config.shape, self.index.vocab_size, tokenizer)
        start_table(config, self.index, self.vocab, events, local_ranks())
        Reader(self.index, config, run / ".cache", 0, config.data_ranks).close()  # refuses before anything is moved
        resume = prepare(run, config, self.fingerprint, events) if events else None
        self.logs = Logs(run, config, self.fingerprint) if events else None
        self.step, path = _shared((resume.step, resume.path) if resume else (0, None))
        self.engine = Engine(config, self.vocab, path)
        here = self.engine.data_rank, self.engine.data_ranks
        self.reader = Reader(self.index, config, run / ".cache", *here)
        batch = BATCH_TOKENS if self.engine.device.type == "cpu" else GPU_BATCH_TOKENS
        self.validation = Validation(self.index, run / ".cache", config, *here, batch)
        self.probes = Probes(run / "probes", tokenizer, config.probe_limit, config.seq_len, self.index.eos_id, batch)
        self.watch = watch.Watch(config.spike, _recent_losses(run / TRAIN))
        flops = config.shape.flops_per_token(self.vocab, config.seq_len)
        speed = peak(autocast_dtype(config) or torch.float32)
        self.meter = Meter(config.global_batch * config.seq_len, flops, config.ranks, speed)
        self.pacer, self.put_off = Pacer(config.probe_share), False
        self.told = 0.0

    def train(self) -> None:
        """Train to the last step, or until the ranks agree to stop."""
        config, total = self.config, self.config.total_steps
        self._emit_start()
        if self.step == 0 and config.probe_every:
            began = time.perf_counter()
            untrained = self.validation.evaluate(self.engine.logprobs, self.engine.gather)
            if self.logs and untrained:
                self.logs.write(TRAIN, [{"step": 0, "tokens": 0, **untrained}])
                self.validation.save_items(self.run, 0)
            self._probe()
            self.pacer.probed(time.perf_counter() - began, on_the_way=False)
        overlap, late, stopping = self.engine.device.type != "cpu", None, False
        gc.collect()
        gc.freeze()
        gc.disable()
        self.meter.restart(self.reader.wait_s)
        began = time.perf_counter()
        with Stop(self.run) as stop:
            while self.step < total and not stopping:
                step = self.step + 1
                result = self.engine.step(self.reader.step(step), step)
                self.step = step
                stopping = stop.agreed()
                if late:
                    self._log(*late)
                evaluate = step == total or self._probe_now(step)
                save = stopping or step == total or _every(config.checkpoint_every, step)
                quick = not save and _every(config.restart_every, step)
                late, evaluating_s = (step, result), 0.0
                if evaluate or save or quick or not overlap:
                    evaluating_s = self._log(step, result, evaluate)
                    late = None
                self.pacer.trained(time.perf_counter() - began - evaluating_s)
                began = time.perf_counter()
                if save or quick:
                    self._save(quick)
                    gc.collect()
                    self.meter.skip(time.perf_counter() - began)
                    began = time.perf_counter()
            stop.forget()
        self._emit("done" if self.step == total else "stopped", step=self.step, steps=total, already=False)

    def _log(self, step: int, result: StepResult, evaluate: bool = False) -> float:
        """Read the loss of a step, look at it, tell and log it; with `evaluate` also validate and probe.

        Returns the seconds that the evaluation took.
        """
        config, total = self.config, self.config.total_steps
        slots, targets = config.global_batch * config.seq_len, max(1, self.reader.targets(step))
        loss, norm = result.loss * slots / targets, result.norm
        if not watch.is_number(loss, norm, config.precision == "fp16"):
            self._end_without_number(step, loss, norm)
        spike = self.watch.see(step, loss)
        if spike and self.engine.is_writer:
            self._report(spike, norm)
        speed = self.meter.step(self.reader.wait_s)
        step_tokens = config.global_batch * config.seq_len
        if step == total or time.monotonic() - self.told > EVENT_INTERVAL_S:
            self.told = time.monotonic()
            left = (total - step) * step_tokens / speed["tokens_per_s"]
            self._emit("step", step=step, steps=total, loss=round(loss, 4), **speed, eta_s=round(left, 1))
        if not (evaluate or _every(config.log_every, step)):
            return 0.0
        self.meter.restart(self.reader.wait_s)
        began = time.perf_counter()
        row = {"step": step, "loss": loss, "tokens": step * step_tokens, **speed,
               "lr": learning_rate(step, config), "grad_norm": norm}  # fmt: skip
        if evaluate:
            row["epochs"] = {name: round(count, 4) for name, count in self.reader.epochs(step).items()}
            row |= self.validation.evaluate(self.engine.logprobs, self.engine.gather)
        if self.logs:
            self.logs.write(TRAIN, [row])
        if not evaluate:
            return 0.0
        if self.logs:
            self.validation.save_items(self.run, step)
        self._probe()
        gc.collect()
        took = time.perf_counter() - began
        self.pacer.probed(took, on_the_way=step < total)
        self.meter.skip(took)
        return took

    def _probe(self) -> None:
        began = time.perf_counter()
        engine = self.engine
        rows = self.probes.evaluate(engine.logprobs, engine.gather, engine.data_rank, engine.data_ranks)
        rows = [{"step": self.step, **row} for row in rows]
        for row in rows:
            self._emit("probe", steps=self.config.total_steps, **row)
        self._emit("probed", step=self.step, items=sum(row["n"] for row in rows),
                   seconds=round(time.perf_counter() - began, 2))  # fmt: skip
        if self.logs and rows:
            self.logs.write(PROBES, rows)
            self.probes.save_items(self.run, self.step)

    def _probe_now(self, step: int) -> bool:
        """Whether a round on the way is due: rank 0 has the clock, all ranks ask at the same steps."""
        every = self.config.probe_every
        asked = _every(every, step)
        if not asked and not (self.put_off and step % max(1, every // 10) == 0):
            return False
        due = _shared(self.pacer.due(asked))
        self.put_off = not due
        return due

    def _end_without_number(self, step: int, loss: float, norm: float) -> NoReturn:
        """Every rank sees the same loss: rank 0 writes the report, all raise the same error."""
        path, writer = self.run / "spikes" / f"step-{step}.json", self.engine.is_writer
        documents = _shared(documents_of_step(self.index, self.config, step) if writer else None)
        if writer:
            numbers = {"loss": loss, "grad_norm": norm, "lr": learning_rate(step, self.config)}
            watch.report(path.parent, step, "nan", numbers, documents)
        raise watch.not_a_number(step, loss, norm, path, documents)

    def _report(self, spike: watch.Spike, norm: float) -> None:
        found = {"loss": spike.loss, "expected": spike.expected, "deviations": spike.deviations}
        numbers = {**found, "grad_norm": norm, "lr": learning_rate(spike.step, self.config)}
        documents = documents_of_step(self.index, self.config, spike.step)
        path = watch.report(self.run / "spikes", spike.step, "spike", numbers, documents)
        self._emit("spike", step=spike.step, **found, report=str(path))

    def _state(self) -> dict[str, Any]:
        config, index = self.config, self.index
        return {"step": self.step, "samples": self.step * config.global_batch, "fingerprint": self.fingerprint,
                "tokens_digest": index.digest, "tokenizer": index.fingerprint,
                "config": config.model_dump(mode="json")}  # fmt: skip

    def _save(self, quick: bool) -> None:
        """A portable checkpoint, or DeepSpeed's own."""
        if self.logs:
            self.logs.sync()
        if quick:
            path = self.engine.save_restart(self.run / RESTART, self._state())
        else:
            model = hf_config(self.config.shape, self.vocab, self.config.seq_len, self.index.eos_id)
            path = self.engine.save(self.run / CHECKPOINTS, self._state(), {"config.json": json.dumps(model, indent=1)})
        self._emit("checkpoint", step=self.step, path=str(path))

    def _emit_start(self) -> None:
        config = self.config
        epochs = {name: round(count, 3) for name, count in self.reader.epochs(config.total_steps).items()}
        self._emit("start", step=self.step, steps=config.total_steps, ranks=config.ranks,
                   parameters=config.shape.parameters(self.vocab), threads=torch.get_num_threads(),
                   sequences=self.reader.size, epochs=epochs, attention=self.engine.attention,
                   probes=sorted(self.probes.tasks))  # fmt: skip

    def _emit(self, event: str, **fields: Any) -> None:
        if self.events:
            self.events.emit(event, **fields)

    def close(self) -> None:
        self.reader.close()
        if self.logs:
            self.logs.close()


def _every(steps: int, step: int) -> bool:
    return steps > 0 and step % steps == 0


def _shared(value: Any) -> Any:
    """Rank 0's value on every rank."""
    values = [value]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    dist.broadcast_object_list(values, src=0, device=device)
    return values[0]


def _recent_losses(path: Path) -> list[float]:
    """The last losses of the log, to judge the first ones after a resumption by."""
    lines = path.read_text().splitlines()[-watch.WINDOW :] if path.exists() else []
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def train_rank(run: Path, config: TrainConfig, events: Events | None) -> None:
    """Train as the rank that the environment describes, from the latest checkpoint on."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    start_ranks()
    trainer = Trainer(run, config, events)
    trainer.train()
    trainer.close()
    stop_ranks()


def main() -> None:
    """One of several ranks, started by torchrun, Ray, srun or deepspeed: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT say which. The error line is marked for the launcher, who reads the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("config", type=Path)
    args, _ = parser.parse_known_args()
    try:
        if missing := [name for name in LAUNCHER if name not in os.environ]:
            raise TrainingError(
                f"expected {', '.join(LAUNCHER)} in the environment, as a launcher of ranks sets them, found no "
                f"{', '.join(missing)}: use `tamis train`, torchrun, srun or deepspeed"
            )
        events = Events() if os.environ["RANK"] == "0" else None
        config = read_config(args.config)
        if (found := int(os.environ["WORLD_SIZE"])) != config.ranks:
            raise TrainingError(
                f"{args.config}: ranks: expected the {found} processes of this launch, found {config.ranks}: make the "
                f"file with `tamis train --dry-run --ranks {found}`"
            )
        set_threads(config, local_ranks())
        train_rank(args.run.resolve(strict=True), config, events)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log may be on a full disk
            traceback.print_exc()
        with contextlib.suppress(OSError):
            print(f"{ERROR_MARK}{describe(error)}", file=sys.stderr, flush=True)
        os._exit(1)  # the other ranks wait in a collective: an orderly teardown would wait for them


if __name__ == "__main__":
    main()
