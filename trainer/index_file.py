"""`tokens/index.json` as it is written: its fields, their types, and sums that agree with one another.

Everything that the trainer takes from the file is compared here, before a size is believed: a number that is no
number, a path that leads elsewhere or sums that contradict the shards are named by their place in the file. The cost
is some 10 microseconds a shard.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FORMAT = "tamis-tokens/1"
Count = Annotated[int, Field(ge=0, lt=2**62)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class Tokenizer(_Part):
    fingerprint: str
    vocab_size: int = Field(ge=1, le=2**31)
    eos_id: int = Field(ge=0)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.eos_id >= self.vocab_size:
            raise ValueError(f"eos_id {self.eos_id} is not below vocab_size {self.vocab_size}")
        return self


class Sums(_Part):
    rows: Count
    tokens: Count
    text_bytes: Count


class Entry(Sums):
    """A shard."""

    path: str
    split: str
    source: str
    bytes: Count
    sha256: str

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        inside = PurePosixPath(path)
        if inside.is_absolute() or ".." in inside.parts or not inside.name or "\0" in path:
            raise ValueError(f"expected shard paths inside the folder, found {path!r}")
        return path


class IndexFile(_Part):
    """The whole file. Splits and sources are free names; `sources` sums the shards of each."""

    format: Literal["tamis-tokens/1"]
    dtype: Literal["uint16", "uint32"]
    tokenizer: Tokenizer
    shards: tuple[Entry, ...]
    totals: dict[str, Sums]
    sources: dict[str, dict[str, Sums]]

    @field_validator("shards", mode="before")
    @classmethod
    def _listed(cls, shards: Any) -> Any:
        return tuple(shards) if isinstance(shards, list) else shards

    @model_validator(mode="after")
    def _agree(self) -> Self:
        found: dict[tuple[str, str], list[int]] = {}
        for shard in self.shards:
            sums = found.setdefault((shard.source, shard.split), [0, 0, 0])
            found[shard.source, shard.split] = [total + size for total, size in zip(sums, _numbers(shard), strict=True)]
        stated = {
            (name, split): _numbers(sums) for name, splits in self.sources.items() for split, sums in splits.items()
        }
        for key in sorted(found.keys() | stated.keys()):
            if found.get(key, [0, 0, 0]) != stated.get(key, [0, 0, 0]):
                raise ValueError(
                    f"sources.{'.'.join(key)}: expected the sums of its shards, rows, tokens and text_bytes "
                    f"{found.get(key)}, found {stated.get(key)}"
                )
        if len({shard.path for shard in self.shards}) != len(self.shards):
            raise ValueError("shards: expected each path once")
        return self


def _numbers(sums: Sums) -> list[int]:
    return [sums.rows, sums.tokens, sums.text_bytes]


def parse(raw: Any) -> IndexFile:
    """The checked index. Raises ValueError with one line that says where it is wrong."""
    try:
        return IndexFile.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
