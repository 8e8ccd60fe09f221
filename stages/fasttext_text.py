"""Texts in the form that fastText reads: one line each, nothing in it that fastText takes for a mark of its own.

fastText reads no further than a newline or the word `</s>`, and takes a word that begins with `__label__` for a
label. A page could so hide its text or label itself: both are broken up, in training and in scoring.

=======  ==========================================================================================================
name     what it does
=======  ==========================================================================================================
lower    lower case, every run of white space one space (`" ".join(text.lower().split())`)
dclm     `" ".join(text.strip().splitlines())`, case kept: mlfoundations/dclm, baselines/mappers/enrichers/
         quality_prediction_enrichers_calc_fasttext.py, for its training text as for inference
=======  ==========================================================================================================

A model keeps the name and the fingerprint of its form, which covers the Unicode version of the Python that defines
white space and lower case; a model refuses another. Cost: 150 to 600 MB/s of English text on one core, by Python's own
string methods.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import StageError

PREPROCESS: dict[str, Callable[[str], str]] = {
    "lower": lambda text: " ".join(text.lower().split()),
    "dclm": lambda text: " ".join(text.strip().splitlines()),
}
_VERSION = {"lower": 1, "dclm": 1}


def fingerprint(name: str) -> str:
    """Name, version and Unicode tables of a preprocessing."""
    return f"{name}/{_VERSION[name]} unicode {unicodedata.unidata_version}"


def check_fingerprint(record: dict[str, str], model: str) -> str:
    """Name of the preprocessing in a model's record `{name, fingerprint}`. Raises StageError where it is another."""
    name = record["name"]
    if name not in PREPROCESS:
        raise StageError(f"model {model}: expected a preprocessing among {', '.join(PREPROCESS)}, found {name!r}")
    if record["fingerprint"] != fingerprint(name):
        raise StageError(
            f"model {model}: expected text preprocessed by {record['fingerprint']}, found {fingerprint(name)} in this "
            "installation; train the model again"
        )
    return name


def heads(texts: pa.Array, max_bytes: int) -> list[str | None]:
    """Each text's first `max_bytes` bytes as a Python string, cut before a character that would be broken."""
    sizes = pc.binary_length(texts)
    if not len(texts) or (pc.max(sizes).as_py() or 0) <= max_bytes:
        return texts.to_pylist()
    cut = pc.binary_slice(texts.cast(pa.binary()), 0, max_bytes).to_pylist()
    return [None if raw is None else raw.decode("utf-8", "ignore") for raw in cut]


def one_line(text: str) -> str:
    """The text with its newlines and fastText's own marks broken up; other characters stay."""
    return text.replace("\n", " ").replace("</s>", " ").replace("__label__", "__label __")


def model_lines(preprocess: str, texts: pa.Array, max_bytes: int) -> list[str]:
    """The line of each text; of a null text an empty one."""
    form = PREPROCESS[preprocess]
    return [one_line(form(text)) if text else "" for text in heads(texts, max_bytes)]
