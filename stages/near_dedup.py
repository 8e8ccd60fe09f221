"""Near-duplicate removal: MinHash-LSH proposes pairs, the true Jaccard of their shingle sets decides.

Documents that share one of `bands` keys are candidates. In keep order (most words first, then the smallest document
id) each one is compared with the candidates that stay already: it is removed when its true Jaccard with one of
them reaches `threshold`, and that one is its canonical. So nothing is removed for a chain of pairs whose ends differ,
and every score in the ledger is a measured similarity with a document that stays. Any order or partition of the input
gives the same answer.

Documents with the same words in the same order count as one from the start, which keeps a page copied a hundred
thousand times linear. Documents of fewer than `ngram` words are removed for that reason only (same words, score 1).
Documents without any word are never removed.

Trade-off: band keys are stored (8 bytes each) instead of signatures, and texts are read again for candidates
only. Keys see the first `max_bytes` bytes of a text, so copies that differ before that and agree after it may be
missed; the Jaccard always sees whole texts. A pair of Jaccard s is proposed with probability 1 - (1 - s^rows)^bands:
.92 at .80, .99 at .85 with the defaults.
Cost: signatures dominate; a sketch of 128 bytes for each document in memory while deciding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipeline.stage import Batch, Corpus, Out, Params, Tools, global_stage
from stages.kernels import clusters, minhash

VARIANTS: dict[str, dict[str, Any]] = {
    "verified": {"ngram": 5, "bands": 14, "rows": 8, "threshold": 0.75},
    "fineweb": {"ngram": 5, "bands": 14, "rows": 8, "threshold": 0.0},
    "redpajama_v2": {"ngram": 13, "bands": 9, "rows": 13, "threshold": 0.0},
}
REASON = "near_duplicate"
_CHUNK_BYTES = 256 << 20


class NearDedup(Params):
    """A variant sets shingle, bands and threshold of a public corpus, where they are not given: `fineweb`
    (datatrove, examples/fineweb.py) and `redpajama_v2` (its configs, the .8 bands) accept every proposed pair."""

    variant: Literal["verified", "fineweb", "redpajama_v2"] = Field("verified", description="named set of defaults")
    ngram: int = Field(5, description="words in a shingle", ge=1, le=50)
    bands: int = Field(14, description="keys for each document", ge=1, le=256)
    rows: int = Field(8, description="signature values in a key", ge=1, le=64)
    threshold: float = Field(0.75, description="true Jaccard from which a document is removed; 0: no check", ge=0, le=1)
    max_bytes: int = Field(500_000, description="bytes of a text that its keys are made of", ge=1_000)
    leaders: int = Field(256, description="kept documents of one bucket that others are compared with", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_variant(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {**VARIANTS.get(given.get("variant", "verified"), {}), **given}


def sketch(batch: Batch, params: NearDedup, tools: Tools) -> dict[str, pa.Array]:
    """Band keys, hash and number of the words, and bytes of each text."""
    data, starts, ends = minhash.text_spans(batch["text"])
    a, b = minhash.permutations(params.bands * params.rows)
    keys, words_hash, words = minhash.signatures(
        data, starts, ends, minhash.word_table(), params.ngram, a, b, params.bands, params.max_bytes
    )
    offsets = pa.array(np.arange(len(starts) + 1) * params.bands, pa.int32())
    return {
        "keys": pa.ListArray.from_arrays(offsets, pa.array(keys.ravel())),
        "words_hash": pa.array(words_hash),
        "words": pa.array(words),
        "text_bytes": pa.array(ends - starts, pa.int32()),
    }


def keep_order(doc_ids: pa.ChunkedArray, size: np.ndarray | None = None) -> np.ndarray:
    """int64[n]: rank of each document, 0 for the one that stays first: greatest size, then smallest id."""
    columns: dict[str, Any] = {"id": doc_ids}
    by: list[tuple[str, str]] = [("id", "ascending")]
    if size is not None:
        columns["size"] = pa.chunked_array([pa.array(size)])
        by.insert(0, ("size", "descending"))
    order = np.asarray(pc.sort_indices(pa.table(columns), sort_keys=by)).astype(np.int64)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def group_first(keys: list[np.ndarray], rank: np.ndarray, live: np.ndarray) -> np.ndarray:
    """int64[n]: for each live row the row of lowest rank that has equal keys; for any other row itself."""
    first = np.arange(len(rank))
    rows = np.flatnonzero(live)
    order = rows[np.lexsort([rank[rows], *(key[rows] for key in keys)])]
    if len(order):
        new = np.ones(len(order), bool)
        new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
        first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return first


def cluster_out(doc_ids: pa.ChunkedArray, canonical: np.ndarray, reason: str, score: np.ndarray | None = None,
                threshold: float | None = None) -> Out:  # fmt: skip
    """The verdict of a dedup stage from the row of each document's canonical: int64[n], itself where it stays."""
    n = len(canonical)
    drop = canonical != np.arange(n)
    member = drop.copy()
    member[canonical[drop]] = True
    ids = doc_ids.combine_chunks() if isinstance(doc_ids, pa.ChunkedArray) else doc_ids
    cluster = ids.take(pa.array(canonical, mask=~member)).cast(pa.string())
    out = Out({"cluster_id": cluster, "canonical_id": cluster}, drop=pa.array(drop))
    out.reason = pc.if_else(out.drop, pa.scalar(reason), pa.scalar(None, pa.string()))
    hide = ~drop if score is not None else np.ones(n, bool)
    out.score = pa.array(score if score is not None else np.zeros(n), pa.float64(), mask=hide)
    out.threshold = pa.array(np.full(n, threshold or 0.0), pa.float64(), mask=hide)
    return out


