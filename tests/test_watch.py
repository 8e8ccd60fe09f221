"""What counts as a spike, and what a report holds."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.rundir import TrainingError
from trainer.watch import FEWEST, WINDOW, Watch, is_number, not_a_number, report


def falling(steps: int, noise: float, seed: int = 0) -> list[float]:
    """Losses of a training that goes well."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps)
    return (2 + 4 * np.exp(-at / 30) + noise * rng.standard_normal(steps)).tolist()


def spikes(losses: list[float], threshold: float = 8.0) -> list[int]:
    watch = Watch(threshold)
    return [step for step, loss in enumerate(losses, 1) if watch.see(step, loss)]


@pytest.mark.parametrize("seed", range(5))
def test_a_training_that_goes_well_has_none(seed):
    assert spikes(falling(400, 0.02, seed)) == []


@pytest.mark.parametrize("at", [25, 60, 300])
def test_a_jump_is_reported_once(at):
    losses = falling(400, 0.02)
    losses[at - 1] += 1.5
    assert spikes(losses) == [at]


def test_the_fall_itself_does_not_hide_a_spike():
    losses = (10 - 0.1 * np.arange(60)).tolist()
    losses[40] += 1.0  # lower than the losses ten steps before
    assert spikes(losses) == [41]


def test_a_flat_loss_with_a_breath_of_noise_has_none():
    assert spikes([3.0 + 1e-6 * (step % 7) for step in range(200)]) == []


def test_numbers_of_a_spike():
    watch = Watch(5.0, [2.0, 2.1] * 20)
    found = watch.see(41, 4.05)
    assert found is not None
    assert found.expected == pytest.approx(2.05, abs=0.02)
    assert found.deviations == pytest.approx(2.0 / 0.05, rel=0.03)


def test_off_and_too_few():
    assert spikes([1.0] * 30 + [99.0], threshold=0) == []
    assert spikes([1.0] * (FEWEST - 1) + [99.0]) == []
    assert spikes([1.0] * FEWEST + [99.0]) == [FEWEST + 1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 50), max_size=2 * WINDOW), st.floats(0, 50), st.floats(0.1, 20))
def test_only_the_last_losses_count_and_a_report_keeps_its_word(losses, last, threshold):
    long, short = Watch(threshold, losses), Watch(threshold, losses[-WINDOW:])
    found = long.see(1, last)
    assert found == short.see(1, last)
    if found:
        assert found.deviations > threshold
        assert last > found.expected >= min(losses)


def test_what_is_no_number():
    assert is_number(1.0, 2.0, False)
    assert not is_number(math.nan, 1.0, True)
    assert not is_number(math.inf, 1.0, False)
    assert not is_number(1.0, math.inf, False)
    assert is_number(1.0, math.inf, True)  # loss scaling: a skipped step


def test_the_report_is_json_whatever_the_loss(tmp_path):
    documents = [{"doc_id": f"{i:032x}", "sequence": i, "tokens": 9} for i in (1, 1, 2, 3, 4)]
    path = report(tmp_path / "spikes", 7, "nan", {"loss": math.nan, "lr": 0.1}, documents)
    body = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (body["step"], body["kind"], body["loss"], body["lr"]) == (7, "nan", "nan", 0.1)
    assert body["documents"] == documents
    error = not_a_number(7, math.nan, 1.0, path, documents)
    assert isinstance(error, TrainingError)
    assert "names the 4 documents" in str(error)
    assert documents[0]["doc_id"] in str(error)
    assert "and 1 more" in str(error)
