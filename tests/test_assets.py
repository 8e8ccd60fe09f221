"""Wheels as data: download, pinned hash, cache, and errors that say what to do."""

import hashlib
import threading
import zipfile

import pytest

from stages.assets import AssetError, cache_dir, wheel_file

NAME = "tamis_data_sample-1.0-py3-none-any.whl"
REQUIREMENT = "tamis-data-sample==1.0"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder that pip takes for the only registry, with one wheel in it; returns (folder, hash of the wheel)."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        wheel.writestr("pkg/data.bin", b"data" * 1000)
        wheel.writestr("../evil.txt", b"evil")
        wheel.writestr("pkg/__init__.py", "raise SystemExit('imported')")
        info = "tamis_data_sample-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tamis-data-sample\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "cache"))
    return folder, hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def test_download_check_and_cache(registry):
    folder, digest = registry
    path = wheel_file(REQUIREMENT, digest, "pkg/data.bin")
    assert path.read_bytes() == b"data" * 1000
    assert path.parts[-3:] == (f"tamis-data-sample-1.0-{digest[:8]}", "pkg", "data.bin")
    (folder / NAME).unlink()
    (cache_dir() / "wheels" / NAME).unlink()
    assert wheel_file(REQUIREMENT, digest, "pkg/data.bin") == path  # no download, no wheel
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]


def test_a_wheel_put_there_by_hand_is_used(registry, monkeypatch):
    folder, digest = registry
    wheels = cache_dir() / "wheels"
    wheels.mkdir(parents=True)
    (folder / NAME).rename(wheels / NAME)
    assert wheel_file(REQUIREMENT, digest, "pkg/data.bin").is_file()


def test_another_wheel_is_refused(registry):
    with pytest.raises(
        AssetError, match=r"expected a wheel with SHA-256 6{64}, found tamis_data_sample.*put the right"
    ):
        wheel_file(REQUIREMENT, "6" * 64, "pkg/data.bin")
    assert not list((cache_dir() / "wheels").rglob("data.bin"))


def test_failure_is_one_line_that_helps(registry):
    with pytest.raises(AssetError, match=r"No matching distribution found.*put the wheel into") as caught:
        wheel_file("tamis-data-absent==2.0", "6" * 64, "x")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (cache_dir() / "wheels").iterdir()] == []


def test_missing_member(registry):
    with pytest.raises(AssetError, match=r"expected a wheel with the member pkg/none"):
        wheel_file(REQUIREMENT, registry[1], "pkg/none")


@pytest.mark.parametrize("member", ["../evil.txt", "/etc/passwd", "a/../../b", "a\\..\\b"])
def test_members_stay_inside(registry, member):
    with pytest.raises(ValueError, match="expected a relative path"):
        wheel_file(REQUIREMENT, registry[1], member)


def test_unpinned_requirement():
    with pytest.raises(ValueError, match="name==version"):
        wheel_file("numpy", "0" * 64, "x")


def test_unwritable_cache(registry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="cannot write to the cache"):
        wheel_file(REQUIREMENT, registry[1], "pkg/data.bin")


def test_racing_callers(registry):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(wheel_file(REQUIREMENT, registry[1], "pkg/data.bin")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert len(paths) == 3
    assert paths[0].read_bytes() == b"data" * 1000
