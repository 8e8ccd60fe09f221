"""KenLM models: the two builders, the score against a slow reading of the ARPA file, memory that workers share."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from language_models import LINES, SlowModel, arpa_of, slow_words

from pipeline.stage import StageError, stage_types
from stages import kenlm_build
from stages.kenlm_score import load_model, perplexities
from stages.lm_text import LmText, Pieces, train_pieces
from stages.text_normal import normalisation
from stages.train_lm import TrainLmParams

needs_lmplz = pytest.mark.skipif(
    kenlm_build.builder("auto") != "lmplz", reason="KenLM's lmplz and build_binary are not on the PATH"
)
TAMIS = LmText(normalisation("tamis/1"))

GOLDEN = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.5\t<unk>\t0
-99\t<s>\t-0.25
-0.75\t</s>
-0.5\tcat\t-0.125
-1.0\tthe\t-0.5

\\2-grams:
-0.25\t<s> the
-0.375\tthe cat
-0.125\tcat </s>

\\end\\
"""


@pytest.mark.parametrize(
    ("text", "log10", "units"),
    [
        ("the cat", -0.25 - 0.375 - 0.125, 3),
        ("The cat the", -0.25 - 0.375 + (-0.125 - 1.0) + (-0.5 - 0.75), 4),  # backs off twice
        ("a dog", (-0.25 - 1.5) - 1.5 - 0.75, 3),  # unknown words carry no back-off
        ("the cat\ncat", -0.75 + (-0.25 - 0.5 - 0.125), 5),  # two lines, two ends
    ],
)
def test_golden_scores_of_a_model_by_hand(tmp_path, text, log10, units):
    path = tmp_path / "golden.arpa"
    path.write_text(GOLDEN)
    (value,) = perplexities(load_model(path), TAMIS, pa.array([text]), 10**6)
    assert value == pytest.approx(10 ** (-log10 / units), rel=1e-6)


def test_golden_score_over_pieces(tmp_path):
    """CCNet's formula counts pieces: 10^(-log10 / (pieces + 1))."""
    pieces = Pieces(train_pieces(["the cat"] * 30, 256, "here"), "here")
    path = tmp_path / "pieces.arpa"
    path.write_text(GOLDEN.replace("the", "▁the").replace("cat", "▁cat"))
    assert pieces.line(b"the cat").decode() == "▁the ▁cat"
    (value,) = perplexities(load_model(path), LmText(TAMIS.normal, pieces), pa.array(["the\tCat"]), 10**6)
    assert value == pytest.approx(10 ** ((0.25 + 0.375 + 0.125) / 3), rel=1e-6)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_perplexity_equals_the_slow_reading_of_the_arpa_file(tmp_path, order):
    path = arpa_of(tmp_path, order)
    slow, model = SlowModel(path), load_model(path)
    texts = ["The cat sat", "the DOG\nsat. down", "unknown words here", "a\n\na cat\n", "cat " * 40]
    found = perplexities(model, TAMIS, pa.array(texts), 10**6)
    for text, value in zip(texts, found.tolist(), strict=True):
        assert value == pytest.approx(slow.perplexity(slow_words(text)), rel=1e-4)


def test_no_words_no_number(tmp_path):
    found = perplexities(load_model(arpa_of(tmp_path)), TAMIS, pa.array(["", None, "\n\u200b\n", "cat"]), 10**6)
    assert np.isnan(found).tolist() == [True, True, True, False]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_every_distribution_sums_to_one_with_the_unknown_word(tmp_path, order):
    slow = SlowModel(arpa_of(tmp_path, order))
    histories = [(), ("<s>",), ("the",), ("the", "cat"), ("<s>", "a"), ("dog", "sat"), ("<unk>",), ("down", "the")]
    assert "<unk>" in slow.vocabulary
    for history in histories:
        total = sum(10 ** slow.log10(history, word) for word in slow.vocabulary)
        assert total == pytest.approx(1.0, abs=1e-5), history


def test_the_pure_python_builder_gives_the_same_bytes_and_no_noise(tmp_path, capsys):
    first = arpa_of(tmp_path).read_bytes()
    assert arpa_of(tmp_path).read_bytes() == first
    assert first.count(b"\t<unk>\n") == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("lines", [["a"], ["a a a a a a"], ["x y"] * 50, ["a b", "c d", "e f"]])
