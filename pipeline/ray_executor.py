"""The one module that imports Ray: scheduler, placement and retries for tasks over planned slices.

Data goes from storage to worker to storage and never through the object store. Ray itself retries nothing
(`max_retries=0`): the driver tells a lost worker (submit again, with twice the memory after an out-of-memory kill)
from an error of the work (the slice has failed, the others go on). Cost: about 1 ms for each task.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import TamisError
from pipeline.executor import Done, Task, describe, perform

MAX_ATTEMPTS = 4
BASE_MEMORY = 512 * 2**20  # bytes that a task is assumed to need, for Ray's bookkeeping

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray  # noqa: E402
import ray.exceptions  # noqa: E402

LOST = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.RaySystemError,
)


def _remote(run_dir: str, task: Task, attempt: int) -> tuple[Any, str | None]:
    """On the worker: an error of the work comes back as text, so that only lost workers raise at the driver."""
    try:
        return perform(run_dir, task, attempt), None
    except Exception as error:
        return None, describe(error)


class RayExecutor:
    """Ray on this machine (`address=None`, `workers` CPUs, loopback only) or on a cluster."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers = workers
        self._owns = not ray.is_initialized()
        if self._owns:
            local: dict[str, Any] = {
                "address": "local",
                "num_cpus": max(1, workers),
                "include_dashboard": False,
                "object_store_memory": 128 * 2**20,
                "_node_ip_address": "127.0.0.1",
            }
            options = local if address is None else {"address": address}
            try:
                ray.init(**options, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True)
            except Exception as error:
                raise TamisError(
                    f"Ray: expected to start or to reach {address or 'a local Ray'}, found: {error}"
                ) from None
        self._task = ray.remote(max_retries=0, num_cpus=1)(_remote)
        self._most = int(max((node["Resources"].get("memory", 0) for node in ray.nodes()), default=0) * 0.9)

    def run(self, run_dir: Path, tasks: Iterable[Task]) -> Iterator[Done]:
        waiting = [(task, 0, BASE_MEMORY) for task in tasks][::-1]
        running: dict[Any, tuple[Task, int, int]] = {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                task, attempt, memory = waiting.pop()
                memory = min(memory, self._most)  # more than any node has would wait for ever
                future = self._task.options(memory=memory).remote(str(run_dir), task, attempt)
                running[future] = (task, attempt, memory)
            ready, _ = ray.wait(list(running), num_returns=1)
            task, attempt, memory = running.pop(ready[0])
            try:
                result, error = ray.get(ready[0])
            except LOST as lost:
                if attempt + 1 >= MAX_ATTEMPTS:
                    text = f"its worker was lost {MAX_ATTEMPTS} times, last: {str(lost).splitlines()[0]}"
                    yield Done(task, error=text, attempts=attempt + 1)
                else:
                    factor = 2 if isinstance(lost, ray.exceptions.OutOfMemoryError) else 1
                    waiting.append((task, attempt + 1, memory * factor))
                continue
            yield Done(task, result, error, attempt + 1)

    def close(self) -> None:
        if self._owns:
            ray.shutdown()
