"""What every structure is, and how a plain Keras layer takes the place of one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from tfmoe.compute import nested
from tfmoe.compute.shared import fan_out
from tfmoe.compute.types import Tensor
from tfmoe.compute.weights import copy_weights, paired, taken
from tfmoe.gates.base import Gate
from tfmoe.keras_private import sublayers
from tfmoe.validation import checks_arguments, integer


@checks_arguments
class Structure(keras.layers.Layer):
    """From what the Encoder makes to one representation a task, `(b, t, u)`.

    A structure of one's own is a subclass, registered with Keras, with `call` and `get_config`
    (`num_tasks` among the keys). All that models, reports, extraction and serving ask of it
    are the names below; their defaults suit a structure without gates whose tasks share all.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds the structure.

    Call arguments:
        inputs: what `input_kind` says.
        task: int tensor `(b,)`, the task of each row, or None where a row has them all.
        context: dict of tensors, what `context_columns` asks for; None for none.
        training: bool.
        return_aux: bool; if True, also return a list with a `GateOutput` for each of `gates`.

    Returns:
        Float tensor `(b, t, u)`, or `(b, 1, u)` with `task`; with `return_aux` a pair.

    Raises:
        ValueError: if `num_tasks` is too small.
    """

    #: What `inputs` are: `"flat"`, one vector a row `(b, f)`; `"tokens"`, a pair of tokens
    #: `(b, c, token_dim)` and their mask `(b, c)`; or `"copies"`, a vector for each of
    #: `encodings`, `(b, n, f)`, from embedding tables of its own.
    input_kind: str = "flat"
    #: Size of a token, where the inputs are tokens.
    token_dim: int | None = None
    #: Whether `task` only leaves out copies: without gates, and all tasks get one representation,
    #: which a model whose towers can read it once then asks for without the copies.
    only_copies: bool = False

    def __init__(self, num_tasks: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        owner = type(self).__name__
        # None only in a recipe, whose holder fills it in.
        self.num_tasks: Any = integer(owner, "num_tasks", num_tasks, 1, optional=True)

    @property
    def gates(self) -> list[Gate]:
        """Its gates, in the order of their outputs in `call`."""
        return []

    @property
    def encodings(self) -> list[int]:
        """Where the inputs are copies, their numbers, by which `extract` finds those that stay."""
        return [0]

    @property
    def context_columns(self) -> dict[str, str]:
        """The keys that `context` must hold, each with the column whose ids it wants."""
        return {}

    def shared_point(self) -> str:
        """Where the gradients of tasks may be combined: the last tensor that all tasks share.

        Returns:
            `"outputs"` if all tasks get the same representation; `"inside"` if `call` passes that
            tensor through `fan_out`, once; else `"inputs"`: they are combined at the parameters
            that tasks share, in a backward pass for each task.

        Raises:
            ValueError: if the tasks share nothing.
        """
        return "inputs"

    def fan_out(self, shared: Tensor, task: Tensor | None = None) -> Tensor:
        """A slice for each task of the last tensor that all tasks share, to be read by that task.

        In a step that combines the tasks' gradients (`tfmoe.PCGrad` and others) they are combined
        here on their way back; in all others it only repeats. See `shared_point`.

        Args:
            shared: `(b, ...)`.
            task: int `(b,)`, the task of each row, or None where a row has them all.

        Returns:
            `(b, t, ...)`, or `(b, 1, ...)` with `task`.
        """
        return fan_out(shared, self.num_tasks, task)

    def computes_sparsely(self, one_task: bool = False) -> bool:
        """Whether training may compute only selected experts.

        Args:
            one_task: whether rows are of one task each.
        """
        return False

    def expert_outputs(self, inputs: Tensor) -> Tensor | None:
        """Outputs `(b, e, u)` of all experts, to be compared; None if they read less than a row."""
        return None

    def gate_rows(self, tasks: Sequence[int], gate: Gate) -> list[int]:
        """Where one of its gates that tell tasks apart has some of its tasks, by index."""
        return list(tasks)

    def expert_numbers(self, gate: Gate) -> list[list[int]] | None:
        """For each of a gate's tasks the numbers of its experts among those of all tasks.

        None where all tasks choose among the same.
        """
        return None

    def kept(self, experts: Sequence[Sequence[int]], tasks: Sequence[int]) -> list[Any]:
        """The experts that must stay if some are used; the same, unless experts hang together.

        Args:
            experts: for each of `gates` the indices of the experts that it uses.
            tasks: indices of the tasks that stay.

        Returns:
            For each of `gates` the indices of the experts that stay.

        Raises:
            ValueError: if these tasks cannot do without the others.
        """
        return list(experts)

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """The recipe of this structure, for any number of tasks, with some of its experts.

        Args:
            experts: for each of `gates` the indices of the experts that stay, as `kept` has them.
            tasks: indices of the tasks that stay, or None for all.

        Raises:
            ValueError: if experts are to go and the structure does not say how.
        """
        if any(len(own) < gate.num_experts for own, gate in zip(experts, self.gates, strict=True)):
            raise ValueError(
                "Experts are dropped from structures that say how, by `select`. Received a "
                f"{type(self).__name__}, which does not. Leave out data and threshold, so that "
                "all experts stay."
            )
        config = nested.config_of(self)
        config["config"]["num_tasks"] = None
        return config

    def copy_from(
        self,
        other: Structure,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Takes over the weights of a structure with more tasks, or more experts.

        Args:
            other: built structure of the same kind.
            tasks: for each of this one's tasks its index in the other.
            experts: for each gate the indices of the experts that are here; None for all.

        Raises:
            ValueError: if it cannot be told which part of a weight belongs to a task.
        """
        routing = {id(weight) for gate in self.gates for weight in gate.weights}
        for own, gate in zip(self.gates, other.gates, strict=True):
            own.copy_from(gate, tasks)
        for target, values in paired(other, self):
            if id(target) not in routing:
                target.assign(taken(values, target, tasks, other.num_tasks, other))

    def extended(self, like: Sequence[int], routing: str) -> dict[str, Any]:
        """The recipe of this structure for one more task.

        Args:
            like: indices of the tasks that the new one is like.
            routing: `"own"` or `"mix"`, what is fitted of a gate, see `MultiTaskModel.add_task`.

        Raises:
            ValueError: if the structure takes no further task.
        """
        raise ValueError(
            "add_task takes models on MMoE, OMoE, SharedBottom, STAR or a structure of your own "
            f"that says how, by `extended`. Received one on {type(self).__name__}. Train it anew "
            "with the task among the others."
        )

    def copy_extended(self, other: Structure, like: Sequence[int]) -> None:
        """Takes over the weights of the structure that this one has a task more than."""
        copy_weights(other, self)

    def freeze(self) -> None:
        """Leaves only what belongs to the newest task to be trained."""
        self.trainable = False

    def adopt(self, original: Structure) -> None:
        """Takes over what no recipe holds, such as ready layers' weights, from its original."""

    def expert_variables(self) -> list[Any]:
        """The variables with one row an expert, where one gate chooses among all of them.

        Raises:
            ValueError: if its experts are not of this kind.
        """
        raise ValueError(
            "Experts are dropped in a running fit where one gate chooses among experts that the "
            f"structure made itself, as in MMoE and OMoE. Received a {type(self).__name__}. "
            "Use tfmoe.extract after the training."
        )

    def keep_experts(self, experts: Sequence[int]) -> None:
        """Keeps only some of its experts, whose variables have been cut already."""
        raise NotImplementedError

    @classmethod
    def from_options(cls, **options: Any) -> Structure:
        """The recipe for what was chosen on the command line.

        Args:
            **options: `gate`, a recipe or None, `num_experts`, `hidden_units`, and
                `num_nonzeros` for a default gate that takes a number; those that the
                constructor does not take are left out.
        """
        known = inspect.signature(cls.__init__).parameters
        return cls(**{name: value for name, value in options.items() if name in known})


