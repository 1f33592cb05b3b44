"""Run by `test_tfrs.py` in a process of its own: a `tfrs.Model` around a tfmoe mixture."""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

import tfmoe
from tfmoe.tfrs import KerasLayer

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
ROWS = 512
features = {"user": rng.integers(50, size=ROWS), "movie": rng.integers(40, size=ROWS)}
taste = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 40))
score = taste[features["user"], features["movie"]]
labels = {"watch": (score > 0).astype("float32"), "rating": score.astype("float32")}


class Ranker(tfrs.Model):
    def __init__(self, mixture):
        super().__init__()
        self.users = tf.keras.layers.Embedding(50, 8)
        self.movies = tf.keras.layers.Embedding(40, 8)
        self.mixture = KerasLayer(mixture)
        self.norm = KerasLayer(keras.layers.BatchNormalization())
        self.towers = KerasLayer(tfmoe.Towers((1, 1), hidden_units=(8,)))
        self.watch = tfrs.tasks.Ranking(
            tf.keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.AUC(from_logits=True, name="watch_auc")],
        )
        self.rating = tfrs.tasks.Ranking(tf.keras.losses.MeanSquaredError())

    def call(self, features, training=None):
        x = tf.concat([self.users(features["user"]), self.movies(features["movie"])], axis=1)
        mixed = self.norm(self.mixture(x, training=training), training=training)
        watch, rating = self.towers(mixed, training=training)
        return {"watch": watch[:, 0], "rating": rating[:, 0]}

    def compute_loss(self, inputs, training=False):
        features, labels = inputs
        scores = self(features, training=training)
        watched = self.watch(labels=labels["watch"], predictions=scores["watch"])
        rated = self.rating(labels=labels["rating"], predictions=scores["rating"])
        return watched + rated


def made(**gate):
    gate = tfmoe.DSelectKGate(num_nonzeros=2, **gate)
    return tfmoe.MMoE(num_tasks=2, num_experts=4, hidden_units=(16, 8), gate=gate)


data = tf.data.Dataset.from_tensor_slices((features, labels)).batch(64)
mixture = made(entropy_reg=0.1)
model = Ranker(mixture)
model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
model.fit(data, epochs=1, verbose=0)

# Every weight of Keras 3 is a weight of the model, once, and is trained if it should be.
ours = [v for part in (model.mixture, model.norm, model.towers) for v in part.layer.variables]
known = [id(weight) for weight in model.weights]
assert all(known.count(id(variable.value)) == 1 for variable in ours)
assert len(model.trainable_weights) == 2 + sum(variable.trainable for variable in ours)
before = [variable.numpy() for variable in ours]
history = model.fit(data, epochs=15, verbose=0).history
for variable, old in zip(ours, before, strict=True):
    assert not np.array_equal(variable.numpy(), old), variable.path  # moving averages too
assert history["loss"][-1] < 0.5 * history["loss"][0], history["loss"]
assert history["watch_auc"][-1] > 0.95, history["watch_auc"]

# A gate's own loss comes through `tfrs.Model`'s `losses`.
assert history["regularization_loss"][0] > 0
x = tf.concat([model.users(features["user"]), model.movies(features["movie"])], axis=1)
model.mixture(x, training=True)
np.testing.assert_allclose(float(sum(model.mixture.losses)), float(sum(mixture.losses)))
assert float(sum(mixture.losses)) > 0

# Frozen after it was built, the mixture stays as it is.
mixture.trainable = False
model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
before = [weight.numpy() for weight in mixture.weights]
model.fit(data, epochs=1, verbose=0)
assert all(np.array_equal(w.numpy(), b) for w, b in zip(mixture.weights, before, strict=True))

# Weights go to a file and back; the exported model needs neither Keras.
expected = {name: value.numpy() for name, value in model(features).items()}
model.save_weights(str(folder / "weights"))
again = Ranker(made())
again(features)
again.load_weights(str(folder / "weights")).expect_partial()
for name, value in again(features).items():
    np.testing.assert_allclose(value, expected[name], atol=1e-6)
tf.saved_model.save(model, str(folder / "served"))
served = tf.saved_model.load(str(folder / "served"))
for name, value in served(features).items():
    np.testing.assert_allclose(value, expected[name], atol=1e-6)

# A whole Keras 3 model, through a config.
inner = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
wrapped = KerasLayer(inner)
copy = KerasLayer.from_config(wrapped.get_config())
copy.set_weights(wrapped.get_weights())
np.testing.assert_allclose(copy(x), wrapped(x))
assert not np.allclose(wrapped(x, training=True), wrapped(x, training=True))
with pytest.raises(ValueError, match="of Keras 3"):
    KerasLayer(tf.keras.layers.Dense(3))
print("done")
