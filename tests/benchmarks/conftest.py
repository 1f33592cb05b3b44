"""What tests of benchmarks share."""

from collections import defaultdict

import pytest

from benchmarks import results, studies


@pytest.fixture(autouse=True)
def no_kept_runs(tmp_path, monkeypatch):
    """Studies find none of the runs that were kept, and keep none."""
    monkeypatch.setattr(studies, "RUNS", tmp_path / "kept runs")
    monkeypatch.setattr(studies, "UNFINISHED", tmp_path / "unfinished runs")
    monkeypatch.setattr(results, "RUN_COMMITS", defaultdict(set))
    monkeypatch.setattr(results, "RUN_ENVIRONMENTS", defaultdict(set))