def test_degenerate_text_still_gives_a_model(tmp_path, lines):
    model = load_model(arpa_of(tmp_path, 5, lines))
    assert -20 < model.score("zzz") < 0
    assert -20 < model.score(lines[0]) < 0


def built(tmp_path, name, lines=LINES * 5):
    text = tmp_path / "lines.txt"
    text.write_text("".join(line + "\n" for line in lines))
    return kenlm_build.build("lmplz", text, 3, tmp_path, name, 64)


@needs_lmplz
def test_lmplz_leaves_one_binary_with_the_same_bytes_every_time(tmp_path):
    first, second = built(tmp_path, "a"), built(tmp_path, "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"mmap lm http://kheafield.com/code format version")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.klm", "b.klm", "lines.txt"]
    assert load_model(first).score("the cat sat") > load_model(first).score("sat the unknown")


@needs_lmplz
@pytest.mark.parametrize("lines", [["a"], ["x y"] * 50, ["a b", "c d", "e f"]])
def test_lmplz_takes_degenerate_text(tmp_path, lines):
    assert -20 < load_model(built(tmp_path, "a", lines)).score("zzz") < 0


_READER = """
import sys
from pathlib import Path
from stages.kenlm_score import load_model
model = load_model(Path(sys.argv[1]))
print(model.score("the cat sat"), flush=True)
sys.stdin.readline()
rows = iter(open("/proc/self/smaps"))
flags = next(row.split()[1] for row in rows if sys.argv[1] in row)
size = {}
for row in rows:
    size[row.split()[0]] = row.split()[1]
    if row.startswith("VmFlags"):
        break
print(flags, size["Rss:"], size["Shared_Clean:"], size["Private_Dirty:"], flush=True)
sys.stdin.readline()
"""


@needs_lmplz
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_two_processes_share_the_memory_of_a_binary(tmp_path):
    rng = np.random.default_rng(1)
    path = built(tmp_path, "big", [" ".join(f"w{i}" for i in rng.zipf(1.3, 20) % 50_000) for _ in range(5_000)])
    assert path.stat().st_size > 1_000_000
    command = [sys.executable, "-c", _READER, str(path)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        process.stdout.readline()  # the model is loaded
    for process in both:
        print(file=process.stdin, flush=True)
        flags, *kilobytes = process.stdout.readline().split()
        resident, shared, dirty = map(int, kilobytes)
        assert flags.startswith("r-")
        assert resident * 1024 > path.stat().st_size * 0.9
        assert shared > resident * 0.9
        assert dirty == 0
    for process in both:
        process.communicate("\n")


def test_builder_names(monkeypatch):
    found = {"lmplz": "/x/lmplz", "build_binary": "/x/build_binary"}
    monkeypatch.setattr(kenlm_build.shutil, "which", found.get)
    assert [kenlm_build.builder(choice) for choice in ("auto", "lmplz", "python")] == ["lmplz", "lmplz", "python"]
    del found["build_binary"]
    assert [kenlm_build.builder(choice) for choice in ("auto", "python")] == ["python", "python"]
    with pytest.raises(StageError, match="found no build_binary; compile"):
        kenlm_build.builder("lmplz")


def test_the_plan_names_the_builder_that_is_used(monkeypatch):
    identity = stage_types()["train_lm"].identity
    monkeypatch.setattr(kenlm_build.shutil, "which", lambda _name: None)
    assert identity(TrainLmParams()) == "python"
    monkeypatch.setattr(kenlm_build.shutil, "which", lambda name: f"/x/{name}")
    assert identity(TrainLmParams()) == "lmplz"
    assert identity(TrainLmParams(builder="python")) == "python"


def test_a_failing_builder_is_quoted():
    with pytest.raises(StageError, match="failed with status 1: no such luck"):
        kenlm_build._call(["sh", "-c", "echo no such luck >&2; exit 1"])


@pytest.mark.parametrize("data", [b"", b"no model at all", b"\\data\\\nngram 1=9\n\n\\1-grams:\n-1\ta\n\n\\end\\\n"])
def test_what_is_no_model(tmp_path, data):
    path = tmp_path / "bad.arpa"
    path.write_bytes(data)
    with pytest.raises(StageError, match="expected an ARPA file or KenLM binary, found neither"):
        load_model(path)
