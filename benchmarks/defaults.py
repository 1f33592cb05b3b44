"""What the defaults give on tables that nobody has prepared, beside what one would try first.

Each table is parted 80 to 20 by a seed, five times. `tfmoe` gets the training part and nothing
else: `MultiTaskModel(Preprocessor(schema).fit(train), MMoE()).fit(train)`, with the schema that
`Schema.infer` proposes, but for columns that would be given away (ids are told as such, text of two
values as `Binary`). `linear` is scikit-learn's logistic or ridge regression, each task alone, of
standardised numbers and one-hot categories; `mlp` is a plain Keras network of the sizes of one of
tfmoe's experts and its tower, each task alone, embeddings of 16 for categories, Adam, stopped by a
tenth held out. `trees` are scikit-learn's gradient-boosted ones with their defaults: beside, for
what is lost by taking a network at all.

A row is a table and a contestant: the mean over tasks of the AUC of binary tasks and of the error
of numbers, as a share of the error of the mean label; `auc_gap` and `rmse_gap` are tfmoe's minus
(AUC) and divided by (error) the better of `linear` and `mlp` for each seed and task, with a 95 %
interval over the seeds.
"""

import keras
import numpy as np
import pandas as pd
from scipy import stats
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tfmoe
from benchmarks import studies
from tfmoe.datasets.census import census_income
from tfmoe.datasets.movielens import movielens

SEEDS = 5
ROWS = 20_000  # of the larger tables, drawn once, and twice as many ratings
UNITS = (256, 128, 64)
CONTESTANTS = ("tfmoe", "linear", "mlp", "trees")
TABLES = "diabetes,breast_cancer,wine,digits,census,ml-1m"
OPTIONS = {"only": (str, TABLES, "names of tables")}


def tables(quick):
    """By name: a DataFrame and a schema of two tasks."""
    diabetes = datasets.load_diabetes(as_frame=True, scaled=False).frame
    diabetes = diabetes.rename(columns={"target": "progress"})
    diabetes["high_sugar"] = (diabetes.pop("s6") > 90) * 1
    cancer = datasets.load_breast_cancer(as_frame=True).frame
    cancer = cancer.rename(columns={"target": "benign"})
    found = {
        "diabetes": infer(diabetes, ["progress", "high_sugar"]),
        "breast_cancer": infer(cancer, ["benign", "mean concavity"]),
    }
    if quick:
        return {"diabetes": found["diabetes"]}
    wine = datasets.load_wine(as_frame=True).frame
    wine["first"] = (wine.pop("target") == 0) * 1
    digits = datasets.load_digits(as_frame=True).frame
    digits["even"] = (digits["target"] % 2 == 0) * 1
    digits["large"] = (digits.pop("target") > 4) * 1
    census = census_income()
    ratings = movielens("ml-1m")
    rated = ratings.train[ratings.train["watch"] == 1]
    watched = pd.concat([rated, ratings.train[ratings.train["watch"] == 0]])
    return {
        **found,
        "wine": infer(wine, ["first", "alcohol"]),
        "digits": infer(digits, ["even", "large"]),
        "census": (census.train.sample(ROWS, random_state=0), census.schema),
        "ml-1m": (watched.sample(ROWS * 2, random_state=0), _standardised(ratings.schema)),
    }


def infer(rows, labels):
    return rows, tfmoe.Schema.infer(rows, labels)


def _standardised(schema):
    tasks = [tfmoe.Binary("watch"), tfmoe.Regression("rating", where="watch")]
    return tfmoe.Schema(schema.columns, tasks)


