"""Batches by a `tf.data` service, whose workers know nothing of the package."""

import subprocess
import sys

import numpy as np
import pytest

import tfmoe
from tfmoe.data.batch import service

SCHEMA = tfmoe.Schema(
    [tfmoe.Numeric("x", transform="none"), tfmoe.MultiCategorical("seen", hash_buckets=5)],
    [tfmoe.Binary("y")],
)

DISPATCHER = """if True:
    import tensorflow as tf
    server = tf.data.experimental.service.DispatchServer()
    print(server.target, flush=True)
    server.join()
"""
WORKER = """if True:
    import sys, tensorflow as tf
    config = tf.data.experimental.service.WorkerConfig(dispatcher_address=sys.argv[1])
    server = tf.data.experimental.service.WorkerServer(config)
    print("ready", flush=True)
    server.join()
"""


def rows(num=101):
    seen = [[i % 7] * (i % 3) for i in range(num)]
    return {"x": np.arange(num, dtype="float32"), "seen": seen, "y": np.arange(num) % 2}


@pytest.fixture(scope="module")
def address():
    started = []

    def start(code, *arguments):
        command = [sys.executable, "-c", code, *arguments]
        one = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        started.append(one)
        return one.stdout.readline().strip()

    target = start(DISPATCHER)
    for _ in range(2):
        assert start(WORKER, target.split("://")[1]) == "ready"
    yield target
    for one in started:
        one.kill()
        one.wait()
        one.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_row_comes_once_an_epoch(address, shuffle):
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows(), progress=False)
    batches = prep.dataset(rows(), 10, shuffle=shuffle, service=address)
    expected, _, _ = prep.arrays(rows())
    orders = []
    for _ in range(2):
        epoch = [(features, labels["y"].numpy()) for features, labels, _ in batches]
        order = np.concatenate([features["x"] for features, _ in epoch])
        assert sorted(order) == list(range(101))
        place = order.astype(int)
        seen = np.concatenate([features["seen"] for features, _ in epoch])
        np.testing.assert_array_equal(seen, expected["seen"][place])
        np.testing.assert_array_equal(np.concatenate([y for _, y in epoch]), place % 2)
        orders.append(place.tolist())
    if shuffle:
        assert orders[0] != orders[1]
        assert sorted(orders[0]) != orders[0]


@pytest.mark.slow
def test_a_model_is_fitted_on_them(address):
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows(), progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(3,)), tower_units=())
    model.compile(jit_compile=False)
    data = prep.dataset(rows(), 10, service=address)
    history = model.fit(data, epochs=2, verbose=0, validation_data=data).history
    assert int(model.optimizer.iterations) == 22
    assert history["val_loss"][1] == pytest.approx(model.evaluate(rows(), verbose=0)["loss"])


def test_errors(monkeypatch):
    prep = tfmoe.Preprocessor(SCHEMA).fit(rows(), progress=False)
    with pytest.raises(ValueError, match="Received service='localhost'"):
        prep.dataset(rows(), service="localhost")
    with pytest.raises(ValueError, match="with shard, drop_remainder"):
        prep.dataset(rows(), service="grpc://localhost:1", shard=(0, 2), drop_remainder=True)
    monkeypatch.setattr(service, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="Received 101 rows"):
        prep.dataset(rows(), service="grpc://localhost:1")
