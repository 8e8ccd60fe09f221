"""Checkpoints: they cross modes and numbers of ranks, stream, and are whole or not believed."""

from __future__ import annotations

import json
import resource
import shutil
import types
import weakref
from pathlib import Path

import pytest
import torch
from parity_sessions import folder, named
from safetensors import safe_open
from safetensors.torch import load_file

from trainer import checkpoint
from trainer.begin import prepare
from trainer.config import TrainConfig
from trainer.resume import RESTART_FORMAT, find, layout
from trainer.rundir import CHECKPOINTS, RESTART, CheckpointError, publish_text
from trainer.stream import TensorWriter
from trainer.topology import Axis


class Fake:
    """A source without ranks: `stage` of one pipeline stage; counts the tensors that are alive at once."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        lone = Axis((0,), 0, None)
        self.topology = types.SimpleNamespace(rank=0, pipe=lone, writes=True)
        self._shapes, self.most = shapes, 0

    def groups(self) -> list[str]:
        return ["model", "exp_avg"]

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def tensors(self, group: str):
        alive = weakref.WeakSet()
        for number, shape in enumerate(self._shapes.values()):
            tensor = torch.full(shape, float(number + (group == "exp_avg") * 100))
            alive.add(tensor)
            self.most = max(self.most, len(alive))
            yield tensor
            del tensor

    def barrier(self) -> None:
        pass


SHAPES = {f"w{i}": (8, 4) for i in range(10)} | {"norm": (3,), "one": ()}


@pytest.mark.parametrize("ranks", [2, 4, 1])
def test_training_goes_on_in_any_mode_at_any_number_of_ranks(ranks):
    """Saved in one mode and restored in another: losses, norms and scores of the uninterrupted run."""
    found = named(ranks, "resumed")
    assert len(found) >= 4
    wrong = {name: row["distance"] for name, row in found.items() if not row["equal"]}
    assert not wrong
    assert max(row["distance"] for name, row in found.items() if "Muon" not in name) <= 1e-5


@pytest.mark.parametrize("ranks", [2, 4, 1])
def test_deepspeeds_own_checkpoint_restarts_the_same_layout(ranks):
    wrong = {name: row["distance"] for name, row in named(ranks, "restarted").items() if not row["equal"]}
    assert not wrong


def test_weights_alone_start_another_training():
    assert named(1, "weights")["init_from"]["equal"]


def test_a_checkpoint_of_pipeline_and_tensor_ranks_is_whole_and_canonical():
    named(4, "resumed")
    cut, whole = folder() / "pipe-tensor-4" / "step-2", folder() / "plain-2" / "step-2"
    for group in (".", "exp_avg", "exp_avg_sq"):
        index = json.loads((cut / group / "model.safetensors.index.json").read_text())["weight_map"]
        expected = load_file(whole / group / "model.safetensors")
        assert index.keys() == expected.keys()
        for name, file in index.items():
            with safe_open(cut / group / file, framework="pt") as tensors:
                assert torch.allclose(tensors.get_tensor(name), expected[name], atol=1e-6, rtol=1e-4), (group, name)


def test_tensors_stream_into_shards_with_an_index(tmp_path):
    source = Fake(SHAPES)
    path = checkpoint.save(source, tmp_path, {"step": 3}, {"config.json": "{}"}, keep_last=1, shard_bytes=300)
    assert source.most <= 2
    assert path == tmp_path / "step-3"
    assert (tmp_path / "latest").read_text() == "step-3\n"
    assert len(list(path.glob("model-*.safetensors"))) == 5
    assert all(file.stat().st_size < 300 + 1000 for file in path.glob("*.safetensors"))
    for group, base in (("model", 0), ("exp_avg", 100)):
        entries = checkpoint.entries_for(path, group, SHAPES)
        for number, (name, shape) in enumerate(SHAPES.items()):
            with safe_open(entries[name].file, framework="pt") as tensors:
                assert torch.equal(tensors.get_tensor(name), torch.full(shape, float(number + base)))
    state = json.loads((path / "state.json").read_text())
    assert state["format"] == "tamis-checkpoint/1"
    assert state["files"]["config.json"] == 2
    assert set(state["files"]) | {"state.json"} == {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


def test_a_small_model_is_one_file(tmp_path):
    path = checkpoint.save(Fake(SHAPES), tmp_path, {"step": 1}, {}, keep_last=1)
    assert [file.name for file in path.glob("*.safetensors*")] == ["model.safetensors"]
    found = load_file(path / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == SHAPES


def test_a_writer_takes_exactly_what_was_announced(tmp_path):
    shapes = {"a": (2,), "b": (3,)}
    with pytest.raises(ValueError, match=r"expected a \(2,\), found b"), TensorWriter(tmp_path / "x", shapes) as out:
        out.write("b", torch.zeros(3))
    with (
        pytest.raises(ValueError, match="1 tensors were not written, next b"),
        TensorWriter(tmp_path / "x", shapes) as out,
    ):
        out.write("a", torch.zeros(2))


def test_the_newest_are_kept_and_a_step_can_be_written_again(tmp_path):
    for step in (1, 2, 3, 10, 10):
        checkpoint.save(Fake(SHAPES), tmp_path, {"step": step}, {}, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-10", "step-3"]


class Dies(Fake):
    def tensors(self, group: str):
        for number, tensor in enumerate(super().tensors(group)):
            if group == "exp_avg" and number == 5:
                raise KeyboardInterrupt
            yield tensor


def test_a_half_written_checkpoint_is_never_believed(tmp_path):
    folder = tmp_path / CHECKPOINTS
    checkpoint.save(Fake(SHAPES), folder, {"step": 1}, {}, keep_last=2)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(Dies(SHAPES), folder, {"step": 2}, {}, keep_last=2)
    assert (folder / "step-2.partial").exists()
    config = TrainConfig(steps=5)
    assert find(tmp_path, config).step == 1
    checkpoint.save(Fake(SHAPES), folder, {"step": 2}, {}, keep_last=2)
    assert find(tmp_path, config).step == 2
    assert not (folder / "step-2.partial").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "no state"])
def test_a_damaged_checkpoint_is_an_error_that_names_the_file(tmp_path, damage):
    path = checkpoint.save(Fake(SHAPES), tmp_path / CHECKPOINTS, {"step": 1}, {}, keep_last=2)
    file = path / "exp_avg" / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "missing":
        file.unlink()
    else:
        (path / "state.json").write_text('{"step": 1')
    named_file = "latest: names step-1" if damage == "no state" else "exp_avg/model.safetensors: expected"
    with pytest.raises(CheckpointError, match=named_file):
        find(tmp_path, TrainConfig(steps=5))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (SHAPES | {"w3": (8, 5)}, r"w3: expected \[8, 5\], found \[8, 4\]: this is a checkpoint of another model"),
        (SHAPES | {"w99": (1,)}, r"expected w99 \[1\], found no such tensor: this is a checkpoint of another model"),
        ({"w1": (8, 4)}, "norm is not a tensor of the model: this is a checkpoint of another model"),
    ],
)
def test_a_checkpoint_of_another_model_names_the_parameter(tmp_path, shapes, message):
    path = checkpoint.save(Fake(SHAPES), tmp_path, {"step": 1}, {}, keep_last=1)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.entries_for(path, "model", shapes)


def _restart(run: Path, step: int, config: TrainConfig, **more: object) -> None:
    """A restart as `save_restart` leaves it, without DeepSpeed's files."""
    path = run / RESTART / f"step-{step}"
    path.mkdir(parents=True)
    (path / "shard.pt").write_bytes(b"12345")
    state = {"step": step, "format": RESTART_FORMAT, "layout": layout(config), "files": {"shard.pt": 5}, **more}
    (path / "state.json").write_text(json.dumps(state))
    publish_text(run / RESTART / "latest", path.name + "\n")


