"""Several layers in which columns meet, between the encoder and the structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.math import parted
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.features.interactions.base import ByColumns


@registered
class Interactions(keras.layers.Layer):
    r"""Layers in which the columns of a row meet, side by side or one after the other.

    With `MultiTaskModel(prep, structure, interactions=[...])` they stand between the encoder and
    the structure; a list there is `Interactions` of these layers. A layer is

    - flat, `(b, f)` to `(b, g)`: `Cross`, `MaskNet`, or any layer of Keras;
    - by column, `(b, c, d)` to `(b, g)`: `FM`, `FiBiNET`, `AutoInt`, a `ByColumns` of your own, or
      `keras_rs.layers.DotInteraction`, which takes a list of the columns.

    Columns have sizes of their own, a number has 1: where a layer reads columns, those of another
    size than `dim` are projected, by a matrix for each column that all these layers share.

    Args:
        layers: sequence of Keras layers. They are recipes, copied.
        stacked: bool; whether a flat layer reads what the one before it has made, and the output is
            that of the last; else all read the row, and their outputs are side by side. `MaskNet`
            and a layer by column come first in a stack.
        keep_input: bool; whether the row itself stands in front of the output.
        dim: int >= 1, size of columns for layers by column; None for the largest column's.
        sizes: sequence of int, the sizes of the columns of a row; None to take them from the model.

    Call arguments:
        inputs: float tensor `(b, f)`, the columns one after the other.
        training: bool, for layers that know it.

    Returns:
        Float tensor `(b, g)`.

    Raises:
        ValueError: if there are no layers, one is none, or one by column comes later in a stack.

    Example:

    >>> both = Interactions([tfmoe.FM(), keras.layers.Dense(3)], sizes=[2, 2])
    >>> both(np.ones((5, 4))).shape
    TensorShape([5, 8])
    """

    def __init__(
        self,
        layers: Sequence[Any],
        stacked: bool = False,
        keep_input: bool = True,
        dim: int | None = None,
        sizes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        given = [nested.given(layer) for layer in layers]
        if not given or not all(isinstance(layer, keras.layers.Layer) for layer in given):
            raise ValueError(
                "Interactions take Keras layers, such as [tfmoe.FM(), tfmoe.Cross()]. Received "
                f"layers={list(layers)!r}."
            )
        validation.check_bool("Interactions", "stacked", stacked)
        validation.check_bool("Interactions", "keep_input", keep_input)
        if stacked and any(_knows_columns(layer) for layer in given[1:]):
            raise ValueError(
                "In a stack a layer reads what the one before it has made, which has no columns. "
                f"Received {[type(layer).__name__ for layer in given]} with stacked=True. Put the "
                "layer by column first, or use stacked=False."
            )
        self.recipes = [nested.config_of(layer) for layer in given]
        self.stacked, self.keep_input = stacked, keep_input
        self.dim = validation.integer("Interactions", "dim", dim, 1, optional=True)
        self.sizes: Any = None
        if sizes is not None:
            self.sizes = validation.sizes("Interactions", "sizes", sizes)

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "sizes")
        if sum(self.sizes) != input_shape[-1]:
            raise ValueError(
                "Interactions read the columns of a row one after the other. Received a row of "
                f"{input_shape[-1]} numbers, with sizes={list(self.sizes)}."
            )
        self.parts = [self._own(recipe, i) for i, recipe in enumerate(self.recipes)]
        self.maps: dict[str, Any] = {}
        size = self.dim or max(self.sizes)
        if any(_reads_columns(part) for part in self.parts):
            for index, own in enumerate(self.sizes):
                if own != size:
                    self.maps[str(index)] = self.add_weight(
                        name=f"map_{index}", shape=(own, size), initializer="glorot_uniform"
                    )
        shape = input_shape
        for part in self.parts:
            self._build(part, shape, size)
            if self.stacked:
                shape = self._shape_after(part, shape, size)

    def _own(self, recipe: dict[str, Any], index: int) -> Any:
        if str(recipe.get("module")).startswith("keras_rs"):
            import keras_rs  # noqa: F401  Keras finds its layers then
        known = {"sizes": list(self.sizes)} if "sizes" in recipe["config"] else {}
        recipe = {**recipe, "config": {**recipe["config"], "dtype": self.dtype_policy.name}}
        return nested.filled(recipe, "Interactions", name=f"part_{index}", **known)

    def _build(self, part: Any, shape: Shape, size: int) -> None:
        if _is_dot(part) and len(self.sizes) < 2:
            raise ValueError(
                "DotInteraction multiplies pairs of columns. Received 1. Add a column."
            )
        if part.built:
            return
        try:
            part.build(self._shape_for(part, shape, size))
        except (TypeError, ValueError) as error:
            if _reads_columns(part):
                raise
            raise ValueError(
                f"A layer of Interactions reads a row as one vector, {tuple(shape)}, unless it is "
                f"a tfmoe.ByColumns, which reads (b, c, d). Received {part.name!r}, a "
                f"{type(part).__name__}, which cannot be built so: {error}"
            ) from error

    def _shape_for(self, part: Any, shape: Shape, size: int) -> Any:
        columns = (shape[0], len(self.sizes), size)
        if isinstance(part, ByColumns):
            return columns
        return [(shape[0], size)] * len(self.sizes) if _is_dot(part) else shape

    def _shape_after(self, part: Any, shape: Shape, size: int) -> Any:
        return tuple(part.compute_output_shape(self._shape_for(part, shape, size)))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        # Keras tells the layers inside of `training` by itself.
        columns: Any = None
        if any(_reads_columns(part) for part in self.parts):
            columns = self._columns(inputs)
        made, last = [], inputs
        for part in self.parts:
            given = last
            if isinstance(part, ByColumns):
                given = self._stacked(inputs, columns)
            elif _is_dot(part):
                given = columns
            made.append(part(given))
            last = made[-1] if self.stacked else inputs
        outputs = made[-1:] if self.stacked else made
        outputs = [inputs, *outputs] if self.keep_input else outputs
        return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)

    def _stacked(self, inputs: Tensor, columns: list[Tensor]) -> Tensor:
        """The columns `(b, c, d)`; of one size they lie so already."""
        if self.maps:
            return ops.stack(columns, axis=1)
        return ops.reshape(inputs, (-1, len(self.sizes), self.sizes[0]))

    def _columns(self, inputs: Tensor) -> list[Tensor]:
        """The columns as vectors of one size, `(b, d)` each."""
        columns = []
        for index, own in enumerate(parted(inputs, self.sizes)):
            projection = self.maps.get(str(index))
            columns.append(own if projection is None else ops.matmul(own, projection))
        return columns

    @property
    def recipe(self) -> dict[str, Any]:
        """Its config without the sizes, as a model's argument."""
        config = nested.config_of(self)
        return {**config, "config": {**config["config"], "sizes": None}}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "layers": self.recipes,
            "stacked": self.stacked,
            "keep_input": self.keep_input,
            "dim": self.dim,
            "sizes": self.sizes and list(self.sizes),
        }


