"""Trainings that go on where they died end as those that never did."""

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe
from tests.model import kept
from tests.oracles.other_backend import run_on
from tfmoe.model import checkpoint_file
from tfmoe.model.kept import variables_of

tf = pytest.importorskip("tensorflow")

SIZE = 8  # of a batch: 60 rows are 8 of them, the last one smaller


class Case:
    """A training of a plain model, begun as a program begins it."""

    epochs = 3
    every_steps = 1
    # Two broken trainings, the second goes on from the first; the third goes on to the end.
    breaks = ((0, 4), (1, 6))

    models: dict = {}

    def __init__(self, folder):
        self.folder = folder
        self.prep = kept.preprocessor()

    def model(self):
        return kept.model_of(self.prep)

    def run(self, seed, folder=None, breaks=None):
        """The history of a training, None if it broke, and all numbers of the model."""
        callbacks = self.callbacks()
        if folder is not None:
            callbacks.append(tfmoe.Checkpoint(folder, self.every_steps))
        if breaks is not None:
            callbacks.append(kept.BreaksAt(*breaks))
        maker = type(self).model
        if maker not in self.models:
            self.models[maker] = kept.Anew(self.model())
        model, data = self.models[maker](seed), self.data()
        history = kept.fitted(model, data, callbacks, epochs=self.epochs, **self.arguments())
        return history, kept.numbers_of(model)

    def callbacks(self):
        return []

    def arguments(self):
        return {}


class InMemory(Case):
    """Shuffled rows in memory, all that draws by chance, all that watches."""

    epochs = 4
    breaks = ((0, 4), (1, 6), (2, None), (3, 0))

    def model(self):
        return kept.model_of(self.prep, weighting="gradnorm")

    def data(self):
        return self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)

    def callbacks(self):
        return [
            keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True),
            tfmoe.MultiTaskEarlyStopping("loss", patience=5),
            keras.callbacks.ReduceLROnPlateau("val_loss", 0.5, patience=0, min_delta=0.5),
            # It would be multiplied twice in an epoch that is begun twice.
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
            tfmoe.GateReport(kept.table(9), console=False),
        ]

    def arguments(self):
        valid = self.prep.dataset(kept.table(16, start=1), 16)
        return {"validation_data": valid}


class InFiles(Case):
    """Parquet files, shuffled in a buffer; parts with optimizers, one lazy, with a schedule."""

    def __init__(self, folder):
        super().__init__(folder)
        for place in range(3):
            rows = kept.table().iloc[20 * place : 20 * place + 20]
            rows.to_parquet(folder / f"{place}.parquet")

    def model(self):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.5)
        parts = {
            "embeddings": tfmoe.optimizers.LazyAdam(0.01),
            "rest": keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.9),
        }
        optimizer = keras.optimizers.LossScaleOptimizer(
            tfmoe.optimizers.ByPart(parts), dynamic_growth_steps=3
        )
        return kept.model_of(self.prep, optimizer)

    def data(self):
        return self.prep.dataset(str(self.folder / "*.parquet"), SIZE, shuffle=17, seed=4)


class OfUnknownLength(Case):
    """A file that does not say how many rows it has."""

    breaks = ((0, 4), (1, 7))

    def __init__(self, folder):
        super().__init__(folder)
        kept.table().to_csv(folder / "rows.csv", index=False)

    def data(self):
        return self.prep.dataset(str(self.folder / "rows.csv"), SIZE, shuffle=True, seed=4)


class OneTaskARow(Case):
    """Rows of one task each, mixed."""

    def __init__(self, folder):
        super().__init__(folder)
        rows = kept.table().drop(columns="stars")
        self.rows = rows.assign(task=np.where(np.arange(len(rows)) % 4, "a", "b"))
        columns = [tfmoe.Numeric("x"), tfmoe.Categorical("c", dim=2)]
        tasks = [tfmoe.Binary("a", source="click"), tfmoe.Binary("b", source="click")]
        schema = tfmoe.Schema(columns, tasks, task_column="task")
        self.prep = tfmoe.Preprocessor(schema).fit(self.rows)

    def model(self):
        return kept.model_of(self.prep)

    def data(self):
        mixer = tfmoe.TaskMixer("even")
        return self.prep.dataset(self.rows, SIZE, seed=4, mixer=mixer)


