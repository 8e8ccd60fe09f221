"""Perplexity of documents under a KenLM model: loading it so that workers share it, and CCNet's formula.

A KenLM binary is mapped into memory, read-only and shared: the pages are the kernel's cache of the file, one copy for
all workers of a machine, and a worker that starts finds them there. An ARPA file has no such form and is built up in
each process.
Cost: 22 to 37 MB of normalised text for each CPU-second, measured with models of 37 to 64 MiB; the binding splits a
line and hashes each word, then each word is looked up in the model's hash tables, which no cache holds.
"""

from __future__ import annotations

from pathlib import Path

import kenlm
import numpy as np
import pyarrow as pa

from pipeline.stage import StageError
from stages.lm_text import LmText


def load_model(path: Path) -> kenlm.Model:
    """A model from an ARPA file or a KenLM binary, without chatter on stderr. Raises StageError where it is none."""
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    config.load_method = kenlm.LoadMethod.POPULATE_OR_LAZY  # mapped and filled at once, never copied
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        found = str(error).splitlines()[0]
        raise StageError(
            f"model file {path}: expected an ARPA file or KenLM binary, found neither ({found})"
        ) from error


def perplexities(model: kenlm.Model, text: LmText, texts: pa.Array, max_bytes: int) -> np.ndarray:
    """float32 of shape (n,): perplexity for each unit and line end; NaN for a text without a unit.

    10^(-sum of log10 p / sum of (units + 1)) over the lines of the normalised text, as in CCNet (Wenzek et al. 2020,
    `cc_net/perplexity.py`), which rounds it to one decimal.
    """
    docs, counts = text(texts, max_bytes)
    score = model.score
    sums = np.array([sum(map(score, doc.split(b"\n"))) for doc in docs], np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = np.where(counts[:, 0] > 0, 10.0 ** (-sums / counts.sum(axis=1)), np.nan)
    return np.minimum(values, np.finfo(np.float32).max).astype(np.float32)