def run(quick, only=TABLES):
    """Trains everybody on every table that is named; a row for each pair."""
    found, rows = tables(quick), []
    all_tables = {name: found[name] for name in only.split(",") if name in found}

    def one_run(cell):
        table, schema = all_tables[cell["set"]]
        train, test = train_test_split(table, test_size=0.2, random_state=cell["seed"])
        keras.backend.clear_session()
        keras.utils.set_random_seed(cell["seed"])
        predicted = globals()[f"_{cell['model']}"](train, test, schema, quick)
        return {"scores": [float(value) for value in score(test, schema, predicted)]}

    grid = studies.Grid("defaults", one_run, quick)
    for name, (_, schema) in all_tables.items():
        seeds = range(1 if quick else SEEDS)
        cells = [{"set": name, "model": who, "seed": s} for s in seeds for who in CONTESTANTS]
        runs = grid.run(cells)
        scores = {
            who: [run["scores"] for run in runs if run["model"] == who] for who in CONTESTANTS
        }
        rows += rows_of(name, schema, scores)
    return rows


def score(test, schema, predicted):
    """AUC of each binary task, and the error of each number as a share of its deviation."""
    found = []
    for task in schema.tasks:
        labels = test[task.raw_name].to_numpy("float64")
        use = ~np.isnan(labels)
        labels, values = labels[use], np.asarray(predicted[task.name])[use]
        if isinstance(task, tfmoe.Binary):
            found.append(roc_auc_score(labels, values))
        else:
            found.append(np.sqrt(np.mean((values - labels) ** 2)) / labels.std())
    return found


def rows_of(name, schema, scores):
    """Rows of a table, from each contestant's scores `(seeds, tasks)`."""
    scores = {who: np.array(values) for who, values in scores.items()}
    binary = np.array([isinstance(task, tfmoe.Binary) for task in schema.tasks])
    both = np.stack([scores["linear"], scores["mlp"]])
    better = np.where(binary, both.max(axis=0), both.min(axis=0))
    rows = []
    for who, values in scores.items():
        row = {"table": name, "name": who, "auc": _mean(values[:, binary])}
        row["rmse_share"] = _mean(values[:, ~binary])
        if who == "tfmoe":
            row |= _gap("auc_gap", (values - better)[:, binary])
            row |= _gap("rmse_gap", (values / better)[:, ~binary])
        rows.append(row)
    return rows


def _mean(values):
    return round(float(values.mean()), 4) if values.size else None


def _gap(name, values):
    if not values.size:
        return {name: None, f"{name}_95": None}
    means = values.mean(axis=1)
    half = stats.t.ppf(0.975, len(means) - 1) * stats.sem(means) if len(means) > 1 else 0.0
    return {name: _mean(values), f"{name}_95": round(float(half), 4)}


def headline(rows):
    """In how many tables the defaults are within 0.01 AUC and 3 % of the error."""
    ours = [row for row in rows if row["name"] == "tfmoe"]
    within = [
        (row["auc_gap"] is None or row["auc_gap"] >= -0.01)
        and (row["rmse_gap"] is None or row["rmse_gap"] <= 1.03)
        for row in ours
    ]
    return f"within={sum(within)}/{len(ours)}"


def _tfmoe(train, test, schema, quick):
    prep = tfmoe.Preprocessor(schema).fit(train, progress=False)
    model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE())
    model.compile()
    model.fit(train, epochs=1 if quick else None, verbose=0)
    return model.predict(test, verbose=0)


def _features(schema):
    """Names of the columns of numbers and of categories; lists are left to tfmoe."""
    numbers = [c.raw_name for c in schema.columns if isinstance(c, tfmoe.Numeric)]
    lists = tfmoe.MultiCategorical
    categories = [
        c.raw_name
        for c in schema.columns
        if isinstance(c, tfmoe.Categorical) and not isinstance(c, lists)
    ]
    return numbers, categories


def _filled(rows, numbers, categories):
    filled = rows[numbers].fillna(rows[numbers].mean())
    return pd.concat([filled, rows[categories].astype(str)], axis=1)


