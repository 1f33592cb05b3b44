"""Names for what type checkers cannot tell apart."""

from typing import Any, TypeAlias

#: A tensor of whichever backend Keras runs on, or a `keras.KerasTensor`.
Tensor: TypeAlias = Any
#: Shape of a tensor: integers, None where an axis is not known.
Shape: TypeAlias = tuple[Any, ...]
#: What Keras makes an initializer of: one, its name, or its config.
Initializer: TypeAlias = Any
