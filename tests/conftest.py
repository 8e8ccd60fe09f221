"""Shared fixtures: the registered stages, the real data where it is at hand, and one Ray for the whole session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Helpers that hold assertions: pytest explains them as it does those of a test.
pytest.register_assert_rewrite("heuristics", "source_files", "toy_training")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _registry():
    import stages

    stages.load_all()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real crawl shards and gold sets; tests that need it are skipped elsewhere."""
    if not SHARED.is_dir():
        pytest.skip(f"no data set folder at {SHARED}")
    return SHARED


@pytest.fixture
def write(tmp_path):
    """Function that writes bytes to a file of the test's own folder and returns its path."""

    def make(data, name="x.warc.gz"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make
