"""What a task's tower takes from the tower of the task that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.schema.links import AITM, DBMTL
from tfmoe.schema.tasks import Binary, Task, in_chain_order, parent_of

# The kind of link and the index of the task given, for each linked task's index as text.
Links = dict[str, tuple[str, int]]


def links_of(tasks: Sequence[Task]) -> Links:
    """The links between the towers of some tasks, in the order in which they are computed."""
    names = [task.name for task in tasks]
    links: Links = {}
    for task in in_chain_order(tasks):
        parent = parent_of(task, tasks)
        if parent is not None and isinstance(task, Binary) and isinstance(task.link, AITM | DBMTL):
            kind = "aitm" if isinstance(task.link, AITM) else "dbmtl"
            links[str(names.index(task.name))] = (kind, names.index(parent.name))
    return links


class _LinkOfTowers(keras.layers.Layer):
    """From the last hidden layers of a task's tower and its parent's to one `(b, u)`."""

    def _kernel(self, name: str, inputs: int, units: int) -> Any:
        return self.add_weight(name=name, shape=(inputs, units), initializer="glorot_uniform")

    def compute_output_shape(self, own_shape: Shape, parent_shape: Shape) -> Shape:
        return own_shape


@registered
class AttentionLink(_LinkOfTowers):
    """See `AITM`."""

    def build(self, own_shape: Shape, parent_shape: Shape) -> None:
        units = own_shape[-1]
        self.info = self._kernel("info", parent_shape[-1], units)
        self.info_bias = self.add_weight(name="info_bias", shape=(units,), initializer="zeros")
        self.key = self._kernel("key", units, units)
        self.query = self._kernel("query", units, units)
        self.value = self._kernel("value", units, units)

    def call(self, own: Tensor, parent: Tensor) -> Tensor:
        info = ops.relu(ops.matmul(parent, self.info) + self.info_bias)
        both = ops.stack([own, info], axis=1)
        keys, queries, values = (ops.matmul(both, w) for w in (self.key, self.query, self.value))
        scores = ops.sum(keys * queries, axis=-1, keepdims=True) / own.shape[-1] ** 0.5
        return ops.sum(ops.softmax(scores, axis=1) * values, axis=1)


@registered
class ConcatLink(_LinkOfTowers):
    """See `DBMTL`."""

    def build(self, own_shape: Shape, parent_shape: Shape) -> None:
        units = own_shape[-1]
        self.kernel = self._kernel("kernel", units + parent_shape[-1], units)
        self.bias = self.add_weight(name="bias", shape=(units,), initializer="zeros")

    def call(self, own: Tensor, parent: Tensor) -> Tensor:
        both = ops.concatenate([own, parent], axis=-1)
        return ops.relu(ops.matmul(both, self.kernel) + self.bias)


@registered
class TowerLinks(keras.layers.Layer):
    """The last hidden layers of all towers, `(b, t, u)` to `(b, t, u)`, along their links.

    Args:
        links: dict by the index of each linked task, as text, of its kind, `"aitm"` or `"dbmtl"`,
            and the index of the task that it is given; a task comes after that one.
    """

    def __init__(self, links: Links, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.links = {name: (str(kind), int(parent)) for name, (kind, parent) in links.items()}
        kinds = {"aitm": AttentionLink, "dbmtl": ConcatLink}
        self.parts = [
            kinds[kind](dtype=self.dtype_policy, name=f"link_{i}")
            for i, (kind, _) in enumerate(self.links.values())
        ]

    def build(self, input_shape: Shape) -> None:
        for part in self.parts:
            part.build((input_shape[0], input_shape[2]), (input_shape[0], input_shape[2]))

    def call(self, inputs: Tensor) -> Tensor:
        hidden = [inputs[:, t] for t in range(inputs.shape[1])]
        for part, (name, (_, parent)) in zip(self.parts, self.links.items(), strict=True):
            hidden[int(name)] = part(hidden[int(name)], hidden[parent])
        return ops.stack(hidden, axis=1)

    def copy_from(self, other: TowerLinks, tasks: Sequence[int] | None = None) -> None:
        """Takes over the weights of other links.

        Args:
            other: built `TowerLinks`.
            tasks: for each task its index among the others'; None for the same.
        """
        theirs = list(other.links)
        for part, name in zip(self.parts, self.links, strict=True):
            index = int(name) if tasks is None else tasks[int(name)]
            copy_weights(other.parts[theirs.index(str(index))], part)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "links": {n: list(link) for n, link in self.links.items()}}
