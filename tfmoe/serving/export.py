"""A SavedModel that takes raw rows and is checked before it counts as written."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import keras
import numpy as np

from tfmoe.data.encode.graph import NO_TASK, GraphEncoder, request, signature
from tfmoe.files import PathLike, new_version
from tfmoe.model.finite import check_weights
from tfmoe.serving.sample_rows import sample_rows, typical_rows
from tfmoe.serving.score import SCORE, checked_score, scored
from tfmoe.validation import checks_arguments, plain

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

    from tfmoe.data.preprocessor import Preprocessor
    from tfmoe.model.model import MultiTaskModel

_NUM_CHECKED = 256
_TOLERANCE = 1e-5
_HUGE = 1e30


@checks_arguments
def export(
    model: MultiTaskModel,
    path: PathLike,
    score: Mapping[str, float] | None = None,
    score_as: Literal["sum", "product"] = "sum",
) -> Path | str:
    """Writes a model for TF Serving, its vocabularies inside.

    The signature `serving_default` takes the raw columns by name: float64 `(b,)` for a
    number (NaN if missing), int64 (-2**63 if missing) or string (empty if missing)
    `(b,)` for a category, `(b, l)` for a list, padded to a common length l by the value
    for missing. It returns one float32 tensor a task, by name: `(b,)`, or `(b, c)` for a
    multiclass task. It loads where there is TensorFlow and no tfmoe. Of a binary task whose
    negatives were sampled (`negatives_kept`) it is the probability in the whole table.

    With a `task_column`, `serving_default` takes by its name also the key of each row's
    task, a string (also if keys are integers), and returns `score` alone: `(b,)`, or
    `(b, c)` with the most classes of a task, 0 for those that a task lacks. It is NaN for
    an unknown or empty key. A second signature, `all_tasks`, takes the columns without
    the task and returns the scores of all tasks by name, as above; it runs the model on
    every row for every task, at as many times the cost and memory.

    Before the version appears, the written graph is compared with the model on 256 raw
    rows made from the vocabularies, with unknown and missing values among them.

    Args:
        model: `MultiTaskModel`.
        path: folder of the served model, or URL of one, to which `saved_model.pb` comes last. The
            version is the next free number; nothing in the folder is changed.
        score: dict of weights by output, of which one more output, `score`, is made inside the
            graph, for a ranking by several tasks; None for none.
        score_as: `"sum"`, of weight times output, or `"product"`, of output to the power of its
            weight.

    Returns:
        `pathlib.Path` of the version, `path/<number>`, or its URL as text, with
        `sample_request.json` in it.

    Raises:
        ValueError: if the backend is not TensorFlow, or a score cannot be made of these outputs.
        FloatingPointError: if a weight of the model is not finite.
        RuntimeError: if the exported graph's predictions differ from the model's.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "A SavedModel holds a TensorFlow graph. Received a model on the backend "
            f"{keras.backend.backend()!r}. Save it with model.save('model.keras'), and load "
            "and export it in a process started with KERAS_BACKEND=tensorflow."
        )

    check_weights(model, "exported")
    weights = None if score is None else checked_score(model.schema, score, score_as)

    def serve(features, training=False):
        found = model(features, training=training)
        return found if weights is None else {**found, SCORE: scored(found, weights, score_as)}

    def write(draft: Path) -> None:
        rows = sample_rows(model.preprocessor, _NUM_CHECKED)
        _write(model, serve, draft)
        _check(model, serve, draft, rows)
        _write_sample_request(model.preprocessor, draft / "sample_request.json")

    # TF Serving, which may be watching, ignores what is not named by a number.
    return new_version(path, write)


def _write(model, serve, folder):
    import tensorflow as tf

    encoder = GraphEncoder(model.preprocessor)
    module = tf.Module()
    module.tables = encoder.tables
    module.weights = [variable.value for variable in model.variables]
    module.serve = _serving_default(model, serve, encoder)
    signatures = {"serving_default": module.serve.get_concrete_function()}
    if model.schema.task_column:
        module.serve_all = _all_tasks(model, encoder)
        signatures["all_tasks"] = module.serve_all.get_concrete_function()
    # TensorFlow would tell where the draft lies, which is not where the version will be.
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    finally:
        logger.setLevel(level)


def _serving_default(model, predict, encoder):
    import tensorflow as tf

    name = model.schema.task_column

    @tf.function(input_signature=[signature(model.preprocessor)])
    def serve(raw):
        features = encoder(raw)
        if not name:
            return predict(features, training=False)
        known = features[name] != NO_TASK
        features[name] = tf.where(known, features[name], 0)
        score = model(features, training=False)["score"]
        known = tf.reshape(known, [-1] + [1] * (score.shape.rank - 1))
        return {"score": tf.where(known, score, np.float32(np.nan))}

    return serve


