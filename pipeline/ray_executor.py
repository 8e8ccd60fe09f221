"""The one module that imports Ray: scheduler, placement and retries for tasks over planned slices.

Data goes from storage to worker to storage and never through the object store. Ray itself retries nothing
(`max_retries=0`): the driver tells a lost worker (submit again, with twice the memory after an out-of-memory kill)
from an error of the work (the slice has failed, the others go on). Cost: about 1 ms for each task.

`run_ranks` starts the ranks of a training the same way: an actor for each, all placed at once or none, and in it a
process of its own that knows nothing of Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import TamisError, ended
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


def _connect(workers: int, address: str | None) -> bool:
    """Start a Ray here with `workers` CPUs (no address), or reach a cluster; False where one is connected already."""
    if ray.is_initialized():
        return False
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
        raise TamisError(f"Ray: expected to start or to reach {address or 'a local Ray'}, found: {error}") from None
    return True


class RayExecutor:
    """Ray on this machine (`address=None`, `workers` CPUs, loopback only) or on a cluster."""

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers = workers
        self._owns = _connect(workers, address)
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


class _Rank:
    """One rank of a training: says where it is, then runs a process whose output comes back line by line."""

    def place(self) -> tuple[str, int, list[int]]:
        """(node, a free port on it, the GPUs given to this rank)."""
        context = ray.get_runtime_context()
        gpus = [int(number) for number in context.get_accelerator_ids().get("GPU", [])]
        with socket.socket() as probe:
            probe.bind(("", 0))
            return context.get_node_id(), probe.getsockname()[1], gpus

    def run(self, arguments: list[str], environment: dict[str, str], log: str) -> Iterator[bytes | tuple[int, str]]:
        """The lines of the standard output; at last the exit status and the end of the standard error, which also
        goes to the file `log`."""
        command = [sys.executable, *arguments]
        with Path(log).open("a+", errors="replace") as errors:
            start = errors.seek(0, os.SEEK_END)
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **environment}
            ) as child:
                assert child.stdout is not None
                for line in child.stdout:  # noqa: UP028, Ray drives the generator by `send`
                    yield line
            errors.seek(start)
            yield child.returncode, "".join(deque(errors, 200))


def run_ranks(
    arguments: list[str], ranks: int, address: str | None, log: Path, cpus: int, mark: str = "trainer-error: "
) -> Iterator[bytes]:
    """Run `python ARGUMENTS` once for each rank on the nodes of a cluster; yields rank 0's standard output by lines.

    Each process finds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment.
    Where the cluster has GPUs each rank gets one. The project and the files that `arguments` name must be found under
    the same paths on every node. TamisError when the cluster is too small, or with what a rank said after `mark`.
    """
    owns = _connect(ranks * cpus, address)
    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    group = ray.util.placement_group([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}] * ranks, strategy="PACK")
    try:
        _fits(ranks, cpus, gpus)
        ray.get(group.ready())
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actors = [
            ray.remote(_Rank)
            .options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=strategy(group, placement_group_bundle_index=i))
            .remote()
            for i in range(ranks)
        ]
        yield from _outputs(actors, arguments, log, mark)
    except ray.exceptions.RayActorError as lost:
        first = str(lost).strip().splitlines()[0]
        raise TamisError(f"a rank was lost ({first}): run again to go on from the last checkpoint") from None
    finally:
        ray.util.remove_placement_group(group)  # ends the actors, and they their processes
        if owns:
            ray.shutdown()


def _fits(ranks: int, cpus: int, gpus: int) -> None:
    """TamisError unless the cluster as a whole could hold the ranks: Ray would wait for ever."""
    have = ray.cluster_resources()
    room = int(have.get("CPU", 0) // cpus)
    room = min(room, int(have["GPU"])) if gpus else room
    if room < ranks:
        raise TamisError(
            f"Ray: expected room for {ranks} ranks of {cpus} CPUs{' and 1 GPU' if gpus else ''} each, found "
            f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs: lower --ranks, or add nodes"
        )


def _outputs(actors: list[Any], arguments: list[str], log: Path, mark: str) -> Iterator[bytes]:
    places = ray.get([actor.place.remote() for actor in actors])
    order = sorted(range(len(actors)), key=lambda i: places[i][0])  # the ranks of a node follow one another
    nodes = [places[i][0] for i in order]
    devices: dict[str, list[int]] = {node: [] for node in nodes}
    for node, _, gpus in places:
        devices[node] += gpus
    first, port, _ = places[order[0]]
    host = next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == first)
    streams: dict[Any, int] = {}
    for rank, i in enumerate(order):
        node = nodes[rank]
        environment = {"RANK": str(rank), "WORLD_SIZE": str(len(actors)), "MASTER_ADDR": host, "MASTER_PORT": str(port),
                       "LOCAL_RANK": str(rank - nodes.index(node)), "LOCAL_WORLD_SIZE": str(Counter(nodes)[node]),
                       "PYTHONUNBUFFERED": "1"}  # fmt: skip
        if devices[node]:  # all GPUs of the node's ranks, as LOCAL_RANK counts them
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, sorted(devices[node])))
        streams[actors[i].run.options(num_returns="streaming").remote(arguments, environment, str(log))] = rank
    while streams:
        stream: Any = ray.wait(list(streams), num_returns=1)[0][0]
        try:
            item = ray.get(next(stream))
        except StopIteration:
            del streams[stream]
            continue
        rank = streams[stream]
        if isinstance(item, bytes):
            if rank == 0:
                yield item
        elif item[0]:
            said = [line.partition(mark)[2].strip() for line in item[1].splitlines() if mark in line]
            raise TamisError(said[0] if said else f"{ended(f'rank {rank}', item[0])} (see {log})")
