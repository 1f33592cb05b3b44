"""Weight transfer: values of one layer's weights into a layer with other tasks or fewer experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keras import ops


def copy_weights(old: Any, new: Any, members: Sequence[int] | None = None) -> None:
    """Copies a layer's weights; of stacked ones those of some members of the stack.

    Args:
        old: layer.
        new: layer of the same kind. A weight whose other axes are shorter gets what it has
            room for.
        members: list of int, indices of the first axis, one for each of the new layer's;
            None to copy whole weights.

    Raises:
        ValueError: if the layers have other weights.
    """
    for target, values in paired(old, new):
        if members is not None:
            values = values[members]
        # A tower's kernel is as wide as the widest task needs.
        target.assign(values[tuple(slice(n) for n in target.shape)])


def taken(values: Any, target: Any, members: Sequence[int], num: int | None, owner: Any) -> Any:
    """A weight's values for some members of its one axis of `num`, if it has one.

    Args:
        values: NumPy array.
        target: variable that is to hold them.
        members: list of int, indices of tasks or experts.
        num: int, how many of these `values` has.
        owner: layer whose weight it is, for the error.

    Raises:
        ValueError: if the shapes differ otherwise than in one such axis.
    """
    shapes = values.shape, tuple(target.shape)
    changed = [axis for axis, (old, new) in enumerate(zip(*shapes, strict=True)) if old != new]
    if not changed:
        return values
    axis = changed[0]
    if len(changed) > 1 or [shape[axis] for shape in shapes] != [num, len(members)]:
        raise ValueError(
            "A weight is copied in part if it has one axis for tasks or for experts. Received "
            f"{type(owner).__name__}'s {target.name!r} of shape {shapes[0]}, which for "
            f"{len(members)} in place of {num} has shape {shapes[1]}. Please report this."
        )
    return values.take(members, axis=axis)


def paired(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Weights of a layer that is to be filled, each with the values of its model."""
    for source, target in zip(old.weights, new.weights, strict=True):
        if source.name != target.name:
            raise ValueError(
                f"Weights of a layer are copied in their order. Received {old.name!r} with "
                f"{source.name!r} where its copy has {target.name!r}. Please report this."
            )
        yield target, ops.convert_to_numpy(source)
