"""The one module that imports DeepSpeed: builds the engine, steps it, scores with it, saves and restores it.

One class serves every mode: ZeRO 0 to 3, or pipeline stages (with ZeRO 1), each by tensor ranks of our own linears.
DeepSpeed is given a finished optimizer and an explicit configuration, and compiles nothing. Precision is fp32
parameters with autocast where wanted, in every mode, so a checkpoint needs no second copy of the weights; gradients
are summed over the ranks in fp32. At stage 0 DeepSpeed does not report the norm of the gradient; there the trainer
clips by itself and gives DeepSpeed `gradient_clipping: 0`.

The cost of building the model whole on each rank before ZeRO 3 cuts it: the host needs room for the weights once
for each rank.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trainer import checkpoint
from trainer.attention import activate, announce
from trainer.clip import clip_gradients
from trainer.config import TrainConfig
from trainer.guards import refuse
from trainer.hf import tensor_shapes
from trainer.linear import TensorParallel
from trainer.model import Block, Embed, Head, Llama, Travels, canonical_name, compile_blocks, initialise
from trainer.model_state import ModelState, load_weights
from trainer.moments import Moments, Sharded, Unsharded, moment_keys
from trainer.optim import make_optimizer, set_learning_rate
from trainer.pipeline_parts import evaluate
from trainer.policy import autocast_dtype, compiles, deepspeed_config
from trainer.resume import RESTART_FORMAT, layout
from trainer.rundir import STATE
from trainer.step_result import StepResult as StepResult
from trainer.tensor_files import read_json
from trainer.topology import ModelParallelUnit, Topology, stage_blocks

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")

import deepspeed
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime import torch_autocast
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from deepspeed.utils import (
    groups,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)

# No operator counts as available, so none is compiled: on a CPU its shared-memory collectives cost 40 s of C++.
deepspeed.ops.__compatible_ops__ = defaultdict(bool)

EMBEDDING, TIED = "model.embed_tokens.weight", "embed"


class Batch(Protocol):
    """A micro batch: int64 [rows, T] each, and int32 [rows, T] or None; numpy arrays or CPU tensors."""

    @property
    def ids(self) -> Any: ...
    @property
    def targets(self) -> Any: ...
    @property
    def segments(self) -> Any: ...


def start_ranks() -> None:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)


def stop_ranks() -> None:
    """Leave the process group; without this some runs abort after they have finished."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Stages(PipelineModule):
    """Cut where `partition_method`, the first layer of each stage and the number of layers, says."""

    def _partition_layers(self, method: list[int]) -> None:
        self.parts = method
        stage = self._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=method[stage], stop=method[stage + 1])


