"""The model is what `transformers` computes; sizes, initial weights, checkpointing and compilation."""

from __future__ import annotations

import itertools
import math

import pytest
from toy_training import SHAPE

from trainer.shape import SIZES, ModelConfig, named

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from trainer.loss import IGNORE  # noqa: E402
from trainer.model import Llama, canonical_name, compile_blocks, rope_tables  # noqa: E402

VARIANTS = [
    dict(zip(("tied", "num_kv_heads", "activation", "kind"), values, strict=True))
    for values in itertools.product((True, False), (1, 2, 4), ("silu", "gelu"), ("plain", "bias", "qk_norm"))
]


def shape_of(variant: dict, **more) -> ModelConfig:
    kind = variant["kind"]
    fields = {key: value for key, value in variant.items() if key != "kind"}
    return ModelConfig(**{**SHAPE, **fields, "bias": kind == "bias", "qk_norm": kind == "qk_norm", **more})


def batch(rows: int = 3, length: int = 33, vocab: int = 128, seed: int = 0):
    ids = torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def shaken(model: Llama) -> Llama:
    """Biases and norms drawn too, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            else:
                parameter.mul_(3)
    return model


def gradients(model: Llama, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_sizes_are_what_they_say():
    """Every named size and dial, and every variant of it, has the parameters that the shape counts."""
    million = {"tiny": (4096, 1, 2), "15m": (32768, 14, 16), "30m": (32768, 27, 33), "60m": (32768, 54, 66),
               "124m": (50304, 123, 125), "350m": (32768, 330, 370), "1b": (32768, 950, 1100),
               "3b": (32768, 2900, 3300), "7b": (32768, 6500, 7100)}  # fmt: skip
    assert million.keys() == SIZES.keys()
    for name, (vocab, low, high) in million.items():
        assert low * 1e6 < SIZES[name].parameters(vocab) < high * 1e6, name
    with torch.device("meta"):
        for name in [*SIZES, "d1", "d12", "d26"]:
            model = Llama(named(name), 4096)
            assert sum(p.numel() for p in model.parameters()) == named(name).parameters(4096), name
        for variant in VARIANTS:
            for head_dim in (8, 12):
                shape = shape_of(variant, head_dim=head_dim)
                assert sum(p.numel() for p in Llama(shape, 96).parameters()) == shape.parameters(96), variant


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_transformers_agrees(variant):
    transformers = pytest.importorskip("transformers")
    from trainer.hf import hf_config

    shape = shape_of(variant, head_dim=12 if variant["activation"] == "gelu" else 8, rope_theta=5000.0)
    ours = shaken(Llama(shape, 128, seed=1))
    kind = (transformers.Qwen3Config, transformers.Qwen3ForCausalLM) if shape.qk_norm else (
        transformers.LlamaConfig, transformers.LlamaForCausalLM)  # fmt: skip
    theirs = kind[1](kind[0](**hf_config(shape, 128, 32, 0)))
    missing, unexpected = theirs.load_state_dict(ours.canonical_parameters(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if shape.tied else [], [])
    theirs.tie_weights()
    ids, _ = batch()
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs.eval()(ids).logits, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_plain_formula_over_slots(tied):
    """Value and gradients, with ignored targets and z-loss; the divisor counts ignored slots."""
    model = shaken(Llama(ModelConfig(**SHAPE, tied=tied), 128, seed=2, z_loss=1e-2))
    ids, targets = batch()
    targets[:, ::3] = IGNORE
    logits = model(ids).flatten(0, 1)
    keep = targets.flatten() != IGNORE
    nll = F.cross_entropy(logits[keep], targets.flatten()[keep], reduction="none")
    plain = (nll + 1e-2 * logits[keep].logsumexp(-1).square()).sum() / targets.numel()
    wanted = gradients(model, plain)
    loss = model(ids, targets)
    found = gradients(model, loss)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    each = model(ids, targets, per_target=True)
    assert each.shape == targets.shape
    assert each.dtype == torch.float32
    assert not each[:, ::3].any()
    assert torch.allclose(each.flatten()[keep], nll, atol=1e-5)
    with torch.no_grad():
        assert model(ids, targets).item() == pytest.approx(plain.item(), abs=1e-6)


def test_initial_weights_follow_the_name():
    model = Llama(ModelConfig(**SHAPE, tied=False, bias=True), 128, seed=5)
    again, other = Llama(model.shape, 128, seed=5), Llama(model.shape, 128, seed=6)
    for (name, p), q, r in zip(model.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        if p.dim() == 2:
            assert not torch.equal(p, r)
            wanted = 0.02 / 2 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert p.std().item() == pytest.approx(wanted, rel=0.1)
        else:
            assert torch.equal(p, torch.full_like(p, 0.0 if name.endswith("bias") else 1.0))
    assert not torch.equal(model[1].mlp.gate_proj.weight, model[2].mlp.gate_proj.weight)


def test_canonical_names():
    assert canonical_name("0.embed_tokens.weight", 2) == "model.embed_tokens.weight"
    assert canonical_name("2.mlp.up_proj.bias", 2) == "model.layers.1.mlp.up_proj.bias"
    assert canonical_name("3.norm.weight", 2) == "model.norm.weight"
    assert canonical_name("3.lm_head.weight", 2) == "lm_head.weight"
    tied = [f"tied_modules.embed.{name}.weight" for name in ("embed_tokens", "lm_head", "norm")]
    embedding = "model.embed_tokens.weight"
    assert [canonical_name(name, 2) for name in tied] == [embedding, embedding, "model.norm.weight"]


def test_rotary_tables_are_cut_from_cached_ones():
    with torch.inference_mode():
        cos, sin = rope_tables(torch.empty(1, 33, 2), 8, 100.0)
    assert cos.shape == (33, 1, 8)
    assert not cos.is_inference()
    assert sin[5, 0, 1].item() == pytest.approx(math.sin(5 / 100 ** (2 / 8)), abs=1e-6)
    assert rope_tables(torch.empty(1, 40, 2), 8, 100.0)[0].data_ptr() == cos.data_ptr()


@pytest.mark.parametrize("documents", [False, True])
def test_shapes_are_known_without_data(documents):
    """On the meta device and with fake tensors, and a real model after them meets none of theirs."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def run():
        model = Llama(ModelConfig(**SHAPE), 128)
        ids, targets = torch.zeros(2, 50, dtype=torch.int64), torch.zeros(2, 50, dtype=torch.int64)
        model(ids, targets, torch.zeros(2, 50, dtype=torch.int32) if documents else None).backward()
        assert model[1].mlp.up_proj.weight.grad.shape == (64, 32)

    for mode in (torch.device("meta"), FakeTensorMode(), torch.device("cpu")):
        with mode:
            run()