def _all_tasks(model, encoder):
    import tensorflow as tf

    schema = model.schema

    @tf.function(input_signature=[signature(model.preprocessor, task=False)])
    def serve(raw):
        features = encoder(raw)
        num_tasks, num_rows = len(schema.tasks), tf.shape(features[schema.columns[0].name])[0]
        # All rows of the first task, then of the second.
        repeated = {n: tf.concat([values] * num_tasks, axis=0) for n, values in features.items()}
        repeated[schema.task_column] = tf.repeat(tf.range(num_tasks), num_rows)
        scores = tf.split(model(repeated, training=False)["score"], num_tasks)
        return _by_task(schema, scores)

    return serve


def _by_task(schema, scores):
    """The tasks' scores by name, of several classes only the task's own."""
    tasks = zip(schema.tasks, scores, strict=True)
    return {t.name: one if one.ndim == 1 else one[:, : t.num_outputs] for t, one in tasks}


def _check(model, serve, folder, rows):
    import tensorflow as tf

    preprocessor, schema = model.preprocessor, model.schema
    served = tf.saved_model.load(str(folder)).signatures
    features, num_tasks = preprocessor.arrays(rows, labels=False), len(schema.tasks)
    answers = served["serving_default"](**tensors(preprocessor, rows))
    _compare(answers, _predictions(serve, features), len(rows))
    if not schema.task_column:
        return
    repeated = {name: np.concatenate([values] * num_tasks) for name, values in features.items()}
    repeated[schema.task_column] = np.repeat(np.arange(num_tasks, dtype="int32"), len(rows))
    expected = _predictions(model, repeated)["score"]
    answers = served["all_tasks"](**tensors(preprocessor, rows, task=False))
    _compare(answers, _by_task(schema, np.split(expected, num_tasks)), len(rows))


def _predictions(model, features, batch_size=4096):
    """What the model predicts, by the operations that are served.

    Not `predict`, which XLA may have compiled: it rounds in other places, in half precision by
    more than may pass here.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def run(batch):
        return model(batch, training=False)

    num_rows = len(next(iter(features.values())))
    parts = []
    for start in range(0, num_rows, batch_size):
        rows = slice(start, start + batch_size)
        found = run({name: tf.constant(values[rows]) for name, values in features.items()})
        parts.append({name: values.numpy() for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(answers, expected, num_rows):
    for name, values in expected.items():
        gap = _gap(answers[name].numpy(), values)
        if not gap <= _TOLERANCE:
            raise RuntimeError(
                f"The exported graph must predict what the model predicts. Received a "
                f"difference of {gap:.2g} for {name!r} on {num_rows} raw rows. Nothing "
                "was written; please report this with the schema."
            )


def _gap(served, expected):
    """The largest difference, in units of the predictions' size; NaN if only one side has NaN.

    The size is a median, for a regression may be in any unit, and of numbers far out, as some of
    the rows have, a count may be exp(100): a prediction that is itself larger may differ by so much
    more, and for each factor of e by as much again, for it may be an exponential. What no float
    holds, or nearly so, is alike.
    """
    served, expected = (np.clip(x.astype("float64"), -_HUGE, _HUGE) for x in (served, expected))
    sizes = np.abs(np.nan_to_num(expected))
    size = max(1.0, float(np.median(sizes)))
    times = np.maximum(sizes / size, 1.0)
    gaps = np.abs(served - expected) / (size * times * (1.0 + np.log(times)))
    return float(np.where(np.isnan(served) & np.isnan(expected), 0.0, gaps).max())


def tensors(
    preprocessor: Preprocessor, df: pd.DataFrame, task: bool = True
) -> dict[str, tf.Tensor]:
    """Raw rows as the keyword arguments of a loaded signature.

    Args:
        preprocessor: `Preprocessor`.
        df: DataFrame with the schema's raw columns.
        task: False for the signature `all_tasks`, True for `serving_default`.
    """
    import tensorflow as tf

    specs = signature(preprocessor, task)
    arrays = request(preprocessor, df, task)
    return {name: tf.constant(values, specs[name].dtype) for name, values in arrays.items()}


def _write_sample_request(preprocessor, path):
    """Three rows in the form that TF Serving's REST interface takes."""
    arrays = request(preprocessor, typical_rows(preprocessor, 3))
    instances = [{name: plain(values[i]) for name, values in arrays.items()} for i in range(3)]
    body = {"signature_name": "serving_default", "instances": instances}
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False), encoding="utf-8")
