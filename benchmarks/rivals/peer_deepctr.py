"""DeepCTR's MMOE in `peers`, on Keras 2."""

import os

# Read when `tf.keras` is first touched: Keras 3 cannot run DeepCTR.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
from deepctr import __version__
from deepctr.feature_column import SparseFeat
from deepctr.layers import custom_objects
from deepctr.models.multitask.mmoe import MMOE

from benchmarks.rivals.peer import TASKS, serve


class Contestant:
    what = f"DeepCTR {__version__}, TensorFlow {tf.__version__} with Keras 2: model.fit"

    def __init__(self, job):
        tf.keras.utils.set_random_seed(0)
        columns = [SparseFeat(name, size, job.dim) for name, size in job.table_sizes.items()]
        self.model = MMOE(
            columns,
            num_experts=job.num_experts,
            expert_dnn_hidden_units=job.expert_units,
            tower_dnn_hidden_units=job.tower_units,
            l2_reg_embedding=0,  # nobody else regularises
            task_types=["binary", "regression"],
            task_names=TASKS,
        )
        self.batch_size = job.batch_size
        features, labels = job.read("train")
        # Keras 2 divides a loss by all rows, also by those of weight 0; nobody else does.
        share = float(np.mean(~np.isnan(labels["rating"])))
        optimizer = tf.keras.optimizers.Adam(job.learning_rate)
        losses = ["binary_crossentropy", "mse"]
        self.model.compile(optimizer, losses, loss_weights=[1.0, 1 / share])
        # It does not know missing labels; Keras's weights leave them out.
        weights = {name: (~np.isnan(label)).astype("float32") for name, label in labels.items()}
        labels = {name: np.nan_to_num(label) for name, label in labels.items()}
        self.rows = features, labels, weights

    def train(self):
        features, labels, weights = self.rows
        self.model.fit(features, labels, self.batch_size, sample_weight=weights, verbose=0)

    def predict(self, columns):
        return _predict(self.model, columns)

    def reload(self, path, columns):
        path = str(path / "model.h5")
        self.model.save(path)
        return _predict(tf.keras.models.load_model(path, custom_objects), columns)

    def export(self, path, columns):
        tf.saved_model.save(self.model, str(path / "served"))
        serve = tf.saved_model.load(str(path / "served")).signatures["serving_default"]
        found = serve(**{name: tf.constant(c[:, None]) for name, c in columns.items()})
        values = [found[name].numpy()[:, 0] for name in sorted(found)]
        # It has names of layers, not of tasks: the first is the one between 0 and 1.
        values.sort(key=lambda scores: scores.max())
        return "SavedModel, encoded ids", dict(zip(TASKS, values, strict=True))


def _predict(model, columns):
    found = model.predict(columns, batch_size=8192, verbose=0)
    return {task: values[:, 0] for task, values in zip(TASKS, found, strict=True)}


if __name__ == "__main__":
    serve("deepctr", Contestant)
