"""Files that change as long as a dataset reads them."""

import os

import pandas as pd
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.schema.columns import Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary

ROWS = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [0.0, 1.0, 0.0]})
SCHEMA = Schema([Numeric("a", transform="none")], [Binary("y")])


def write(rows, path):
    kinds = {".csv": rows.to_csv, ".parquet": rows.to_parquet, ".feather": rows.to_feather}
    kinds[path.suffix](path, **({} if path.suffix == ".feather" else {"index": False}))


def longer(path):
    others = [ROWS.assign(a=ROWS["a"] + number) for number in range(300)]
    write(pd.concat(others, ignore_index=True), path)


def written_again(path):
    stamp = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(stamp, stamp))


def removed(path):
    path.unlink()


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".feather"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (longer, r"must not change .*two\.\w+, which has .* bytes now and had"),
        (written_again, r"must not change .*two\.\w+, which was written again"),
        (removed, r"must stay .*two\.\w+, which is gone"),
    ],
)
def test_a_file_that_changes_between_epochs_is_told(tmp_path, ending, change, message):
    tf = pytest.importorskip("tensorflow")
    paths = [tmp_path / f"one{ending}", tmp_path / f"two{ending}"]
    for path in paths:
        write(ROWS, path)
    batches = Preprocessor(SCHEMA).dataset(paths, batch_size=2)
    assert len(list(batches)) == 3
    assert len(list(batches)) == 3
    change(paths[1])
    with pytest.raises(tf.errors.OpError, match=message):
        list(batches)
    if change is not removed:
        # A new dataset reads what is there now.
        assert len(list(Preprocessor(SCHEMA).dataset(paths, batch_size=2))) > 2
