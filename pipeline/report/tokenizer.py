"""The report's card on the tokenizer, from `tokenizer/artifact.json`."""

from __future__ import annotations

from typing import Any

SHOWN = 8  # values of a column
EXAMPLE_TOKENS = 60


def section(info: dict[str, Any] | None) -> dict[str, Any] | None:
    """Rows of the table of bytes per token, shares of the vocabulary's use, the longest tokens and examples.

    A table row is `{name, column, documents, bytes, rates, changes}`: one rate (or None) for each of `columns`, and
    for each but the first the change in the number of tokens from that tokenizer to the first. What an artifact does
    not have (one from elsewhere is not measured, an older one less) is empty.
    """
    if not info or "held_out" not in info:
        return None
    held, words = info["held_out"], info.get("vocabulary", {})
    listed = held.get("tokenizers", [])
    measured = [row for row in listed if "note" not in row]
    learned = max(words.get("learned", 0), 1)
    return {
        **info,
        "vocabulary": words,
        "sample": info.get("sample", {}),
        "columns": [{"name": row["name"], "vocab_size": row["vocab_size"]} for row in measured],
        "rows": _rows(held, measured) if measured and held["documents"] else [],
        "notes": [f"{row['name']}: {row['note']}" for row in listed if "note" in row],
        "unused": words.get("unused", 0) / learned,
        "rare": words.get("rare", 0) / learned,
        "longest": [{**row, "text": _visible(row["text"])} for row in words.get("longest", [])],
        "examples": [list(map(_visible, tokens[:EXAMPLE_TOKENS])) for tokens in info.get("examples", [])],
    }


def _visible(token: str) -> str:
    return token.replace("\n", "↵").replace("\t", "⇥")


def _rows(held: dict[str, Any], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All held-out documents, then the largest groups of each column that has several."""
    rows = [_row("All held out", "", held, [row["bytes_per_token"] for row in measured])]
    for column, groups in held["groups"].items():
        if len(groups) < 2:
            continue  # one value says what all say
        for group in groups[:SHOWN]:
            rates = [group["bytes_per_token"][row["name"]] for row in measured]
            rows.append(_row(group["name"] or "(none)", column, group, rates))
    return rows


def _row(name: str, column: str, counted: dict[str, Any], rates: list[float | None]) -> dict[str, Any]:
    own, *others = rates
    changes = [other / own - 1 if own and other else None for other in others]
    return {"name": name, "column": column, "documents": counted["documents"], "bytes": counted["bytes"],
            "rates": rates, "changes": changes}  # fmt: skip
