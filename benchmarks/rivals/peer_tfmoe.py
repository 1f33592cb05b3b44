"""tfmoe in `peers`."""

import importlib.metadata

import keras
import numpy as np

import tfmoe
from benchmarks.rivals.peer import serve
from tfmoe.columns import FIRST_ID


class Contestant:
    what = f"tfmoe {tfmoe.__version__}, Keras {importlib.metadata.version('keras')}: model.fit"

    def __init__(self, job):
        keras.utils.set_random_seed(0)
        columns = [
            tfmoe.Categorical(name, dim=job.dim, hash_buckets=size)
            for name, size in job.table_sizes.items()
        ]
        tasks = [tfmoe.Binary("watch"), tfmoe.Regression("rating")]
        mixture = tfmoe.MMoE(num_experts=job.num_experts, hidden_units=job.expert_units)
        self.model = tfmoe.MultiTaskModel(
            tfmoe.Schema(columns, tasks), mixture, tower_units=job.tower_units
        )
        self.model.compile(tfmoe.optimizers.Adam(job.learning_rate))
        self.batch_size = job.batch_size
        columns, labels = job.read("train")
        # As the pipeline makes them: a missing label has weight 0.
        weights = {name: (~np.isnan(label)).astype("float32") for name, label in labels.items()}
        labels = {name: np.nan_to_num(label) for name, label in labels.items()}
        self.rows = self._encoded(columns), labels, weights

    def _encoded(self, columns):
        """Ids that start where tfmoe's vocabularies do."""
        return {name: column + FIRST_ID for name, column in columns.items()}

    def train(self):
        features, labels, weights = self.rows
        self.model.fit(
            features, labels, sample_weight=weights, batch_size=self.batch_size, verbose=0
        )

    def predict(self, columns):
        return _predict(self.model, self._encoded(columns))

    def reload(self, path, columns):
        self.model.save(path / "model.keras")
        return _predict(keras.saving.load_model(path / "model.keras"), self._encoded(columns))

    def export(self, path):
        tfmoe.export(self.model, path / "served")
        return "SavedModel, raw rows"


def _predict(model, features):
    return model.predict(features, batch_size=8192, verbose=0)


if __name__ == "__main__":
    serve("tfmoe", Contestant)
