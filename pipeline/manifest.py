"""The manifest: what a person writes, checked in full before any work starts.

A manifest is data. It names stages by their registered names and never code. Every problem is reported at once,
each with file, line, field, what was expected and what was found. Cost: milliseconds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from pipeline import from_file, select, yaml_source
from pipeline.errors import ManifestError, Problem, did_you_mean
from pipeline.stage import Params, Rule, StageType, format_types, stage_types
from pipeline.yaml_source import Path

PROBES = "probes"  # the node that a `probes:` section makes


class Top(Params):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="letters, digits, `.`, `_`, `-`")
    seed: int = Field(0, ge=0, lt=2**32)
    score_all: bool = Field(False, description="score dropped documents too")
    sources: list[dict[str, Any]] = Field(min_length=1)
    stages: list[str | dict[str, Any]] = Field(min_length=1)
    probes: dict[str, Any] | None = None
    train: dict[str, Any] | None = None


@dataclass(frozen=True)
class Source:
    name: str
    format: str
    paths: tuple[str, ...]
    params: Params
    kind: str | None  # of its documents, where the record says nothing: wiki, book, code, synthetic, ...
    licence: str | None
    line: int  # of `paths` in the manifest, 0 when given by --set


@dataclass(frozen=True)
class Entry:
    """One node as the manifest asks for it. `params` is validated; for `select` the rules are resolved."""

    name: str
    type: StageType
    params: Params


@dataclass(frozen=True)
class Manifest:
    name: str
    seed: int
    score_all: bool
    sources: tuple[Source, ...]
    entries: tuple[Entry, ...]
    train: BaseModel | None
    text: str
    file: str

    def resolved(self) -> dict[str, Any]:
        """Every value in force, defaults included: what `manifest.resolved.json` holds."""
        return {
            "name": self.name,
            "seed": self.seed,
            "score_all": self.score_all,
            "sources": [
                {
                    "name": s.name,
                    "format": s.format,
                    "paths": list(s.paths),
                    "kind": s.kind,
                    "licence": s.licence,
                    **s.params.model_dump(mode="json"),
                }
                for s in self.sources
            ],
            "stages": [
                {"name": e.name, "type": e.type.name, "params": e.params.model_dump(mode="json")} for e in self.entries
            ],
            "train": self.train.model_dump(mode="json") if self.train else None,
        }


class _Checker:
    """Collects problems with their lines, so that a person sees all of them at once."""

    def __init__(self, file: str, lines: dict[Path, int]) -> None:
        self.file, self.lines = file, lines
        self.problems: list[Problem] = []

    def line(self, path: Path) -> int:
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 0)

    def add(self, path: Path, expected: str, found: str, hint: str = "") -> None:
        field = ".".join(str(part) for part in path) or "manifest"
        self.problems.append(Problem(field, expected, found, self.line(path), hint))

    def model(self, model: type[BaseModel], data: Any, path: Path) -> Any:
        """Validate `data`; on failure record a problem for each error and return None."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                at = path + tuple(part for part in item["loc"] if not _is_union_tag(part, data))
                if item["type"] == "extra_forbidden":
                    known = list(model.model_fields)
                    self.add(at, f"one of {', '.join(known)}", repr(at[-1]), did_you_mean(str(at[-1]), known))
                elif item["type"] == "missing":
                    self.add(at, _describe(model, str(item["loc"][-1])), "nothing")
                else:
                    text = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
                    # What is wrong with several fields together, and some messages of ours, are whole sentences.
                    whole = text.startswith("expected ") or isinstance(item["input"], dict)
                    whole = whole and item["type"] == "value_error"
                    self.add(at, text, "" if whole else _show(item["input"]))
            return None


def _is_union_tag(part: Any, data: Any) -> bool:
    return isinstance(part, str) and (part in ("str", "float", "UseRules", "KeepRule") or "[" in part)


