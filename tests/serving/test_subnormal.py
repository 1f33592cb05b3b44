"""Numbers nearer to 0 than machines agree on: the same in training and in the served graph."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfmoe
from tfmoe.data.encode import graph
from tfmoe.data.encode.columns import NumericFit

TINY, TINY32 = float(np.finfo("float64").tiny), float(np.finfo("float32").tiny)
# Around the smallest normal numbers of either kind, on both sides of 0.
SMALL = [
    0.0,
    5e-324,
    1e-310,
    0.999 * TINY,
    TINY,
    2 * TINY,
    1e-300,
    1e-46,
    1e-40,
    TINY32,
    1e-30,
    1.0,
]
VALUES = np.array([*SMALL, *(-x for x in SMALL), np.nan, np.inf])
TRANSFORMS = ("none", "standardize", "log", "buckets")


def both(prep, values):
    """The column's feature by NumPy and by the graph."""
    look_up = tf.function(graph.GraphEncoder(prep), input_signature=[graph.signature(prep)])
    served = look_up({"x": tf.constant(values, tf.float64)})
    return prep.arrays({"x": values}, labels=False)["x"], served["x"].numpy()


@pytest.mark.quick(20)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("fill", [None, 1e-310, -5e-324, 1e-40])
@pytest.mark.parametrize(
    "fitted",
    [
        np.tile([0.0, 5e-324, 1e-310, 1.0, -1.0], 4),
        np.tile([5e-324, 1e-310, -1e-309], 4),
        np.tile([1e-308, 2e-308, 3e-308, 1.5e-308], 4),
        np.tile([1e-40, 2e-40, 3e-38], 4),
        VALUES[:-2],
    ],
)
def test_training_and_serving_agree(transform, fill, fitted):
    column = tfmoe.Numeric("x", transform=transform, num_buckets=4, fill=fill)
    schema = tfmoe.Schema([column], [tfmoe.Binary("click")])
    prep = tfmoe.Preprocessor(schema).fit(pd.DataFrame({"x": fitted, "click": 0}), progress=False)
    ours, served = both(prep, VALUES)
    if transform == "log":  # log1p differs in the last digit between NumPy and TensorFlow
        np.testing.assert_allclose(served, ours, rtol=1e-6)
    else:
        np.testing.assert_array_equal(served, ours)
    assert not (np.abs(ours)[ours != 0] < TINY32).any()


def test_subnormal_numbers_are_0():
    fit = NumericFit(1e-310, 1.0, -1e-320, np.array([-1.0, 5e-324, 2.0]))
    assert (fit.mean, fit.fill, fit.boundaries.tolist()) == (0.0, 0.0, [-1.0, 0.0, 2.0])
    schema = tfmoe.Schema([tfmoe.Numeric("x", transform="none")], [tfmoe.Binary("click")])
    features = tfmoe.Preprocessor(schema).arrays({"x": np.array(SMALL)}, labels=False)
    assert features["x"].tolist() == [0.0] * 9 + [TINY32, np.float32(1e-30), 1.0]


def test_a_model_with_subnormal_boundaries_is_exported(tmp_path):
    x = np.tile([0.0, 5e-324, 1e-310, 1.0, -1.0], 20)
    df = pd.DataFrame({"x": x, "click": (x == 0) * 1})
    schema = tfmoe.Schema(
        [tfmoe.Numeric("x", transform="buckets", num_buckets=4)], [tfmoe.Binary("click")]
    )
    prep = tfmoe.Preprocessor(schema).fit(df, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)))
    version = tfmoe.export(model, tmp_path / "served")
    served = tf.saved_model.load(str(version)).signatures["serving_default"]
    found = served(x=tf.constant(x[:5], tf.float64))["click"]
    np.testing.assert_allclose(found, model.predict(df[:5], verbose=0)["click"], atol=1e-6)


@pytest.mark.parametrize("cyclic", [True, False])
def test_a_moment_that_is_hardly_before_0_is_0(cyclic):
    """Taken down to a whole second it would be in the hour before."""
    column = tfmoe.Timestamp("x", parts=["hour"], cyclic=cyclic)
    schema = tfmoe.Schema([column], [tfmoe.Binary("click")])
    moments = np.array([-1e-310, 1e-310, 0.0, -2 * TINY, 60.0])
    prep = tfmoe.Preprocessor(schema).fit(pd.DataFrame({"x": moments, "click": 0}), progress=False)
    ours, served = both(prep, moments)
    np.testing.assert_array_equal(served, ours)
    np.testing.assert_array_equal(ours[:2], np.tile(ours[2], (2, 1)))
    assert not np.array_equal(ours[3], ours[2])
