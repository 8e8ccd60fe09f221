"""The numbers of a probe against slow obvious Python, and their standard errors against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.pacer import Pacer, affordable
from trainer.probe_items import Item
from trainer.probe_stats import METRICS, bits_per_byte, chance, item_metrics, mean_and_error, ratio_and_error

WORDS = st.text("abé日 ", min_size=1, max_size=12)


def test_a_known_case():
    items = [Item("a", "x", ("no", "a long answer"), 1, "Answer:"), Item("b", "x", ("é", "z"), 0, "Answer:")]
    logprobs = np.array([-4.0, -13.0, -2 * math.log(2), -1.0])
    found = item_metrics(items, logprobs, np.array([-1.0, -20.0, -1.0, -9.0]))
    assert list(found) == list(METRICS)
    assert found["acc"].tolist() == [0, 0]
    assert found["acc_norm"].tolist() == [1, 0]
    assert found["acc_uncond"].tolist() == [1, 0]
    assert found["bits_per_byte"] == pytest.approx([1 / math.log(2), 1.0])  # 13 nats over 13 bytes, 2 bits over 2
    assert found["norm_correct_prob"][1] == pytest.approx(0.25 / (0.25 + math.exp(-1)))
    assert found["norm_correct_prob_per_char"][0] == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-2)))
    assert "acc_uncond" not in item_metrics(items, logprobs, None)
    assert chance(items) == 0.5
    assert chance([Item("a", "", ("x",) * n, 0) for n in (2, 4)]) == 0.375


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_metrics_equal_the_slow_ones(data):
    items, logprobs, prior = [], [], []
    for number in range(data.draw(st.integers(1, 6))):
        choices = data.draw(st.lists(WORDS, min_size=2, max_size=5))
        items.append(Item(str(number), "", tuple(choices), data.draw(st.integers(0, len(choices) - 1)), "A"))
        scores = st.lists(st.floats(-400, -0.01), min_size=len(choices), max_size=len(choices))
        logprobs.append(data.draw(scores))
        prior.append(data.draw(scores))
    found = item_metrics(items, np.concatenate(logprobs), np.concatenate(prior))
    for row, (item, scores, without) in enumerate(zip(items, logprobs, prior, strict=True)):
        per_char = [score / len(choice) for score, choice in zip(scores, item.choices, strict=True)]
        gain = [score - base for score, base in zip(scores, without, strict=True)]
        for name, values in (("acc", scores), ("acc_norm", per_char), ("acc_uncond", gain)):
            assert found[name][row] == (values.index(max(values)) == item.gold)
        for name, values in (("norm_correct_prob", scores), ("norm_correct_prob_per_char", per_char)):
            total = sum(math.exp(value - max(values)) for value in values)
            assert found[name][row] == pytest.approx(math.exp(values[item.gold] - max(values)) / total)
        size = len(item.choices[item.gold].encode())
        assert found["bits_per_byte"][row] == pytest.approx(-scores[item.gold] / math.log(2) / size)


def test_the_first_of_equal_choices_wins():
    items = [Item("a", "", ("same", "same"), gold) for gold in (0, 1)]
    assert item_metrics(items, np.full(4, -2.0), None)["acc"].tolist() == [1, 0]


def test_errors_of_means():
    assert mean_and_error(np.array([0.0, 1.0, 1.0, 0.0])) == (0.5, pytest.approx(math.sqrt(1 / 3 / 4)))
    assert mean_and_error(np.array([3.0])) == (3.0, None)
    assert ratio_and_error(np.array([2.0]), np.array([4.0])) == (0.5, None)
    with pytest.raises(ValueError, match="positive sum, found 0"):
        ratio_and_error(np.array([1.0]), np.array([0.0]))


def test_a_ratio_of_equal_sizes_is_a_mean():
    values = np.random.default_rng(0).random(50)
    assert ratio_and_error(values * 8, np.full(50, 8.0)) == pytest.approx(mean_and_error(values))


def test_the_error_of_a_ratio_is_what_other_samples_show():
    """400 samples of 60 sequences of unequal sizes, long ones easier: their spread is the stated error."""
    rng = np.random.default_rng(1)
    ratios, errors = [], []
    for _ in range(400):
        sizes = rng.integers(200, 2000, 60).astype(float)
        sums = sizes * (1.2 - sizes / 8000 + 0.3 * rng.normal(size=60))
        ratio, error = ratio_and_error(sums, sizes)
        ratios.append(ratio)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.12)


def test_bits_per_byte_of_a_sample():
    value, error = bits_per_byte(np.array([math.log(2) * 8, math.log(2) * 24]), np.array([8, 24]))
    assert (value, error) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))


def test_rounds_that_cost_too_much_are_put_off():
    pacer = Pacer(share=0.1)
    pacer.probed(10, on_the_way=False)  # the round before the first step
    pacer.trained(20)
    assert not pacer.due(True)  # 10 s of 30 would be a third
    pacer.trained(60)
    assert not pacer.due(False)
    pacer.trained(10)
    assert pacer.due(False), "the round that was put off is run as soon as it is affordable"
    pacer.probed(10)
    assert not pacer.due(False), "once"
    assert pacer.put_off == 1
    pacer.trained(89)
    assert not pacer.due(True)
    pacer.trained(1)
    assert pacer.due(True)


@settings(deadline=None)
@given(st.floats(0.01, 1), st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.floats(0, 20)), max_size=60))
def test_the_stated_share_is_kept(share, steps):
    """As long as a round takes no longer than the one before it."""
    pacer, length = Pacer(share), 20.0
    pacer.probed(length, on_the_way=False)
    for seconds, asked, shorter in steps:
        pacer.trained(seconds)
        if pacer.due(asked):
            length = min(length, shorter)
            pacer.probed(length)
            assert pacer.probing_s <= share * (pacer.training_s + pacer.probing_s) + 1e-9
    assert affordable(1.0, 0.0, 100.0, 100.0), "a share of 1 puts nothing off"
