"""tfmoe in `peers`, from raw rows."""

import importlib.metadata

import keras
import pandas as pd
import tensorflow as tf

import tfmoe
from benchmarks.rivals.peer import serve


class Contestant:
    what = f"tfmoe {tfmoe.__version__}, Keras {importlib.metadata.version('keras')}: model.fit"

    def __init__(self, job):
        keras.utils.set_random_seed(0)
        columns, labels = job.read("train")
        rows = pd.DataFrame(columns | labels)
        schema = tfmoe.Schema(
            [tfmoe.Categorical(name, dim=job.dim, dtype="int") for name in job.table_sizes],
            [tfmoe.Binary("watch"), tfmoe.Regression("rating", standardize=False)],
        )
        self.prep = tfmoe.Preprocessor(schema).fit(rows, progress=False)
        mixture = tfmoe.MMoE(num_experts=job.num_experts, hidden_units=job.expert_units)
        self.model = tfmoe.MultiTaskModel(self.prep, mixture, tower_units=job.tower_units)
        self.model.compile(tfmoe.optimizers.Adam(job.learning_rate))
        self.rows = self.prep.dataset(rows, job.batch_size, shuffle=True, seed=0)

    def train(self):
        self.model.fit(self.rows, verbose=0)

    def predict(self, columns):
        return _predict(self.model, columns)

    def reload(self, path, columns):
        self.model.save(path / "model.keras")
        return _predict(keras.saving.load_model(path / "model.keras"), columns)

    def export(self, path, columns):
        version = tfmoe.export(self.model, path / "served")
        serve = tf.saved_model.load(str(version)).signatures["serving_default"]
        found = serve(**{name: tf.constant(c, tf.int64) for name, c in columns.items()})
        return "SavedModel, raw rows", {task: values.numpy() for task, values in found.items()}


def _predict(model, columns):
    rows = model.preprocessor.dataset(pd.DataFrame(columns), 8192, labels=False)
    return model.predict(rows, verbose=0)


if __name__ == "__main__":
    serve("tfmoe", Contestant)
