"""Trainings of several workers go on where they died."""

import json

import keras
import numpy as np
import pytest

import tfmoe
from tests.distribution import one_worker
from tests.distribution.processes import ended, found, free_ports, workers
from tests.distribution.test_workers import check_same


@pytest.mark.slow
def test_workers_go_on(tmp_path):
    how = {"SHUFFLE": "1", "WEIGHTING": "gradnorm"}
    whole = list(map(found, workers(tmp_path, **how)))
    folder = tmp_path / "checkpoints"
    kept = {**how, "CHECKPOINTS": str(folder)}
    first = workers(tmp_path, **kept, DIES="1")
    assert first[1][0] == 9, first[1][2][-3000:]
    # The second step of the second epoch was the last that both kept.
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert names[1] == "epoch-00001-step-000000002.npz"
    again = list(map(found, workers(tmp_path, **kept)))
    for one, other in zip(whole, again, strict=True):
        check_same(one, other)
        assert other["history"].keys() == one["history"].keys()
        assert "Goes on after step" in other["plan"]
    # Worker 1 writes nothing, so it finds nothing in another folder, and neither goes on.
    folder.rename(f"{folder}-0")
    for code, _, err in workers(tmp_path, **kept, APART="1"):
        assert code != 0
        assert "Workers go on from one folder, which all of them see" in err


def commands(folder, num, *words):
    """Exit codes, outputs and errors of a command line on several workers."""
    command = ["-m", "tfmoe.cli", *words]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(num)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(num)]
    return ended([command] * num, folder, [{"TF_CONFIG": json.dumps(one)} for one in tasks])


def weights(path):
    return keras.saving.load_model(path).get_weights()


@pytest.mark.slow
def test_the_command_line_goes_on_with_workers_and_from_a_model(tmp_path):
    table, schema = tmp_path / "t.parquet", tmp_path / "s.yaml"
    one_worker.table().to_parquet(table)
    tfmoe.Schema(
        [tfmoe.Numeric("x"), tfmoe.Categorical("user")], [tfmoe.Binary("a"), tfmoe.Regression("b")]
    ).save(schema)
    how = ["--mixture", "shared-bottom", "--hidden-units", "8", "--batch-size", 20, "--workers"]

    def train(out, *words, data=table, fails=False):
        results = commands(tmp_path, 2, "train", data, *words, "--out", tmp_path / out)
        for code, text, err in results:
            assert bool(code) == fails, text + err[-3000:]
        return [" ".join(f"{text} {err}".split()) for _, text, err in results]

    anew = ["--schema", schema, *how]
    kept = [*anew, "--checkpoints", tmp_path / "checkpoints"]
    train("whole.keras", *anew, "--epochs", 2)
    train("one.keras", *kept, "--epochs", 1)
    first, second = train("two.keras", *kept, "--epochs", 2, fails=True)
    assert "which is not empty. Go on with what is there by --resume" in first
    assert "Received an error on another one, of [0], counted from 0" in second
    train("two.keras", *kept, "--epochs", 2, "--resume")
    for ours, theirs in zip(
        weights(tmp_path / "two.keras"), weights(tmp_path / "whole.keras"), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)

    later = one_worker.table().assign(user=lambda rows: rows["user"] + 15)
    later.to_parquet(tmp_path / "later.parquet")
    new = len({*later["user"]} - {*one_worker.table()["user"]})
    started = ["--from", tmp_path / "two.keras", "--grow", *how[4:], "--epochs", 1]
    first, second = train("grown.keras", *started, data=tmp_path / "later.parquet")
    assert f"user: {new} new values" in first
    assert "new values" not in second
    grown = tfmoe.load_model(tmp_path / "grown.keras")
    assert isinstance(grown, tfmoe.MultiWorkerModel)
    before = tfmoe.load_model(tmp_path / "two.keras")
    steps = [int(one.optimizer.iterations.numpy()) for one in (before, grown)]
    assert steps == [12, 18]
    user = grown.encoder.tables["user"].embeddings
    assert user.shape[0] == before.encoder.tables["user"].embeddings.shape[0] + new
    assert grown.predict(tmp_path / "later.parquet", verbose=0)["a"].shape == (101,)