class PlainLayer(Structure):
    """Any Keras layer `(b, f) -> (b, t, u)` in the place of a structure.

    The layer's constructor takes `num_tasks`, its call `return_aux` (and `task`, where rows are
    of one task each). It is called itself, so that models, their files and users see it alone.

    Args:
        layer: Keras layer.
    """

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(getattr(layer, "num_tasks", None), name=layer.name)
        self.layer = layer

    def __call__(self, inputs: Tensor, **options: Any) -> Any:
        return self.layer(inputs, **options)

    @property
    def path(self) -> str:
        return self.layer.path

    @property
    def gates(self) -> list[Gate]:
        return gates_inside(self.layer)

    def freeze(self) -> None:
        self.layer.trainable = False

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        raise ValueError(
            "extract takes a MultiTaskModel on MMoE, OMoE, SharedBottom, ModSquad or another "
            f"Structure. Received model on {type(self.layer).__name__}, which is none. Make it a "
            "subclass of tfmoe.Structure."
        )

    def extended(self, like: Sequence[int], routing: str) -> dict[str, Any]:
        raise ValueError(
            "add_task takes models on MMoE, OMoE, SharedBottom, STAR or another Structure. "
            f"Received one on {type(self.layer).__name__}. Train it anew with the task among the "
            "others."
        )


def structure_of(layer: keras.layers.Layer) -> Structure:
    """A layer as a structure: itself, or a plain one in its place."""
    return layer if isinstance(layer, Structure) else PlainLayer(layer)


def gates_inside(layer: keras.layers.Layer) -> list[Gate]:
    """The gates inside a layer, in the order in which it holds them; not those inside of gates."""
    if isinstance(layer, Structure):
        return layer.gates
    found: list[Gate] = []
    for part in sublayers(layer):
        found += [part] if isinstance(part, Gate) else gates_inside(part)
    return found