def _chunks(component: np.ndarray, cost: np.ndarray) -> Iterator[slice]:
    """Runs of whole components of about _CHUNK_BYTES; `component` is sorted."""
    ends = [*(np.flatnonzero(np.diff(component)) + 1).tolist(), len(component)] if len(component) else []
    total = np.concatenate([[0], np.cumsum(cost)])
    start = previous = 0
    for end in ends:
        if previous > start and total[end] - total[start] > _CHUNK_BYTES:
            yield slice(start, previous)
            start = previous
        previous = end
    if previous > start:
        yield slice(start, previous)


@global_stage(
    "near_dedup", NearDedup, reads=("text",), sketch=sketch,
    sketch_schema=[("keys", pa.list_(pa.uint64())), ("words_hash", pa.uint64()), ("words", pa.int32()),
                   ("text_bytes", pa.int32())],
    adds=[("cluster_id", pa.string()), ("canonical_id", pa.string())],
)  # fmt: skip
def near_dedup(corpus: Corpus, params: NearDedup, tools: Tools) -> Out:
    """Remove near-duplicates; of each cluster the document with the most words stays.

    Adds `cluster_id` and `canonical_id`, both the id of the copy that stays, for it and for its removed copies; null
    for a document without copies. Reason `near_duplicate`; the score is the Jaccard with the canonical.
    """
    n = corpus.num_docs
    doc_ids = corpus.column("doc_id")
    if n == 0:
        return cluster_out(doc_ids, np.zeros(0, np.int64), REASON, np.zeros(0), params.threshold)
    words = corpus.column("words").to_numpy()
    rank = keep_order(doc_ids, words)
    first = group_first([words, corpus.column("words_hash").to_numpy()], rank, words > 0)
    canonical, score = first.copy(), np.ones(n)

    rows = np.flatnonzero((first == np.arange(n)) & (words >= params.ngram))
    keys = corpus.column("keys").combine_chunks().flatten().to_numpy().reshape(n, params.bands)[rows]
    buckets, component = clusters.candidates(keys)
    del keys
    shared = np.flatnonzero((buckets >= 0).any(axis=1))
    shared = shared[np.lexsort([rank[rows[shared]], component[shared]])]
    cost = corpus.column("text_bytes").to_numpy()[rows[shared]].astype(np.int64)
    for part in _chunks(component[shared], cost):
        judged = shared[part]
        docs = rows[judged]
        local, value = _judge(corpus, docs, buckets[judged], words, params)
        canonical[docs], score[docs] = docs[local], value

    copies = np.flatnonzero(first != np.arange(n))
    canonical[copies], score[copies] = canonical[first[copies]], score[first[copies]]
    return cluster_out(doc_ids, canonical, REASON, score, params.threshold)


def _judge(corpus: Corpus, docs: np.ndarray, buckets: np.ndarray, words: np.ndarray, params: NearDedup):
    """`clusters.choose` for whole components: documents by number, in keep order within each component."""
    ascending = np.sort(docs)
    spans = minhash.text_spans(corpus.take("text", ascending))
    hashes, first, size = minhash.shingle_sets(*spans, minhash.word_table(), params.ngram, words[ascending])
    at = np.searchsorted(ascending, docs)
    numbers, dense = np.unique(buckets, return_inverse=True)
    dense = dense.reshape(buckets.shape) - int(numbers[0] < 0)
    return clusters.choose(dense, len(numbers), hashes, first[at], size[at], params.threshold, params.leaders)
