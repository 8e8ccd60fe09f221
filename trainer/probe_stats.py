"""The numbers of a probe, item by item, and what their means are worth.

For an item with choices c of log-likelihood l_c (nats, summed over the tokens of " " + choice), n_c characters and
b_c UTF-8 bytes (both without that space), right answer g:

- `bits_per_byte` = -l_g / (b_g ln 2): the headline, lower is better; it moves long before accuracy does.
- `norm_correct_prob` = exp(l_g) / sum_c exp(l_c): probability of the right answer among the choices, and
  `norm_correct_prob_per_char` the same of l_c / n_c (DataDecide, Magnusson et al. 2025, arXiv 2504.11393).
- `acc`, `acc_norm`: is g the argmax of l_c, of l_c / n_c (lm-evaluation-harness, `multiple_choice`).
- `acc_uncond`: is g the argmax of l_c - u_c, with u_c the log-likelihood of the choice after "Answer:" alone (the
  normalisation of OLMES, Gu et al. 2024, arXiv 2406.08446, for ARC challenge, CommonsenseQA, OpenBookQA).

Of equal choices the first one wins, as in the harness. Standard errors are those of a mean over the items,
s / sqrt(n) with n - 1 in s: what another draw of items would change, not another seed of the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trainer.probe_items import Item

HEADLINE = "bits_per_byte"
METRICS = (HEADLINE, "norm_correct_prob", "norm_correct_prob_per_char", "acc", "acc_norm", "acc_uncond")


def item_metrics(items: Sequence[Item], logprobs: np.ndarray, prior: np.ndarray | None) -> dict[str, np.ndarray]:
    """Each metric for each item, float64 [items].

    `logprobs` and `prior` (conditional, unconditional) are float64 [choices of all items].
    """
    names = [name for name in METRICS if name != "acc_uncond" or prior is not None]
    out = {name: np.empty(len(items)) for name in names}
    start = 0
    for row, item in enumerate(items):
        mine = slice(start, start + len(item.choices))
        start = mine.stop
        scores, gold = logprobs[mine], item.gold
        per_char = scores / np.array([len(choice) for choice in item.choices])
        out["bits_per_byte"][row] = -scores[gold] / math.log(2) / len(item.choices[gold].encode("utf-8", "replace"))
        out["norm_correct_prob"][row] = _share(scores, gold)
        out["norm_correct_prob_per_char"][row] = _share(per_char, gold)
        out["acc"][row] = int(scores.argmax()) == gold
        out["acc_norm"][row] = int(per_char.argmax()) == gold
        if prior is not None:
            out["acc_uncond"][row] = int((scores - prior[mine]).argmax()) == gold
    return out


def _share(scores: np.ndarray, gold: int) -> float:
    weights = np.exp(scores - scores.max())
    return float(weights[gold] / weights.sum())


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and its standard error; the error of a single value is unknown (None)."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def ratio_and_error(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float | None]:
    """sum(sums) / sum(sizes) over independent units, and its standard error; None for a single unit.

    Units are sequences or documents: neighbouring tokens are not independent. The error is the linearised one of a
    ratio estimator (Cochran, Sampling Techniques, 1977, section 2.11, without the finite-population factor).
    """
    total, n = float(sizes.sum()), len(sums)
    if total <= 0:
        raise ValueError(f"expected sizes with a positive sum, found {total} over {n} units")
    ratio = float(sums.sum()) / total
    if n < 2:
        return ratio, None
    residuals = sums - ratio * sizes
    return ratio, float(math.sqrt(n / (n - 1) * float((residuals**2).sum())) / total)


def bits_per_byte(nll: np.ndarray, sizes: np.ndarray) -> tuple[float, float | None]:
    """Bits per byte of a validation sample and its standard error, from `nll` (nats) and bytes of each sequence."""
    value, error = ratio_and_error(np.asarray(nll, float) / math.log(2), np.asarray(sizes, float))
    return value, error


def chance(items: Sequence[Item]) -> float:
    """Accuracy of a guess: the mean of 1 / choices."""
    return float(np.mean([1 / len(item.choices) for item in items]))
