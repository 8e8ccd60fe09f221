"""The files of a run directory that need no torch: events, logs, the marker `latest`, the lock, the stop file.

Kept apart from `checkpoint` so that a finished run is recognised in a fraction of a second. Everything small is
replaced by write, fsync, rename: a reader sees the old file or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import IO, Any

LATEST, STATE = "latest", "state.json"
STOP = "stop"  # a file of this name in the run directory asks a training to save and end
CHECKPOINTS, RESTART, LOGS = "checkpoints", "restart", ("train.jsonl", "probes.jsonl")
PROBE_ITEMS, VALIDATION_ITEMS = ITEMS = "probe-items", "validation-items"  # folders of step-<step>.parquet
SETTINGS = "training.json"  # the configuration of the training that the checkpoints and logs are of


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message says where, what was found and what to do."""


class TrainingError(Exception):
    """The training cannot go on; the message says where, why and what to do."""


class Events:
    """JSON lines on the standard output, which nothing else can write to: file descriptor 1 then goes to stderr.

    Libraries print there as they like. A reader that went away ends the training with BrokenPipeError.
    """

    def __init__(self) -> None:
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def emit(self, event: str, **fields: Any) -> None:
        self.file.write(json.dumps({"event": event, **fields}) + "\n")
        self.file.flush()


def lock(run: Path, wait_s: float = 30.0) -> IO[str]:
    """Hold the run directory until the process ends; TrainingError if another trainer keeps it for `wait_s`.

    The wait covers the orphan of a killed engine, which ends at its next event.
    """
    (run / ".cache").mkdir(parents=True, exist_ok=True)
    file = (run / ".cache" / "trainer.lock").open("a")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TrainingError(f"{run}: another trainer is writing to it: wait for it, or end it") from None
            time.sleep(0.2)


def enter(run: Path, events: Events, wait_s: float = 30.0) -> None:
    """Before the ranks start: wait for another trainer's end as `lock` does, and take away a stop file from before.

    So a second trainer that is started by mistake, and then stopped, never touches the first one.
    """
    try:
        held = lock(run, 0.0)
    except TrainingError:
        events.emit("note", text=f"{run}: another trainer is writing to it: waiting {wait_s:.0f} s for its end")
        held = lock(run, wait_s)
    with held:
        (run / STOP).unlink(missing_ok=True)


def input_digest(index_digest: str, probes: Path, init_from: str) -> str:
    """SHA-256 over everything that the training reads: the token index, the probe files, the first weights.

    Of weights the sizes, the first MiB and 16 blocks are read: as many bytes as tell one checkpoint from another.
    """
    digest = hashlib.sha256(index_digest.encode())
    for path in sorted(probes.glob("*.jsonl")) if probes.is_dir() else []:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    for path in sorted(Path(init_from).glob("*.safetensors")) if init_from else []:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            for block in range(16):
                file.seek(size * block // 16)
                digest.update(file.read(1 << 16))
    return digest.hexdigest()


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_text(path: Path, text: str) -> None:
    """Replace a small file: write beside it, fsync, rename."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
    sync(path.parent)


def latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest complete checkpoint and its state, or None. Raises CheckpointError if `latest` points nowhere."""
    marker = folder / LATEST
    if not marker.exists():
        return None
    path = folder
    try:
        path = folder / marker.read_text().strip()
        state = json.loads((path / STATE).read_text())
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise ValueError(f"expected {STATE} with a step")
        return path, state
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{marker}: names {path.name}, which cannot be read ({error}): put the name of a complete step-* folder "
            f"into it, or remove {folder} to start again"
        ) from None


def set_aside(run: Path, fingerprint: str) -> Path:
    """Move checkpoints and logs of another configuration to `checkpoints-<fingerprint>`; an older one is replaced.

    All is put into `checkpoints`, the restarts last, which is then renamed: where a kill falls in between, the next
    start finds the rest and goes on.
    """
    source, target = run / CHECKPOINTS, run / f"{CHECKPOINTS}-{fingerprint[:8]}"
    source.mkdir(exist_ok=True)
    for name in (*LOGS, *ITEMS, SETTINGS, "spikes", "tensorboard", RESTART):
        if (run / name).exists():
            (run / name).replace(source / name)
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    sync(run)
    return target


def truncate_rows(path: Path, step: int) -> None:
    """Keep the rows of a JSONL log up to `step`, so that no step appears twice after a resumption.

    A last line that a killed process left half-written is dropped with them.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            if int(json.loads(line)["step"]) > step:
                break
        except (ValueError, TypeError, KeyError):
            break
        kept.append(line.decode() + "\n")
    publish_text(path, "".join(kept))


def remove_later(folder: Path, step: int) -> None:
    """Remove the `step-<step>.parquet` of later steps: a round that was put off by the clock may not come again."""
    for path in folder.glob("step-*.parquet"):
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            path.unlink()
