import keras
import numpy as np
import pandas as pd
import pytest

import tfmoe

COLUMNS = [tfmoe.Numeric("x")]


@pytest.fixture(scope="module")
def df():
    rng = np.random.default_rng(0)
    click = np.arange(40) % 4 == 0
    return pd.DataFrame(
        {
            "x": rng.normal(size=40),
            "click": np.where(np.arange(40) == 7, np.nan, click),
            "mood": np.arange(40) % 3,
            "stars": rng.normal(size=40),
            "more": rng.integers(1, 4, 40).astype(float),
        }
    )


def made(df, *tasks, **roles):
    keras.utils.set_random_seed(0)
    schema = tfmoe.Schema(COLUMNS, tasks, **roles)
    model = tfmoe.MultiTaskModel(
        tfmoe.Preprocessor(schema).fit(df, progress=False), tfmoe.SharedBottom(hidden_units=(3,))
    )
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False, run_eagerly=True)
    return model


def fitted(model, *arguments, **options):
    model.fit(*arguments, verbose=0, shuffle=False, **options)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


CLICK, MOOD = tfmoe.Binary("click"), tfmoe.Multiclass("mood", num_classes=3)


@pytest.mark.quick(1)
@pytest.mark.parametrize("task", [CLICK, MOOD])
@pytest.mark.parametrize("source", ["table", "arrays", "dataset", "weights beside"])
def test_rows_weigh_as_their_classes(df, task, source):
    weights = {0: 1.0, 1: 9.0} if task is CLICK else {2: 3.0, 0: 0.0}
    labels = df[task.name].fillna(0).astype(int)
    of_rows = labels.map(lambda label: weights.get(label, 1.0)).to_numpy("float32")
    model = made(df, task)
    more = np.arange(40.0) if source == "weights beside" else None
    given = of_rows if more is None else of_rows * more
    expected = fitted(model, df, sample_weight=given, batch_size=10)
    model = made(df, task)
    if source == "dataset":
        data = model.preprocessor.dataset(df, batch_size=10)
        found = fitted(model, data, class_weight=weights)
    elif source == "arrays":
        x, y, _ = model.preprocessor.arrays(df)
        found = fitted(model, x, y[task.name], class_weight=weights, batch_size=10)
    else:
        found = fitted(model, df, class_weight=weights, sample_weight=more, batch_size=10)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(fitted(made(df, task), df, batch_size=10), expected)


@pytest.mark.slow
def test_validation_rows_do_not_weigh_more(df):
    model = made(df, CLICK)
    history = model.fit(
        df, class_weight={1: 50.0}, validation_split=0.25, verbose=0, shuffle=False
    ).history
    alone = model.evaluate(df[30:], verbose=0)
    assert history["val_loss"][0] == pytest.approx(alone["loss"], rel=1e-4)


def test_one_batch_weighs_alike(df):
    (x, y, weights), one, other = (
        made(df, CLICK).preprocessor.arrays(df),
        *(made(df, CLICK) for _ in range(2)),
    )
    own = np.where(y["click"] == 1, 9.0, 1.0)
    got = one.train_on_batch(x, y, class_weight={1: 9.0}, return_dict=True)
    want = other.train_on_batch(x, y, sample_weight={"click": own}, return_dict=True)
    assert got["loss"] == pytest.approx(want["loss"])
    assert weights["click"].min() == 1


@pytest.mark.parametrize(
    ("tasks", "weights", "message"),
    [
        ((CLICK, MOOD), {1: 9.0}, "'mood': 'Multiclass'.*weight_column.*by task"),
        ((tfmoe.Regression("stars"),), {1: 9.0}, "'stars': 'Regression'.*weight_column"),
        ((CLICK,), {2: 9.0}, "classes 0 to 1 .*Received class_weight={2: 9.0}"),
        ((CLICK,), {1: -1.0}, "at least 0. Received class_weight={1: -1.0}"),
        ((CLICK,), "balanced", "Received class_weight='balanced'"),
    ],
)
def test_class_weights_that_mean_nothing_are_refused(df, tasks, weights, message):
    model = made(df, *tasks)
    with pytest.raises(ValueError, match=message):
        model.fit(df, class_weight=weights, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_batches_that_come_one_by_one_weigh_themselves(df):
    model = made(df, CLICK)
    with pytest.raises(ValueError, match="Received x of type generator"):
        model.fit(iter(model.preprocessor.batches(df)), class_weight={1: 9.0}, verbose=0)