class Engine:
    """A model in training. Every method is collective: all ranks call it together.

    Attributes: `rank` of `ranks`; `data_rank` of `data_ranks` (the copies of the model, which read different
    sequences); `is_writer` on global rank 0; `device`; `attention`, the name of the attention kernel.
    """

    def __init__(
        self, config: TrainConfig, vocab_size: int, restore: Path | None = None, *, backend: str = "inductor"
    ) -> None:
        """`restore` is a `step-N` folder, portable or a restart (see `trainer.resume.find`), whose weights and moments
        replace the initial ones. Without it the weights come from `config.init_from`, or are drawn.

        `backend` is torch.compile's, used where `policy.compiles` says so. Raises guards.Refused, CheckpointError,
        ValueError.
        """
        refuse(config)
        self.config, self.vocab_size = config, vocab_size
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        if self.ranks != config.ranks:
            raise ValueError(f"train.ranks: expected {config.ranks} processes, found {self.ranks}")
        self.topology = Topology(config.pipeline, config.tensor)
        self.data_rank, self.data_ranks = self.topology.data.index, self.topology.data.size
        self.is_writer = self.rank == 0
        self.attention = activate(config.attention)
        self._dtype = autocast_dtype(config)
        _forget()
        state = read_json(restore / STATE) if restore else {}
        quick = state.get("format") == RESTART_FORMAT
        self._build()
        whole = tensor_shapes(config.shape, vocab_size)
        # A tied matrix is on the first stage and on the last: the first one saves it.
        second = config.shape.tied and self.topology.pipe.index > 0
        saved = [name for name in self._parameters if not (second and name == EMBEDDING)]
        source = restore or (Path(config.init_from) if config.init_from else None)
        if source and not quick:
            load_weights(source, self._parameters, whole, self.topology.tensor)
        self._optimizer = make_optimizer(self._parameters, config)
        keys = moment_keys(self._optimizer)
        mpu = ModelParallelUnit(self.topology) if config.tensor > 1 and config.pipeline == 1 else None
        ds_config = deepspeed_config(config, sum(p.numel() for p in self._parameters.values()))
        with _quiet():
            if config.zero_stage == 3 and (self.topology.data.group or self.ranks == 1):
                # Parameter by parameter: otherwise DeepSpeed moves the whole model to the device before it cuts it.
                deepspeed.zero.Init(
                    self._module, config_dict_or_path=ds_config, mpu=mpu, data_parallel_group=self.topology.data.group
                )
            self._engine: Any = deepspeed.initialize(
                model=self._module, optimizer=self._optimizer, config=ds_config, mpu=mpu, dist_init_required=False
            )[0]
        self.device: torch.device = torch.device(self._engine.device)
        moments: Moments = Unsharded(self._optimizer)
        if config.zero_stage:
            moments = Sharded(
                self._optimizer, self._engine.optimizer, self.topology.data,
                safe_get_full_optimizer_state, safe_set_full_optimizer_state, safe_set_local_optimizer_state,
            )  # fmt: skip
        self._state = ModelState(
            self.topology, self._parameters, saved, whole, keys, moments,
            safe_get_full_fp32_param if config.zero_stage == 3 else torch.Tensor.detach,
        )  # fmt: skip
        if config.zero_stage == 0 and self.data_ranks == 1:
            self._engine.enable_backward_allreduce = False  # it would copy all gradients to sum them over one rank
        if compiles(config, vocab_size):
            compile_blocks(self._module, backend)
        if restore and quick:
            with _quiet():
                self._engine.load_checkpoint(str(restore.parent), tag=restore.name)
        elif restore:
            self._state.restore_moments(restore, int(state["step"]))
        self._scaler: torch.amp.GradScaler | None = self._engine.torch_autocast_z0_gradscaler
        if self._scaler and "loss_scale" in state:
            self._scaler.load_state_dict(state["loss_scale"])

    # Building

    def _build(self) -> None:
        config, shape, tensor = self.config, self.config.shape, self.topology.tensor
        parallel = TensorParallel(tensor.group, tensor.index, tensor.size) if tensor.size > 1 else None
        self._head: Head | None
        if config.pipeline > 1:
            self._module = self._pipeline(parallel)
            named = list(self._module.named_parameters())
            initialise(named, shape, config.seed, parallel)
        else:
            model = Llama(
                shape, self.vocab_size, config.seed, parallel=parallel, attention=config.attention,
                checkpointing=config.activation_checkpointing, z_loss=config.z_loss,
            )  # fmt: skip
            self._module, named = model, list(model.named_parameters())
            self._head = next(layer for layer in model if isinstance(layer, Head))
            if config.zero_stage == 3:
                # The head's loss reads this matrix without calling its layer.
                deepspeed.zero.register_external_parameter(self._head, self._head.lm_head.weight)
        self._parameters = {canonical_name(name, shape.num_layers): p for name, p in named}

    def _pipeline(self, parallel: TensorParallel | None) -> PipelineModule:
        """This rank's stage: some of the blocks, the embedding with the first and the head with the last."""
        config, shape, vocab = self.config, self.config.shape, self.vocab_size
        block = LayerSpec(Block, shape, parallel, config.attention, config.activation_checkpointing)
        specs: list[Any] = [LayerSpec(Embed, shape, vocab), *[block] * shape.num_layers]
        if shape.tied:
            where = {"tied_weight_attr": "embed_tokens.weight"}
            specs[0] = TiedLayerSpec(TIED, Embed, shape, vocab, **where)
            specs.append(TiedLayerSpec(TIED, Embed, shape, vocab, forward_fn=_pass, **where))
        specs.append(LayerSpec(Head, shape, vocab, config.z_loss))
        grid = PipeModelDataParallelTopology(num_pp=config.pipeline, num_mp=config.tensor, num_dp=self.data_ranks)
        blocks = stage_blocks(shape, vocab, config.seq_len, config.pipeline)
        bounds = [0, *(1 + end for end in itertools.accumulate(blocks[:-1])), len(specs)]
        with _quiet():
            module = _Stages(specs, topology=grid, loss_fn=self._stage_loss, partition_method=bounds)
        self._head = next((layer for layer in module.forward_funcs if isinstance(layer, Head)), None)
        if self._head and shape.tied:
            self._head.lm_head.weight = module.tied_modules[TIED].embed_tokens.weight
        return module

    def _stage_loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self._head is None:
            raise RuntimeError("only the last stage has a loss")
        with self._autocast():
            return self._head.loss(hidden, targets)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.autocast(kind, self._dtype) if self._dtype else contextlib.nullcontext()

    # Training and scoring

    def step(self, batches: Sequence[Batch], step: int) -> StepResult:
        """Optimizer step number `step` (from 1) over this data rank's `config.accumulation` micro batches."""
        if len(batches) != self.config.accumulation:
            raise ValueError(f"step {step}: expected {self.config.accumulation} micro batches, found {len(batches)}")
        set_learning_rate(self._optimizer, step, self.config)
        if self.config.pipeline > 1:
            loss = self._engine.train_batch(self._pipe_batches(batches))
            self._engine.timers("train_batch").reset()  # it would keep two events of the device for every step
            return StepResult(loss, self._norm())
        engine, norm = self._engine, None
        engine.train()
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches, 1):
            loss = engine(self._move(batch.ids), self._move(batch.targets), self._move_segments(batch.segments))
            engine.backward(loss)
            if number == len(batches) and self.config.zero_stage == 0:
                if self._scaler:
                    self._scaler.unscale_(self._optimizer)
                norm = clip_gradients(self._parameters.values(), self.config.clip, self.topology.tensor)
            engine.step()
            total += loss.detach()
        total = self.topology.data.sum_(total) / (len(batches) * self.data_ranks)
        return StepResult(total, self._norm() if norm is None else norm, self._scaler is not None)

    def _norm(self) -> torch.Tensor:
        """The norm that DeepSpeed found."""
        norm = self._engine.get_global_grad_norm()
        if isinstance(norm, torch.Tensor):
            return norm.to(self.device)
        return torch.full((), norm, dtype=torch.float32, device=self.device)  # filled there: a copy would wait

    def _pipe_batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Travels, torch.Tensor]]:
        for batch in batches:
            ids, segments = self._move(batch.ids), self._move_segments(batch.segments)
            yield (ids if segments is None else (ids, segments)), self._move(batch.targets)

    def _move(self, values: Any) -> Any:
        if values is None:
            return None
        tensor = torch.as_tensor(values)
        # From pinned memory the copy runs beside the step before.
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _move_segments(self, segments: Any) -> torch.Tensor | None:
        moved: torch.Tensor | None = self._move(segments)
        if moved is not None and self.config.pipeline == 1:  # a pipeline hands its layers copies
            shape, here = self.config.shape, torch.as_tensor(segments)
            announce(here, moved, self.config.attention, self._dtype or torch.float32, shape.head_dim)
        return moved

    @torch.no_grad()
    def logprobs(self, ids: Any, targets: Any, segments: Any = None) -> np.ndarray:
        """Summed log-probability (nats, float64 [rows]) of the targets that are not IGNORE; int64 [rows, T] each.

        All ranks of one copy of the model call it together and get the same. Different copies may pass different
        rows, as long as all make the same number of calls.
        """
        ids, targets, segments = self._move(ids), self._move(targets), self._move_segments(segments)
        if self.config.pipeline == 1:
            self._engine.eval()
            return -self._engine(ids, targets, segments, True).double().sum(1).cpu().numpy()
        rows = self.config.rank_micro_batch
        wanted = targets.split(rows)

        def score(hidden: torch.Tensor, number: int) -> torch.Tensor:
            return self._head.token_nll(hidden, wanted[number]).double().sum(1)  # type: ignore[union-attr]

        masks = segments.split(rows) if segments is not None else [None] * len(wanted)
        pieces = list(zip(ids.split(rows), masks, strict=True))
        with self._autocast():
            layers, width = self._module.forward_funcs, self.config.shape.hidden_size
            return -evaluate(layers, pieces, score, self.topology.pipe, width).cpu().numpy()

    # Between the ranks

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over the copies of the model; every rank of a copy passes the same."""
        return self.topology.data.sum_(torch.as_tensor(values).to(self.device).clone()).cpu().numpy()

    def barrier(self) -> None:
        dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, a small Python object, on every rank."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def close(self) -> None:
        """Let go of the model, so that another engine can be made in this process."""
        self._engine.destroy()

    # Checkpoints

    def save(self, folder: Path, state: Mapping[str, Any], files: Mapping[str, str]) -> Path:
        """Write the portable checkpoint `folder/step-<state["step"]>` and keep `config.keep_last` of them.

        `state` becomes `state.json`; `files` are further text files by name (`config.json`, `tokenizer.json`).
        """
        return checkpoint.save(self._state, folder, {**state, **self._scale()}, files, self.config.keep_last)

    def save_restart(self, folder: Path, state: Mapping[str, Any]) -> Path:
        """Write DeepSpeed's own checkpoint `folder/step-<state["step"]>`; it replaces the one before."""

        def write(partial: Path) -> None:
            with _quiet():
                self._engine.save_checkpoint(str(partial.parent), tag=partial.name, save_latest=False)

        own = {"format": RESTART_FORMAT, "layout": layout(self.config), **self._scale()}
        return checkpoint.save_folder(self._state, folder, {**state, **own}, write)

    def _scale(self) -> dict[str, Any]:
        return {"loss_scale": self._scaler.state_dict()} if self._scaler else {}


def _forget() -> None:
    """What an earlier engine of this process left in DeepSpeed's globals, which would apply to the next one."""
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    groups.mpu = None


def _pass(layer: nn.Module, inputs: Travels) -> Travels:
    """The last stage holds a tied embedding for its matrix only."""
    return inputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """DeepSpeed prints to the standard output, which belongs to the caller."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
