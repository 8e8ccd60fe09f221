"""Manifest errors: file, line, field, what was expected, what was found, and a suggestion; before any work."""

from __future__ import annotations

import pytest
import toy  # noqa: F401 - registers the toy stages

from pipeline import manifest as manifests
from pipeline import yaml_source
from pipeline.errors import ManifestError
from trainer.config import TrainConfig

GOOD = """\
name: toy
sources:
  - name: a
    format: toy_lines
    paths: in/*.txt
stages:
  - toy_length
  - select:
      rules:
        - toy_length.chars >= 5
  - toy_upper
"""


def problems(tmp_path, text: str, overrides: list[str] | None = None) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        manifests.load(path, overrides)
    return str(caught.value)


def test_a_good_manifest_loads(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(GOOD)
    loaded = manifests.load(path, ["sources.0.paths=[x.txt, y.txt]", "seed=7"])
    assert loaded.seed == 7
    assert loaded.sources[0].paths == ("x.txt", "y.txt")
    assert [entry.name for entry in loaded.entries] == ["toy_length", "select", "toy_upper"]


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("- toy_length\n", "- toy_lenght\n", 7, ["stages.0.toy_lenght", "did you mean 'toy_length'"]),
        ("format: toy_lines", "format: toy_line", 4, ["sources.0.format", "did you mean 'toy_lines'"]),
        ("    paths: in/*.txt\n", "", 3, ["sources.0.paths", "at least one path", "nothing"]),
        ("name: toy\n", "nmae: toy\n", 1, ["nmae", "did you mean 'name'"]),
        ("toy_length.chars >= 5", "toy_length.char >= 5", 8, ["toy_length.char", "did you mean 'toy_length.chars'"]),
        ("- toy_length.chars >= 5", "- toy_length.chars => 5", 9, ["rules", "OP"]),
        ("- toy_upper\n", "- toy_length\n", 11, ["stages.2.toy_length", "a name that no other stage has"]),
        ("    paths: in/*.txt\n", "    paths: in/*.txt\n    slice_bytes: x\n", 6, ["slice_bytes", "integer", "'x'"]),
        ("    paths: in/*.txt\n", "    paths: in/*.txt\n    slize: 1\n", 6, ["sources.0.slize", "slice_bytes"]),
        ("- toy_upper\n", "- toy_sink\n", 11, ["toy_count", "earlier artifact"]),
        ("name: toy\n", "name: toy\nname: again\n", 2, ["each key once"]),
        ("name: toy\n", "name: ../evil\n", 1, ["name", "'../evil'"]),
        ("name: toy\n", "name: !!python/object/apply:os.system [ls]\n", 1, ["plain value", "tag"]),
        ("name: toy\n", "name: &a [*a]\n", 1, ["without anchors"]),
        ("name: toy\n", "name: [toy\n", 2, ["YAML"]),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what(tmp_path, old, new, line, parts):
    assert old in GOOD
    message = problems(tmp_path, GOOD.replace(old, new, 1))
    assert f"m.yaml:{line}: " in message, message
    for part in [*parts, "expected", "found"]:
        assert part in message, message


def test_all_problems_are_reported_at_once(tmp_path):
    message = problems(tmp_path, GOOD.replace("- toy_length\n", "- toy_lenght\n").replace("toy_upper", "toy_uper"))
    assert len(message.splitlines()) >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{steps: 3, tokens: 100}", "m.yaml:12: train: expected `steps` or `tokens`, found both"),
        ("{ranks: 3}", "m.yaml:12: train: the 3 data ranks (ranks / pipeline / tensor) must divide global_batch=16"),
        (
            "{mix: {a: -1}}",
            "train.mix: expected shares of at least 0 with a positive sum, found {'a': -1.0}",
        ),
        ("{lr: 2}", "m.yaml:12: train.lr: expected less than 1, found 2"),
    ],
)
def test_a_sentence_about_the_training_stands_as_it_is(tmp_path, changes, message):
    path = tmp_path / "m.yaml"
    path.write_text(f"{GOOD}train: {changes}\n")
    with pytest.raises(ManifestError) as caught:
        manifests.load(path, [], TrainConfig)
    assert str(caught.value).endswith(message)


def test_override_errors_are_manifest_errors(tmp_path):
    assert "--set" in problems(tmp_path, GOOD, ["sources.9.paths=x"])
    assert "dotted.path=value" in problems(tmp_path, GOOD, ["nonsense"])


def test_missing_and_unreadable_manifests(tmp_path):
    with pytest.raises(ManifestError, match="a readable YAML file"):
        manifests.load(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="a readable YAML file"):
        manifests.load(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("")
    with pytest.raises(ManifestError, match="a mapping"):
        manifests.load(tmp_path / "c.yaml")


def test_size_and_depth_are_bounded():
    with pytest.raises(ManifestError, match="bytes"):
        yaml_source.load("a: " + "x" * (yaml_source.MAX_BYTES + 1), "m")
    with pytest.raises(ManifestError, match="levels"):
        yaml_source.load("a: " + "[" * 40 + "]" * 40, "m")
    with pytest.raises(ManifestError, match="levels"):
        yaml_source.load("[" * 100_000, "m")
