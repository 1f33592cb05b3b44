"""Writes golden files: all that users keep on disk, as the version at hand writes it.

    python tests/golden/write.py FOLDER

`files/` was written by the version that its `index.json` names, and stays as it is: every
later version must load it with the same predictions, see `test_golden.py`. Only public names
of tfmoe are used here, so that any version can write such a folder: where Keras is older than
the one that wrote `files/`, the tests read a folder of their own.

    index.json      versions; the cases: what each is of, and what else holds for it
    rows.json       raw rows, by column, that all models on tables were trained on and predict
    expected.npz    what every case gives, by `case/.../name`
    models/         `.keras` of MultiTaskModels
    layers/         `.keras` of plain Keras models with layers of tfmoe
    served/         SavedModels, zipped
    preprocessors/  folders of `Preprocessor.save`
    schemas/        `.json` and `.yaml` of `Schema.save`
    pickles/        what users pickle, though the package never does
"""

import contextlib
import dataclasses
import json
import pickle
import pickletools
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import ops

import tfmoe

NUM_ROWS, NUM_FITTED = 40, 32
MOODS = ("bad", "good", "so-so")

# --- rows and schemas -----------------------------------------------------------------

# Every kind of column and task, and all that their arguments say otherwise than by default.
WIDE = tfmoe.Schema(
    columns=[
        tfmoe.Categorical("user_id", dim=3, dtype="int", max_size=6),
        tfmoe.Categorical("movie_id", dim=2, dtype="string", min_count=2),
        tfmoe.Categorical("device", dim=2, hash_buckets=5),
        tfmoe.Categorical("liked_id", share="movie_id"),
        tfmoe.Categorical("city", dim=2, source="home town"),
        tfmoe.MultiCategorical("genres", dim=3, separator="|", pooling="sum"),
        tfmoe.MultiCategorical("tags", dim=2, pooling="max", hash_buckets=4, max_length=2),
        tfmoe.Sequence("history", share="movie_id", max_length=3),
        tfmoe.Sequence("pages", dim=2, separator=" ", pooling="max", max_length=4),
        tfmoe.Numeric("age"),
        tfmoe.Numeric("plays", transform="log"),
        tfmoe.Numeric("price", transform="buckets", num_buckets=4, dim=2),
        tfmoe.Numeric("bias", transform="none", fill=1.5),
        tfmoe.Numeric("stay", fill=-2.0),
    ],
    tasks=[
        tfmoe.Binary("watch"),
        tfmoe.Regression("rating", where="watch", weight=0.5, loss="huber"),
        tfmoe.Multiclass("mood", classes=MOODS),
        tfmoe.Multiclass("stars", num_classes=4, source="num stars"),
        tfmoe.Regression("hours", loss="mae"),
    ],
    weight_column="weight",
)

# It needs no fitting.
NARROW = tfmoe.Schema(
    columns=[
        tfmoe.Numeric("bias", transform="none"),
        tfmoe.Numeric("stay", transform="none", fill=0.5),
        tfmoe.Categorical("user_id", dim=3, hash_buckets=7),
    ],
    tasks=[
        tfmoe.Binary("watch"),
        tfmoe.Regression("rating"),
        tfmoe.Multiclass("mood", classes=MOODS),
    ],
)

# Each row has one task.
MARKETS = tfmoe.Schema(
    columns=[
        tfmoe.Numeric("age", fill=30.0),
        tfmoe.Categorical("user_id", dim=3),
        tfmoe.Categorical("market_id", source="market", dim=2),
        tfmoe.MultiCategorical("tags", dim=2, max_length=2),
        tfmoe.Sequence("history", dim=3, max_length=3),
    ],
    tasks=[
        tfmoe.Binary("de", source="watch"),
        tfmoe.Regression("fr", source="hours", key="F R", weight=0.5),
        tfmoe.Binary("jp", source="watch", where="seen", key=81),
    ],
    weight_column="weight",
    task_column="market",
)
MARKET_KEYS = ("de", "F R", "81")

# Likewise, with a different number of classes each.
GRADES = tfmoe.Schema(
    columns=[tfmoe.Numeric("bias", transform="none"), tfmoe.Numeric("stay", transform="none")],
    tasks=[
        tfmoe.Multiclass("de", source="grade", num_classes=2),
        tfmoe.Multiclass("fr", source="grade", num_classes=4, key="F R"),
        tfmoe.Multiclass("jp", source="grade", num_classes=3, key=81),
    ],
    task_column="market",
)

SCHEMAS = {"wide": WIDE, "narrow": NARROW, "markets": MARKETS, "grades": GRADES}