def segments_of(rows: int, length: int) -> torch.Tensor:
    return (torch.arange(length) // 7).int().expand(rows, length).contiguous()


@pytest.mark.parametrize("documents", [False, True])
def test_checkpointing_changes_nothing(documents):
    shape = ModelConfig(**SHAPE, qk_norm=True)
    plain, saving = (shaken(Llama(shape, 128, checkpointing=flag)) for flag in (False, True))
    ids, targets = batch()
    segments = segments_of(3, 32) if documents else None
    wanted = gradients(plain, plain(ids, targets, segments))
    found = gradients(saving, saving(ids, targets, segments))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("documents", "checkpointing"), [(False, False), (False, True), (True, False)])
def test_compiled_blocks_are_one_graph_without_breaks(documents, checkpointing):
    import torch._dynamo
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._dynamo.utils import counters

    model = shaken(Llama(ModelConfig(**{**SHAPE, "num_layers": 4}), 128, checkpointing=checkpointing))
    ids, targets = batch()
    segments = segments_of(3, 32) if documents else None
    wanted = gradients(model, model(ids, targets, segments))
    torch._dynamo.reset()
    counters.clear()
    backend = CompileCounterWithBackend("aot_eager")
    compile_blocks(model, backend)
    found = gradients(model, model(ids, targets, segments))
    with torch.no_grad():
        model(ids[:, :17], targets[:, :17])  # evaluation of another length compiles nothing
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    assert not counters["graph_break"]
    assert backend.frame_count == 2  # the block, and the rows of the loss


def test_autocast_is_near_and_keeps_fp32_gradients():
    model = Llama(ModelConfig(**SHAPE), 128, seed=3)
    ids, targets = batch()
    wanted = gradients(model, exact := model(ids, targets))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, targets)
        assert model[1](model[0](ids)).dtype == torch.bfloat16
    found = gradients(model, loss)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-3)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), wanted[name].flatten(), 0) > 0.99, name


@pytest.mark.parametrize("qk_norm", [False, True])
def test_on_a_gpu_autocast_keeps_one_dtype(monkeypatch, qk_norm):
    """Fake tensors of a GPU, whose autocast, unlike the CPU's, would make every RMSNorm fp32: no kernel runs."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from trainer import attention
    from trainer.model import Block, RMSNorm

    seen = []

    def kernel(q, k, v, *_, **__):
        seen.append({q.dtype, k.dtype, v.dtype})
        return torch.empty_like(q)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    shape = ModelConfig(**SHAPE, qk_norm=qk_norm)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        block, norm = Block(shape).requires_grad_(False), RMSNorm(shape.hidden_size, 1e-5).requires_grad_(False)
        x, table = torch.empty(2, 16, shape.hidden_size, dtype=torch.bfloat16), torch.empty(16, 1, shape.head_dim)
        documents = attention.Spans(torch.empty(5, dtype=torch.int32), 16)
        try:
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            assert F.rms_norm(x, x.shape[-1:]).dtype == torch.float32  # what makes this test worth having
            assert norm(x).dtype == torch.bfloat16
            assert block.run(x, table, table, documents).dtype == torch.bfloat16
        finally:
            torch.set_autocast_enabled("cuda", before[0])
            torch.set_autocast_dtype("cuda", before[1])
    assert seen == [{torch.bfloat16}]


def test_switching_autocast_off_for_a_norm_does_not_break_the_graph():
    def norm(x, weight):
        with torch.autocast("cuda", enabled=False):
            return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), 1e-5)

    x, weight = torch.randn(3, 8, requires_grad=True), torch.ones(8, requires_grad=True)
    found = torch.compile(norm, backend="aot_eager", fullgraph=True)(x, weight)
    found.sum().backward()
    assert torch.allclose(found, norm(x, weight))
    assert weight.grad is not None
