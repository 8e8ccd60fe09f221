"""The model is what `transformers` computes, its loss what the plain formula says."""

from __future__ import annotations

import pytest
from toy_training import ROOT, SHAPE

from trainer.shape import SIZES, ModelConfig

SHARED = ROOT.parent / "shared"


def test_sizes_are_what_they_say():
    import torch

    from trainer.model import Llama

    for name, vocab, low, high in (("tiny", 4096, 1e6, 2e6), ("15m", 32768, 14e6, 16e6), ("124m", 50304, 123e6, 125e6)):
        assert low < SIZES[name].parameters(vocab) < high
    with torch.device("cpu"):
        model = Llama(SIZES["tiny"], 4096)
    assert sum(p.numel() for p in model.parameters()) == SIZES["tiny"].parameters(4096)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_agrees(tied):
    import torch

    transformers = pytest.importorskip("transformers")
    from trainer.model import Llama, hf_config

    shape = ModelConfig(**SHAPE, tied=tied, rope_theta=5000.0)
    ours = Llama(shape, 128, seed=1)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(shape, 128, 32, 0)))
    missing, unexpected = theirs.load_state_dict(ours.canonical_parameters(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    theirs.tie_weights()
    ids = torch.randint(0, 128, (3, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs.eval()(ids).logits, atol=1e-5)


def test_chunked_loss_equals_plain_loss(monkeypatch):
    import torch
    import torch.nn.functional as F

    from trainer import loss
    from trainer.model import Llama

    model = Llama(ModelConfig(**SHAPE), 64, seed=2)
    ids = torch.randint(0, 64, (3, 17), generator=torch.Generator().manual_seed(1))
    plain = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(loss, "MAX_LOGITS", 64 * 10)
    chunked = model(ids[:, :-1], ids[:, 1:])
    chunked.backward()
    assert chunked.item() == pytest.approx(plain.item(), abs=1e-6)
    assert all(torch.allclose(p.grad, wanted[name], atol=1e-6) for name, p in model.named_parameters())