def _describe(model: type[BaseModel], name: str) -> str:
    field = model.model_fields.get(name)
    return f"a value ({field.description})" if field and field.description else "a value"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def load(
    file: FilePath | str, overrides: list[str] | None = None, train_model: type[BaseModel] | None = None
) -> Manifest:
    """Read and check a manifest. `overrides` are `dotted.path=value`. Raises ManifestError with every problem."""
    name = str(file)
    try:
        text = FilePath(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise ManifestError(name, [Problem("manifest", "a readable YAML file", found)]) from None
    data, lines = yaml_source.load(text, name)
    if not isinstance(data, dict):
        problem = Problem("manifest", "a mapping with `name`, `sources` and `stages`", type(data).__name__, 1)
        raise ManifestError(name, [problem])
    for override in overrides or []:
        data = _override(data, override, name, lines)
    check = _Checker(name, lines)
    top = check.model(Top, data, ())
    sources = _sources(check, data.get("sources"))
    entries = _entries(check, data.get("stages"), data.get("probes"))
    train = None
    if data.get("train") is not None and train_model is not None:
        train = check.model(train_model, data["train"], ("train",))
    if check.problems or top is None:
        raise ManifestError(name, sorted(set(check.problems), key=lambda p: (p.line, p.field)))
    return Manifest(top.name, top.seed, top.score_all, tuple(sources), tuple(entries), train, text, name)


def _override(data: Any, override: str, file: str, lines: dict[Path, int]) -> Any:
    key, equals, value = override.partition("=")
    parts: list[str | int] = [int(part) if part.isdigit() else part for part in key.strip().split(".")]
    problem = ManifestError(file, [Problem(f"--set {override}", "dotted.path=value of the manifest", key or "nothing")])
    if not equals or not key.strip():
        raise problem
    data = copy.deepcopy(data)
    at = data
    try:
        for part in parts[:-1]:
            if isinstance(at, dict) and part not in at:
                at[part] = {}
            if isinstance(part, int) and isinstance(at[part], str):  # a stage without parameters
                at[part] = {at[part]: {}}
            if at[part] is None:
                at[part] = {}
            at = at[part]
        at[parts[-1]] = yaml_source.parse_value(value)
    except (KeyError, IndexError, TypeError):
        raise problem from None
    for path in [path for path in lines if path[: len(parts)] == tuple(parts)]:
        del lines[path]
    lines[tuple(parts)] = 0
    return data


def _sources(check: _Checker, raw: Any) -> list[Source]:
    sources: list[Source] = []
    for i, item in enumerate(raw if isinstance(raw, list) else []):
        path: Path = ("sources", i)
        if not isinstance(item, dict):
            check.add(path, "a mapping with `name` and `format`", _show(item))
            continue
        rest = dict(item)
        name, kind, paths = rest.pop("name", None), rest.pop("format", None), rest.pop("paths", [])
        if not isinstance(name, str) or not name:
            check.add((*path, "name"), "a name for the source", _show(name))
        elif any(source.name == name for source in sources):
            check.add((*path, "name"), "a name that no other source has", repr(name))
        formats = format_types()
        if kind not in formats:
            hint = did_you_mean(str(kind), formats)
            check.add((*path, "format"), f"one of {', '.join(sorted(formats))}", _show(kind), hint)
            continue
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, list) or not all(isinstance(p, str) and p for p in paths):
            check.add((*path, "paths"), "a path, a glob, or a list of them", _show(paths))
            continue
        if not paths and formats[kind].prepare is None:
            check.add((*path, "paths"), "at least one path or glob", "nothing")
        stated: dict[str, str | None] = {}
        for field in ("kind", "licence"):
            stated[field] = rest.pop(field, None)
            if stated[field] is not None and not (isinstance(stated[field], str) and stated[field]):
                check.add((*path, field), f"the {field} of its documents, a word", _show(stated[field]))
        params = check.model(formats[kind].params, rest, path)
        if params is not None and isinstance(name, str):
            sources.append(Source(name, kind, tuple(paths), params, **stated, line=check.line((*path, "paths"))))
    return sources


