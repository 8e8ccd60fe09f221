"""How good a two-class score is, on held-out documents: ranking, decisions, calibration and what each threshold keeps.

All numbers are over as many good as bad documents. In a crawl good ones are rarer, so there the precision is lower
than here, while recall and the share of bad documents kept are the same: with a share r of good documents, precision
is `r * recall / (r * recall + (1 - r) * negatives_kept)`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

THRESHOLDS = (0.01, 0.02, 0.05, *(step / 20 for step in range(2, 20)), 0.98, 0.99)
BINS = 10


def ranking_quality(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Area under the ROC curve: chance that a good document scores above a bad one, ties counted half."""
    order = np.sort(negatives)
    below = np.searchsorted(order, positives, "left")
    not_above = np.searchsorted(order, positives, "right")
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


def _decision(good: np.ndarray, bad: np.ndarray, threshold: float) -> dict[str, float | None]:
    """What `score >= threshold` keeps. Precision is null where nothing is kept."""
    kept_good, kept_bad = int((good >= threshold).sum()), int((bad >= threshold).sum())
    kept = kept_good + kept_bad
    return {
        "threshold": round(threshold, 4),
        "kept": round(kept / (len(good) + len(bad)), 4),
        "precision": round(kept_good / kept, 4) if kept else None,
        "recall": round(kept_good / len(good), 4),
        "negatives_kept": round(kept_bad / len(bad), 4),
    }


def _reliability(scores: np.ndarray, truth: np.ndarray) -> tuple[list[dict[str, float]], float]:
    """Table of non-empty score bins, and the expected calibration error (Naeini et al. 2015, equal widths)."""
    at = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    table, error = [], 0.0
    for number in range(BINS):
        inside = at == number
        if count := int(inside.sum()):
            score, positive = float(scores[inside].mean()), float(truth[inside].mean())
            error += count / len(scores) * abs(score - positive)
            table.append({"from": number / BINS, "count": count, "score": round(score, 4),
                          "positives": round(positive, 4)})  # fmt: skip
    return table, error


def measure(good: np.ndarray, bad: np.ndarray) -> dict[str, Any]:
    """Measurements of the scores of `good` and `bad` held-out documents (one or more each), as JSON values.

    `precision`, `recall`, `f1` at 0.5; `auc`; `brier` (mean squared error of the score); `ece` and `reliability`
    (mean score and share of good documents in each tenth of the scores); `keep_rate`: what each threshold keeps.
    """
    scores = np.concatenate([good, bad]).astype(np.float64)
    truth = np.concatenate([np.ones(len(good)), np.zeros(len(bad))])
    half = _decision(good, bad, 0.5)
    wrong = int((good < 0.5).sum()) + int((bad >= 0.5).sum())
    hits = int((good >= 0.5).sum())
    table, error = _reliability(scores, truth)
    return {
        "precision": half["precision"],
        "recall": half["recall"],
        "f1": round(2 * hits / (2 * hits + wrong), 4) if hits + wrong else None,
        "auc": round(ranking_quality(good, bad), 4),
        "brier": round(float(((scores - truth) ** 2).mean()), 4),
        "ece": round(error, 4),
        "reliability": table,
        "keep_rate": [_decision(good, bad, threshold) for threshold in THRESHOLDS],
    }
