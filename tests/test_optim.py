"""Parameter groups, schedules, and Muon beside AdamW in one optimizer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import SHAPE

from trainer.config import TrainConfig

torch = pytest.importorskip("torch")

from trainer.model import Llama  # noqa: E402
from trainer.muon import MuonAdamW  # noqa: E402
from trainer.optim import learning_rate, make_optimizer, parameter_groups, schedule, set_learning_rate  # noqa: E402
from trainer.shape import ModelConfig  # noqa: E402


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"model": SHAPE, "steps": 20, "warmup": 4, "lr": 0.01, **changes})


def model(**changes) -> Llama:
    return Llama(ModelConfig(**{**SHAPE, "bias": True, "tied": False, **changes}), 128, seed=3)


def train(net: Llama, optimizer, steps: int, first: int = 1, settings_: TrainConfig | None = None) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        ids = torch.randint(0, 128, (4, 17), generator=torch.Generator().manual_seed(step % 3))
        set_learning_rate(optimizer, step, settings_ or config())
        loss = net(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_matrices_decay(optimizer):
    parameters = model().canonical_parameters()
    groups = parameter_groups(parameters, config(optimizer=optimizer, muon_lr=0.05))
    placed = [id(p) for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(map(id, parameters.values()))
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].dim() == 2 else 0.0)
        assert group["lr"] == group["peak"] == (0.05 if group.get("muon") else 0.01)
        for p in group["params"]:
            name = next(name for name, q in parameters.items() if q is p)
            in_block = name.startswith("model.layers.") and p.dim() == 2
            assert group.get("muon", False) is (in_block and optimizer == "muon"), name


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["cosine", "wsd"]), st.integers(1, 400), st.integers(0, 60), st.floats(0, 1), st.floats(0.01, 1))
def test_schedules(kind, steps, warmup, floor, share):
    setting = config(schedule=kind, steps=steps, warmup=warmup, min_lr_ratio=floor, decay_share=share)
    values = [schedule(step, setting) for step in range(1, steps + 1)]
    assert all(0 <= value <= 1 for value in values)
    warm = values[: min(warmup, steps)]
    assert warm == [step / warmup for step in range(1, len(warm) + 1)]
    after = values[warmup:]
    assert after == sorted(after, reverse=True)
    assert all(value >= floor - 1e-12 for value in after)
    if len(after) > 1:
        assert values[-1] == pytest.approx(floor, abs=1e-9)
    if kind == "wsd":
        plateau = steps - max(1, round(steps * share)) - warmup
        assert all(value == 1 for value in after[: max(0, plateau)])
    assert learning_rate(steps, setting) == pytest.approx(0.01 * values[-1])


def test_the_schedule_scales_both_learning_rates():
    setting = config(optimizer="muon", muon_lr=0.05)
    optimizer = make_optimizer(model().canonical_parameters(), setting)
    for step in (1, 3, 9, 20):
        set_learning_rate(optimizer, step, setting)
        assert [group["lr"] / group["peak"] for group in optimizer.param_groups] == [
            pytest.approx(schedule(step, setting)) for _ in optimizer.param_groups
        ]
        assert {group["peak"] for group in optimizer.param_groups} == {0.01, 0.05}


def test_muon_moves_matrices_orthogonally_and_the_rest_as_adamw():
    """The step of a matrix has singular values near its learning rate, whatever the gradient; the rest is AdamW's."""
    setting = config(optimizer="muon", muon_lr=0.05, weight_decay=0.0)
    net, plain = model(), model()
    ours, adamw = (make_optimizer(m.canonical_parameters(), s) for m, s in
                   ((net, setting), (plain, config(weight_decay=0.0))))  # fmt: skip
    before = {name: p.detach().clone() for name, p in net.canonical_parameters().items()}
    for m, optimizer in ((net, ours), (plain, adamw)):
        train(m, optimizer, 1)
    for name, p in net.canonical_parameters().items():
        if p.dim() == 2 and name.startswith("model.layers."):
            scale = 0.05 / 4 * math.sqrt(max(1, p.shape[0] / p.shape[1]))  # the first of four warm-up steps
            moved = torch.linalg.svdvals((p.detach() - before[name]) / scale)
            assert 0.6 < moved.median() <= moved.max() < 1.3, (name, moved)
            assert ours.state[p].keys() == {"momentum_buffer"}
        else:
            assert torch.equal(p, plain.canonical_parameters()[name]), name
            assert ours.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_muon_resumes_exactly():
    setting = config(optimizer="muon")
    straight, halted = model(), model()
    optimizer = make_optimizer(straight.canonical_parameters(), setting)
    wanted = train(straight, optimizer, 6, settings_=setting)
    first = make_optimizer(halted.canonical_parameters(), setting)
    found = train(halted, first, 3, settings_=setting)
    resumed = model()
    resumed.load_state_dict(halted.state_dict())
    second = make_optimizer(resumed.canonical_parameters(), setting)
    second.load_state_dict(first.state_dict())
    assert found + train(resumed, second, 3, first=4, settings_=setting) == wanted
    assert wanted[-1] < wanted[0] - 0.1


def test_the_choice_of_optimizer():
    parameters = model().canonical_parameters()
    assert type(make_optimizer(parameters, config())) is torch.optim.AdamW
    assert all(group["fused"] for group in make_optimizer(parameters, config()).param_groups)
    assert isinstance(make_optimizer(parameters, config(optimizer="muon")), MuonAdamW)
