"""What every class of ours that Keras saves is decorated with."""

from typing import TypeVar

import keras

from tfmoe.validation import checks_arguments

Kind = TypeVar("Kind", bound=type)


def registered(kind: Kind) -> Kind:
    """Lets Keras find the class in files, as `tfmoe>Name`, and refuses unknown arguments."""
    return keras.saving.register_keras_serializable("tfmoe")(checks_arguments(kind))
