"""Values of a manifest that live in a file beside it: `{from_file: languages.yaml, key: stop_words}`.

Stop words, thresholds for each language and lists of words are data, often long and often shared. The file lies in
the manifest's folder or below; its content becomes part of the parameters, so that a changed file re-runs what
depends on it. `.yaml`, `.yml` and `.json` give their value (`key`, with dots, picks a part), any other name gives its
lines, without blank ones and those that begin with `#`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import yaml_source

KEY = "from_file"
MAX_BYTES = 16 << 20


def resolve(value: Any, folder: Path) -> Any:
    """`value` with every `{from_file: ...}` in it replaced. Raises ValueError: `expected ..., found ...`."""
    if isinstance(value, list):
        return [resolve(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if KEY not in value:
        return {name: resolve(item, folder) for name, item in value.items()}
    unknown = sorted(set(map(str, value)) - {KEY, "key"})
    if unknown or not isinstance(value[KEY], str):
        raise ValueError(f"expected from_file: path and, if wanted, key: name, found {value!r}")
    return _read(folder, value[KEY], value.get("key"))


def _read(folder: Path, name: str, key: Any) -> Any:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"expected a file in the manifest's folder {folder}, found {name!r}")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"expected a file of at most {MAX_BYTES} bytes, found {size} in {path}")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a readable text file, found {path}: {error}") from None
    if path.suffix not in (".yaml", ".yml", ".json"):
        return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found, _ = yaml_source.load(text, str(path))
    for part in str(key).split(".") if key is not None else []:
        if not isinstance(found, dict) or part not in found:
            known = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise ValueError(f"expected the key {key!r} in {path}, found {known}")
        found = found[part]
    return found