def test_the_restart_is_taken_where_it_is_newer_and_of_the_same_layout(tmp_path):
    config = TrainConfig(steps=50, global_batch=8)
    assert find(tmp_path, config) is None
    checkpoint.save(Fake(SHAPES), tmp_path / CHECKPOINTS, {"step": 10, "fingerprint": "f"}, {}, keep_last=2)
    _restart(tmp_path, 15, config, fingerprint="f")
    found = find(tmp_path, config)
    assert (found.step, found.quick) == (15, True)
    for changed in ({"zero_stage": 1}, {"ranks": 2}, {"micro_batch": 2}):
        found = find(tmp_path, TrainConfig(steps=50, global_batch=8, **changed))
        assert (found.step, found.quick) == (10, False)
    checkpoint.save(Fake(SHAPES), tmp_path / CHECKPOINTS, {"step": 20, "fingerprint": "f"}, {}, keep_last=2)
    assert find(tmp_path, config).step == 20


def test_a_restart_of_another_training_or_a_damaged_one(tmp_path):
    config = TrainConfig(steps=50, global_batch=8)
    checkpoint.save(Fake(SHAPES), tmp_path / CHECKPOINTS, {"step": 10, "fingerprint": "f"}, {}, keep_last=2)
    _restart(tmp_path, 15, config, fingerprint="g")
    assert find(tmp_path, config).step == 10
    shutil.rmtree(tmp_path / RESTART)
    _restart(tmp_path, 15, config, fingerprint="f")
    (tmp_path / RESTART / "step-15" / "shard.pt").write_bytes(b"123")
    with pytest.raises(CheckpointError, match=r"shard.pt: expected 5 bytes, found 3"):
        find(tmp_path, config)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of a file stands for the disk."""
    path = tmp_path / CHECKPOINTS
    checkpoint.save(Fake(SHAPES), path, {"step": 1, "fingerprint": "f"}, {}, keep_last=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step-2: cannot be written: File too large: make room on the disk"):
            checkpoint.save(Fake(SHAPES), path, {"step": 2, "fingerprint": "f"}, {}, keep_last=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert find(tmp_path, TrainConfig()).step == 1
    assert sorted(file.name for file in path.iterdir()) == ["latest", "step-1"]  # half a checkpoint fills no disk
    checkpoint.save(Fake(SHAPES), path, {"step": 2, "fingerprint": "f"}, {}, keep_last=1)
    assert sorted(file.name for file in path.iterdir()) == ["latest", "step-2"]


class Silent:
    def emit(self, event: str, **fields) -> None:
        pass


def test_a_restart_that_is_not_gone_on_from_is_removed(tmp_path):
    """It vouches for rows that are cut off: a later start at its layout would go on past them."""
    config = TrainConfig(steps=50, global_batch=8)
    _restart(tmp_path, 15, config, fingerprint="f")
    (tmp_path / "train.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 16)))
    assert prepare(tmp_path, config, "f", Silent()).step == 15
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 15
    assert prepare(tmp_path, TrainConfig(steps=50, global_batch=8, ranks=2), "f", Silent()) is None
    assert (tmp_path / "train.jsonl").read_text() == ""
    assert prepare(tmp_path, config, "f", Silent()) is None


@pytest.mark.parametrize(
    ("kept", "killed"), [("checkpoints", 0), ("checkpoints", 1), ("checkpoints", 2), ("restart", 1)]
)
def test_what_another_training_left_is_set_aside_whole(tmp_path, monkeypatch, kept, killed):
    """Also a restart of a layout that is of no use, and also where the process ends after `killed` of the moves."""
    config = TrainConfig(steps=50, global_batch=8, ranks=2)
    if kept == "checkpoints":
        checkpoint.save(Fake(SHAPES), tmp_path / CHECKPOINTS, {"step": 10, "fingerprint": "a" * 16}, {}, keep_last=2)
    _restart(tmp_path, 15, TrainConfig(), fingerprint="a" * 16)
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n')
    moved: list[Path] = []

    def move(path: Path, target: Path) -> None:
        if len(moved) == killed:
            raise KeyboardInterrupt
        moved.append(path)
        path.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, config, "b" * 16, Silent())
    assert prepare(tmp_path, config, "b" * 16, Silent()) is None
    old = tmp_path / "checkpoints-aaaaaaaa"
    assert (old / "train.jsonl").read_text() == '{"step": 1}\n'
    assert (old / "restart" / "step-15" / "shard.pt").exists()
    assert (old / "step-10").exists() == (kept == "checkpoints")
    assert not (tmp_path / "restart").exists()
    assert json.loads((tmp_path / "training.json").read_text())["ranks"] == 2
