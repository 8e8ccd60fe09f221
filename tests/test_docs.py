"""The pages say what is true: manifests load, commands exist, and the README's example filter runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from pipeline import manifest as manifests
from pipeline.cli import app
from pipeline.stage import Batch, stage_types
from trainer.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_loads(path):
    assert manifests.load(path, None, TrainConfig).name == path.stem


def test_the_manifest_page_shows_a_manifest_that_loads(tmp_path):
    text = blocks(ROOT / "docs" / "manifest.md", "yaml")[0]
    (tmp_path / "m.yaml").write_text(text)
    assert manifests.load(tmp_path / "m.yaml", None, TrainConfig).name == "my-corpus"


def test_yaml_blocks_are_yaml():
    for page in PAGES:
        for block in blocks(page, "yaml"):
            yaml.safe_load(block)


def test_commands_on_the_pages_exist():
    runner = CliRunner()
    known = set(re.findall(r"^[│|] (\S+)", runner.invoke(app, ["--help"]).output, re.M))
    used = {name for page in PAGES for name in re.findall(r"^tamis (\S+)", page.read_text(), re.M)}
    assert used, "no commands found"
    for name in used:
        assert runner.invoke(app, [name, "--help"]).exit_code == 0, (name, known)


def test_every_filter_on_its_page_exists():
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs" / "filters.md").read_text(), re.M)
    stage, named = "", set()
    for name in (name for row in rows for name in re.findall(r"`([^`]+)`", row)):
        stage, _, variant = (name if not name.startswith("/") else stage + name).partition("/")
        params = stage_types()[stage].params
        assert not variant or variant in params.model_fields["variant"].annotation.__args__, name
        named.add(stage)
    found = (stage for stage in stage_types().values() if stage.kind == "doc")
    variants = {stage.name for stage in found if "variant" in stage.params.model_fields}
    assert named >= variants


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_example_filter_of_the_readme_runs():
    code = next(block for block in blocks(ROOT / "README.md", "python") if "doc_stage" in block)
    space: dict = {"__name__": "stages.shouting"}
    exec(code, space)
    stage = stage_types()["shouting"]
    out = stage.run(Batch({"text": pa.array(["HELLO you", "quiet", ""])}, 3), stage.params(), None)
    assert out["ratio"].to_pylist() == [5 / 9, 0.0, None]
    assert [rule.name for rule in stage.rules(stage.params())] == ["ratio_max"]


def test_every_stage_explains_itself():
    for stage in stage_types().values():
        if stage.module.startswith("stages."):
            assert stage.doc, stage.name
            for name, field in stage.params.model_fields.items():
                assert field.description, (stage.name, name)
