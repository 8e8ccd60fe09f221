"""What a training will need, before its first step: memory by part, FLOPs, hours.

Memory is counted, not tried out: parameters, gradients and moments by the rules of ZeRO (Rajbhandari et al. 2020),
activations by what the blocks of `trainer.model` keep for their backward pass, in-flight micro batches of a pipeline
by its first stage, which holds most. The count is for the largest stage, without the allocator's waste: the peak has
been measured at 0.8 to 1.25 times the count. Attention is assumed to be fused (no T x T matrix) unless documents are
masked on a CPU. A compiled block keeps less than is counted here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.config import TrainConfig
from trainer.hardware import Peak
from trainer.policy import BUCKET
from trainer.rundir import TrainingError
from trainer.shape import TOKENS_PER_PARAMETER, ModelConfig
from trainer.tokens import TokenIndex
from trainer.topology import stage_blocks

ASSUMED_MFU = {"cuda": 0.40, "cpu": 0.50}
RUNTIME = {"cuda": 1_200_000_000, "cpu": 650_000_000}  # bytes: context and communication, or the loaded libraries
HOST_RUNTIME = 3_000_000_000  # bytes of host memory of a rank that drives a GPU
MAX_LOGITS = {"cuda": 1 << 28, "cpu": 1 << 23}  # values, see trainer.loss
SPARE = 0.05  # of the memory at hand stays unused


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank by part, on its device and (with a GPU) in the host's memory."""

    device: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.device.values())

    @property
    def host_total(self) -> int:
        return sum(self.host.values())


