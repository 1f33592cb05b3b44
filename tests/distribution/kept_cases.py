"""Trainings on several replicas of one process that are broken and go on: how far apart they end.

Run as `python -m tests.distribution.kept_cases REPLICAS FOLDER NAME...`; it prints as JSON, by
name, the differences from a training that was never broken.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfmoe
from tests.model import kept
from tfmoe.compute import initializers

# As in conftest. Beside small embeddings predictions lie so close that a rounding moves one over a
# threshold of the AUC.
initializers.SMALL = 0.03

SIZE = 8  # of a batch: 60 rows are 8 of them, of which the last has 4


class Case:
    """A training with all that has a state, on a plain dataset, whose batches Keras parts."""

    watched = "val_loss"
    epochs = 2
    breaks = ((0, None),)

    def __init__(self, strategy, folder):
        self.strategy, self.folder = strategy, folder
        self.prep = kept.preprocessor()

    def model(self, strategy):
        keras.utils.set_random_seed(0)
        gate = tfmoe.TopKGate(noisy=True, seed=3, balance=tfmoe.ImportanceLoss(0.5))
        mixture = tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=gate)
        with strategy.scope():
            model = tfmoe.MultiTaskModel(self.prep, mixture, (3,), 0.3, column_dropout=0.1)
            model.compile(
                tfmoe.optimizers.LazyAdam(0.01),
                aux_losses=tfmoe.MutualInformationLoss(0.1, momentum=0.5),
                weighting="gradnorm",
                jit_compile=False,
            )
            model.optimizer.build(model.trainable_variables)
        return model

    def data(self, strategy):
        return self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)

    def arguments(self, strategy):
        return {"validation_data": self.prep.dataset(kept.table(16, start=1), 16)}

    def run(self, model, strategy, folder=None, breaks=None):
        """The history of a training, or None if it broke, and what the model's variables hold."""
        stopping = keras.callbacks.EarlyStopping(
            self.watched, patience=9, mode="min", restore_best_weights=True
        )
        callbacks = [stopping]
        if folder is not None:
            callbacks.append(tfmoe.Checkpoint(folder, every_steps=1))
        if breaks is not None:
            callbacks.append(kept.BreaksAt(*breaks))
        history = kept.fitted(
            model,
            self.data(strategy),
            callbacks,
            epochs=self.epochs,
            **self.arguments(strategy),
        )
        return history, held(model)

    def difference(self):
        """The largest differences of a training that was broken from one that was not."""
        anew = kept.Anew(self.model(self.strategy))
        expected = self.run(anew(0), self.strategy)
        for number, place in enumerate(self.breaks):
            assert self.run(anew(number), self.strategy, self.folder, place)[0] is None
        return difference(self.run(anew(99), self.strategy, self.folder), expected)


class Shared(Case):
    """Batches that replicas share; in the last step of an epoch one has none."""

    breaks = ((0, 4), (1, 7))

    def data(self, strategy):
        size = SIZE - SIZE % strategy.num_replicas_in_sync
        return tfmoe.distribution.dataset(
            self.prep, kept.table(), size, strategy=strategy, shuffle=True, seed=4
        )

    def arguments(self, strategy):
        valid = tfmoe.distribution.dataset(
            self.prep, kept.table(16, start=1), 16, strategy=strategy
        )
        return {"validation_data": valid}


