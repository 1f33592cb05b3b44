"""Names for what type checkers cannot tell apart."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import keras

#: A tensor of whichever backend Keras runs on, or a `keras.KerasTensor`.
Tensor: TypeAlias = Any
#: Shape of a tensor: integers, None where an axis is not known.
Shape: TypeAlias = tuple[Any, ...]
#: What Keras makes an initializer of: one, its name, its config, or a function.
Initializer: TypeAlias = str | dict[str, Any] | Callable[..., Any] | keras.initializers.Initializer
#: What Keras makes an activation of: its name, or a function.
Activation: TypeAlias = str | Callable[[Any], Any]
#: Whether all experts of a row are computed or those that it selects.
Dispatch: TypeAlias = Literal["auto", "dense", "sparse"]
