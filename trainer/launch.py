"""`python -m trainer.launch --run RUN_DIR --config CONFIG.json`: train on the shards of a run directory.

Standard output carries JSON events and nothing else; what libraries say goes to `RUN_DIR/train.log`; a failure is
one line on standard error and a non-zero exit. A finished run is recognised without loading torch. One rank
trains in this process; more are started by torchrun on 127.0.0.1. A first SIGTERM or SIGINT lets the ranks save and
end, a second one ends them. Other launchers (Ray, Slurm, deepspeed) start `trainer.train` on each rank themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from trainer.begin import finished
from trainer.config import TrainConfig
from trainer.rundir import STOP, Events, TrainingError, enter, input_digest
from trainer.tokens import TokenIndex

USAGE_ERROR, FAILURE = 2, 1
ERROR_MARK = "trainer-error: "  # before the one line that says why a rank ended, on its standard error
_KILLED = re.compile(r"exitcode\s*:\s*-\d+ .*\((SIG(?:KILL|SEGV|BUS|ABRT|ILL|FPE))\)")  # in torchrun's report


def read_config(path: Path) -> TrainConfig:
    """The checked configuration; TrainingError with one line that names each wrong field."""
    try:
        return TrainConfig.model_validate_json(path.read_text())
    except OSError as error:
        raise TrainingError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, p['loc'])) or 'train'}: {p['msg']}" for p in error.errors())
        raise TrainingError(f"{path}: {'; '.join(problems)}") from None


def describe(error: BaseException) -> str:
    """One line: the message of an error of ours, the type as well for any other."""
    ours = type(error).__module__.startswith("trainer.")
    text = " ".join(str(error).split()) or "no message"
    return text if ours else f"{type(error).__name__}: {text}"


def set_threads(config: TrainConfig, local_ranks: int) -> None:
    """Before torch is loaded: the threads of a rank, where the environment does not say."""
    cores = len(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = str(config.threads or max(1, cores // local_ranks))
    # Waiting threads sleep: spinning gains a tenth on an idle machine and loses nine tenths on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def alone() -> None:
    """Make this process the only rank."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # any port: nobody else needs to find it


def run_here(run: Path, config: TrainConfig, events: Events) -> None:
    """Train with one rank in this process."""
    alone()
    from trainer.train import train_rank

    train_rank(run, config, events)


def torchrun(ranks: int) -> list[str]:
    """The start of a command line that runs a module on `ranks` processes of this machine, on a port of its choice."""
    here = ["--standalone", "--local-addr", "127.0.0.1"]
    return [sys.executable, "-m", "torch.distributed.run", *here, "--nproc-per-node", str(ranks)]


def run_torchrun(run: Path, config_file: Path, config: TrainConfig, events: Events, log: IO[str]) -> None:
    """Train with `config.ranks` processes; TrainingError with the first error that a rank marked."""
    start = log.seek(0, os.SEEK_END)
    stop, asked = run / STOP, False
    command = [*torchrun(config.ranks), "-m", "trainer.train", str(run), str(config_file)]
    # A session of its own: torchrun gives its ranks 30 s after a signal, less than a large checkpoint takes.
    child = subprocess.Popen(command, stdout=events.file.fileno(), stderr=log.fileno(), start_new_session=True)

    def take(number: int, _frame: Any) -> None:
        nonlocal asked
        if asked:
            os.killpg(child.pid, signal.SIGTERM)
        asked = True
        stop.touch()

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.unlink(missing_ok=True)
    if code:
        log.seek(start)
        raise TrainingError(first_error(log) or f"a rank ended with status {code}: see {run / 'train.log'}")


def first_error(log: Iterable[str]) -> str:
    """What ended a torchrun: a rank that the system killed, for the others only lost their connection to it, else the
    first error that a rank marked; empty where there is neither."""
    marked = ""
    for line in log:
        if found := _KILLED.search(line):
            why = ", as the system does when memory runs out" if found[1] == "SIGKILL" else ""
            return f"a rank was ended by {found[1]}{why}: the same command goes on from the last checkpoint"
        if not marked and ERROR_MARK in line:
            marked = line.partition(ERROR_MARK)[2].strip()
    return marked


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="trainer", description="Train and probe a model on a run directory.")
    parser.add_argument("--run", type=Path, required=True, help="run directory with tokens/index.json")
    parser.add_argument("--config", type=Path, required=True, help="JSON of trainer.config.TrainConfig")
    parser.add_argument("--dry-run", action="store_true", help="emit the start-up table and end")
    args = parser.parse_args(argv)
    terminal = os.fdopen(os.dup(2), "w")
    try:
        config = read_config(args.config)
        run = args.run.resolve(strict=True)
    except (TrainingError, OSError) as error:
        print(f"trainer: {error}", file=terminal)
        return USAGE_ERROR
    try:
        log = (run / "train.log").open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        print(f"trainer: {error.filename}: cannot be written: {error.strerror}", file=terminal, flush=True)
        return FAILURE
    os.dup2(log.fileno(), 2)
    events = Events()
    try:
        index = TokenIndex.read(run / "tokens")
        fingerprint = config.fingerprint(input_digest(index.digest, run / "probes", config.init_from))
        set_threads(config, config.ranks)
        if args.dry_run:
            from trainer.begin import start_table
            from trainer.first_weights import embedding_rows
            from trainer.order import expect_order

            vocab = embedding_rows(config.init_from, config.shape, index.vocab_size, run / "tokenizer/tokenizer.json")
            start_table(config, index, vocab, events, config.ranks)
            expect_order(index, config)
        elif finished(run, config, fingerprint):
            events.emit("done", step=config.total_steps, steps=config.total_steps, already=True)
        else:
            enter(run, events)
            if config.ranks == 1:
                run_here(run, config, events)
            else:
                run_torchrun(run, args.config.resolve(), config, events, log)
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk takes no log, and is told below
            traceback.print_exc()
        ours = isinstance(error, TrainingError) or type(error).__module__.startswith("trainer.")
        where = "" if ours else f" (see {run / 'train.log'})"
        print(f"trainer: {describe(error)}{where}", file=terminal, flush=True)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main())
