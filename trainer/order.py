"""Which sequence stands at a position of the endless training stream: a pure function of (seed, position).

Sequences are grouped in pools. Without a mix all of them are one pool; with one, each source is a pool and the
positions are dealt out in fixed shares. Within a pool, every epoch visits every sequence once, in another order:
a keyed permutation (a Feistel network) that needs no table and no shuffle buffer. So the state of the data is one
integer, the position, and the number of ranks does not enter.

Shares are dealt by smooth weighted round robin over a period of 65,536 positions: the counts of a period are the
shares rounded by largest remainder, and within it no source runs ahead of its share. Cost: 6 bytes for each
position of a period, and about 50 ns for each sequence.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numba import njit

from trainer.config import TrainConfig
from trainer.tokens import DataError, TokenIndex

PERIOD = 1 << 16


@njit(cache=True, nogil=True)
def _mix(value):
    """SplitMix64 finaliser (Steele et al. 2014) on uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def _permute(value, size, key):
    """`value` of range(size) under the keyed permutation, int64.

    Four Feistel rounds on the next even number of bits; a result outside the range walks on until it falls inside
    (Black and Rogaway 2002), four walks at most on average.
    """
    half = np.uint64(1)
    while (np.uint64(1) << (half + half)) < np.uint64(size):
        half += np.uint64(1)
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = np.uint64(value)
    while True:
        left, right = out >> half, out & mask
        for number in range(1, 5):
            salt = _mix(np.uint64(number) * np.uint64(0x9E3779B97F4A7C15) + key)
            left, right = right, left ^ (_mix(right + salt) & mask)
        out = (left << half) | right
        if out < np.uint64(size):
            return np.int64(out)


@njit(cache=True, nogil=True)
def _look_up(positions, chosen, before, counts, first, size, keys, out):
    period = np.int64(len(chosen))
    for i in range(len(positions)):
        block, inside = positions[i] // period, positions[i] % period
        pool = chosen[inside]
        turn = block * counts[pool] + before[inside]
        epoch, at = turn // size[pool], turn % size[pool]
        key = _mix(keys[pool] + np.uint64(epoch) * np.uint64(0x9E3779B97F4A7C15))
        out[i] = first[pool] + _permute(at, size[pool], key)


@njit(cache=True)
def _deal(counts, chosen, before):
    """Smooth weighted round robin: the pool that is owed most gets the next position."""
    owed = np.zeros(len(counts), np.int64)
    given = np.zeros(len(counts), np.int64)
    for position in range(len(chosen)):
        owed += counts
        pool = np.argmax(owed)
        owed[pool] -= len(chosen)
        chosen[position], before[position] = pool, given[pool]
        given[pool] += 1


def largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """`total` split in whole numbers (int64) in proportion to `shares` (float64), by largest remainder."""
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - counts), kind="stable")[: total - int(counts.sum())]
    counts[rest] += 1
    return counts


@dataclass(frozen=True)
class Order:
    """The endless stream of sequence numbers. `names` are the pools: sources, or one that holds them all."""

    names: tuple[str, ...]
    first: np.ndarray  # int64 [pools], the first sequence of each
    size: np.ndarray  # int64 [pools]
    counts: np.ndarray  # int64 [pools], positions of each in a period
    chosen: np.ndarray  # uint16 [period]
    before: np.ndarray  # int32 [period], earlier positions of the same pool in the period
    keys: np.ndarray  # uint64 [pools]

    @classmethod
    def make(cls, sizes: dict[str, int], mix: dict[str, float], seed: int) -> Order:
        """`sizes` are the sequences of each source, which follow one another; `mix` the share of each, or empty.

        Raises DataError unless the mix names exactly the sources, each that it asks for holds a sequence, and no
        share is too small to be dealt.
        """
        if not mix:
            names, first, size = [""], [0], [sum(sizes.values())]
            counts = np.ones(1, np.int64)
        else:
            _check(sizes, mix)
            names = [name for name in sizes if mix[name] > 0]
            starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
            first, size = [starts[name] for name in names], [sizes[name] for name in names]
            counts = largest_remainder(np.array([mix[name] for name in names]), PERIOD)
            if not counts.all():
                name = names[int(np.argmin(counts))]
                raise DataError(
                    f"train.mix: expected a share of at least 1/{PERIOD} for {name!r}, found "
                    f"{mix[name] / sum(mix.values()):.2g}: give it more, or 0"
                )
        chosen, before = np.zeros(counts.sum(), np.uint16), np.zeros(counts.sum(), np.int32)
        _deal(counts, chosen, before)
        keys = np.array([zlib.crc32(name.encode()) << 32 | seed for name in names], np.uint64)
        return cls(
            tuple(names), np.array(first, np.int64), np.array(size, np.int64), counts, chosen, before, _mix_all(keys)
        )

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Sequence numbers (int64) at the given positions (int64)."""
        out = np.empty(len(positions), np.int64)
        _look_up(
            np.asarray(positions, np.int64),
            self.chosen,
            self.before,
            self.counts,
            self.first,
            self.size,
            self.keys,
            out,
        )
        return out

    def taken(self, positions: int) -> dict[str, int]:
        """How many of the first `positions` positions each pool gets."""
        blocks, rest = divmod(positions, len(self.chosen))
        inside = np.bincount(self.chosen[:rest], minlength=len(self.names))
        return {name: int(blocks * self.counts[i] + inside[i]) for i, name in enumerate(self.names)}


def training_order(index: TokenIndex, config: TrainConfig, sizes: dict[str, int]) -> Order:
    """The order of the training sequences. Raises DataError when they do not fill one global batch."""
    size = sum(sizes.values())
    if size < config.global_batch:
        found = index.totals.get("train", {}).get("tokens", 0)
        raise DataError(
            f"{index.folder}: expected at least global_batch={config.global_batch} sequences of "
            f"seq_len={config.seq_len}, found {size} ({found:,} training tokens): keep more documents, or lower "
            "train.seq_len or train.global_batch"
        )
    return Order.make(sizes, config.mix, config.seed)


def expect_order(index: TokenIndex, config: TrainConfig) -> None:
    """What `training_order` would refuse, told from the index alone: sequences are counted as `chunk` makes them."""
    sizes = {name: -(-(end - first - 1) // config.seq_len) for name, (_, _, first, end) in index.spans("train").items()}
    training_order(index, config, sizes)


@njit(cache=True)
def _mix_all(keys):
    out = np.empty_like(keys)
    for i in range(len(keys)):
        out[i] = _mix(keys[i])
    return out


def _check(sizes: dict[str, int], mix: dict[str, float]) -> None:
    wrong = {"unknown": sorted(set(mix) - set(sizes)), "not named": sorted(set(sizes) - set(mix))}
    if found := "; ".join(f"{what}: {', '.join(names)}" for what, names in wrong.items() if names):
        raise DataError(
            f"train.mix: expected a share for each source of the shards ({', '.join(sizes)}), 0 to leave one out; "
            f"found {found}"
        )
    empty = [name for name, share in mix.items() if share > 0 and not sizes[name]]
    if empty:
        raise DataError(
            f"train.mix: expected a sequence at least in {empty[0]!r}, found none: give it 0, or keep more documents"
        )