def interactions_of(
    given: Any, sizes: Sequence[int], structure: Any, policy: Any
) -> Interactions | None:
    """A model's own copy of its argument `interactions`.

    Args:
        given: `Interactions`, its config, a sequence of layers, or None.
        sizes: of the columns.
        structure: the model's `Structure`.
        policy: dtype policy of the model.

    Raises:
        ValueError: if it is none of these, or the structure reads no flat inputs.
    """
    if given is None or (isinstance(given, list | tuple) and not given):
        return None
    layer = Interactions(given) if isinstance(given, list | tuple) else nested.given(given)
    if not isinstance(layer, Interactions):
        raise ValueError(
            "MultiTaskModel takes `interactions` as a list of layers, such as [tfmoe.FM()], or as "
            f"tfmoe.Interactions. Received interactions={given!r}."
        )
    if structure.input_kind != "flat":
        raise ValueError(
            "`interactions` make one vector a row of one. Received a "
            f"{type(structure).__name__}, which reads {structure.input_kind}. Leave them out."
        )
    recipe = layer.recipe
    recipe = {**recipe, "config": {**recipe["config"], "dtype": policy.name}}
    name = "tfmoe_interactions"
    return nested.filled(recipe, "MultiTaskModel", name=name, sizes=list(sizes))


def _knows_columns(layer: Any) -> bool:
    return _reads_columns(layer) or "sizes" in layer.get_config()


def _is_dot(layer: Any) -> bool:
    """Whether it is keras_rs's, which takes a list."""
    return any(kind.__name__ == "DotInteraction" for kind in type(layer).__mro__)


def _reads_columns(layer: Any) -> bool:
    return isinstance(layer, ByColumns) or _is_dot(layer)