def raw_rows():
    """Dict of lists by raw column; the rows from `NUM_FITTED` on have what was never seen."""
    rng = np.random.default_rng(0)
    late = np.arange(NUM_ROWS) >= NUM_FITTED
    user, movie = rng.integers(1, 9, NUM_ROWS), rng.integers(0, 6, NUM_ROWS)

    def some(values, share=0.1):
        """The values with gaps, as plain Python's."""
        gaps = rng.random(NUM_ROWS) < share
        return [None if gap else one for gap, one in zip(gaps, list(values), strict=True)]

    def lists(prefix, limit, longest):
        """Of each row a list, whose values from `limit` on only late rows have."""
        found = []
        for is_late in late:
            values = rng.integers(0, limit + 2 * is_late, rng.integers(0, longest + 1))
            found.append([f"{prefix}{value}" for value in values])
        return found

    watch = (user + movie) % 2
    return {
        "user_id": (user + 100 * (late & (user > 4))).tolist(),
        "movie_id": some(f"m{one}" for one in movie + 10 * late * (movie > 3)),
        "device": some(rng.choice(["phone", "tv", "web"], NUM_ROWS).tolist()),
        "liked_id": some(f"m{one}" for one in rng.integers(0, 6, NUM_ROWS)),
        "home town": some(rng.choice(["Rome", "Oslo", "K\u00f6ln", ""], NUM_ROWS).tolist()),
        "genres": some("|".join(one) for one in lists("genre ", 3, 3)),
        "tags": lists("t", 5, 4),
        "history": lists("m", 6, 5),
        "pages": [" ".join(one) for one in lists("/page", 4, 6)],
        "age": some((20 + 3.0 * user).tolist()),
        "plays": some(np.expm1(rng.random(NUM_ROWS) * 8).round(3).tolist()),
        "price": some(rng.normal(10, 3, NUM_ROWS).round(2).tolist()),
        "bias": some(rng.normal(size=NUM_ROWS).round(3).tolist()),
        "stay": some((rng.normal(size=NUM_ROWS) + 50 * late).round(3).tolist()),
        "market": rng.choice(MARKET_KEYS, NUM_ROWS).tolist(),
        "weight": rng.uniform(0.5, 2, NUM_ROWS).round(2).tolist(),
        "seen": rng.choice([0, 1, 1, 1], NUM_ROWS).tolist(),
        "watch": some(watch.tolist()),
        "rating": some((1.0 + movie).tolist()),
        "mood": some(np.array(MOODS)[(user + movie) % 3].tolist()),
        "num stars": some((movie % 4).tolist()),
        "hours": some((20 + 2.5 * watch + rng.random(NUM_ROWS).round(2)).tolist()),
        "grade": some((user % 2).tolist()),
    }


def fitted(schema, raw):
    return tfmoe.Preprocessor(schema).fit(pd.DataFrame(raw)[:NUM_FITTED], progress=False)


# --- what the tests do too ------------------------------------------------------------


def read_rows(folder):
    """`rows.json` as a dict of lists."""
    return json.loads((folder / "rows.json").read_text("utf-8"))


def rows_of(model, raw):
    """DataFrame of the rows; where each has one task, every task of the model's in turn."""
    schema, rows = model.schema, pd.DataFrame(raw)
    if schema.task_column is None:
        return rows
    return rows.assign(**{schema.task_column: _in_turn(schema.task_keys, len(rows))})


def _in_turn(values, num):
    return [values[i % len(values)] for i in range(num)]


def predictions(model, features):
    """Dict of float32 arrays by output."""
    # Not `predict`, which would trace a graph.
    return {name: _array(values) for name, values in model(features, training=False).items()}


