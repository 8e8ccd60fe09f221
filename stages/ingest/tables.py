"""What the readers of columns share (`parquet`, `arrow`): parameters, slices, and which columns a manifest names.

A column is named as it stands in the file; `a.b` names the field b of a struct column a.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Params
from stages.ingest import dates


class TableParams(Params):
    """The columns of a table. It needs a text or an HTML column; a missing URL column gives null URLs."""

    text: str = Field("text", description="column of the text (string)")
    html: str = Field("html", description="column of the HTML (string or binary), used where a row has no text")
    url: str = Field("url", description="column of the URL (string)")
    kind_column: str | None = Field(None, description="column of the kind (wiki, book, code, ...), string")
    licence_column: str | None = Field(None, description="column of the licence, string or list of strings")
    date_column: str | None = Field(
        "date", description="column of the date: ISO 8601 string, date, timestamp, or seconds (ms, us, ns) since 1970"
    )
    slice_rows: int = Field(20_000, ge=1, description="rows of a slice, rounded up to whole row groups or batches")
    max_record_bytes: int = Field(16 << 20, ge=1024, le=1 << 30, description="longer values are dropped: too_large")


_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary,
            pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)  # fmt: skip


def ranges(counts: Iterable[int], slice_rows: int) -> list[tuple[int, int]]:
    """Row ranges of at least `slice_rows` rows that end where units of `counts` rows end; at least one range."""
    found: list[tuple[int, int]] = []
    start = end = 0
    for count in counts:
        end += count
        if end - start >= slice_rows:
            found.append((start, end))
            start = end
    if end > start or not found:
        found.append((start, end))
    return found


def columns(schema: pa.Schema, params: TableParams) -> dict[str, str]:
    """Role (text, html, url, kind, licence, date) -> column. Raises ValueError where one is missing or of a wrong type.

    A missing URL is none, and so is a `date` of the default name that is missing or holds no dates.
    """
    wanted = {"text": params.text, "html": params.html, "url": params.url, "kind": params.kind_column,
              "licence": params.licence_column, "date": params.date_column}  # fmt: skip
    kinds = {role: _type(schema, name) for role, name in wanted.items() if name is not None}
    if kinds["text"] is None and kinds["html"] is None:
        raise ValueError(f"expected a column {params.text!r} (text) or {params.html!r} (html), found {schema.names}")
    found = {}
    default_date = params.date_column == TableParams.model_fields["date_column"].default
    for role, kind in kinds.items():
        name = wanted[role]
        assert name is not None
        if kind is None:
            if role in ("kind", "licence") or (role == "date" and not default_date):
                raise ValueError(f"{role}_column: expected a column {name!r}, found {schema.names}")
            continue
        if role == "licence" and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            kind = kind.value_type
        kind = plain(kind)
        if not any(test(kind) for test in _STRINGS) and not (role == "date" and dates.readable(kind)):
            if role == "date" and default_date:
                continue
            expected = "strings, dates, timestamps or numbers" if role == "date" else "strings"
            raise ValueError(f"column {name!r}: expected {expected}, found {kind}")
        found[role] = name
    return found


def _type(schema: pa.Schema, name: str) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    top, *rest = name.split(".")
    kind = schema.field(top).type if top in schema.names else None
    for part in rest:
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind if rest else None


def plain(kind: pa.DataType) -> pa.DataType:
    """The value type of a dictionary, else the type itself."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def values(batch: pa.RecordBatch, name: str) -> pa.Array:
    """One column, or one field of a struct column; dictionaries decoded."""
    if name in batch.schema.names:
        array = batch[name]
    else:
        top, *rest = name.split(".")
        array = pc.struct_field(batch[top], rest)
    return array.cast(plain(array.type))