class RawRows(Case):
    """A table that `fit` parts and plans by itself."""

    epochs = None
    breaks = ((1, 1),)

    def model(self):
        # So large a rate soon stops it.
        return kept.model_of(self.prep, keras.optimizers.Adam(3.0))

    def data(self):
        return kept.table(110)

    def arguments(self):
        return {"patience": 0}


class Repeated(Case):
    """Epochs of other lengths than the data's, of a dataset that was made of one of ours."""

    breaks = ((0, 2), (1, 3), (2, 0))

    def data(self):
        dataset = self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)
        return dataset.map(lambda *batch: batch).repeat()

    def arguments(self):
        return {"steps_per_epoch": 5}


class Divided(Repeated):
    """Two epochs share each pass over the data."""

    breaks = ((0, 2), (1, 1))

    def data(self):
        return self.prep.dataset(kept.table(), SIZE, shuffle=True, seed=4)

    def arguments(self):
        return {"steps_per_epoch": 4}


class Foreign(Case):
    """A dataset that is none of ours, in an order that it says itself."""

    def data(self):
        arrays = tf.data.Dataset.from_tensor_slices(self.prep.arrays(kept.table()))
        return arrays.shuffle(60, seed=1, reshuffle_each_iteration=False).batch(SIZE)


class Arrays(Foreign):
    """Arrays in their order."""

    def data(self):
        return self.prep.arrays(kept.table())

    def arguments(self):
        return {"batch_size": SIZE, "shuffle": False}


class SeveralAtOnce(Arrays):
    """Six batches of which Keras takes four at once, and then two."""

    breaks = ((0, 7), (1, 3), (1, None))
    every_steps = 2

    def model(self):
        model = kept.model_of(self.prep)
        model.compile("adam", jit_compile=False, steps_per_execution=4)
        model.optimizer.build(model.trainable_variables)
        return model

    def arguments(self):
        return {"batch_size": 10, "shuffle": False}


class Stream(Case):
    """A stream without an end, that can begin anywhere."""

    breaks = ((0, 2), (1, 3), (1, None))
    every_steps = 2

    def data(self):
        return self.prep.dataset(stream, SIZE, shuffle=20, seed=4)

    def arguments(self):
        return {"steps_per_epoch": 5}


class OldStream(Stream):
    """A stream that can only begin at its beginning."""

    breaks = ((1, 1),)

    def data(self):
        return self.prep.dataset(lambda: stream(0), SIZE, shuffle=20, seed=4)


def stream(start):
    """Rows without an end, by their numbers; chunks of another size after a restart."""
    while True:
        numbers = np.arange(start, start + 23)
        yield pd.DataFrame(
            {
                "x": np.sin(numbers),
                "c": (numbers % 7).astype(str),
                "click": numbers % 2,
                "stars": np.cos(numbers),
            }
        )
        start += 23


CASES = [
    InMemory,
    InFiles,
    OfUnknownLength,
    OneTaskARow,
    RawRows,
    Repeated,
    Divided,
    Foreign,
    Arrays,
    SeveralAtOnce,
    Stream,
    OldStream,
]


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", CASES)
def test_a_training_that_goes_on_ends_as_one_that_never_died(kind, tmp_path):
    case = kind(tmp_path)
    # A table is read as files are where a training is kept, so that there too it has to be.
    expected = case.run(0, tmp_path / "whole" if kind is RawRows else None)
    folder = tmp_path / "checkpoints"
    for number, place in enumerate(case.breaks):
        # What a new process begins with, and draws, is of no matter once there is a checkpoint.
        history, _ = case.run(number, folder, place)
        assert history is None
    kept.check_same(case.run(99, folder), expected)
    # It has ended, and is not begun again.
    kept.check_same(case.run(98, folder), expected)


