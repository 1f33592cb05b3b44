"""How a table of raw rows is trained on where the caller does not say.

The batch follows from the number of rows, so that an epoch has some two hundred steps; training
ends when validation stops improving, on rows held out by a seed if none are given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np

from tfmoe.data.read.source import open_source
from tfmoe.gates.schedules import steps_taken, steps_to_rest
from tfmoe.model.inputs import is_frame, is_path, unpacked

# Steps of an epoch, and bounds of a batch's rows.
_STEPS, _SMALLEST, _LARGEST = 200, 32, 4096
_MOST_EPOCHS, _SHARE = 100, 0.1
# Fewer rows are not parted, and fewer steps rarely teach a model anything.
_FEWEST_ROWS, FEWEST_STEPS = 100, 200


class Plan(NamedTuple):
    """Arguments of Keras's `fit`.

    Attributes:
        x, y, sample_weight, validation_data, batch_size, epochs: see there.
        callbacks: list of those that the plan adds.
        words: str, what was chosen, or "".
    """

    x: Any
    y: Any
    sample_weight: Any
    validation_data: Any
    batch_size: int | None
    epochs: int
    callbacks: list[Any]
    words: str


def batch_size_for(num_rows: int) -> int:
    """The power of two with which an epoch has about 200 steps, from 32 to 4,096."""
    exponent = round(np.log2(max(num_rows, 1) / _STEPS))
    return int(np.clip(2**exponent, _SMALLEST, _LARGEST)) if exponent > 0 else _SMALLEST


def planned(
    model: Any,
    x: Any,
    sample_weight: Any,
    validation_data: Any,
    validation_split: float,
    batch_size: int | None,
    epochs: int | None,
    patience: int,
    seed: int,
    reads_anew: bool = False,
) -> Plan:
    """How to train on a DataFrame or on files.

    Args:
        model: `MultiTaskModel`.
        x: DataFrame, or path, glob or list of paths.
        patience: int, epochs without a better validation after which training ends.
        seed: int, of what is drawn.
        sample_weight, validation_data, validation_split, batch_size, epochs: of `fit`.
        reads_anew: whether a DataFrame without weights is a dataset too, as files are.

    Raises:
        ValueError: if weights are given beside files.
    """
    preprocessor = model.training_preprocessor
    if model.schema.ranks_pairs:
        raise ValueError(
            "A pairwise loss compares rows of one group, which must be in one batch. Received raw "
            "rows, whose groups `fit` would part. Fit "
            "`model.preprocessor.dataset(rows, batch_size, shuffle=True, keep_groups=True)`."
        )
    reads_anew = reads_anew and sample_weight is None and not validation_split
    streams = (is_path(x) or reads_anew) and keras.backend.backend() == "tensorflow"
    num_rows = _num_rows(model, x)
    size = batch_size or batch_size_for(num_rows)
    validated = validation_data is not None or validation_split > 0
    parted = epochs is None and not validated and num_rows >= _FEWEST_ROWS
    y = None
    if streams:
        if sample_weight is not None:
            raise ValueError(
                "The weights of rows in files are a column of theirs, which the schema names as "
                "`weight_column`. Received sample_weight beside files."
            )
        if parted:
            x, validation_data = preprocessor.split(x, size, _SHARE, seed)
        else:
            x = preprocessor.dataset(x, size, shuffle=True, seed=seed)
    else:
        x, y, sample_weight = unpacked(preprocessor.arrays(x), None, sample_weight)
        if parted:
            (x, y, sample_weight), validation_data = _parted((x, y, sample_weight), seed)
    words = f"Training on {_rows(num_rows, streams and parted)} in batches of {size:,}"
    callbacks = []
    if parted:
        words += f"; a tenth of them, drawn by seed {seed}, is for validation"
    if epochs is None and (parted or validated):
        words += (
            f". It ends after {patience} epochs without a better val_loss, of {_MOST_EPOCHS} at "
            "most, and keeps the best weights"
        )
        epochs = _MOST_EPOCHS
        stopping = best_kept(model, x, size, patience, epochs, parted, num_rows)
        if stopping.start_from_epoch:
            words += (
                f"; epochs count from {stopping.start_from_epoch + 1} on, when gates have decided"
            )
        callbacks = [stopping]
    chosen = batch_size is None or bool(callbacks)
    return Plan(
        x,
        y,
        sample_weight,
        validation_data,
        None if streams else size,
        epochs or 1,
        callbacks,
        f"{words}." if chosen else "",
    )


def best_kept(
    model: Any,
    x: Any,
    batch_size: int | None,
    patience: int,
    epochs: int,
    parted: bool = False,
    num_rows: int | None = None,
) -> keras.callbacks.Callback:
    """Ends a training that gets no better, and keeps the weights of its best epoch.

    The weights of an epoch in which a gate had not yet decided are not those to keep, unless none
    has by the last one, which then is.

    Args:
        model: `MultiTaskModel`.
        x: the raw rows of which the training is, a DataFrame or files.
        batch_size: int, or None for the one that follows from the number of rows.
        patience: int, epochs without a better `val_loss`.
        epochs: int >= 1, of the training at most.
        parted: whether a tenth of the rows is held out.
        num_rows: int, of `x`, or None to count them.
    """
    if num_rows is None:
        num_rows = _num_rows(model, x)
    size = batch_size or batch_size_for(num_rows)
    steps = math.ceil(num_rows * (1 - _SHARE if parted else 1) / size)
    # Of rows that nobody has counted no epoch is told from another.
    undecided = math.ceil(steps_to_rest(model.structure.gates) / steps) - 1 if steps else 0
    return keras.callbacks.EarlyStopping(
        "val_loss",
        patience=patience,
        mode="min",
        restore_best_weights=True,
        start_from_epoch=min(max(0, undecided), epochs - 1),
    )


def restored_epoch(callbacks: Iterable[Any]) -> int | None:
    """The epoch, from 0, whose weights one of some callbacks has restored, or None."""
    stoppings = (one for one in callbacks if isinstance(one, keras.callbacks.EarlyStopping))
    kept = [one.best_epoch for one in stoppings if one.best_weights is not None]
    return kept[-1] if kept else None


def _num_rows(model: Any, x: Any) -> int:
    if is_frame(x):
        return len(x)
    return open_source(x).num_rows or model.training_preprocessor.num_rows


def _rows(num_rows: int, about: bool) -> str:
    return f"{'about ' if about else ''}{num_rows:,} rows" if num_rows else "the rows"


def _parted(arrays: Any, seed: int) -> tuple[Any, Any]:
    """The training and the validation part of features, labels and weights."""
    num_rows = len(next(iter(arrays[0].values())))
    order = np.random.default_rng(seed).permutation(num_rows)
    held_out = np.sort(order[: max(1, round(_SHARE * num_rows))])
    rest = np.sort(order[len(held_out) :])

    def rows(places: np.ndarray) -> Any:
        return keras.tree.map_structure(
            lambda values: None if values is None else np.asarray(values)[places], arrays
        )

    return rows(rest), rows(held_out)


def steps_done(optimizer: Any) -> int:
    """The optimizer's steps so far, also of one whose counter is on several replicas."""
    return steps_taken(optimizer.iterations)


def warn_of_few_steps(model: Any) -> None:
    """Warns where all trainings of a model together were too short to learn much."""
    steps = steps_done(model.optimizer)
    if steps < FEWEST_STEPS:
        warnings.warn(
            f"The model has been trained for {steps} steps, and rarely learns much in fewer than "
            "some hundred: it may still predict little but means. Take smaller batches, more "
            "epochs or more patience.",
            stacklevel=4,
        )
