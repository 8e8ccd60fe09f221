"""The report's card on the tokenizer, from `tokenizer/artifact.json`."""

from __future__ import annotations

from typing import Any

SHOWN = 8  # values of a column
EXAMPLE_TOKENS = 60


def section(info: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rows of the table of bytes per token, one line about the vocabulary's use, the longest tokens and examples.

    A table row is `{name, bytes, rates}`, with one rate (or None) for each of `columns`.
    """
    if not info or "held_out" not in info:  # a tokenizer from elsewhere is not measured
        return None
    held = info["held_out"]
    measured = [row for row in held["tokenizers"] if "note" not in row]
    names = [row["name"] for row in measured]
    rows = [{"name": "All held out", "column": "", "bytes": held["bytes"],
             "rates": [row["bytes_per_token"] for row in measured]}]  # fmt: skip
    for column, groups in held["groups"].items():
        if len(groups) < 2:
            continue  # one value says what all say
        rows += [
            {
                "name": group["name"] or "(none)",
                "column": column,
                "bytes": group["bytes"],
                "rates": [group["bytes_per_token"][name] for name in names],
            }
            for group in groups[:SHOWN]
        ]
    words = info["vocabulary"]
    learned = max(words["learned"], 1)
    return {
        **info,
        "columns": [{"name": row["name"], "vocab_size": row["vocab_size"]} for row in measured],
        "rows": rows if held["documents"] else [],
        "notes": [f"{row['name']}: {row['note']}" for row in held["tokenizers"] if "note" in row],
        "unused": words["unused"] / learned,
        "rare": words["rare"] / learned,
        "longest": words["longest"],
        "examples": [tokens[:EXAMPLE_TOKENS] for tokens in info["examples"]],
    }