def logs(model, batch):
    """Losses and metrics of features, labels and weights."""
    with _without_graphs(model):
        model.reset_metrics()
        found = model.test_on_batch(*batch, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def next_step(model, batch):
    """Trains for one step on features, labels and weights."""
    with _without_graphs(model):
        model.train_on_batch(*batch)


def fit(model, *data, **options):
    with _without_graphs(model):
        model.fit(*data, verbose=0, **options)


@contextlib.contextmanager
def _without_graphs(model):
    """A few steps are over sooner than a graph is traced."""
    model.run_eagerly = True
    with warnings.catch_warnings():
        # Keras then warns that a decided permutation gets no gradient.
        warnings.filterwarnings("ignore", "Gradients do not exist for variables", UserWarning)
        yield
    model.run_eagerly = False


def request(raw, sources, task_column, task_keys):
    """Dict of lists by input: what the rows are in a request to a SavedModel.

    Args:
        raw: see `read_rows`.
        sources: dict, each input's column in the raw table.
        task_column: str or None.
        task_keys: the keys of the rows' tasks, in turn.
    """
    if task_column:
        num_rows = len(next(iter(raw.values())))
        raw = {**raw, task_column: _in_turn(task_keys, num_rows)}
        sources = {**sources, task_column: task_column}
    return {name: raw[source] for name, source in sources.items()}


def answers(served, name, request):
    """Dict of arrays: what a SavedModel's signature says to a request."""
    signature = served.signatures[name]
    specs = signature.structured_input_signature[1]
    tensors = {column: _tensor(request[column], spec) for column, spec in specs.items()}
    return {name: _array(values) for name, values in signature(**tensors).items()}


def _tensor(cells, spec):
    """Cells as a signature takes them, with what it takes for a missing one."""
    missing = {tf.float64: np.nan, tf.int64: -(2**63), tf.string: ""}[spec.dtype]
    if spec.shape.rank == 2:
        width = max(1, *map(len, cells))
        cells = [[*cell, *[missing] * (width - len(cell))] for cell in cells]
    else:
        cells = [missing if cell is None else cell for cell in cells]
    return tf.constant(cells, spec.dtype)


def encoded(prep, raw):
    """Dict of arrays: all that a Preprocessor makes of the rows."""
    features, labels, weights = prep.arrays(pd.DataFrame(raw))
    words = {column: np.array(prep.vocabulary(column).to_pylist()) for column in _owners(prep)}
    return {"features": features, "labels": labels, "weights": weights, "vocabulary": words}


def _owners(prep):
    """Columns with a vocabulary of their own."""
    columns = [c for c in prep.schema.columns if isinstance(c, tfmoe.Categorical)]
    return [c.name for c in columns if not c.share and not c.hash_buckets]


def described(schema):
    """A schema as plain data, with all fields, also those that have a default value."""

    def fields(part):
        return {"kind": type(part).__name__, **dataclasses.asdict(part)}

    plain = {
        "columns": [fields(column) for column in schema.columns],
        "tasks": [fields(task) for task in schema.tasks],
        "weight_column": schema.weight_column,
        "task_column": schema.task_column,
    }
    return json.loads(json.dumps(plain))


def _array(values):
    return np.asarray(ops.convert_to_numpy(ops.cast(values, "float32")))


# --- models on tables -----------------------------------------------------------------


def trained(model, raw, optimizer="adam", callbacks=None, **options):
    """Compiles the model and fits it for a few steps."""
    model.compile(optimizer, **options)
    rows = rows_of(model, raw)[:NUM_FITTED]
    fit(model, rows, epochs=2, batch_size=8, callbacks=callbacks)
    return model


def narrow(mixture, **options):
    return tfmoe.MultiTaskModel(NARROW, mixture, tower_units=(3,), **options)


def by_market(raw, mixture):
    return tfmoe.MultiTaskModel(fitted(MARKETS, raw), mixture, tower_units=(3,))


def mmoe(gate, num_experts=4, **options):
    return tfmoe.MMoE(num_experts=num_experts, hidden_units=(4, 3), gate=gate, **options)


def adam():
    return tfmoe.optimizers.Adam(0.02)


def sgd():
    return keras.optimizers.SGD(0.05)


def softmax(raw):
    """All kinds of columns and tasks; row weights; experts with layer norm and dropout."""
    mixture = mmoe(
        tfmoe.SoftmaxGate(temperature=0.5, balance=tfmoe.ZLoss(0.01)),
        num_experts=3,
        activation="gelu",
        dropout=0.2,
        layer_norm=True,
        kernel_initializer=keras.initializers.HeNormal(seed=3),
    )
    prep = fitted(WIDE, raw)
    model = tfmoe.MultiTaskModel(prep, mixture, tower_units=(3,), tower_dropout=0.1)
    return trained(model, raw)


def shared_bottom(raw):
    """A frozen encoder; losses, their weights and metrics in place of the tasks' own."""
    bottom = tfmoe.SharedBottom(
        hidden_units=(5, 3), activation="tanh", layer_norm=True, kernel_initializer="he_uniform"
    )
    model = narrow(bottom)
    model.encoder.trainable = False
    return trained(
        model,
        raw,
        tfmoe.optimizers.Adagrad(0.05),
        # Not Huber(delta=...), whose delta Keras 3.15 does not save.
        loss={"rating": keras.losses.LogCosh(), "watch": "mse"},
        loss_weights={"watch": 2.0},
        metrics={"watch": [tfmoe.AUC(name="area")], "rating": ["mae"]},
    )


def frozen_gate(raw):
    """A frozen gate, and an optimizer with a schedule, clipping and decay."""
    model = tfmoe.MultiTaskModel(fitted(WIDE, raw), mmoe(tfmoe.SoftmaxGate()), tower_units=())
    model.mixture.gate.trainable = False
    rate = keras.optimizers.schedules.CosineDecay(0.02, 50)
    return trained(model, raw, keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0))


