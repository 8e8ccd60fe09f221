"""Scoring texts with a fastText classifier, without the native library: mapped weights and compiled loops.

Scores agree with `fasttext.predict` to about 1e-6 (it is the same arithmetic, see `stages.kernels.fasttext`), at
several times its speed; a hostile model file cannot crash the process (`stages.fasttext_file`); and the
processes of a machine share one copy of the weights. `fasttext` itself is needed for training alone.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.stage import StageError
from stages.fasttext_file import ModelFile, content_hash, read_model
from stages.kernels import fasttext as kernel
from stages.kernels import words

_LOSS = {"softmax": kernel.SOFTMAX, "hs": kernel.HIERARCHICAL, "ns": kernel.BINARY, "ova": kernel.BINARY}
REMEMBERED = 1 << 15  # words whose n-gram sums are remembered: 88 bytes each with 16 dimensions
_END = np.frombuffer(b"</s>", np.uint8)


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()


def _label_tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Children of each node of the Huffman tree over labels by falling count (`HierarchicalSoftmaxLoss::buildTree`)."""
    labels = len(counts)
    weight = np.full(2 * labels, 10**15, np.int64)
    weight[:labels] = counts
    children = np.full((2, 2 * labels), -1, np.int64)
    leaf, node = labels - 1, labels
    for parent in range(labels, 2 * labels - 1):
        for side in (0, 1):
            if leaf >= 0 and weight[leaf] < weight[node]:
                children[side, parent], leaf = leaf, leaf - 1
            else:
                children[side, parent], node = node, node + 1
        weight[parent] = weight[children[:, parent]].sum()
    return children[0], children[1]


class FastTextModel:
    """A supervised fastText model. `labels` has the names as the file has them, with their prefix.

    Raises StageError where the file is absent, damaged, no classifier, or not the one of `sha256`.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        if sha256 is not None and (found := content_hash(path)) != sha256:
            raise StageError(f"model file {path}: expected SHA-256 {sha256}, found {found}")
        file = read_model(path)
        self.labels, self._file, self._memory = file.labels, file, threading.local()
        self._hashes = np.zeros(len(file.starts), np.uint32)
        self._table = np.full(_power_of_two(2 * len(file.starts)), -1, np.int32)
        kernel.word_table(file.data, file.starts, file.ends, self._hashes, self._table)
        self._inputs, self._bits, self._ranks = self._buckets(file)
        hierarchical = file.loss == "hs"
        self._left, self._right = _label_tree(file.label_counts if hierarchical else file.label_counts[:0])
        self._end_hash = kernel.fnv(_END, 0, 4)
        self._end = kernel.find(
            _END, 0, 4, self._end_hash, file.data, file.starts, file.ends, self._hashes, self._table
        )

    @staticmethod
    def _buckets(file: ModelFile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Input rows, and for a pruned model the bitmap and ranks of its buckets, whose rows come in their order."""
        if file.pruned < 0:
            return file.inputs, np.zeros(1, np.uint64), np.zeros(1, np.int32)
        kept, last = np.unique(file.kept_buckets[::-1], return_index=True)  # of equal buckets the last one counts
        order = file.words + file.kept_rows[::-1][last].astype(np.int64)
        bits = np.zeros(file.bucket // 64 + 1, np.uint64)
        ranks = np.zeros(len(bits), np.int32)
        kernel.bucket_ranks(kept.astype(np.int64), bits, ranks)
        return np.concatenate([file.inputs[: file.words], file.inputs[order]]), bits, ranks

    def _remembered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Words of earlier calls in this thread: their bytes, number of rows and sum of rows."""
        if not hasattr(self._memory, "words"):
            slots, dim = REMEMBERED if self._file.maxn else 1, self._inputs.shape[1]
            self._memory.words = (np.zeros((slots, 2), np.uint64), np.zeros(slots, np.int32),
                                  np.zeros((slots, dim), np.float32))  # fmt: skip
        return self._memory.words

    def scores(self, texts: pa.Array, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
        """`(probabilities float32[n, labels], words int64[n])` of the first `max_bytes` bytes of each text.

        A newline is white space. A text without a word (0 in the second array) has the scores of an empty line.
        """
        file, n = self._file, len(texts)
        hidden = np.zeros((n, file.inputs.shape[1]), np.float32)
        tokens = np.zeros(n, np.int64)
        kernel.hidden_vectors(
            *words.buffers(texts), max_bytes, file.data, file.starts, file.ends, self._hashes, self._table, file.words,
            file.minn, file.maxn, file.word_ngrams, max(file.bucket, 1), file.pruned >= 0, self._bits, self._ranks,
            self._inputs, self._end, self._end_hash, *self._remembered(), hidden, tokens,
        )  # fmt: skip
        scores = np.empty((n, len(self.labels)), np.float32)
        kernel.label_scores(hidden, file.outputs, _LOSS[file.loss], self._left, self._right, scores)
        return scores, tokens

    def best(self, texts: pa.Array, max_bytes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`(label numbers int32[n, k], probabilities float32[n, k])`, best first; k: `count`, or all labels."""
        scores, _ = self.scores(texts, max_bytes)
        chosen = np.zeros((len(scores), min(count, len(self.labels))), np.int32)
        kernel.best_labels(scores, chosen)
        return chosen, np.take_along_axis(scores, chosen, axis=1)
