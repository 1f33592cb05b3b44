"""Several processes train one model together, as one process does on the same batches."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.distribution import one_worker
from tests.distribution.processes import ended, found, free_ports, workers

SCHEMA = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("y")])


def rows(num=10):
    return {"x": np.arange(num, dtype="float32"), "y": np.ones(num)}


def check_same(one, other):
    for name, values in one["history"].items():
        # Bins of an AUC lie where workers together agree.
        error = 2e-3 if name.endswith("auc") else 1e-5
        np.testing.assert_allclose(other["history"][name], values, atol=error, err_msg=name)
    for weight, expected in zip(other["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(weight, expected, atol=2e-6)


@pytest.mark.slow
def test_two_workers_train_as_one_process(tmp_path):
    one, *both = map(found, [*workers(tmp_path, 1), *workers(tmp_path)])
    seen = [value for worker in both for value in worker["seen"]]
    assert sorted(seen) == sorted(one["seen"])
    assert len(seen) == one_worker.ROWS
    for worker in both:
        check_same(one, worker)
        for name in ("exact", "binned"):
            error = 2e-3 if name == "binned" else 1e-5
            assert worker[name] == pytest.approx(one[name], abs=error)
        assert worker["scores"] == pytest.approx(one["scores"], abs=1e-5)
        assert len(worker["refused"]) == 2
        assert all("distribution.dataset" in message for message in worker["refused"])
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.is_chief
    scores = model.predict(one_worker.table()[["x", "user"]], verbose=0)["a"]
    np.testing.assert_allclose(scores, one["scores"], atol=1e-5)


@pytest.mark.slow
def test_workers_weigh_losses_together(tmp_path):
    both = list(map(found, workers(tmp_path, WEIGHTING="upgrad")))
    check_same(found(*workers(tmp_path, 1, WEIGHTING="upgrad")), both[1])


@pytest.mark.slow
def test_a_worker_dies_and_comes_back(tmp_path):
    backup = {"BACKUP": str(tmp_path / "backup")}
    first = workers(tmp_path, **backup, DIES="1")
    assert first[1][0] == 9, first[1][2][-3000:]
    assert first[0][0] != 0  # it cannot go on alone
    both = list(map(found, workers(tmp_path, **backup)))
    one = found(*workers(tmp_path, 1))
    for worker in both:
        # The history has the epochs since.
        since = {name: values[1:] for name, values in one["history"].items()}
        check_same({**one, "history": since}, worker)
    # What only one of them finds none goes on from.
    (tmp_path / "backup").rename(tmp_path / "backup-1")
    for code, _, err in workers(tmp_path, **backup, APART="1"):
        assert code != 0
        assert "in which a backup is found by workers [1] alone" in err
    (tmp_path / "backup-1").rename(tmp_path / "backup")
    # Written once.
    assert len(pd.read_csv(tmp_path / "backup.csv")) == 3
    names = sorted(path.name for path in (tmp_path / "backup" / "models").iterdir())
    assert names == ["1.keras", "2.keras", "3.keras"]


@pytest.mark.slow
def test_the_command_line_trains_with_workers(tmp_path):
    table, schema, out = (tmp_path / name for name in ("t.parquet", "s.yaml", "model.keras"))
    one_worker.table().to_parquet(table)
    tfmoe.Schema(
        [tfmoe.Numeric("x"), tfmoe.Categorical("user")], [tfmoe.Binary("a"), tfmoe.Regression("b")]
    ).save(schema)
    command = ["-m", "tfmoe.cli", "train", table, "--schema", schema, "--valid", table]
    command += ["--mixture", "shared-bottom", "--hidden-units", "8", "--epochs", 2]
    command += ["--batch-size", 20, "--out", out, "--workers"]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    results = ended([command] * 2, tmp_path, [{"TF_CONFIG": json.dumps(one)} for one in tasks])
    for code, _, err in results:
        assert code == 0, err[-3000:]
    assert "a_auc" in results[0][1] or "AUC" in results[0][1]
    assert "The first worker writes" in results[1][1]
    assert keras.saving.load_model(out).predict(table, verbose=0)["a"].shape == (101,)


def test_the_command_line_says_what_workers_need(tmp_path, monkeypatch):
    from tfmoe.runs.run import Run
    from tfmoe.runs.workers import check_workers

    monkeypatch.delenv("TF_CONFIG", raising=False)
    run = Run(data="t.parquet", schema="s.yaml")
    with pytest.raises(ValueError, match="reads from TF_CONFIG"):
        check_workers(run)
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="Received no --epochs"):
        check_workers(run)
    with pytest.raises(ValueError, match="Received no --batch-size"):
        check_workers(Run(data="t.parquet", schema="s.yaml", epochs=1))


def test_without_workers_it_is_a_model_like_others(tmp_path):
    prep = tfmoe.Preprocessor(SCHEMA)
    structure = tfmoe.SharedBottom(hidden_units=(3,))
    model = tfmoe.MultiWorkerModel(prep, structure, tower_units=())
    model.compile(jit_compile=False)
    model.fit(prep.dataset(rows(), 5), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is tfmoe.MultiWorkerModel
    table = pd.DataFrame(rows())
    expected = model.predict(table, verbose=0)["y"]
    np.testing.assert_array_equal(again.predict(table, verbose=0)["y"], expected)


def test_errors_of_shared_batches():
    prep = tfmoe.Preprocessor(SCHEMA)

    class Three:
        num_replicas_in_sync = 3

    with pytest.raises(ValueError, match=r"batch_size=4 for 3 replicas. Take a multiple of 3"):
        tfmoe.distribution.dataset(prep, rows(), 4, strategy=Three())