def dselect(raw):
    """Linear DSelect-k without folding, a scheduled loss, and the loss of mutual information."""
    gate = tfmoe.DSelectKGate(
        num_nonzeros=3,
        gamma=0.7,
        entropy_reg=keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5),
        reachability="penalty",
        usage_decay=0.9,
    )
    loss = tfmoe.MutualInformationLoss(0.02, task_prior="uniform")
    return trained(narrow(mmoe(gate, 5)), raw, tfmoe.optimizers.LazyAdam(0.02), aux_losses=loss)


def dselect_extracted(raw):
    """Two of three tasks, and the experts that a static gate selects for them, trained on."""
    gate = tfmoe.DSelectKGate(num_nonzeros=2, gamma=0.01, router="static")
    model = trained(narrow(mmoe(gate, 6)), raw, adam())
    extracted = tfmoe.extract(model, ["rating", "mood"])
    _check_fewer(extracted.extraction.experts, 6)
    return trained(extracted, raw, sgd())


def top_k(raw):
    """Noise, usage, three balance losses, an MLPRouter, sparse compute."""
    gate = tfmoe.TopKGate(
        num_nonzeros=2,
        noisy=True,
        seed=5,
        usage_decay=0.8,
        router=tfmoe.MLPRouter((4,), activation="tanh"),
        balance=[
            tfmoe.ImportanceLoss(0.2, per_task=True),
            tfmoe.LoadLoss(0.2, sigma=0.5),
            tfmoe.SwitchLoss(0.02),
        ],
    )
    return trained(narrow(mmoe(gate, 5, dispatch="sparse")), raw, adam())


def top_k_extracted(raw):
    """One of the markets, with the experts that its rows used in training; not compiled."""
    gate = tfmoe.TopKGate(num_nonzeros=2, usage_decay=0.5)
    model = trained(by_market(raw, mmoe(gate, 8)), raw, adam())
    extracted = tfmoe.extract(model, ["fr"], threshold=0.1, by="usage")
    _check_fewer(extracted.extraction.experts, 8)
    return extracted


def comet(raw):
    """Trees on a permutation that still learns."""
    gate = tfmoe.CometGate(
        num_nonzeros=2,
        gamma=0.5,
        entropy_reg=keras.optimizers.schedules.PolynomialDecay(0.0, 5, 0.1),
        permutation=tfmoe.LearnedPermutation(
            500, temperature=(1e-2, 1e-3), num_iterations=(20, 30), entropy_reg=1e-3
        ),
    )
    return trained(narrow(mmoe(gate, 5)), raw, adam())


def omoe(raw):
    """One gate for all tasks; trees on a permutation that has been decided."""
    gate = tfmoe.CometGate(num_nonzeros=1, permutation=tfmoe.LearnedPermutation(8))
    mixture = tfmoe.OMoE(num_experts=4, hidden_units=(4,), gate=gate, dispatch="dense")
    return trained(narrow(mixture), raw, adam(), callbacks=[tfmoe.HardenPermutations()])


def gumbel(raw):
    """Noise whose temperature falls."""
    temperature = keras.optimizers.schedules.ExponentialDecay(2.0, 4, 0.5)
    gate = tfmoe.GumbelGate(num_nonzeros=1, temperature=temperature, seed=7)
    return trained(narrow(mmoe(gate)), raw, adam())


def relu(raw):
    """A loss whose coefficient has moved."""
    gate = tfmoe.ReLUGate(num_nonzeros=1, max_coefficient=0.05)
    return trained(narrow(mmoe(gate)), raw, adam())


def balanced(raw):
    """One task a row; biases that have moved."""
    gate = tfmoe.BalancedTopKGate(num_nonzeros=1, rate=0.05)
    return trained(by_market(raw, mmoe(gate)), raw, sgd())


def sparsemax(raw):
    """A TaskRouter of low rank."""
    router = tfmoe.TaskRouter(dim=3, kind="low_rank", embeddings_initializer="glorot_normal")
    return trained(narrow(mmoe(tfmoe.SparsemaxGate(router=router))), raw, adam())


def entmax(raw):
    """A static router."""
    gate = tfmoe.EntmaxGate(router="static", kernel_initializer="he_normal")
    return trained(narrow(mmoe(gate)), raw, adam())


