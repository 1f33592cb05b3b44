"""Weights of one layer into another with more or fewer tasks, or fewer experts."""

from keras import ops

from tfmoe.experts.ready_layers import GivenExperts
from tfmoe.structures.mod_squad import ModSquad
from tfmoe.structures.shared_bottom import SharedBottom


def copy_weights(old, new, members=None):
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
    for target, values in _paired(old, new):
        if members is not None:
            values = values[members]
        # A tower's kernel is as wide as the widest task needs.
        target.assign(values[tuple(slice(n) for n in target.shape)])


def copy_gate(old, new, rows):
    """Copies a gate's weights, of those that belong to tasks the `rows`.

    All but the scores of each task either have nothing to do with tasks, and keep their
    shape, or have one axis for them.

    Args:
        old: built `Gate`.
        new: built `Gate` of the same kind.
        rows: list of int, for each of the new gate's tasks its index in the old one.

    Raises:
        ValueError: if it cannot be told which part of a weight belongs to a task.
    """
    # A gate that computes its weights without scores has no head.
    scores = {id(weight) for weight in new.head.weights} if hasattr(new, "head") else ()
    for target, values in _paired(old, new):
        if id(target) in scores and values.shape[-1] != target.shape[-1]:
            # A task's scores lie side by side, `(f, t * s)`.
            apart = values.reshape(*values.shape[:-1], old.num_tasks, -1)[..., rows, :]
            values = apart.reshape(target.shape)
        target.assign(_taken(values, target, rows, old.num_tasks, old))


def copy_experts(old, new, members=None):
    """Copies the weights of `Experts` or of ready layers, for all or some `members`."""
    if not isinstance(old, GivenExperts):
        copy_weights(old, new, members)
        return
    layers = old.layers if members is None else [old.layers[e] for e in members]
    for ours, theirs in zip(layers, new.layers, strict=True):
        copy_weights(ours, theirs)


def copy_mixture(old, new, rows, experts=None):
    """Copies a mixture's weights, for some of its tasks and with some of its experts.

    Args:
        old: built `MMoE`, `OMoE`, `SharedBottom` or `ModSquad`.
        new: built mixture of the same kind.
        rows: list of int, for each of the new one's tasks its index in the old one.
        experts: list with a list of int for each gate, indices of the experts that stay;
            None for all.

    Raises: see `copy_gate`.
    """
    if isinstance(old, SharedBottom):
        copy_weights(old, new)
        return
    if isinstance(old, ModSquad):
        copy_weights(old.norm, new.norm)
        for i, pair in enumerate(zip(old.blocks, new.blocks, strict=True)):
            _copy_block(*pair, rows, experts and experts[2 * i : 2 * i + 2])
        return
    copy_experts(old.experts, new.experts, experts and experts[0])
    copy_gate(old.gate, new.gate, rows)


def _copy_block(old, new, rows, experts):
    """As `copy_mixture`, of a block's two gates and what they choose from."""
    for target, values in _paired(old.embedding, new.embedding):
        target.assign(_taken(values, target, rows, old.num_tasks, old))
    for i, name in enumerate(("attention", "mlp")):
        copy_weights(old.norms[i], new.norms[i])
        copy_gate(old.gates[i], new.gates[i], rows)
        ours, theirs = getattr(old, name), getattr(new, name)
        num = ours.num_experts
        members = list(range(num)) if experts is None else experts[i]
        for target, values in _paired(ours, theirs):
            target.assign(_taken(values, target, members, num, ours))


def _taken(values, target, members, num, owner):
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


def _paired(old, new):
    """Weights of a layer that is to be filled, each with the values of its model."""
    for source, target in zip(old.weights, new.weights, strict=True):
        if source.name != target.name:
            raise ValueError(
                f"Weights of a layer are copied in their order. Received {old.name!r} with "
                f"{source.name!r} where its copy has {target.name!r}. Please report this."
            )
        yield target, ops.convert_to_numpy(source)
