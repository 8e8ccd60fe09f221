"""Damaged and hostile model files end in an error that says where, never in a dead process."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.stage import StageError
from stages.assets import wheel_file
from stages.fasttext_file import MAX_MODEL_BYTES, content_hash, read_model
from stages.fasttext_model import FastTextModel
from stages.langid import LID_176

HEADER = 8 + 56  # magic and version; then the arguments
DICTIONARY = struct.calcsize("<3i2q")
FUZZ = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.stage import StageError
from stages.fasttext_model import FastTextModel
import pyarrow as pa
good, seed, rounds = Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), int(sys.argv[4])
rng, path, refused = np.random.default_rng(seed), Path(sys.argv[2] + ".fuzzed"), 0
for number in range(rounds):
    data = bytearray(good)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(data) if number % 2 else min(len(data), 400)))
        if rng.random() < 0.2:
            data = data[:at] + bytes(rng.integers(0, 256, rng.integers(0, 9), np.uint8)) + data[at:]
        else:
            data[at] = int(rng.integers(0, 256))
    path.write_bytes(data)
    try:
        texts = pa.array(["one two words here and there", "", "\\u00e9 " * 50, "x" * 5000])
        _, scores = FastTextModel(path).best(texts, 10**6, 3)
        assert np.isfinite(scores).all() and 0 <= scores.min() and scores.max() <= 1, scores
    except StageError:
        refused += 1
print(refused)
"""


@pytest.fixture(scope="module", params=["softmax", "hs", "ova", "ns", "quantised"])
def model_file(request, tmp_path_factory):
    import fasttext

    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(3)
    words = {"a": ["one", "two", "three", "four", "five", "six"], "b": ["uno", "due", "tre", "quattro", "cinque"]}
    words["c"] = words["a"][:3] + words["b"][:3]
    lines = [f"__label__{k} {' '.join(rng.choice(v, 6))}\n" for _ in range(60) for k, v in words.items()]
    (folder / "train.txt").write_text("".join(lines))
    loss = "softmax" if request.param == "quantised" else request.param
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=4, minn=2, maxn=3, wordNgrams=2, bucket=400, loss=loss, thread=1, verbose=0
    )
    if request.param == "quantised":
        model.quantize(str(folder / "train.txt"), cutoff=300, qnorm=True, retrain=False, dsub=2)
    path = folder / f"{request.param}.bin"
    model.save_model(str(path))
    return path


def test_what_a_sound_file_says(model_file):
    file = read_model(model_file)
    assert sorted(file.labels) == ["__label__a", "__label__b", "__label__c"]
    assert file.loss == {"quantised": "softmax"}.get(model_file.stem, model_file.stem)
    assert file.quantised == (model_file.stem == "quantised")
    assert file.inputs.shape[1] == file.outputs.shape[1] == 4
    assert file.inputs.shape[0] == file.words + (400 if file.pruned < 0 else file.pruned)
    lid = read_model(wheel_file(*LID_176))
    assert (lid.inputs.shape, len(lid.labels), lid.loss, lid.pruned) == ((50_000, 16), 176, "hs", 42_765)


def test_a_file_cut_anywhere_is_refused(model_file, tmp_path):
    data = model_file.read_bytes()
    path = tmp_path / "cut.bin"
    for size in [*range(0, 200, 3), *range(200, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(StageError, match=r"cut.bin: expected a fastText classifier with .*found .*fetch it again"):
            read_model(path)
    path.write_bytes(data + b"x")
    with pytest.raises(StageError, match="an end at byte"):
        read_model(path)


@pytest.mark.parametrize(
    ("at", "form", "value", "message"),
    [
        (0, "i", 1, "the number 793712314"),
        (4, "i", 13, "format version"),
        (8, "i", 2**30, "dimensions"),
        (8 + 4 * 5, "i", 1000, "n-grams"),
        (8 + 4 * 6, "i", 9, "loss"),
        (8 + 4 * 7, "i", 1, "supervised"),
        (8 + 4 * 8, "i", 0, "buckets"),
        (8 + 4 * 8, "i", 2**30, "a vector for each word and bucket"),
        (HEADER, "i", 2**31 - 1, "words and labels"),
        (HEADER + 8, "i", 0, "words and labels"),
        (HEADER + 20, "q", 2**62, "dictionary within the file"),
        (HEADER + DICTIONARY, "q", 0, "words of one byte"),
    ],
)
def test_a_field_that_lies_is_named(model_file, tmp_path, at, form, value, message):
    if at == 8 + 4 * 8 and value and model_file.stem == "quantised":
        pytest.skip("a pruned model has its own list of buckets")
    data = bytearray(model_file.read_bytes())
    struct.pack_into("<" + form, data, at, value)
    path = tmp_path / "lies.bin"
    path.write_bytes(data)
    with pytest.raises(StageError, match=message):
        read_model(path)


def test_weights_that_are_not_finite(model_file, tmp_path):
    data = bytearray(model_file.read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "nan.bin").write_bytes(data)
    with pytest.raises(StageError, match="finite output weights"):
        read_model(tmp_path / "nan.bin")


def test_fuzzed_files_never_kill_the_process(model_file):
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, root, str(model_file), "5", "150"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 40


def test_the_hash_of_the_file_is_checked(model_file):
    assert FastTextModel(model_file, content_hash(model_file)).labels
    with pytest.raises(StageError, match="expected SHA-256 0000"):
        FastTextModel(model_file, "0" * 64)


def test_no_file_and_too_large_a_file(tmp_path):
    with pytest.raises(StageError, match="found none"):
        read_model(tmp_path)
    with (tmp_path / "huge.bin").open("wb") as stream:
        stream.truncate(MAX_MODEL_BYTES + 1)  # sparse
    with pytest.raises(StageError, match="expected at most"):
        read_model(tmp_path / "huge.bin")
    (tmp_path / "words.bin").write_bytes(b"not a model at all")
    with pytest.raises(StageError, match="the number"):
        FastTextModel(tmp_path / "words.bin")


def test_a_model_of_word_vectors_is_no_classifier(tmp_path):
    import fasttext

    (tmp_path / "train.txt").write_text("one two three four\n" * 50)
    model = fasttext.train_unsupervised(str(tmp_path / "train.txt"), dim=4, bucket=100, thread=1, verbose=0)
    model.save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(StageError, match=r"model kind 3 \(supervised\)"):
        read_model(tmp_path / "vectors.bin")