def task_aware(raw):
    """One task a row; a TaskRouter of perceptrons; the tasks mixed otherwise than by size."""
    router = tfmoe.TaskRouter(dim=3, hidden_units=(4,), activation="tanh")
    gate = tfmoe.TaskAwareGate(num_nonzeros=2, router=router, renormalize=True)
    model = by_market(raw, mmoe(gate))
    model.compile(adam())
    mixer = tfmoe.TaskMixer("even")
    rows = rows_of(model, raw)[:NUM_FITTED]
    fit(model, model.preprocessor.dataset(rows, batch_size=8, mixer=mixer), epochs=2)
    return model


def added_by_market(raw):
    """Two tasks added where each row has one: by an embedding, and by a mix of embeddings."""
    model = task_aware(raw).add_task(tfmoe.Binary("us", source="watch"), like=["de", "jp"])
    model = trained(model, raw, adam())
    model = model.add_task(
        tfmoe.Regression("it", source="hours"), like=["fr"], routing="mix", rows=raw
    )
    return trained(model, raw, adam())


def added(raw):
    """Two tasks added where each row has all: by a mix of scores, and by scores of its own."""
    model = trained(narrow(mmoe(tfmoe.SoftmaxGate())), raw, adam())
    model = model.add_task(tfmoe.Regression("hours"), routing="mix", rows=raw)
    model = trained(model, raw, adam())
    return trained(model.add_task(tfmoe.Binary("seen"), like=["watch"]), raw, adam())


def hashed(raw):
    """A gate that hashes a column."""
    gate = tfmoe.HashGate(column="user_id", per_task=True, seed=2)
    return trained(narrow(mmoe(gate)), raw, sgd())


def mod_squad(raw):
    """Tokens, one task a row; a moving average of mutual information."""
    mixture = tfmoe.ModSquad(
        dim=4,
        num_blocks=2,
        num_experts=4,
        gate=tfmoe.TopKGate(num_nonzeros=2, usage_decay=0.8),
        mlp_ratio=1.5,
        causal=True,
        pooling="last",
        dispatch="sparse",
    )
    loss = tfmoe.MutualInformationLoss(0.02, momentum=0.5)
    return trained(by_market(raw, mixture), raw, adam(), aux_losses=[loss])


def mod_squad_all(raw):
    """Tokens of all kinds of columns, all tasks on each row, a gate that is not sparse."""
    mixture = tfmoe.ModSquad(
        dim=3, num_blocks=1, num_experts=3, gate=tfmoe.SoftmaxGate(), dropout=0.1
    )
    model = tfmoe.MultiTaskModel(fitted(WIDE, raw), mixture, tower_units=())
    return trained(model, raw, sgd())


def mod_squad_extracted(raw):
    """Some experts of each block; not compiled."""
    mixture = tfmoe.ModSquad(
        dim=4, num_blocks=1, num_experts=9, gate=tfmoe.TopKGate(num_nonzeros=1)
    )
    model = trained(by_market(raw, mixture), raw, adam())
    extracted = tfmoe.extract(model, ["de", "jp"], data=rows_of(model, raw)[:8])
    for experts in extracted.extraction.experts.values():
        _check_fewer(experts, 9)
    return extracted


def given_experts(raw):
    """Ready Keras layers as experts, one of them frozen."""
    layers = [
        keras.layers.Dense(3, activation="relu", name="plain"),
        keras.Sequential(
            [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(3)], name="deep"
        ),
        keras.layers.Dense(3, activation="gelu", name="frozen", trainable=False),
    ]
    return trained(narrow(tfmoe.MMoE(experts=layers)), raw, adam())


def bfloat16(raw):
    """Half precision, as the policy of all."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return trained(narrow(mmoe(tfmoe.TopKGate(num_nonzeros=2))), raw, adam())
    finally:
        keras.config.set_dtype_policy(before)


def grades(raw):
    """One task a row, with more classes in some tasks than in others; no tower layers."""
    prep = tfmoe.Preprocessor(GRADES)
    model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(4,)), tower_units=())
    return trained(model, raw, sgd())


@keras.saving.register_keras_serializable("golden")
class OwnMixture(keras.layers.Layer):
    """A user's layer in the place of a mixture: a matrix a task."""

    def __init__(self, num_tasks=None, units=3, **kwargs):
        super().__init__(**kwargs)
        self.num_tasks, self.units = num_tasks, units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel", shape=(input_shape[-1], self.num_tasks * self.units)
        )

    def call(self, inputs, training=False, return_aux=False):
        outputs = ops.reshape(ops.matmul(inputs, self.kernel), (-1, self.num_tasks, self.units))
        return (outputs, []) if return_aux else outputs

    def get_config(self):
        return {**super().get_config(), "num_tasks": self.num_tasks, "units": self.units}


