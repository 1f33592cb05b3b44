"""The benchmark of growth draws whatever it has measured."""

import pytest

from benchmarks import scale


@pytest.mark.parametrize("mb", [0.0, -0.25, 40.0])
def test_a_peak_that_rose_by_nothing_is_drawn(mb, tmp_path):
    """A process that had memory left over takes none for few rows."""
    rows = [
        {"name": job, "rows": size, "seconds": size / 1000, "peak_mb": mb * size}
        for job in ("fit", "train")
        for size in (100, 1000)
    ]
    scale.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
