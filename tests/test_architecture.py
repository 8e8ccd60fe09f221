"""The shape of the code: one module imports Ray, one DeepSpeed, arrows go one way, files stay readable."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "stages", "trainer")


def modules() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of everything imported anywhere in a module, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def users(package: str) -> list[str]:
    return [name for name, tree in modules().items() if any(i.split(".")[0] == package for i in imports(tree))]


def test_one_module_imports_ray_and_one_deepspeed():
    assert users("ray") == ["pipeline/ray_executor.py"]
    assert users("deepspeed") == ["trainer/engine.py"]


def test_a_stage_imports_the_protocol_and_nothing_else_of_the_engine():
    for name, tree in modules().items():
        if name.startswith("stages/"):
            engine = {i for i in imports(tree) if i.startswith("pipeline")}
            assert all(i.startswith("pipeline.stage.") for i in engine), (name, engine)
            assert not any(i.startswith("trainer") for i in imports(tree)), name


def test_the_engine_names_no_stage_and_the_trainer_stands_apart():
    loads = {"pipeline/cli.py", "pipeline/executor.py"}  # the registry
    for name, tree in modules().items():
        found = imports(tree)
        if name.startswith("pipeline/") and name not in loads and not name.endswith("_cli.py"):
            assert not any(i.split(".")[0] in ("stages", "trainer") for i in found), name
        if name.startswith("trainer/"):
            assert not any(i.split(".")[0] in ("stages", "pipeline") for i in found), name


def test_no_file_is_longer_than_400_lines():
    for path in [p for package in (*PACKAGES, "tests") for p in (ROOT / package).rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


def test_text_statistics_are_compiled():
    """The heuristic stages hold no Python loop over documents: their loops are in kernels, compiled by Numba."""
    for name in ("gopher_quality", "gopher_repetition", "c4", "fineweb"):
        tree = ast.parse((ROOT / "stages" / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not any("njit" in ast.unparse(d) for d in node.decorator_list):
                calls = {ast.unparse(call.func).split(".")[-1] for call in ast.walk(node) if isinstance(call, ast.Call)}
                assert "to_pylist" not in calls, (name, node.name)
                assert "as_py" not in calls, (name, node.name)
