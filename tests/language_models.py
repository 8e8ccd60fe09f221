"""Slow, obvious versions of what the tests of language models compare with."""

from __future__ import annotations

import itertools
from pathlib import Path

from stages import kenlm_build, text_normal
from stages.kernels.fold import ALONE, DROP, KEEP, MARK3, NEWLINE, SPACE

LINES = ("the cat sat", "the cat ran", "a dog sat", "the dog sat down", "a cat")


def slow_words(text: str) -> list[list[str]]:
    """tamis/1 by the definition: classes for each character, then groups. The words of each line that has some."""
    lines: list[list] = []
    line: list = []
    for char in text:
        target, kind = text_normal._tamis(char) if ord(char) < text_normal.TABLE_SIZE else (char, KEEP)
        if kind == NEWLINE:
            lines.append(line)
            line = []
        elif kind != DROP:
            line += [(target, kind)] * (3 if kind == MARK3 else 1)
    result = []
    for chars_of_line in [*lines, line]:
        words = []
        for (kind, mark), group in itertools.groupby(
            chars_of_line, lambda c: (min(c[1], 5), c[0] if c[1] > ALONE else "")
        ):
            chars = [char for char, _ in group]
            if kind == KEEP:
                words.append("".join(chars))
            elif kind == ALONE:
                words += chars
            elif kind != SPACE:
                words.append(mark * min(3, len(chars)))
        if words:
            result.append(words)
    return result


class SlowModel:
    """log10 probabilities of an ARPA file by its definition: the longest known n-gram, else back off."""

    def __init__(self, path: Path) -> None:
        self.p: dict[tuple, float] = {}
        self.back_off: dict[tuple, float] = {}
        for line in path.read_text().splitlines():
            parts = line.split("\t")
            if len(parts) > 1:
                words = tuple(parts[1].split(" "))
                self.p[words] = float(parts[0])
                self.back_off[words] = float(parts[2]) if len(parts) > 2 else 0.0
        self.order = max(map(len, self.p))
        self.vocabulary = {words[0] for words in self.p if len(words) == 1} - {"<s>"}

    def log10(self, history, word) -> float:
        history = tuple(history)[-(self.order - 1) :] if self.order > 1 else ()
        if (*history, word) in self.p:
            return self.p[(*history, word)]
        return self.back_off.get(history, 0.0) + self.log10(history[1:], word)

    def perplexity(self, lines: list[list[str]]) -> float:
        total, units = 0.0, 0
        for line in lines:
            words = ["<s>", *(word if word in self.vocabulary else "<unk>" for word in line), "</s>"]
            total += sum(self.log10(words[:i], words[i]) for i in range(1, len(words)))
            units += len(line) + 1
        return 10 ** (-total / units)


def arpa_of(folder: Path, order: int = 3, lines: tuple[str, ...] | list[str] = LINES) -> Path:
    """A model of a few lines, made in pure Python."""
    path = folder / "tiny.arpa"
    kenlm_build.write_arpa(lines, order, path)
    return path
