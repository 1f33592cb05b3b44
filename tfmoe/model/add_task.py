"""What `MultiTaskModel.add_task` is made of: recipes with one more task, and their weights."""

import numpy as np
from keras import ops

from tfmoe.compute import nested
from tfmoe.gates.extended import ExtendedGate
from tfmoe.heads.extended import ExtendedTowers
from tfmoe.model.transfer import copy_experts, copy_gate, copy_weights
from tfmoe.structures.mmoe import MMoE
from tfmoe.structures.shared_bottom import SharedBottom


def places(schema, like, num_added):
    """Indices of the tasks that a new one is like.

    Args:
        schema: `Schema` of the model.
        like: sequence of task names, or None for all.
        num_added: int, how many of its tasks were added.

    Raises:
        ValueError: if one is unknown or was added itself, or there are none.
    """
    known = list(schema.task_names[: len(schema.tasks) - num_added])
    names = known if like is None else [like] if isinstance(like, str) else list(like)
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"A new task is `like` some of the tasks that were trained together, {known}. "
            f"Received like={like!r}. Name the related ones, or leave it out for all."
        )
    return [known.index(name) for name in names]


def extended_mixture(mixture, like, routing):
    """A mixture's recipe with a gate for one more task.

    Args:
        mixture: built `MMoE`, `OMoE` or `SharedBottom`.
        like: list of int, indices of tasks.
        routing: "own" or "mix".

    Raises:
        ValueError: if it is of another kind, or `routing` is unknown.
    """
    if not isinstance(mixture, MMoE | SharedBottom):
        raise ValueError(
            "add_task takes models on MMoE, OMoE or SharedBottom. Received one on "
            f"{type(mixture).__name__}. Train it anew with the task among the others."
        )
    if routing not in ("own", "mix"):
        raise ValueError(f'add_task takes `routing` "own" or "mix". Received routing={routing!r}.')
    config = nested.config_of(mixture)
    inner = config["config"]
    inner["num_tasks"] = None
    if isinstance(mixture, SharedBottom) or not _tells_tasks_apart(mixture):
        return config
    spec = {"routing": routing, "like": len(like)}
    gate = mixture.gate
    if isinstance(gate, ExtendedGate):
        inner["gate"]["config"].update(num_tasks=None, num_experts=None)
        inner["gate"]["config"]["added"].append(spec)
        return config
    trained = nested.config_of(gate)
    trained["config"].update(num_tasks=gate.num_tasks, num_experts=None)
    inner["gate"] = nested.config_of(ExtendedGate(gate=trained, added=[spec]))
    return config


def _tells_tasks_apart(mixture):
    return mixture.num_gates == mixture.num_tasks


def copy_extended(old, new, like, same_kind):
    """Fills a model that has one task more than the trained one.

    Args:
        old, new: `MultiTaskModel`.
        like: list of int, indices of the tasks that the new one is like.
        same_kind: bool; whether the first of them is of the new task's kind, whose tower
            then starts as that one's.
    """
    copy_weights(old.encoder, new.encoder)
    if isinstance(old.mixture, SharedBottom):
        copy_weights(old.mixture, new.mixture)
    else:
        copy_experts(old.mixture.experts, new.mixture.experts)
        if _tells_tasks_apart(old.mixture):
            _copy_gates(old.mixture.gate, new.mixture.gate, like)
        else:
            copy_weights(old.mixture.gate, new.mixture.gate)
    groups = old.towers.groups if isinstance(old.towers, ExtendedTowers) else [old.towers]
    for trained, group in zip(groups, new.towers.groups, strict=False):
        copy_weights(trained, group)
    if same_kind:
        copy_weights(groups[0], new.towers.groups[-1], [like[0]])


def _copy_gates(old, new, like):
    """Fills an `ExtendedGate`; its newest gate from those of the tasks it is like."""
    base, added = (old.base, old.added) if isinstance(old, ExtendedGate) else (old, [])
    copy_weights(base, new.base)
    for trained, gate in zip(added, new.added, strict=False):
        copy_weights(trained, gate)
    newest = new.added[-1]
    if newest.mix_of:
        # In the order in which a gate of all these tasks has them.
        source = _gate_of(base, like)
        copy_weights(source.head, newest.head.head)
        if hasattr(newest.router, "weights"):
            copy_weights(source.router, newest.router)
        for target, values in zip(_beside_scores(newest), _beside_scores(source), strict=True):
            values = ops.convert_to_numpy(values)
            whole = values.shape == tuple(target.shape)
            target.assign(values if whole else values.mean(axis=0, keepdims=True))
        return
    sources = [_gate_of(base, [index]) for index in like]
    for target, *values in zip(
        newest.weights, *(source.weights for source in sources), strict=True
    ):
        mean = np.mean([ops.convert_to_numpy(value) for value in values], axis=0)
        target.assign(mean)


def _beside_scores(gate):
    """A gate's variables that scores are not made of: permutations, biases, averages."""
    made = {id(v) for part in (gate.head, gate.router) for v in getattr(part, "variables", ())}
    return [variable for variable in gate.variables if id(variable) not in made]


def _gate_of(gate, rows):
    """A gate of only some of a gate's tasks."""
    config = nested.config_of(gate)
    config["config"].update(num_tasks=None)
    part = nested.filled(config, "add_task", num_tasks=len(rows))
    part.build(gate.get_build_config()["input_shape"])
    copy_gate(gate, part, rows)
    return part