def activation_bytes(shape: ModelConfig, tensor: int, half: bool) -> tuple[int, int]:
    """Bytes that one block keeps for each token until its backward pass, and what of it a checkpointed block keeps.

    `half` is autocast to 16 bits. Counted on the saved tensors of trainer.model.Block.
    """
    width = 2 if half else 4
    heads = shape.num_heads * shape.head_dim // tensor
    keys = shape.num_kv_heads * shape.head_dim // tensor
    stream = 20 if half else 24  # the residual twice, both norms' inputs and outputs
    norms = 8 * (heads + keys) if shape.qk_norm else 0
    inside = width * (2 * heads + 2 * keys + 4 * shape.intermediate_size // tensor) + norms
    return stream * shape.hidden_size + inside, width * shape.hidden_size


def _stage_parameters(config: TrainConfig, vocab: int) -> tuple[int, int, int]:
    """Parameters of the largest pipeline stage, those of its blocks' matrices, and its blocks; for one tensor rank."""
    shape = config.shape
    blocks = max(stage_blocks(shape, vocab, config.seq_len, config.pipeline))
    matrices = (shape.matrix_parameters(vocab) - vocab * shape.hidden_size) // shape.num_layers
    tables = vocab * shape.hidden_size * (2 if not shape.tied and config.pipeline == 1 else 1)
    whole = shape.parameters(vocab)
    vectors = whole - shape.num_layers * matrices - vocab * shape.hidden_size * (1 if shape.tied else 2)
    cut = blocks * matrices // config.tensor
    return cut + tables + vectors * blocks // shape.num_layers, cut, blocks


def memory(config: TrainConfig, vocab: int, half: bool, cuda: bool) -> Memory:
    """The peak of one rank. `vocab` is the padded vocabulary, `half` autocast to 16 bits."""
    shape, stage, kind = config.shape, config.zero_stage, "cuda" if cuda else "cpu"
    held, matrices, blocks = _stage_parameters(config, vocab)
    ranks = config.data_ranks
    shard = -(-held // ranks)
    tokens = config.rank_micro_batch * config.seq_len
    in_flight = min(config.pipeline, config.accumulation)
    moments = 8 * held
    if config.optimizer == "muon":
        moments -= 4 * matrices
    masters = {0: 0, 1: 4 * shard, 2: 4 * shard, 3: 4 * shard}[stage]
    optimizer = masters + (moments // ranks if stage else moments)
    gradients = {0: 4 * held, 1: 4 * held + 4 * shard, 2: 8 * shard, 3: 8 * shard}[stage]
    parameters = 4 * (shard if stage == 3 else held)
    each, kept = activation_bytes(shape, config.tensor, half)
    if config.document_mask and not cuda:  # the dense mask and its attention weights
        each += config.seq_len * (1 + 4 * shape.num_heads // config.tensor)
    activations = tokens * in_flight * blocks * each
    if config.activation_checkpointing:
        activations = tokens * (in_flight * blocks * kept + each)
    # In the backward pass of a block: gradients of its widest tensors beside their inputs.
    activations += tokens * (2 if half else 4) * 3 * shape.intermediate_size // config.tensor
    logits = min(tokens * vocab, MAX_LOGITS[kind]) * (12 if half else 8) + 4 * vocab * shape.hidden_size
    bucket = 4 * min(held, BUCKET)
    if stage == 0 and ranks == 1:  # nothing to sum
        bucket = 0
    if stage == 3:  # parameters gathered for the layer at work, and those fetched ahead
        bucket = 2 * bucket + 4 * min(held, 2 * BUCKET)
    parts = {"parameters": parameters, "gradients": gradients, "optimizer": optimizer, "communication": bucket,
             "activations": activations, "logits": logits}  # fmt: skip
    if half:
        parts["parameters in 16 bits"] = 2 * (matrices + vocab * shape.hidden_size)
    host: dict[str, int] = {}
    if cuda:
        host = {"building the model": 4 * held, "runtime": HOST_RUNTIME}
        if config.offload != "none":
            host["optimizer"] = parts.pop("optimizer") + 4 * shard
        if config.offload == "parameters":
            host["parameters"] = parts.pop("parameters")
    return Memory({**parts, "runtime": RUNTIME[kind]}, host)


def check(config: TrainConfig, need: Memory, device: int, host: int, local_ranks: int, cuda: bool) -> None:
    """TrainingError when a rank needs more than there is. `device` bytes are this rank's own with a GPU, and shared
    by the `local_ranks` of the machine without; `host` is the machine's."""
    room = device if cuda else device // local_ranks
    if need.total > room * (1 - SPARE):
        crowded = not cuda and local_ranks > 1 and need.device["runtime"] > need.total // 2
        raise TrainingError(
            f"too little memory: each rank needs about {_bytes(need.total)} ({_largest(need.device)}), and there are "
            f"{_bytes(room)} {'on its GPU' if cuda else f'for each of {local_ranks} ranks'}: "
            f"{'use fewer ranks on a machine' if crowded else _advice(config, need)}"
        )
    if cuda and need.host_total * local_ranks > host * (1 - SPARE):
        raise TrainingError(
            f"too little host memory: the {local_ranks} ranks of this machine need about "
            f"{_bytes(need.host_total * local_ranks)} ({_largest(need.host)} each), and there are {_bytes(host)}: use "
            "fewer ranks on a machine" + (", or train.offload: none" if config.offload != "none" else "")
        )


def _largest(parts: dict[str, int]) -> str:
    first = sorted(parts.items(), key=lambda part: -part[1])[:2]
    return ", ".join(f"{name} {_bytes(size)}" for name, size in first)


def _advice(config: TrainConfig, need: Memory) -> str:
    parts, found = need.device, []
    if parts["activations"] + parts["logits"] > need.total // 3:
        if config.rank_micro_batch > 1:
            found.append(f"train.micro_batch: {config.rank_micro_batch // 2}")
        if not config.activation_checkpointing:
            found.append("train.activation_checkpointing: true")
    if config.data_ranks > 1 and config.zero_stage < 3 and config.pipeline == 1:
        found.append(f"train.zero_stage: {max(1, config.zero_stage) if config.zero_stage == 0 else 3}")
    if need.host and config.offload == "none" and config.zero_stage:
        found.append("train.offload: optimizer")
    found.append("more ranks with train.tensor or train.pipeline, or a smaller model")
    return "try " + "; ".join(found)


def hours(config: TrainConfig, vocab: int, peak: Peak, cuda: bool) -> float:
    """Expected hours at the assumed MFU. A checkpointed block is computed once more: a third of its work."""
    work = config.shape.flops_per_token(vocab, config.seq_len) * total_tokens(config)
    again = 4 / 3 if config.activation_checkpointing else 1.0
    return work * again / (peak.flops * config.ranks * ASSUMED_MFU["cuda" if cuda else "cpu"]) / 3600


def total_tokens(config: TrainConfig) -> int:
    return config.total_steps * config.global_batch * config.seq_len


def epochs(config: TrainConfig, index: TokenIndex) -> dict[str, float]:
    """How often each source is read, by its tokens and its share."""
    held = {name: splits["train"]["tokens"] for name, splits in index.sources.items() if splits.get("train")}
    held = {name: tokens for name, tokens in held.items() if tokens}
    mix, total = config.mix or held, total_tokens(config)
    whole = sum(mix.get(name, 0) for name in held) or 1
    return {name: total * mix.get(name, 0) / whole / tokens for name, tokens in held.items()}


def table(config: TrainConfig, index: TokenIndex, vocab: int, need: Memory, peak: Peak, device: int, cuda: bool,
          half: bool) -> list[tuple[str, str, str]]:  # fmt: skip
    """Rows of (section, name, value) for a person. `device` is the memory that a rank has."""
    shape, tokens = config.shape, total_tokens(config)
    parameters, step = shape.parameters(vocab), config.global_batch * config.seq_len
    optimal = shape.optimal_tokens(vocab)
    layout = f"{config.ranks} = {config.data_ranks} data x {config.pipeline} pipeline x {config.tensor} tensor"
    batch = f"{config.global_batch} sequences of {config.seq_len:,}: {config.rank_micro_batch} at once"
    share = ASSUMED_MFU["cuda" if cuda else "cpu"]
    flops = shape.flops_per_token(vocab, config.seq_len)
    rows = [
        ("model", "parameters", f"{parameters:,}"),
        ("model", "shape", f"{shape.num_layers} layers of {shape.hidden_size}, vocabulary {vocab:,}"),
        ("model", "precision", "16-bit autocast over fp32 parameters" if half else "fp32"),
        ("data", "tokens in a step", f"{step:,} ({batch}, {config.accumulation} times)"),
        ("data", "training tokens", f"{tokens:,} in {config.total_steps:,} steps"),
        ("data", "compute-optimal", f"{optimal:,} ({TOKENS_PER_PARAMETER} for each parameter); this run has "
                                    f"{tokens / optimal:.2g} of it"),
        *(("data", f"epochs of {name}", f"{count:.2f}") for name, count in epochs(config, index).items()),
        ("ranks", "ranks", f"{layout}, ZeRO {config.zero_stage}"),
        ("ranks", "device", peak.describe()),
        *(("memory of a rank", name, _bytes(size)) for name, size in need.device.items()),
        ("memory of a rank", "sum", f"{_bytes(need.total)} of {_bytes(device)}"),
        *(("host memory of a rank", name, _bytes(size)) for name, size in need.host.items()),
        ("time", "FLOPs", f"{flops:.3g} for a token, {flops * tokens:.3g} in all"),
        ("time", "expected", f"{_duration(hours(config, vocab, peak, cuda))} at an assumed MFU of {share:.0%}, "
                             "without evaluation"),
    ]  # fmt: skip
    return rows


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.2f} TB"


def _duration(length: float) -> str:
    if length >= 1:
        return f"{length:,.1f} hours"
    return f"{length * 60:.1f} minutes" if length * 60 >= 1 else f"{length * 3600:.0f} seconds"
