"""A model from its file."""

from __future__ import annotations

from pathlib import Path

import keras

from tfmoe.files import PathLike, is_remote
from tfmoe.model.model import MultiTaskModel
from tfmoe.validation import checks_arguments


@checks_arguments
def load_model(path: PathLike) -> MultiTaskModel:
    """The model that `MultiTaskModel.save`, `tfmoe train` or `tfmoe extract` has written.

    What `keras.saving.load_model` returns once tfmoe is imported, checked to be a model of ours.
    Vocabularies, moments and the optimizer's state come with it: it predicts, evaluates, exports
    and trains on. No code in the file is run.

    Args:
        path: of a `.keras` file.

    Returns:
        `MultiTaskModel`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds another kind of model.
    """
    if not is_remote(path) and not Path(path).exists():
        raise FileNotFoundError(
            f"There is no model at {path}. `model.save` and `tfmoe train` write one."
        )
    model = keras.saving.load_model(path)
    if not isinstance(model, MultiTaskModel):
        raise ValueError(
            f"A MultiTaskModel is needed, which knows its columns. Received {path}, a "
            f"{type(model).__name__}. Load it with keras.saving.load_model."
        )
    return model