MODELS: dict = {}


def plain(folder, **changes):
    """A plain training of one epoch, that is kept; with other arguments of what it is made of."""
    given = {"optimizer": "adam", "weighting": None, "data": {}, "rows": kept.table()}
    given |= {"callbacks": [], "checkpoint": {}, "epochs": 1} | changes
    prep = tfmoe.Preprocessor(kept.schema()).fit(given["rows"])
    how = given["optimizer"], given["weighting"]
    if "rows" in changes:
        model = kept.model_of(prep, *how)
    else:
        if how not in MODELS:
            MODELS[how] = kept.Anew(kept.model_of(prep, *how))
        model = MODELS[how](0)
    data = {"batch_size": 30, "shuffle": True, "seed": 4} | given["data"]
    checkpoint = tfmoe.Checkpoint(folder, **given["checkpoint"])
    kept.fitted(
        model,
        prep.dataset(given["rows"], **data),
        [*given["callbacks"], checkpoint],
        epochs=given["epochs"],
    )
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "checkpoints"
    plain(folder)
    return folder


OTHER_ROWS = kept.table().assign(c=lambda rows: rows["c"].replace("3", "13"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "Received another compiled.optimizer"),
        ({"optimizer": keras.optimizers.Adam(0.01)}, "Received another compiled.optimizer"),
        ({"optimizer": tfmoe.optimizers.Adam(0.01)}, r"learning_rate.0=0.0\d* in place of 0.001"),
        ({"weighting": "uncertainty"}, "Received another compiled.weighting"),
        ({"data": {"seed": 5}}, "another data.rows.seed=5 in place of 4"),
        ({"data": {"batch_size": 15}}, "another data.rows.batch_size=15 in place of 30"),
        ({"rows": OTHER_ROWS}, "Received another vocabularies"),
        ({"callbacks": [keras.callbacks.EarlyStopping("loss")]}, "Received another callbacks"),
    ],
)
def test_another_training_does_not_go_on(checkpoints, changes, message):
    before = sorted(os.listdir(checkpoints))
    with pytest.raises(ValueError, match=message):
        plain(checkpoints, **changes)
    assert sorted(os.listdir(checkpoints)) == before


def test_nothing_is_written_over(checkpoints):
    with pytest.raises(FileExistsError, match="which is not empty, with resume=False"):
        plain(checkpoints, checkpoint={"resume": False})


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([tfmoe.CompactExperts()], "Received CompactExperts beside a Checkpoint"),
        ([tfmoe.Checkpoint("other")], "Received 2 Checkpoints"),
    ],
)
def test_callbacks_that_do_not_go_together(tmp_path, callbacks, message):
    with pytest.raises(ValueError, match=message):
        plain(tmp_path / "checkpoints", callbacks=callbacks)


def test_rows_that_keras_shuffles_are_refused(tmp_path):
    prep = kept.preprocessor()
    model = kept.model_of(prep)
    with pytest.raises(ValueError, match="in an order that nobody can repeat"):
        kept.fitted(model, prep.arrays(kept.table()), [tfmoe.Checkpoint(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"every_steps": 0}, "`every_steps` to be None or an integer"), ({"keep": 0}, "`keep`")],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmoe.Checkpoint("folder", **arguments)


def test_another_kind_of_model_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(ValueError, match="keeps the training of a MultiTaskModel"):
        model.fit(np.ones((2, 1)), np.ones(2), callbacks=[tfmoe.Checkpoint(tmp_path)], verbose=0)


