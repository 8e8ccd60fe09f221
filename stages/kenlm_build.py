"""Estimating an n-gram model with Kneser-Ney smoothing, by KenLM's tools or in pure Python.

=========  ==========================================================================================================
builder    what it does
=========  ==========================================================================================================
lmplz      KenLM's own (Heafield et al. 2013): modified Kneser-Ney, streaming, bounded memory, any size of text; leaves
           a KenLM binary, which scoring maps into memory, so that all workers of a machine share one copy
python     `kaldingram`: Kneser-Ney, for a 5-gram 33,000 words a second and 2.5 kB of memory for each word, so its text
           is cut; leaves an ARPA file, which each worker reads into memory of its own
=========  ==========================================================================================================

The two give different numbers (three discounts for each order against one, and less text), so the builder is part of
what a model is: `auto` becomes one of them when the plan is made, and its fingerprint says which.

`kaldingram` estimates a closed vocabulary: its file has no `<unk>`, for which KenLM would silently take the log10
probability -100. Here the unigrams are interpolated with a uniform distribution as in KenLM: absolute discounting by
D = n1 / (n1 + 2 n2) of the continuation counts frees the mass D V / N, and each of the V + 1 words, `<unk>` among them,
gets an equal part of it. All distributions still sum to one.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import kaldingram.train as kaldingram

from pipeline.stage import StageError

MAX_DISCOUNT = 0.95  # where no n-gram of an order occurs twice the estimate is 1, which would leave singletons nothing
UNKNOWN = "<unk>"
TOOLS = ("lmplz", "build_binary")


def builder(choice: str) -> str:
    """`lmplz` or `python`: what `auto` means on this machine, else the choice itself.

    `lmplz` needs KenLM's `lmplz` and `build_binary` on the PATH; StageError where it is chosen and they are not there.
    """
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if choice == "lmplz" and missing:
        raise StageError(
            f"builder lmplz: expected {' and '.join(TOOLS)} on the PATH, found no {' and no '.join(missing)}; compile "
            "them with docker/build_kenlm.sh and add the folder it prints to the PATH, or choose `builder: python`"
        )
    return ("python" if missing else "lmplz") if choice == "auto" else choice


def build(made_by: str, text: Path, order: int, out: Path, name: str, memory_mb: int) -> Path:
    """Model `name` of a text file (a normalised line for each sentence) in the folder `out`; returns its path.

    `made_by` is lmplz or python. Raises StageError with the builder's own last words where it fails.
    """
    arpa = out / f"{name}.arpa"
    if made_by == "python":
        with text.open(encoding="utf-8", newline="\n") as lines:
            write_arpa(lines, order, arpa)
        return arpa
    scratch, binary = out / "scratch", out / f"{name}.klm"
    scratch.mkdir()
    options = ["-o", str(order), "--discount_fallback", "-S", f"{memory_mb}M", "-T", str(scratch)]
    _call(["lmplz", *options, "--text", str(text), "--arpa", str(arpa)])
    _call(["build_binary", "-T", str(scratch), "probing", str(arpa), str(binary)])
    shutil.rmtree(scratch)
    arpa.unlink()
    return binary


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise StageError(f"`{' '.join(command)}` failed with status {done.returncode}: {done.stderr.strip()[-600:]}")


def _silent(iterable: Iterable | None = None, **_options: object) -> Iterable | None:
    return iterable


def write_arpa(lines: Iterable[str], order: int, path: Path) -> None:
    """Kneser-Ney model of `lines` as an ARPA file with `<unk>`, in pure Python. Same lines, same bytes."""
    collecting = gc.isenabled()
    bars, kaldingram.tqdm = kaldingram.tqdm, _silent  # no progress bars in a worker
    gc.disable()  # millions of small objects without a cycle: collection would double the time
    try:
        counts = kaldingram.NgramCounts(order)
        for line in lines:
            counts.add_raw_counts_from_line(line.rstrip("\n"))
        counts.cal_discounting_constants()
        counts.d = [min(discount, MAX_DISCOUNT) for discount in counts.d]
        counts.cal_f()
        _add_unknown(counts)
        counts.cal_bow()
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            counts.print_as_arpa(fout=stream)
    finally:
        kaldingram.tqdm = bars
        if collecting:
            gc.enable()


def _add_unknown(counts: kaldingram.NgramCounts) -> None:
    unigrams = counts.counts[0][()]
    continuations = {word: len(contexts) for word, contexts in unigrams.word_to_context.items() if contexts}
    if not continuations:  # an order of 1 keeps no contexts
        continuations = {word: n for word, n in unigrams.word_to_count.items() if word != counts.bos_symbol}
    total = sum(continuations.values())
    once, twice = (sum(n == times for n in continuations.values()) for times in (1, 2))
    discount = min(max(once, 0.1) / max(once + 2 * twice, 1), MAX_DISCOUNT)
    share = discount * len(continuations) / total / (len(continuations) + 1)
    for word in unigrams.word_to_f:
        known = continuations.get(word, 0)
        unigrams.word_to_f[word] = (known - discount) / total + share if known else 0.0
    unigrams.word_to_count[UNKNOWN] = 0
    unigrams.word_to_f[UNKNOWN] = share
