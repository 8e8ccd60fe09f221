"""Paired differences: what is noise and what is not, on made-up models of known skill; and what cannot be compared."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scored_runs import items_of, write_round, write_steps
from typer.testing import CliRunner

from pipeline import paired
from pipeline.cli import app
from pipeline.compare import compare
from pipeline.errors import TamisError

TASKS = {"hella": items_of("hella", 400), "open": items_of("open", 120, unconditional="Answer:")}


@pytest.fixture
def runs(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def by_metric(found, label):
    return {one.metric: one for name, _, one in found.probes if name == label}


def test_a_better_model_is_found_better(runs):
    a, b = runs
    write_round(a, 10, TASKS, 0.0, seed=1)
    write_round(b, 20, TASKS, 0.7, seed=2)
    found = compare(a, b)
    assert found.steps == (10, 20)
    for task in ("hella (toy)", "open (toy)"):
        metrics = by_metric(found, task)
        assert metrics["bits_per_byte"].change < 0
        assert metrics["bits_per_byte"].better
        assert metrics["norm_correct_prob"].better
    assert by_metric(found, "hella (toy)")["acc"].better
    assert "acc_uncond" not in by_metric(found, "hella (toy)")
    assert "acc_uncond" in by_metric(found, "open (toy)")
    assert found.headline.better
    back = compare(b, a)
    assert back.headline.change == pytest.approx(-found.headline.change)
    assert back.headline.better is False


def test_numbers_are_those_of_the_rows(runs):
    a, b = runs
    before, after = write_round(a, 1, TASKS, 0.0), write_round(b, 1, TASKS, 0.3, seed=5)
    found = compare(a, b)
    for one, two in zip(before, after, strict=True):
        for name, difference in by_metric(found, one["label"]).items():
            assert (difference.before, difference.after) == (pytest.approx(one[name]), pytest.approx(two[name]))
            assert difference.change == pytest.approx(two[name] - one[name])
            assert difference.low < difference.change < difference.high
            assert difference.high - difference.low == pytest.approx(2 * 1.96 * difference.error, rel=0.15)
    pairs = [by_metric(found, row["label"])["bits_per_byte"] for row in before]
    assert found.headline.change == pytest.approx(np.mean([one.change for one in pairs]))
    assert found.headline.error == pytest.approx(math.hypot(*(one.error for one in pairs)) / 2)


def test_pairing_sharpens(runs):
    """The items differ in how hard they are by more than the models do."""
    a, b = runs
    rows = write_round(a, 1, TASKS, 0.0, seed=1, noise=0.1), write_round(b, 1, TASKS, 0.1, seed=2, noise=0.1)
    paired_error = by_metric(compare(a, b), "hella (toy)")["bits_per_byte"].error
    apart = math.hypot(*(side[0]["bits_per_byte_stderr"] for side in rows))
    assert paired_error < apart / 4


def test_equal_models_are_inside_noise_as_often_as_stated():
    """200 pairs of equally good models: about one in twenty intervals misses zero."""
    rng = np.random.default_rng(3)
    items = {str(n): "0" for n in range(80)}
    missed = 0
    for _ in range(200):
        one, two = (paired.Scored("t", items, {"bits_per_byte": rng.gamma(2, size=80)}) for _ in range(2))
        (found,) = paired.differences(one, two)
        missed += not found.noise
    assert 2 <= missed <= 22


def test_few_items_are_judged_as_few():
    """Three of ten answers that are lost are no signal (a sign test gives 0.25), nor is one item, whatever it says."""
    items = {str(n): "0" for n in range(10)}
    one = paired.Scored("t", items, {"acc": np.ones(10), "bits_per_byte": np.arange(10.0)})
    two = paired.Scored("t", items, {"acc": np.repeat([1.0, 0.0], [7, 3]), "bits_per_byte": np.arange(10.0) + 1})
    bits, accuracy = paired.differences(one, two)
    assert accuracy.change == pytest.approx(-0.3)
    assert accuracy.noise
    assert (bits.error, bits.better) == (0, False)
    single = [paired.Scored("t", {"0": "0"}, {"bits_per_byte": np.array([bits])}) for bits in (2.0, 1.0)]
    (found,) = paired.differences(*single)
    assert found.noise
    assert paired.mean([(bits, 10), (found, 1)]).noise


def test_the_mean_of_tasks_has_the_freedom_of_welch():
    rng = np.random.default_rng(5)
    sides = [rng.normal(size=n) for n in (12, 40)]
    found = [paired.interval("bits_per_byte", 0, float(x.mean()), float(x.std(ddof=1)) / len(x) ** 0.5, len(x) - 1)
             for x in sides]  # fmt: skip
    both = paired.mean([(one, len(x)) for one, x in zip(found, sides, strict=True)])
    squares = [x.var(ddof=1) / len(x) for x in sides]
    freedom = sum(squares) ** 2 / sum(s**2 / (len(x) - 1) for s, x in zip(squares, sides, strict=True))
    assert both.high - both.change == pytest.approx(paired.student(freedom) * sum(squares) ** 0.5 / 2)


def test_the_same_run_differs_in_nothing(runs):
    a, _ = runs
    write_round(a, 1, TASKS, 0.0)
    found = compare(a, a)
    assert all(one.change == 0 and one.noise for _, _, one in found.probes)
    assert compare(a, a) == found


def test_different_items_are_refused_by_name(runs):
    a, b = runs
    write_round(a, 1, TASKS, 0.0)
    fewer = {**TASKS, "hella": TASKS["hella"][:390]}
    write_round(b, 1, fewer, 0.0)
    with pytest.raises(TamisError, match=r"hella: 400 items and 390: 10 only in A \(hella-390, .*, \.{3}\)"):
        compare(a, b)
    worded = [dataclasses.replace(item, context="Else?") if n == 5 else item for n, item in enumerate(TASKS["hella"])]
    write_round(b, 2, {**TASKS, "hella": worded}, 0.0)
    with pytest.raises(TamisError, match=r"hella: 1 items are worded otherwise \(hella-5\)"):
        compare(a, b)


def test_what_is_in_one_run_alone_is_said(runs):
    a, b = runs
    write_round(a, 1, TASKS, 0.0)
    write_round(b, 1, {"hella": TASKS["hella"]}, 0.0)
    assert compare(a, b).notes == ["open is in one of the two alone"]
    (b / "probes.jsonl").unlink()
    write_round(b, 1, {"other": items_of("other", 9)}, 0.0)
    with pytest.raises(TamisError, match="none in common"):
        compare(a, b)


def test_rounds_that_are_not_there(runs):
    a, b = runs
    with pytest.raises(TamisError, match=r"expected probes\.jsonl with a probe round, found none"):
        compare(a, b)
    for run in runs:
        write_round(run, 1, TASKS, 0.0)
    with pytest.raises(TamisError, match="with a probe round at step 7"):
        compare(a, b, 7)
    paired.path_of(b, 1).write_bytes(b"PAR1 no")
    with pytest.raises(TamisError, match="expected the item scores of a probe round"):
        compare(a, b)
    paired.path_of(b, 1).unlink()
    with pytest.raises(TamisError, match="the item scores of that round were not kept"):
        compare(a, b)


def test_validation_without_kept_scores_is_not_judged(runs):
    a, b = runs
    for run, bits in zip(runs, (1.20, 1.10), strict=True):
        write_round(run, 10, TASKS, 0.0)
        web = {"n": 64, "bits_per_byte": bits, "bits_per_byte_stderr": 0.01}
        code = {"n": 1, "bits_per_byte": bits, "bits_per_byte_stderr": None}
        write_steps(run, [{"step": 10, "tokens": 1000 if run == a else 2000, "validation": {"web": web, "code": code}},
                          {"step": 20, "tokens": 3000, "validation": {}}])  # fmt: skip
    found = compare(a, b)
    assert found.validation == []
    ((name, count, one),) = found.unpaired
    assert (name, count, one.error) == ("web", 64, pytest.approx(math.hypot(0.01, 0.01)))
    assert [note.split(":")[0] for note in found.notes[:2]] == [
        "validation of code is not paired", "validation of web is not paired"]  # fmt: skip
    assert found.notes[2:] == ["A has seen 1,000 training tokens and B 2,000"]


def test_runs_without_probes_are_compared_by_their_validation(runs):
    a, b = runs
    for run, bits in zip(runs, (1.20, 1.10), strict=True):
        web = {"n": 64, "bits_per_byte": bits, "bits_per_byte_stderr": 0.01}
        write_steps(run, [{"step": 10, "tokens": 1000, "validation": {"web": web}}, {"step": 20, "tokens": 2000}])
    write_round(a, 20, TASKS, 0.0)  # of one alone
    found = compare(a, b)
    assert (found.steps, found.headline, found.probes) == ((10, 10), None, [])
    assert [name for name, _, _ in found.unpaired] == ["web"]
    assert found.notes[0] == "not both have probes at these steps: validation alone is compared"
    result = CliRunner().invoke(app, ["compare", str(a), str(b)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "right answer" not in result.output
    with pytest.raises(TamisError, match=r"b: expected probes\.jsonl with a probe round at step 20, found none"):
        compare(a, b, 20)


def test_the_command_says_what_is_noise(runs):
    a, b = runs
    write_round(a, 1, TASKS, 0.0, seed=1)
    write_round(b, 1, TASKS, 0.9, seed=2)
    result = CliRunner().invoke(app, ["compare", str(a), str(b)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for text in ("hella (toy)", "bits_per_byte", "B better", "are outside noise", "of 11 comparisons"):
        assert text in result.output, text
    result = CliRunner().invoke(app, ["compare", str(a), str(a)], env={"COLUMNS": "200"})
    assert "0 of 11 differences are outside noise" in " ".join(result.output.split())