def parse_entry(item: Any) -> tuple[str, Any, str | None]:
    """(`type`, parameters, variant) of `type`, `type/variant`, or `{type: {...}}`. Raises ValueError."""
    if isinstance(item, str):
        key, params = item, dict[str, Any]()
    elif isinstance(item, dict) and len(item) == 1:
        key, params = next(iter(item.items()))
        params = {} if params is None else params
    else:
        raise ValueError("a stage name, or one stage name with its parameters")
    if not isinstance(params, dict):
        raise ValueError("parameters as a mapping")
    kind, _, variant = key.partition("/")
    return kind, params, variant or None


def _entries(check: _Checker, raw: Any, probes: Any) -> list[Entry]:
    entries: list[Entry] = []
    if isinstance(probes, dict):
        params = check.model(stage_types()["probes"].params, probes, ("probes",))
        if params is not None:
            entries.append(Entry(PROBES, stage_types()["probes"], params))
    since: list[str] = []
    published: dict[str, list[Rule]] = {}
    for i, item in enumerate(raw if isinstance(raw, list) else []):
        entry = _entry(check, item, i, entries, published, since)
        if entry is None:
            continue
        entries.append(entry)
        if entry.type.name == "select":
            since.clear()
        elif rules := entry.type.rules(entry.params):
            published[entry.name] = rules
            since.append(entry.name)
    return entries


def _entry(
    check: _Checker, item: Any, i: int, before: list[Entry], published: dict[str, list[Rule]], since: list[str]
) -> Entry | None:
    path: Path = ("stages", i)
    try:
        kind, raw_params, variant = parse_entry(item)
    except ValueError as error:
        check.add(path, str(error), _show(item))
        return None
    key = next(iter(item)) if isinstance(item, dict) else item
    if kind not in stage_types():
        hint = did_you_mean(kind, stage_types())
        check.add((*path, key), f"a stage ({', '.join(sorted(stage_types()))})", repr(kind), hint)
        return None
    stage = stage_types()[kind]
    at = (*path, key)
    try:
        data = from_file.resolve(dict(raw_params), FilePath(check.file).parent)
    except ValueError as error:
        expected, _, found = str(error).removeprefix("expected ").partition(", found ")
        check.add(at, expected, found)
        return None
    name = data.pop("name", kind)
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        check.add((*at, "name"), "letters, digits, `_` or `-`", _show(name))
        return None
    if any(entry.name == name for entry in before):
        check.add(at, "a name that no other stage has; add `name:`", repr(name))
        return None
    if variant is not None:
        data.setdefault("variant", variant)
    params = check.model(select.SelectSpec if kind == "select" else stage.params, data, at)
    if params is None:
        return None
    if kind == "select":
        try:
            made = {entry.name: entry.params for entry in before if entry.type.kind == "artifact"}
            params = select.resolve(params, published, since, made)
        except ValueError as error:
            expected, _, found = str(error).removeprefix("expected ").partition(", found ")
            check.add((*at, "rules"), expected, found)
            return None
    columns = {f"{entry.name}.{field.name}": 0 for entry in before for field in entry.type.adds}
    for column in stage.reads(params):
        if "." in column and column not in columns:
            hint = did_you_mean(column, columns)
            check.add(at, "a column of an earlier stage", repr(column), hint or "`tamis stages NAME` lists columns")
    kinds = {entry.name: entry.type.kind for entry in before}
    for artifact in stage.artifacts(params):
        if kinds.get(artifact) != "artifact":
            models = [entry_name for entry_name, entry_kind in kinds.items() if entry_kind == "artifact"]
            key = next((field for field, value in params if value == artifact), None)
            hint = did_you_mean(artifact, models) or "models are made by stages before the one that uses them"
            where = (*at, key) if key else at
            check.add(where, f"the name of an earlier artifact ({', '.join(models) or 'none'})", repr(artifact), hint)
    return Entry(name, stage, params)