def own_mixture(raw):
    """A mixture that is the user's."""
    return trained(narrow(OwnMixture(units=4)), raw, adam())


def _check_fewer(experts, num_experts):
    if not len(experts) < num_experts:
        raise RuntimeError(f"This case is of fewer experts than {num_experts}. Has {experts}.")


MODELS = (
    softmax,
    shared_bottom,
    frozen_gate,
    dselect,
    dselect_extracted,
    top_k,
    top_k_extracted,
    comet,
    omoe,
    gumbel,
    relu,
    balanced,
    sparsemax,
    entmax,
    task_aware,
    added_by_market,
    added,
    hashed,
    mod_squad,
    mod_squad_all,
    mod_squad_extracted,
    given_experts,
    bfloat16,
    grades,
    own_mixture,
)
# A step draws random numbers, or hangs on the average of mutual information, which is not
# saved: what the next one gives is not promised.
UNSTEADY = (softmax, top_k, gumbel, mod_squad, mod_squad_all)


# --- plain Keras models with layers of tfmoe ------------------------------------------


def layer_inputs():
    """Arrays for all models of `LAYERS`, by the names of their inputs."""
    rng = np.random.default_rng(1)
    num = 10
    return {
        "x": rng.normal(size=(num, 6)).astype("float32"),
        "ids": rng.integers(0, 9, num).astype("int32"),
        "task": rng.integers(0, 2, num).astype("int32"),
        "age": rng.normal(size=num).astype("float32"),
        "movie": rng.integers(0, 7, num).astype("int32"),
        "history": rng.integers(0, 7, (num, 3)).astype("int32"),
    }


def _symbols(*names):
    arrays = layer_inputs()
    return [keras.Input(arrays[n].shape[1:], dtype=arrays[n].dtype.name, name=n) for n in names]


def mixtures():
    """Mixtures, experts and towers, with rows' ids and tasks; compiled with Keras's losses."""
    x, ids, task = _symbols("x", "ids", "task")
    sizes = {"num_tasks": 2, "num_experts": 3, "hidden_units": (5, 4)}
    joined = keras.layers.Concatenate()([x, tfmoe.Embedding(num_rows=9, dim=3)(ids)])
    hashed = tfmoe.MMoE(**sizes, gate=tfmoe.HashGate(seed=1))(joined, ids=ids)
    one_gate = tfmoe.OMoE(**sizes)(joined)
    shared = tfmoe.SharedBottom(num_tasks=2, hidden_units=(5, 4))(joined)
    experts = tfmoe.Experts(
        num_experts=3,
        hidden_units=(5, 4),
        activation="tanh",
        layer_norm=True,
        last_activation="linear",
    )
    gate = tfmoe.SoftmaxGate(num_tasks=2, num_experts=3)
    by_hand = keras.layers.Dot((2, 1))([gate(x), experts(joined)])
    mixed = keras.layers.Add()([hashed, one_gate, shared, by_hand])
    click, stars = tfmoe.Towers(num_outputs=(1, 3), hidden_units=(3,))(mixed)
    own = tfmoe.MMoE(**sizes, gate=tfmoe.TopKGate(num_nonzeros=1))(joined, task=task)
    score = tfmoe.Towers(num_outputs=(1, 1), hidden_units=())(own, task=task)
    model = keras.Model([x, ids, task], {"click": click, "stars": stars, "score": score})
    arrays = layer_inputs()
    labels = {"click": arrays["x"][:, 0], "stars": arrays["x"][:, :3], "score": arrays["x"][:, 1]}
    model.compile(adam(), loss=dict.fromkeys(labels, "mse"))
    fit(model, {name: arrays[name] for name in ("x", "ids", "task")}, labels, epochs=2)
    return model


def tokens():
    """The Encoder's vectors and tokens, and Mod-Squad's block and whole."""
    schema = tfmoe.Schema(
        [
            tfmoe.Numeric("age"),
            tfmoe.Categorical("movie", dim=3),
            tfmoe.Sequence("history", share="movie", max_length=3),
        ],
        [tfmoe.Binary("watch")],
    )
    age, movie, history, task = _symbols("age", "movie", "history", "task")
    features = {"age": age, "movie": movie, "history": history}
    flat = tfmoe.Encoder(schema, table_sizes={"movie": 7})(features)
    encoder = tfmoe.Encoder(
        schema, table_sizes={"movie": 7}, embeddings_initializer="he_normal", tokens=4
    )
    vectors, present = encoder(features)
    block = tfmoe.ModSquadBlock(num_tasks=2, num_experts=3, mlp_ratio=1.0)
    block = block(vectors, present, task)
    squad = tfmoe.ModSquad(num_tasks=2, dim=4, num_blocks=1, num_experts=3)
    whole = squad((block, present), task=task)
    return keras.Model([age, movie, history, task], {"flat": flat, "block": block, "whole": whole})


