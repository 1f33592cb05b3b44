"""A transformer block whose attention heads and perceptrons are experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.dispatch import pays
from tfmoe.compute.dropout import Dropout
from tfmoe.compute.initializers import reseeded
from tfmoe.compute.math import mix
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Dispatch, Shape, Tensor
from tfmoe.compute.weights import copy_weights, paired, taken
from tfmoe.experts.attention import MoEAttention
from tfmoe.experts.mlp import Experts
from tfmoe.features.embedding import Embedding
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.gates.top_k import TopKGate

# What files have that do not name these arguments.
OF_OLDER_FILES = {"kv_bias": False, "epsilon": 1e-3}


@registered
class ModSquadBlock(keras.layers.Layer):
    r"""A transformer block in which each task picks its own experts for every token.

        x = tokens + embedding[task]
        x = x + dropout(attention(norm(x)))
        x = x + dropout(mlp(norm(x)))

    `attention` is `MoEAttention`, `mlp` a mixture of perceptrons with one hidden layer of
    GELU. Each has a gate of its own, which sees the normalised token and the row's task. Experts
    are weighed by the softmax over all of them, of which the `k` largest are kept as they are:
    see `TopKGate(renormalize=False)`, which a `TopKGate` that does not say otherwise is here.
    With `k` experts a token, heads have `d / k` units and perceptrons `mlp_ratio * d / k`
    hidden ones, so that a token costs the same whatever `k` and `num_experts` are.

    Args:
        num_tasks: int >= 1, or None to take it from the `ModSquad` that holds the block.
        num_experts: int >= 2, number of heads, and of perceptrons.
        gate: a gate without `num_tasks` and `num_experts`; None means
            `TopKGate(num_nonzeros=2, usage_decay=0.95)`. It is a recipe: the block's
            copies are `block.gates`, of the attention and of the perceptrons. `k` is its
            `num_nonzeros`, or `num_experts` where it has none.
        mlp_ratio: float > 0.
        causal: bool; a token attends only to itself and to the tokens before it.
        dropout: float in [0, 1), of what is added to `x`, in training.
        dispatch: `"dense"` computes all experts for every token, `"sparse"` only those
            that are selected, none of them dropped, and none for padding. `"auto"` is
            sparse where the gate is bound to `k` experts and it was measured to be
            faster. The outputs are the same up to rounding.
        expert_ids: two sequences of int, which of the `num_experts` heads and perceptrons are
            left, each with the weight that the whole block's gate gives it; or None for all.
            `extract` makes such blocks.
        kv_bias: bool; the projection of keys and values has a bias, see `MoEAttention`.
        epsilon: float > 0, added to the variance by `norm`.

    Call arguments:
        tokens: float tensor `(b, c, d)`.
        present: bool tensor `(b, c)`, False at padding.
        task: int tensor `(b,)`, the task of each example.
        training: bool.
        return_aux: bool; if True, also return the gate outputs.
        joint: bool; whether examples have all tasks: they are there once for each, all for the
            first task, then all for the second.

    Returns:
        Float tensor `(b, c, d)`, undefined, yet finite, at padding; with `return_aux` a list
        of two `GateOutput`s of `b * c` rows: the tokens of the first example, then of the
        second. Their `mask` is 0 for padding. With `joint` each row is there once and has all
        tasks.

    Raises:
        ValueError: if a count is too small, an argument is of the wrong kind, or `gate` does
            not go with tokens or with `dispatch`.

    Example:

    >>> block = ModSquadBlock(num_tasks=3, num_experts=4)
    >>> tokens, present = np.ones((2, 5, 8)), np.ones((2, 5), bool)
    >>> block(tokens, present, task=np.array([0, 2])).shape
    TensorShape([2, 5, 8])

    Source: Chen et al., 2023, https://arxiv.org/abs/2212.08066, and its code. Differs from
    the released models in that every block has both kinds of experts, where theirs take
    turns. `TopKGate(renormalize=True)`, `kv_bias=False` and `epsilon=1e-3` are what files that
    do not name these have.
    """

    former_arguments = ("kept",)

    def __init__(
        self,
        num_tasks: int | None = None,
        num_experts: int = 16,
        gate: Gate | None = None,
        mlp_ratio: float = 4.0,
        causal: bool = False,
        dropout: float = 0.0,
        dispatch: Dispatch = "auto",
        expert_ids: Sequence[Sequence[int]] | None = None,
        kv_bias: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        expert_ids = nested.renamed(name, kwargs, "kept", "expert_ids", expert_ids)
        super().__init__(**kwargs)
        num_tasks = validation.integer(name, "num_tasks", num_tasks, 1, optional=True)
        num_experts = validation.integer(name, "num_experts", num_experts, 2)
        gate = _checked_gate(name, gate, dispatch)
        if not mlp_ratio > 0:
            raise ValueError(
                f"{name} needs `mlp_ratio` to be above 0. Received mlp_ratio={mlp_ratio}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(
                f"{name} drops a share of units, so `dropout` must be at least 0 and below 1. "
                f"Received dropout={dropout}."
            )
        if not epsilon > 0:
            raise ValueError(f"{name} needs `epsilon` to be above 0. Received epsilon={epsilon}.")
        self.kv_bias, self.epsilon = kv_bias, epsilon
        # None only in a recipe, whose holder fills it in.
        self.num_tasks: Any = num_tasks
        self.num_experts = num_experts
        self.mlp_ratio, self.causal, self.dispatch = mlp_ratio, causal, dispatch
        self.expert_ids = checked_expert_ids(name, expert_ids, 2)
        self.num_chosen = min(gate.num_nonzeros or num_experts, num_experts)
        self.dropout = Dropout(dropout, dtype=self.dtype_policy)
        self._gate_config = nested.config_of(gate)
        self.gates: list[Gate] = []

    def build(self, input_shape: Shape) -> None:
        validation.check_known(self, "num_tasks")
        size, dtype = input_shape[-1], {"dtype": self.dtype_policy}
        names, ids = ("attention", "mlp"), self.expert_ids or (None, None)
        self.gates = [self._make_gate(i, f"{names[i]}_gate", ids[i]) for i in range(2)]
        heads, perceptrons = (gate.num_experts for gate in self.gates)
        head_dim = max(1, round(size / self.num_chosen))
        hidden = max(1, round(self.mlp_ratio * size / self.num_chosen))
        self.embedding = Embedding(self.num_tasks, size, name="task_embedding", **dtype)
        self.norms = [
            keras.layers.LayerNormalization(epsilon=self.epsilon, name=f"{n}_norm", **dtype)
            for n in names
        ]
        self.attention = MoEAttention(
            heads, head_dim, self.causal, self.kv_bias, name="attention", **dtype
        )
        self.mlp = Experts(
            perceptrons, (hidden, size), "gelu", last_activation="linear", name="mlp", **dtype
        )
        self.embedding.build((None,))
        token_layers: list[Any] = [*self.norms, self.attention]
        for layer in token_layers:
            layer.build(input_shape)
        row_layers: list[Any] = [*self.gates, self.mlp]
        for layer in row_layers:
            layer.build((None, size))

    def _make_gate(self, index: int, name: str, ids: Sequence[int] | None) -> Gate:
        cut: dict[str, Any] = {"num_experts": self.num_experts}
        if ids is not None:
            num = len(ids)
            cut = {"num_experts": num, "expert_ids": list(ids), "num_choices": self.num_experts}
        # With a seed of the user's the two would start alike, and draw the same noise.
        config = reseeded(self._gate_config, index)
        if "renormalize" in config["config"] and config["config"]["renormalize"] is None:
            cut["renormalize"] = False
        return nested.filled(
            config, type(self).__name__, name=name, num_tasks=self.num_tasks, **cut
        )

    def call(
        self,
        tokens: Tensor,
        present: Tensor,
        task: Tensor,
        training: bool = False,
        return_aux: bool = False,
        joint: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        task = ops.cast(task, "int32")
        mask = ops.reshape(ops.cast(present, "float32"), (-1,))
        owners = ops.reshape(ops.broadcast_to(task[:, None], ops.shape(present)), (-1,))
        x = tokens + self.embedding(task)[:, None]
        seen, weights, chosen, first = self._routed(0, x, owners, mask, training, joint)
        heads = self.attention(seen, present, weights, chosen)
        x = x + self.dropout(heads, training=training)
        seen, weights, chosen, second = self._routed(1, x, owners, mask, training, joint)
        flat = ops.reshape(seen, (-1, seen.shape[-1]))
        mixed = mix(self.mlp(flat, chosen=chosen, training=training), weights[:, None])
        x = x + self.dropout(ops.reshape(mixed, ops.shape(x)), training=training)
        return (x, [first, second]) if return_aux else x

    def _routed(
        self, i: int, x: Tensor, owners: Tensor, mask: Tensor, training: bool, joint: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, GateOutput]:
        """What the attention (0) or the perceptrons (1) need.

        Args:
            i: int.
            x: `(b, c, d)`.
            owners: int `(b * c,)`, tasks of the tokens.
            mask: float `(b * c,)`, 0 for padding.
            training: bool.
            joint: bool; whether rows have all tasks, and so are there once for each.

        Returns:
            Normalised tokens `(b, c, d)`; weights `(b * c, k)` of the chosen experts, and
            these, or weights `(b * c, e)` of all and None; the gate output.
        """
        seen, gate = self.norms[i](x), self.gates[i]
        flat = ops.reshape(seen, (-1, seen.shape[-1]))
        options = {"training": training, "return_aux": True}
        if joint:
            # Such a gate counts each row once, and its losses are those of all tasks.
            of_tasks = ops.reshape(flat, (self.num_tasks, -1, flat.shape[-1]))
            one_mask = ops.reshape(mask, (self.num_tasks, -1))[0]
            of_tasks = ops.transpose(of_tasks, (1, 0, 2))
            _, record = gate(of_tasks, row_mask=one_mask, **options)
            record = _each_row(record, one_mask)
            weights = ops.transpose(record.weights, (1, 0, 2))
            weights = ops.reshape(weights, (-1, weights.shape[-1]))
        else:
            _, record = gate(flat, task=owners, row_mask=mask, **options)
            weights = record.weights[:, 0]
        weights, chosen = weights * mask[:, None], None
        if self.is_sparse(i, training):
            weights, chosen = ops.top_k(weights, min(self.num_chosen, gate.num_experts))
            chosen = ops.where(weights > 0, chosen, gate.num_experts)
        return seen, ops.cast(weights, self.compute_dtype), chosen, record

    def is_sparse(self, i: int, training: bool) -> bool:
        """Whether the attention (0) or the perceptrons (1) compute selected experts only."""
        gate = self.gates[i]
        if self.dispatch == "dense" or not gate.always_sparse:
            return False
        if training and gate.trains_unselected:
            return False
        if self.dispatch == "sparse":
            return True
        stacks = self.mlp.kernels if i else [self.attention.queries, self.attention.outputs]
        num_weights = sum(stack.shape[1] * stack.shape[2] for stack in stacks)
        return pays(self.num_chosen, gate.num_experts, num_weights, certain=True)

    def copy_from(
        self,
        other: ModSquadBlock,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """As `Structure.copy_from`, of the two gates and what they choose from."""
        for target, values in paired(other.embedding, self.embedding):
            target.assign(taken(values, target, tasks, other.num_tasks, other))
        for i, name in enumerate(("attention", "mlp")):
            copy_weights(other.norms[i], self.norms[i])
            self.gates[i].copy_from(other.gates[i], tasks)
            old, new = getattr(other, name), getattr(self, name)
            num = old.num_experts
            members = list(range(num)) if experts is None else experts[i]
            for target, values in paired(old, new):
                target.assign(taken(values, target, members, num, old))

    def compute_output_spec(
        self,
        tokens: Tensor,
        present: Tensor,
        task: Tensor,
        training: bool = False,
        return_aux: bool = False,
        joint: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        outputs = keras.KerasTensor(tokens.shape, dtype=self.compute_dtype)
        if not return_aux:
            return outputs
        num = None if None in tokens.shape[:2] else tokens.shape[0] * tokens.shape[1]
        if joint:
            num = None if num is None else num // self.num_tasks
            shape = (num, self.num_tasks, tokens.shape[2])
            flat = keras.KerasTensor(shape, dtype=self.compute_dtype)
            mask = keras.KerasTensor((num,), dtype="float32")
            records = [gate.compute_output_spec(flat, return_aux=True)[1] for gate in self.gates]
            return outputs, [_spec_of_each_row(record, mask) for record in records]
        flat = keras.KerasTensor((num, tokens.shape[2]), dtype=self.compute_dtype)
        owners = keras.KerasTensor((num,), dtype="int32")
        mask = keras.KerasTensor((num,), dtype="float32")
        specs = [
            gate.compute_output_spec(flat, task=owners, return_aux=True, row_mask=mask)
            for gate in self.gates
        ]
        return outputs, [record for _, record in specs]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "num_experts": self.num_experts,
            "gate": self._gate_config,
            "mlp_ratio": self.mlp_ratio,
            "causal": self.causal,
            "dropout": self.dropout.rate,
            "dispatch": self.dispatch,
            "expert_ids": self.expert_ids and [list(ids) for ids in self.expert_ids],
            "kv_bias": self.kv_bias,
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return super().from_config({**OF_OLDER_FILES, **config})


def _each_row(record: GateOutput, mask: Tensor) -> GateOutput:
    """A gate output in which no row stands for all."""

    def widened(x: Tensor) -> Tensor:
        return ops.broadcast_to(x, (ops.shape(mask)[0], *x.shape[1:]))

    return GateOutput(
        mask=mask,
        probabilities=widened(record.probabilities),
        scores=widened(record.scores),
        weights=widened(record.weights),
    )


def _spec_of_each_row(record: GateOutput, mask: Tensor) -> GateOutput:
    """What `_each_row` makes, for symbols."""

    def widened(x: Tensor) -> Tensor:
        return keras.KerasTensor((mask.shape[0], *x.shape[1:]), dtype=x.dtype)

    return GateOutput(
        mask=mask,
        probabilities=widened(record.probabilities),
        scores=widened(record.scores),
        weights=widened(record.weights),
    )


def _checked_gate(name: str, gate: Any, dispatch: str) -> Gate:
    """The gate, or the default one.

    Raises:
        ValueError: if it is no gate, or does not go with tokens or `dispatch`.
    """
    gate = TopKGate(num_nonzeros=2, usage_decay=0.95) if gate is None else nested.given(gate)
    if not isinstance(gate, Gate):
        raise ValueError(
            f"{name} takes as `gate` one of tfmoe's gates, such as TopKGate(num_nonzeros=2). "
            f"Received gate={gate!r}."
        )
    if gate.needs_ids:
        raise ValueError(
            f"{name} routes tokens, which have no ids to be hashed. Received gate={gate!r}. "
            "Use a gate that sees its input, such as TopKGate(num_nonzeros=2)."
        )
    if dispatch not in ("auto", "dense", "sparse"):
        raise ValueError(
            f'{name} takes `dispatch` "auto", "dense" or "sparse". Received dispatch={dispatch!r}.'
        )
    if dispatch == "sparse" and not gate.always_sparse:
        raise ValueError(
            f"{name} computes only selected experts if the gate is bound to a number of them. "
            f"Received dispatch='sparse' with gate={gate!r}. Use dispatch='auto', or a gate "
            "such as TopKGate(num_nonzeros=2)."
        )
    return gate


def checked_expert_ids(
    name: str, expert_ids: Any, num_gates: int
) -> tuple[tuple[int, ...], ...] | None:
    """The argument `expert_ids` as tuples, one a gate, or None.

    Raises:
        ValueError: if it is no sequence of so many sequences.
    """
    if expert_ids is None:
        return None
    is_nested = isinstance(expert_ids, list | tuple)
    is_nested = is_nested and all(isinstance(ids, list | tuple) for ids in expert_ids)
    if not is_nested or len(expert_ids) != num_gates:
        raise ValueError(
            f"{name} takes as `expert_ids` one sequence of experts for each of its {num_gates} "
            f"gates. Received expert_ids={expert_ids!r}."
        )
    return validation.plain(tuple(tuple(ids) for ids in expert_ids))
