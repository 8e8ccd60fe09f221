"""Safe YAML with line numbers: plain data, and the line on which each value stands.

Only what JSON could hold comes out. Duplicate keys, aliases, tags, and documents above the size and depth limits
are refused, so that a hostile manifest can neither run code nor grow in memory. Cost: the text is parsed once.
"""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import ManifestError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 20

OPENING = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)

Path = tuple[str | int, ...]


def load(text: str, file: str) -> tuple[Any, dict[Path, int]]:
    """Parse `text`; returns the data and `{path: line}` with 1-based lines. Raises ManifestError."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise ManifestError(file, [Problem("manifest", f"at most {MAX_BYTES:,} bytes", f"{len(text):,}")])
    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
                raise _error(file, token.start_mark, "plain values without anchors and aliases", f"`{token.value}`")
            depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
            if depth > MAX_DEPTH:
                raise _error(file, token.start_mark, f"at most {MAX_DEPTH} levels", "more")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        raise ManifestError(file, [Problem("YAML", "valid YAML", f"{error.problem}", line)]) from None
    except yaml.YAMLError as error:
        raise ManifestError(file, [Problem("YAML", "valid YAML", str(error).splitlines()[0])]) from None
    if root is None:
        raise ManifestError(file, [Problem("manifest", "a mapping with `name`, `sources` and `stages`", "nothing", 1)])
    lines: dict[Path, int] = {}
    return _build(root, (), lines, file), lines


def _error(file: str, mark: Any, expected: str, found: str) -> ManifestError:
    return ManifestError(file, [Problem("YAML", expected, found, mark.line + 1)])


def _build(node: yaml.Node, path: Path, lines: dict[Path, int], file: str) -> Any:
    lines[path] = node.start_mark.line + 1
    if node.tag.removeprefix("tag:yaml.org,2002:") not in (
        "map",
        "seq",
        "str",
        "int",
        "float",
        "bool",
        "null",
        "timestamp",
    ):
        raise _error(file, node.start_mark, "a plain value", f"the tag `{node.tag}`")
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, i), lines, file) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise _error(file, key_node.start_mark, "a name as key", "a list or mapping")
            if key in data:
                raise _error(file, key_node.start_mark, "each key once", f"`{key}` again")
            data[key] = _build(value_node, (*path, key), lines, file)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return data
    return _scalar(node, file)


def _scalar(node: yaml.Node, file: str) -> Any:
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except ValueError as error:
        raise _error(file, node.start_mark, "a plain value", str(error)) from None
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """The value of `--set key=value`, read as a manifest would read it."""
    data, _ = load(text, "--set") if text.strip() else ("", {})
    return data