def gates():
    """Every gate but `HashGate` alone, and what gates are made of."""
    (x,) = _symbols("x")
    sizes = {"num_tasks": 2, "num_experts": 5}
    tasks = tfmoe.TaskRouter(dim=2, kind="low_rank")
    made = {
        "softmax": tfmoe.SoftmaxGate(**sizes),
        "top_k": tfmoe.TopKGate(**sizes, noisy=True, usage_decay=0.9),
        "balanced": tfmoe.BalancedTopKGate(**sizes),
        "dselect": tfmoe.DSelectKGate(**sizes),
        "static": tfmoe.DSelectKGate(**sizes, router="static"),
        "comet": tfmoe.CometGate(**sizes, permutation=tfmoe.LearnedPermutation(10)),
        "gumbel": tfmoe.GumbelGate(**sizes),
        "relu": tfmoe.ReLUGate(**sizes),
        "sparsemax": tfmoe.SparsemaxGate(**sizes, router=tfmoe.MLPRouter((3,))),
        "entmax": tfmoe.EntmaxGate(**sizes, router=tasks),
        "task_aware": tfmoe.TaskAwareGate(**sizes),
    }
    outputs = {name: gate(x) for name, gate in made.items()}
    outputs["router"] = tfmoe.MLPRouter((4, 3))(x)
    outputs["permutation"] = tfmoe.LearnedPermutation(10)(outputs["softmax"])
    return keras.Model([x], outputs)


LAYERS = (mixtures, tokens, gates)
# Models on tables whose layers are kept in a plain model too.
PLAIN = (added, added_by_market)


# --- writing --------------------------------------------------------------------------

# Of these the SavedModel is kept as well.
SERVED = (softmax, task_aware)


class _Writer:
    """Gathers the cases and what they give.

    Args:
        folder: new folder.
    """

    def __init__(self, folder):
        self.folder, self.cases, self.expected = Path(folder), [], {}
        self.folder.mkdir(parents=True)  # an error if it is there: nothing is written over
        self.dump(raw_rows(), "rows.json")
        self.raw = read_rows(self.folder)

    def path(self, *parts):
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(exist_ok=True)
        return path

    def dump(self, plain, name):
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False)
        self.path(name).write_text(text + "\n", "utf-8")

    def add(self, kind, name, arrays, **facts):
        """A case, named by its kind, which is its folder, and its own name.

        Args:
            kind, name: str.
            arrays: dict of arrays, or of such dicts: what it gives.
            **facts: plain data: what else holds for it.
        """
        self.cases.append({"case": f"{kind}/{name}", **facts})
        self.expected.update(_flat(arrays, f"{kind}/{name}"))


def _flat(arrays, path):
    found = {}
    for name, values in arrays.items():
        inner = isinstance(values, dict)
        found.update(_flat(values, f"{path}/{name}") if inner else {f"{path}/{name}": values})
    return found


def write(folder):
    """Writes all files into a new folder."""
    writer = _Writer(folder)
    for seed, make in enumerate(MODELS):
        keras.utils.set_random_seed(seed)
        _write_model(writer, make)
    _write_layers(writer)
    _write_preprocessors(writer)
    _write_schemas(writer)
    _write_pickles(writer)
    np.savez_compressed(writer.path("expected.npz"), **writer.expected)
    writer.dump({"versions": versions(), "cases": writer.cases}, "index.json")


