"""`python -m trainer.launch --run RUN_DIR --config CONFIG.json`: train on the shards of a run directory.

Standard output carries JSON events and nothing else; what libraries say goes to `RUN_DIR/train.log`; a failure is
one line on standard error and a non-zero exit. A finished run is recognised without loading torch. One rank
trains in this process; more are started by torchrun on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from trainer.config import TrainConfig
from trainer.data import TokenIndex
from trainer.rundir import Events, TrainingError, input_digest, latest, lock, set_aside, truncate_rows

USAGE_ERROR, FAILURE = 2, 1


def read_config(path: Path) -> TrainConfig:
    """The checked configuration; TrainingError with one line that names each wrong field."""
    try:
        return TrainConfig.model_validate_json(path.read_text())
    except OSError as error:
        raise TrainingError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, p['loc'])) or 'train'}: {p['msg']}" for p in error.errors())
        raise TrainingError(f"{path}: {'; '.join(problems)}") from None


def prepare(run: Path, config: TrainConfig, events: Events) -> bool:
    """Bring the run directory to where the training goes on; False if it is finished already."""
    index = TokenIndex.read(run / "tokens")
    fingerprint = config.fingerprint(input_digest(index.digest, run / "probes"))
    found = latest(run / "checkpoints")
    if found and found[1]["fingerprint"] != fingerprint:
        moved = set_aside(run, found[1]["fingerprint"])
        events.emit("restart", reason="the configuration, the tokens or the probes changed", moved_to=str(moved))
        found = None
    step = found[1]["step"] if found else -1
    for name in ("train.jsonl", "probes.jsonl"):
        truncate_rows(run / name, step)
    if step == config.total_steps:
        events.emit("done", step=step, steps=step, already=True)
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _set_threads(config: TrainConfig) -> None:
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(config.threads or max(1, cores // config.ranks))
    # Waiting threads sleep: spinning gains a tenth on an idle machine and loses nine tenths on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_here(run: Path, config: TrainConfig, events: Events) -> None:
    """Train with one rank in this process."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    from trainer.train import train_rank

    train_rank(run, config, events)


def run_torchrun(run: Path, config_file: Path, config: TrainConfig, events: Events, log: IO[str]) -> None:
    """Train with `config.ranks` processes; TrainingError with the first error that a rank marked."""
    start = log.seek(0, os.SEEK_END)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(config.ranks)]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    command += ["-m", "trainer.train", str(run), str(config_file)]
    child = subprocess.Popen(command, stdout=events.file.fileno(), stderr=log.fileno())
    try:
        code = child.wait()
    finally:
        child.terminate()
    if code:
        from trainer.train import ERROR_MARK

        log.seek(start)
        marked = [line.partition(ERROR_MARK)[2].strip() for line in log if ERROR_MARK in line]
        raise TrainingError(marked[0] if marked else f"a rank ended with status {code}: see {run / 'train.log'}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trainer", description="Train and probe a model on a run directory.")
    parser.add_argument("--run", type=Path, required=True, help="run directory with tokens/index.json")
    parser.add_argument("--config", type=Path, required=True, help="JSON of trainer.config.TrainConfig")
    args = parser.parse_args(argv)
    terminal = os.fdopen(os.dup(2), "w")
    try:
        config = read_config(args.config)
        run = args.run.resolve(strict=True)
    except (TrainingError, OSError) as error:
        print(f"trainer: {error}", file=terminal)
        return USAGE_ERROR
    log = (run / "train.log").open("a+", encoding="utf-8", errors="replace")
    os.dup2(log.fileno(), 2)
    events = Events()
    try:
        held = lock(run)
        if prepare(run, config, events):
            _set_threads(config)
            if config.ranks == 1:
                run_here(run, config, events)
            else:
                run_torchrun(run, args.config.resolve(), config, events, log)
        held.close()
    except Exception as error:
        traceback.print_exc()
        ours = type(error).__module__.startswith("trainer.")
        text = " ".join(str(error).split())
        where = "" if ours else f"{type(error).__name__}: "
        print(f"trainer: {where}{text}" + ("" if ours else f" (see {run / 'train.log'})"), file=terminal, flush=True)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
