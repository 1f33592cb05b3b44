"""Several replicas in one process end as one device does, whatever is trained."""

import pytest

from tests.distribution import replica_cases
from tests.distribution.processes import ended, found

# One of three: all of them, `python -m tests.distribution.replica_cases 3 NAME ...`, take half an
# hour.
CASES = sorted(name for name in replica_cases.cases() if not name.startswith("half"))[::3]
# Tables by rows, as large ones are.
ENVIRONMENT = {"TFMOE_THRESHOLDS": "dense_rows=5"}


def differences(folder, num, names):
    command = ["-m", "tests.distribution.replica_cases", num, *names]
    (result,) = ended([command], folder, [ENVIRONMENT], seconds=1500)
    return found(result)


def check(folder, num, names):
    wrong = {}
    for name, own in differences(folder, num, names).items():
        # Rounding, of sums in another order, over a few steps; a softmax of near ties more so.
        worst = {key: value for key, value in own.items() if not _is_small(key, value)}
        if worst:
            wrong[name] = worst
    assert wrong == {}


def _is_small(name, value):
    # Bins of an AUC lie where replicas together agree.
    return isinstance(value, float) and value < (2e-3 if name.endswith("auc") else 5e-6)


def test_a_gate_that_levels_its_experts_trains_as_on_one_device(tmp_path):
    check(tmp_path, 2, ["balance"])


@pytest.mark.slow
def test_half_precision_trains_as_on_one_device(tmp_path):
    of_cases = differences(tmp_path, 2, ["half", "half-overflow"])
    assert set(of_cases) == {"half", "half-overflow"}
    for name, own in of_cases.items():
        assert own["loss scale"] == 0.0
        # Its rounding; a step that only one of them took would be more.
        assert max(own.values()) < 2e-3, name


ACCUMULATED = """if True:
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    import json, keras, tfmoe
    from tests.distribution.replica_cases import JOINT, mmoe
    found = []
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = tfmoe.MultiTaskModel(JOINT, mmoe(), tower_units=())
        plain = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        for optimizer in (plain, {"rest": plain}, keras.optimizers.LossScaleOptimizer(plain)):
            try:
                model.compile(optimizer)
            except ValueError as error:
                found.append(str(error))
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_gradients_of_several_batches_are_not_added_up(tmp_path):
    (result,) = ended([["-c", ACCUMULATED]], tmp_path)
    messages = found(result)
    assert len(messages) == 3
    for message in messages:
        assert "Received gradient_accumulation_steps=2 in SGD. Take batches 2 times" in message


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_all_is_trained_as_on_one_device(part, tmp_path):
    # In several processes, of which none grows large; replicas of unequal parts.
    check(tmp_path, 3, CASES[part::3])


@pytest.mark.slow
def test_optimizers_that_walk_through_tables_add_up_all_replicas(tmp_path):
    # Ids repeat between replicas, and these would square each gradient of a row on its own.
    check(tmp_path, 2, ["optimizer-adam", "optimizer-keras-rmsprop", "optimizer-unknown"])


EVALUATED = """if True:
    import json, tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    import keras, numpy as np, tfmoe
    from tests.distribution.replica_cases import FRAME, JOINT, mmoe
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        keras.utils.set_random_seed(0)
        prep = tfmoe.Preprocessor(JOINT).fit(FRAME, progress=False)
        with strategy.scope():
            model = tfmoe.MultiTaskModel(prep, mmoe(), tower_units=())
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)  # outside of the scope
        shared = tfmoe.distribution.dataset(prep, FRAME, 10, strategy=strategy)
        own = {}
        model.fit(shared, verbose=0, epochs=2)
        every = {"frame": FRAME, "dataset": prep.dataset(FRAME, 10), "shared": shared}
        for name, data in every.items():
            for exact in (True, False):
                own[f"{name} {exact}"] = model.evaluate(data, verbose=0, exact=exact)
        own["rows"] = len(model.predict(FRAME, verbose=0)["a"])
        features = prep.arrays(FRAME, labels=False)
        own["on_batch"] = model.predict_on_batch(features)["a"].tolist()
        found.append(own)
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_replicas_evaluate_and_predict_as_one_device(tmp_path):
    (result,) = ended([["-c", EVALUATED]], tmp_path)
    one, two = found(result)
    assert one["rows"] == two["rows"] == replica_cases.ROWS
    assert two["on_batch"] == pytest.approx(one["on_batch"], abs=1e-6)
    assert len(two["on_batch"]) == replica_cases.ROWS
    for data in ("frame", "dataset", "shared"):
        for exact in (True, False):
            name = f"{data} {exact}"
            error = 1e-5 if exact else 2e-3
            assert two[name] == pytest.approx(one[name], abs=error), name
