"""A model from its file."""

from __future__ import annotations

import keras

from tfmoe.model.model import MultiTaskModel
from tfmoe.remote import PathLike, address, exists, local_copy
from tfmoe.validation import checks_arguments


@checks_arguments
def load_model(path: PathLike) -> MultiTaskModel:
    """The model that `MultiTaskModel.save`, `tfmoe train` or `tfmoe extract` has written.

    What `keras.saving.load_model` returns once tfmoe is imported, checked to be a model of ours.
    Vocabularies, moments and the optimizer's state come with it: it predicts, evaluates, exports
    and trains on. No code in the file is run.

    Args:
        path: of a `.keras` file, or its URL.

    Returns:
        `MultiTaskModel`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds another kind of model.
    """
    if not exists(path):
        raise FileNotFoundError(
            f"There is no model at {address(path)}. `model.save` and `tfmoe train` write one."
        )
    with local_copy(path) as copy:
        model = keras.saving.load_model(copy)
    if not isinstance(model, MultiTaskModel):
        raise ValueError(
            f"A MultiTaskModel is needed, which knows its columns. Received {path}, a "
            f"{type(model).__name__}. Load it with keras.saving.load_model."
        )
    return model
