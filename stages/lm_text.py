"""What a language model reads: normalised text in units, which are words or SentencePiece pieces.

Pieces are those of a unigram model (Kudo 2018), as in CCNet. A word is cut alone, whatever stands beside it, and the
result is kept: pieces never cross a space, so this gives the pieces of the whole line, but for ties between two
segmentations of equal probability, which rounding decides in a long line (7 of 180,000 lines, measured), and for
a U+2581 of the text itself.
Trade-off: a table of up to 200,000 words (some 40 MB) in each process, for 5 times the speed of the library's `encode`
on whole lines. A model whose pieces do cross spaces, or that does not start a line with one, reads whole lines.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import sentencepiece

from pipeline.stage import StageError
from stages.text_normal import Normalisation

SPACE = "▁"  # U+2581, what SentencePiece writes for a space
KEPT_WORDS, KEPT_BYTES = 200_000, 64
_SYMBOLS = {"<s>": "(s)", "</s>": "(/s)", "<unk>": "(unk)"}  # KenLM's own, never made from text
_THREADS = 4  # of SentencePiece's trainer: sums are made for each, so another number gives another model
_LONGEST = 256  # characters of a word that the trainer sees at once; longer ones are cut


class Pieces(dict):
    """A SentencePiece model, as a table from words to their pieces between spaces, both in UTF-8, filled when asked."""

    def __init__(self, model: bytes, origin: str) -> None:
        super().__init__()
        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            alone = self._cut(b"a b") == self._cut(b"a") + b" " + self._cut(b"b")
        except (RuntimeError, OSError) as error:
            raise StageError(f"model {origin}: expected a SentencePiece model, found none ({error})") from error
        pieces = map(self.processor.id_to_piece, range(self.processor.get_piece_size()))
        self.by_word = alone and not any(SPACE in piece[1:] for piece in pieces)

    def _cut(self, text: bytes) -> bytes:
        return " ".join(_SYMBOLS.get(piece, piece) for piece in self.processor.encode(text, out_type=str)).encode()

    def __missing__(self, word: bytes) -> bytes:
        pieces = self._cut(word)
        if len(word) <= KEPT_BYTES:
            if len(self) >= KEPT_WORDS:
                self.clear()
            self[word] = pieces
        return pieces

    def line(self, line: bytes) -> bytes:
        """The pieces of a normalised line; empty where the model's own normalisation leaves nothing."""
        if not self.by_word:
            return self._cut(line)
        found = b" ".join(map(self.__getitem__, line.split(b" ")))
        return b" ".join(found.split()) if b"  " in found or found[:1] == b" " or found[-1:] == b" " else found

    def document(self, text: bytes) -> bytes:
        """The pieces of each line that has some."""
        return b"\n".join(filter(None, map(self.line, text.split(b"\n"))))


@dataclass(frozen=True)
class LmText:
    """Normalisation and units of a model."""

    normal: Normalisation
    pieces: Pieces | None = None

    def __call__(self, texts: pa.Array, max_bytes: int) -> tuple[list[bytes], np.ndarray]:
        """For each string its units between single spaces and lines between "\\n"; int64 (n, 2): units and lines."""
        folded, counts = self.normal(texts, max_bytes)
        docs = folded.cast(pa.binary()).to_pylist()
        if self.pieces is not None:
            docs = [self.pieces.document(doc) for doc in docs]
            lines = np.array([doc.count(b"\n") + bool(doc) for doc in docs], np.int64)
            spaces = np.array([doc.count(b" ") for doc in docs], np.int64)
            counts = np.stack([spaces + lines, lines], axis=1)
        return docs, counts


def _rows(words: Counter[str]) -> Iterator[str]:
    """`text TAB count` for the trainer, which takes a string for a piece only where two different things follow it.

    So what occurs twice or more stands once before a space and once at the end of a row.
    """
    for word, times in sorted(words.items()):
        if times > 1:
            yield f"{word} {word}\t1"
        if times != 2:
            yield f"{word}\t{times - 2 if times > 2 else 1}"


def train_pieces(lines: Iterable[str], size: int, origin: str) -> bytes:
    """A SentencePiece unigram model of at most `size` pieces, as the bytes of its file. Same words, same bytes.

    The trainer gets distinct words with their counts: pieces cross no space, and whole lines that repeat each other
    would keep its suffix array busy for minutes. As in CCNet's Makefile, the library's own normalisation (nmt_nfkc,
    kept in the model) comes after ours, and all but the rarest .05 % of characters have a piece. Raises StageError
    with the trainer's words where it fails.
    """
    words: Counter[str] = Counter()
    for line in lines:
        words.update(line.split(" "))
    for word in [word for word in words if len(word) > _LONGEST]:
        times = words.pop(word)
        for start in range(0, len(word), _LONGEST):
            words[word[start : start + _LONGEST]] += times
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_rows(words),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            normalization_rule_name="nmt_nfkc",
            num_threads=_THREADS,
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        raise StageError(f"{origin}: SentencePiece found no model: {str(error).strip()[-300:]}") from error
    return model.getvalue()