def test_it_says_where_it_goes_on_and_may_go_on_for_longer(checkpoints, capsys):
    model = plain(checkpoints)
    assert model.plan.startswith("The training has ended already, as ")
    model = plain(checkpoints, epochs=2)
    assert model.plan.startswith("Goes on after epoch 1, from ")
    assert model.history.epoch == [0, 1]
    assert capsys.readouterr().out == ""  # with verbose=0


def test_the_newest_are_kept_and_a_broken_one_is_passed_over(tmp_path):
    plain(tmp_path, epochs=3)
    names = [f"epoch-0000{epoch}-step-000000000.npz" for epoch in (2, 3)]
    assert sorted(os.listdir(tmp_path)) == names
    newest = tmp_path / names[1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="The one before it is taken"):
        model = plain(tmp_path, epochs=3)
    assert "Goes on after epoch 2" in model.plan
    assert model.history.epoch == [0, 1, 2]
    assert sorted(os.listdir(tmp_path)) == names


def test_a_broken_one_of_a_later_step_is_none_of_those_that_are_kept(tmp_path):
    """What is written after it is found again, though its name comes before."""
    plain(tmp_path, epochs=3)
    for name in os.listdir(tmp_path):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="The one before it is taken"):
        plain(tmp_path, epochs=1)
    assert "epoch-00001-step-000000000.npz" in os.listdir(tmp_path)
    with pytest.warns(UserWarning, match="The one before it is taken"):
        model = plain(tmp_path, epochs=2)
    assert "Goes on after epoch 1" in model.plan


def test_a_file_holds_what_it_was_given(tmp_path):
    import ml_dtypes

    half = np.arange(3).astype(ml_dtypes.bfloat16)
    tree = {"a": [1, None, "x", float("nan"), True], "b": {"c": np.eye(2), "d": half}, "e": ()}
    checkpoint_file.write(tmp_path / "a.npz", tree)
    found = checkpoint_file.read(tmp_path / "a.npz")
    assert found["a"][:3] == [1, None, "x"]
    assert np.isnan(found["a"][3])
    assert found["e"] == []
    np.testing.assert_array_equal(found["b"]["c"], np.eye(2))
    assert found["b"]["d"].dtype == half.dtype
    np.testing.assert_array_equal(found["b"]["d"], half)
    with pytest.raises(TypeError, match="Received <object"):
        checkpoint_file.write(tmp_path / "b.npz", {"a": object()})
    assert os.listdir(tmp_path) == ["a.npz"]


def test_every_random_state_of_a_model_is_kept():
    mixtures = [
        tfmoe.SNR(),
        tfmoe.MMoE(num_experts=3, hidden_units=(4,), gate=tfmoe.GumbelGate()),
    ]
    prep = kept.preprocessor()
    gc.collect()
    before = {id(one) for one in gc.get_objects() if isinstance(one, keras.random.SeedGenerator)}
    for mixture in mixtures:
        model = tfmoe.MultiTaskModel(prep, mixture, tower_dropout=0.5, column_dropout=0.1)
        model.compile("adam", jit_compile=False)
        known = {id(one) for group in variables_of(model).values() for one in group}
        made = [one for one in gc.get_objects() if isinstance(one, keras.random.SeedGenerator)]
        mine = [one for one in made if id(one) not in before and id(one.state) not in known]
        assert not mine
        before |= {id(one) for one in made}


def test_a_task_checkpoint_goes_on_with_its_files(tmp_path):
    def fit(**changes):
        best = tfmoe.TaskCheckpoint(tmp_path / "best", whole=True)
        plain(tmp_path / "checkpoints", callbacks=[best], **changes)
        return best.best

    first = fit()
    both = fit(epochs=2)
    assert both.keys() == first.keys()
    with pytest.raises(FileExistsError, match="Nothing is written over"):
        plain(tmp_path / "other", callbacks=[tfmoe.TaskCheckpoint(tmp_path / "best", whole=True)])


