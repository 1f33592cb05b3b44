"""Tables and experts that the devices of JAX hold parts of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfmoe.validation import checks_arguments

# A column's table, or its vectors of elsewhere, and what its values say by themselves.
_TABLES = r"(.*/)?(table|wide)_[^/]+/((vectors/)?embeddings|frozen)"
# The weights of networks side by side, and of attention that is an expert each.
_MATRICES = r"(.*/)?tfmoe_mixture/(.*/)?(kernel_\d+|queries|outputs)"
_VECTORS = r"(.*/)?tfmoe_mixture/(.*/)?(bias|scale|offset)_\d+"


@checks_arguments
class ModelParallel(keras.distribution.ModelParallel):
    """`keras.distribution.ModelParallel` for a `MultiTaskModel`, on JAX.

    Embedding tables are parted by row, those of `wide=True` and vectors of `Pretrained` too, and
    the weights of experts by expert; the optimizer's state of each lies beside it. All else is on
    every device. Batches are parted along the mesh's first axis.

    A table must have a multiple of as many rows as there are parts, which the model's
    `rows_multiple` sees to. Experts that are no multiple of the parts are on every device.

    Args:
        device_mesh: `keras.distribution.DeviceMesh`, of which one axis is `axis`.
        axis: str, the axis of the mesh along which tables and experts are parted.
        rules: dict of further layouts, as of a `keras.distribution.LayoutMap`: by regular
            expression of a variable's path a tuple of axes, as `{".*towers/.*": (None, "model")}`.
            Each may only be of variables that are not named above.
        batch_dim_name, auto_shard_dataset: see `keras.distribution.ModelParallel`.

    Raises:
        ValueError: if Keras's backend is another, or the mesh has no such axis; where a model is
            made, if a table cannot be parted.

    Example:

    >>> mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))  # doctest: +SKIP
    >>> with tfmoe.distribution.ModelParallel(mesh).scope():  # doctest: +SKIP
    ...     model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=8), rows_multiple=4)
    ...     model.compile()
    ...     model.fit(prep.arrays(rows), batch_size=4096)
    """

    def __init__(
        self,
        device_mesh: keras.distribution.DeviceMesh,
        axis: str = "model",
        *,
        rules: Mapping[str, tuple[str | None, ...]] | None = None,
        batch_dim_name: str | None = None,
        auto_shard_dataset: bool = True,
    ) -> None:
        backend = keras.backend.backend()
        if backend != "jax":
            raise ValueError(
                "Tables and experts are parted among devices on JAX. Received Keras's backend "
                f"{backend!r}. Set KERAS_BACKEND=jax before Python starts."
            )
        if axis not in device_mesh.axis_names:
            raise ValueError(
                "Tables and experts are parted along an axis of the mesh. Received "
                f"axis={axis!r} of a mesh with {device_mesh.axis_names}. Name one of these."
            )
        layouts = keras.distribution.LayoutMap(device_mesh)
        layouts[_TABLES] = layouts[_VECTORS] = (axis, None)
        layouts[_MATRICES] = (axis, None, None)
        for path, axes in (rules or {}).items():
            layouts[path] = axes
        super().__init__(
            layout_map=layouts,
            batch_dim_name=batch_dim_name,
            auto_shard_dataset=auto_shard_dataset,
        )
        self._ours = layouts[_TABLES], layouts[_VECTORS], layouts[_MATRICES]
        self._parts = device_mesh.shape[device_mesh.axis_names.index(axis)]

    def get_variable_layout(self, variable: Any) -> Any:
        """As in Keras, but what has too few rows for the parts is on every device.

        Raises:
            ValueError: if a table cannot be parted.
        """
        layout = super().get_variable_layout(variable)
        if not any(layout is one for one in self._ours) or not variable.shape[0] % self._parts:
            return layout
        if layout is self._ours[0]:
            raise ValueError(
                f"A table is parted into {self._parts} equal parts. Received {variable.path!r} "
                f"with {variable.shape[0]} rows. Make the model with rows_multiple={self._parts}."
            )
        nowhere = [None] * len(variable.shape)
        return keras.distribution.TensorLayout(nowhere, self.device_mesh)