class Quick(Shared):
    """A small model, of which one epoch is enough."""

    watched = "loss"
    epochs = 1
    breaks = ((0, 5),)

    def model(self, strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            mixture = tfmoe.SharedBottom(hidden_units=(4,))
            model = tfmoe.MultiTaskModel(self.prep, mixture, (), column_dropout=0.1)
            model.compile("adam", jit_compile=False, metrics={"stars": []})
            model.optimizer.build(model.trainable_variables)
        return model

    def arguments(self, strategy):
        return {}


class Files(Quick):
    """Files, shuffled in a buffer, which are read again."""

    epochs = 2
    breaks = ((1, 5),)

    def data(self, strategy):
        path = self.folder.parent / "rows.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True)
            kept.table().to_parquet(path)
        return tfmoe.distribution.dataset(
            self.prep, str(path), SIZE, strategy=strategy, shuffle=17, seed=4
        )


class OtherNumber(Case):
    """Begun on several replicas, gone on with on one; nothing is drawn by chance."""

    breaks = ((1, 4),)

    def model(self, strategy):
        keras.utils.set_random_seed(0)
        with strategy.scope():
            mixture = tfmoe.MMoE(num_experts=3, hidden_units=(4,))
            prep = tfmoe.Preprocessor(schema()).fit(kept.table())
            model = tfmoe.MultiTaskModel(prep, mixture, (3,))
            model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        return model

    def difference(self):
        one = tf.distribute.get_strategy()
        expected = self.run(self.model(one), one)
        for place in self.breaks:
            history, _ = self.run(self.model(self.strategy), self.strategy, self.folder, place)
            assert history is None
        return difference(self.run(self.model(one), one, self.folder), expected)


class Loaded(OtherNumber):
    """Trained on one device, loaded in the scope of several replicas and trained on there."""

    def difference(self):
        one, path = tf.distribute.get_strategy(), self.folder.parent / "model.keras"
        model = self.model(one)
        self.run(model, one)
        model.save(path)
        with self.strategy.scope():
            loaded = tfmoe.load_model(path)
        history, numbers = self.run(loaded, self.strategy)
        known, expected = self.run(model, one)
        # Where the bins of an AUC lie is another matter on replicas.
        bins = ("counts", "pairs", "knots")
        expected = {n: values for n, values in expected.items() if not n.endswith(bins)}
        return difference((history, numbers), (known, expected))


def schema():
    columns = [tfmoe.Numeric("x"), tfmoe.Categorical("c", dim=2)]
    return tfmoe.Schema(columns, [tfmoe.Binary("click"), tfmoe.Regression("stars")])


def held(model):
    """What all variables hold, and what each replica has of those that are alike on all."""
    found = {}
    for place, variable in enumerate(kept.variables_of(model)):
        # Keras counts up names of optimizers.
        name = f"{place} {variable.path.split('/')[-1]}"
        found[name] = np.array(keras.ops.convert_to_tensor(variable))
        own = variable.value
        is_parted = own.synchronization is tf.VariableSynchronization.ON_READ
        if isinstance(own, tf.distribute.DistributedValues) and not is_parted:
            for i, one in enumerate(model.distribute_strategy.experimental_local_results(own)):
                found[f"{name} {i}"] = one.numpy()
    return found


def difference(found, expected):
    """Relative differences of what two trainings came to, by name, of those that differ most."""
    (history, numbers), (known, known_numbers) = found, expected
    assert history.epoch == known.epoch
    pairs = {f"history {name}": (history.history[name], v) for name, v in known.history.items()}
    pairs |= {name: (numbers[name], value) for name, value in known_numbers.items()}
    apart = {}
    for name, (one, other) in pairs.items():
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other), err_msg=name)
        error = np.nan_to_num(np.abs(one - other)) / (1 + np.nan_to_num(np.abs(other)))
        apart[name] = float(np.max(error, initial=0.0))
    return dict(sorted(apart.items(), key=lambda pair: -pair[1])[:5])


def refused(strategy, folder):
    """What is said of batches whose place nobody knows."""
    case = Quick(strategy, folder)
    data = strategy.experimental_distribute_dataset(case.prep.dataset(kept.table(), SIZE))
    try:
        case.model(strategy).fit(data, verbose=0, callbacks=[tfmoe.Checkpoint(folder)])
    except ValueError as error:
        return str(error)
    return None


CASES = {
    "plain": Case,
    "shared": Shared,
    "files": Files,
    "quick": Quick,
    "other": OtherNumber,
    "loaded": Loaded,
}


def main(num, folder, *names):
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration() for _ in range(num)]
    tf.config.set_logical_device_configuration(cpu, devices)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    mirrored = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num)])
    found = {}
    for name in names:
        own = Path(folder) / name / "checkpoints"
        if name == "refused":
            found[name] = refused(mirrored, own)
        else:
            found[name] = CASES[name](mirrored, own).difference()
        keras.utils.clear_session()
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