def killed(folder, kills):
    """What a training came to that was never stopped, and what one that was killed again and again.

    Of processes that are really killed; see `tests/model/kept.py`.
    """
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.model.kept", str(folder), json.dumps(kills)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, resumed = np.load(folder / "whole.npz"), np.load(folder / "resumed.npz")
    assert sorted(whole) == sorted(resumed)
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    left = sorted(os.listdir(folder / "checkpoints"))
    assert len(left) == 2, left
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_process_may_be_killed_in_a_step_and_while_it_writes(tmp_path):
    kills = [["at", 0, 2], ["writing", 3]]
    assert killed(tmp_path, kills) == [signal.SIGKILL] * 2 + [0]


@pytest.mark.slow
def test_a_process_may_be_killed_at_any_moment(tmp_path):
    drawn = np.random.default_rng(0)
    kills = [["after", float(seconds)] for seconds in drawn.uniform(1, 9, 14)]
    kills += [["writing", int(number)] for number in drawn.integers(1, 4, 3)]
    kills += [["removing", int(number)] for number in drawn.integers(1, 4, 3)]
    killed(tmp_path, drawn.permutation(np.array(kills, object)).tolist())


ELSEWHERE = """
import sys, warnings
warnings.simplefilter("ignore")
import keras, numpy as np, tfmoe
from tests.model import kept

rows, folder = kept.table(), sys.argv[1]
prep = kept.preprocessor()
def run(model, folder=None, breaks=None):
    callbacks = [tfmoe.Checkpoint(folder, every_steps=1)] if folder else []
    callbacks += [kept.BreaksAt(*breaks)] if breaks else []
    how = {"batch_size": 8, "shuffle": False, "epochs": 2}
    history = kept.fitted(model, prep.arrays(rows), callbacks, **how)
    return history, kept.numbers_of(model)
model = kept.model_of(prep)
# torch would take minutes to compile what TensorFlow and JAX do in seconds.
model.compile("adam", jit_compile=keras.backend.backend() == "jax")
model.optimizer.build(model.trainable_variables)
anew = kept.Anew(model)
run(model)  # the first one draws for what is built, too
expected = run(anew(0))
anew(0)
assert run(model, folder, (0, 3))[0] is None
anew(1)
assert run(model, folder, (0, None))[0] is None
anew(2)
assert run(model, folder, (1, 5))[0] is None
kept.check_same(run(model, folder), expected)

# Epochs that share a pass, and end with it.
def shared(model, folder=None, breaks=None):
    callbacks = [tfmoe.Checkpoint(folder, every_steps=1)] if folder else []
    callbacks += [kept.BreaksAt(*breaks)] if breaks else []
    how = {"batch_size": 15, "shuffle": False, "epochs": 4, "steps_per_epoch": 2}
    return kept.fitted(model, prep.arrays(rows), callbacks, **how), kept.numbers_of(model)
folder = f"{folder}_shared"
expected = shared(anew(0))
for number, place in enumerate([(0, None), (1, None), (2, 0)]):
    assert shared(anew(number), folder, place)[0] is None
kept.check_same(shared(anew(9), folder), expected)

# Data whose number of batches nobody knows.
folder = f"{folder}_stream"
def stream():
    for start in range(0, 60, 20):
        yield prep.arrays(rows[start : start + 20])
def streamed(model, breaks=None):
    callbacks = [tfmoe.Checkpoint(folder, every_steps=1), kept.BreaksAt(*breaks)]
    return kept.fitted(model, stream(), callbacks, epochs=1)
assert streamed(anew(0), (0, None)) is None
if keras.backend.backend() == "jax":
    try:
        streamed(anew(1), (0, None))
    except ValueError as error:
        assert "checkpoint of step 3, the epoch's last. Remove that file" in str(error), error
    else:
        raise AssertionError
else:
    assert streamed(anew(1), (1, None)).epoch == [0]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_go_on(backend, tmp_path):
    run_on(backend, "-c", ELSEWHERE, tmp_path)