def _by_task(train, test, schema, fitted):
    """Predictions of a model for each task alone, of the rows that have its label."""
    numbers, categories = _features(schema)
    x, x_test = (_filled(rows, numbers, categories) for rows in (train, test))
    found = {}
    for task in schema.tasks:
        labels = train[task.raw_name].to_numpy("float64")
        use = ~np.isnan(labels)
        binary = isinstance(task, tfmoe.Binary)
        model = fitted(binary, numbers, categories).fit(x[use], labels[use])
        found[task.name] = model.predict_proba(x_test)[:, 1] if binary else model.predict(x_test)
    return found


def _one_hot(**options):
    return OneHotEncoder(handle_unknown="ignore", **options)


def _linear(train, test, schema, quick):
    def model(binary, numbers, categories):
        columns = make_column_transformer((StandardScaler(), numbers), (_one_hot(), categories))
        # By folds, for the other way asks for a matrix as large as all ids.
        ridge = RidgeCV(np.logspace(-2, 3, 6), cv=3)
        last = LogisticRegression(max_iter=1000) if binary else ridge
        return make_pipeline(columns, last)

    return _by_task(train, test, schema, model)


def _trees(train, test, schema, quick):
    def model(binary, numbers, categories):
        # At most 255 categories; ids are as they are, in order.
        kind = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
        columns = make_column_transformer(
            ("passthrough", numbers),
            (
                OneHotEncoder(handle_unknown="ignore", max_categories=50, sparse_output=False),
                categories,
            ),
        )
        return make_pipeline(columns, kind(random_state=0))

    return _by_task(train, test, schema, model)


def _mlp(train, test, schema, quick):
    def model(binary, numbers, categories):
        return _Network(binary, numbers, categories, 1 if quick else 100)

    return _by_task(train, test, schema, model)


class _Network:
    """A plain Keras network of one task, with scikit-learn's methods."""

    def __init__(self, binary, numbers, categories, epochs):
        self.binary, self.numbers, self.categories = binary, numbers, categories
        self.epochs = epochs

    def fit(self, x, y):
        self.scaler = StandardScaler().fit(x[self.numbers]) if self.numbers else None
        self.ids = {n: {v: i + 1 for i, v in enumerate(x[n].unique())} for n in self.categories}
        self.mean, self.std = (0.0, 1.0) if self.binary else (y.mean(), y.std())
        inputs = {}
        parts = []
        if self.numbers:
            inputs["numbers"] = keras.Input((len(self.numbers),), name="numbers")
            parts.append(inputs["numbers"])
        for name, ids in self.ids.items():
            inputs[name] = keras.Input((), dtype="int32", name=name)
            parts.append(keras.layers.Embedding(len(ids) + 1, 16)(inputs[name]))
        hidden = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
        for units in UNITS:
            hidden = keras.layers.Dense(units, "relu")(hidden)
        output = keras.layers.Dense(1, "sigmoid" if self.binary else None)(hidden)
        self.model = keras.Model(inputs, output)
        loss = "binary_crossentropy" if self.binary else "mse"
        self.model.compile("adam", loss, jit_compile=False)
        order = np.random.default_rng(0).permutation(len(y))
        held, rest = np.split(order, [max(1, len(y) // 10)])
        given, labels = self._given(x), (y - self.mean) / self.std
        stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
        self.model.fit(
            {n: v[rest] for n, v in given.items()},
            labels[rest],
            validation_data=({n: v[held] for n, v in given.items()}, labels[held]),
            epochs=self.epochs,
            batch_size=int(np.clip(len(y) // 200, 32, 4096)),
            callbacks=[stop],
            verbose=0,
        )
        return self

    def _given(self, x):
        given = {n: x[n].map(ids).fillna(0).to_numpy("int32") for n, ids in self.ids.items()}
        if self.numbers:
            given["numbers"] = self.scaler.transform(x[self.numbers]).astype("float32")
        return given

    def predict(self, x):
        found = self.model.predict(self._given(x), batch_size=4096, verbose=0)[:, 0]
        return found * self.std + self.mean

    def predict_proba(self, x):
        return np.stack([1 - self.predict(x), self.predict(x)], axis=1)