def versions():
    command = ["git", "rev-parse", "HEAD"]
    root = Path(tfmoe.__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return {
        "tfmoe": tfmoe.__version__,
        "commit": done.stdout.strip() or None,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _write_model(writer, make):
    model, name = make(writer.raw), make.__name__
    rows, prep = rows_of(model, writer.raw), model.preprocessor
    features, batch = prep.arrays(rows, labels=False), prep.arrays(rows[:NUM_FITTED])
    _save(model, writer.path("models", f"{name}.keras"))
    if make in SERVED:
        _write_served(writer, name, model)
    arrays = {"predictions": predictions(model, features)}
    facts = {
        "what": make.__doc__,
        "dtype": model.encoder.dtype_policy.name,
        "compiled": model.compiled,
        "steady": model.compiled and make not in UNSTEADY,
        "num_parameters": model.count_params(),
        "num_trained": num_trained(model),
    }
    if facts["compiled"]:
        facts["logs"] = logs(model, batch)
    if facts["steady"]:
        next_step(model, batch)
        arrays["next_step"] = predictions(model, features)
    writer.add("models", name, arrays, **facts)


def num_trained(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def _save(model, path):
    """Saves a model. Its bytes are Keras's, but compressed, to a fifth."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model.keras"))
        with (
            zipfile.ZipFile(Path(folder, "model.keras")) as loose,
            zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in loose.namelist():
                packed.writestr(name, loose.read(name))


def _write_served(writer, name, model):
    schema = model.schema
    facts = {
        "sources": {column.name: column.source or column.name for column in schema.columns},
        "task_column": schema.task_column,
        "task_keys": schema.task_keys,
    }
    asked = request(writer.raw, **facts)
    with tempfile.TemporaryDirectory() as folder:
        version = tfmoe.export(model, folder)
        shutil.make_archive(writer.path("served", name), "zip", version)
        served = tf.saved_model.load(str(version))
        arrays = {one: answers(served, one, asked) for one in sorted(served.signatures)}
    writer.add("served", name, arrays, **facts)


def _write_layers(writer):
    for seed, make in enumerate(LAYERS):
        keras.utils.set_random_seed(seed)
        _write_layers_of(writer, make.__name__, make.__doc__, make(), layer_inputs())
    for make in PLAIN:
        whole = keras.saving.load_model(writer.path("models", f"{make.__name__}.keras"))
        features = whole.preprocessor.arrays(rows_of(whole, writer.raw), labels=False)
        what = "The layers of a MultiTaskModel, as a plain model or a clone has them."
        model = keras.Model(whole.input, whole.output)
        _write_layers_of(writer, f"plain_{make.__name__}", what, model, features)


def _write_layers_of(writer, name, what, model, inputs):
    _save(model, writer.path("layers", f"{name}.keras"))
    inputs = {symbol.name: inputs[symbol.name] for symbol in model.inputs}
    arrays = {"inputs": inputs, "predictions": predictions(model, inputs)}
    writer.add("layers", name, arrays, what=what, compiled=model.compiled)


def _write_preprocessors(writer):
    for name, schema in (("wide", WIDE), ("markets", MARKETS)):
        prep = fitted(schema, writer.raw)
        for state in (True, False):
            path = f"{name}_{'with' if state else 'without'}_counts"
            prep.save(writer.path("preprocessors", path), state=state)
            writer.add("preprocessors", path, encoded(prep, writer.raw), **_sizes(prep, state))


def _sizes(prep, state):
    return {
        "merges": state,
        "num_rows": prep.num_rows,
        "table_sizes": prep.table_sizes,
        "lengths": prep.lengths,
    }


def _write_schemas(writer):
    for name, schema in SCHEMAS.items():
        for suffix in (".json", ".yaml"):
            schema.save(writer.path("schemas", name + suffix))
            writer.add("schemas", name + suffix, {}, schema=described(schema))


def _write_pickles(writer):
    # One that can be merged cannot be pickled if it has quantiles: their sketches cannot.
    loaded = tfmoe.Preprocessor.load(writer.folder / "preprocessors" / "wide_without_counts")
    counted = fitted(MARKETS, writer.raw)
    plain = {
        "columns": {name: list(schema.columns) for name, schema in SCHEMAS.items()},
        "tasks": {name: list(schema.tasks) for name, schema in SCHEMAS.items()},
        "schemas": SCHEMAS,
        "mixer": tfmoe.TaskMixer("temperature", temperature=2.0),
    }
    for name, value in plain.items():
        _pickle(writer, name, value, {})
    _pickle(writer, "wide_without_counts", loaded, encoded(loaded, writer.raw))
    _pickle(writer, "markets_with_counts", counted, encoded(counted, writer.raw))


def _pickle(writer, name, value, arrays):
    writer.path("pickles", f"{name}.pickle").write_bytes(pickle.dumps(value, protocol=4))
    # Protocol 2 spells out each name; those of the package must stay importable.
    codes = pickletools.genops(pickle.dumps(value, protocol=2))
    names = {argument.replace(" ", ".") for code, argument, _ in codes if code.name == "GLOBAL"}
    ours = sorted(one for one in names if one.startswith("tfmoe."))
    writer.add("pickles", name, arrays, names=ours)


if __name__ == "__main__":
    write(sys.argv[1])
