"""Mod-Squad: a transformer whose experts are matched to tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
from keras import ops

from tfmoe import validation
from tfmoe.compute import nested
from tfmoe.compute.initializers import reseeded
from tfmoe.compute.registered import registered
from tfmoe.compute.types import Dispatch, Shape, Tensor
from tfmoe.compute.weights import copy_weights
from tfmoe.gates.base import Gate
from tfmoe.gates.output import GateOutput
from tfmoe.gates.top_k import TopKGate
from tfmoe.structures.base import Structure
from tfmoe.structures.mod_squad_block import (
    OF_OLDER_FILES,
    ModSquadBlock,
    checked_expert_ids,
)


@registered
class ModSquad(Structure):
    r"""Mod-Squad: a transformer over tokens whose experts are matched to tasks.

        x = tokens
        x = block(x, task)                  num_blocks times, see `ModSquadBlock`
        output = pooled(norm(x))

    In a `MultiTaskModel` the tokens are the row's columns and the values of its sequences,
    see `Encoder`. It is made for rows of one task each, `Schema(task_column=...)`. Rows with
    the labels of all `t` tasks go through it once for each task, because routing and task
    embedding depend on the task from the first block on: `t` times the cost of one task.

    Train it with `MutualInformationLoss`, which makes tasks choose experts of their own.

    Args:
        num_tasks: int >= 1, or None to take it from the model that holds it.
        dim: int >= 1, size of a token, and of the output.
        num_blocks: int >= 1.
        num_experts, gate, mlp_ratio, causal, dropout, dispatch, kv_bias, epsilon: of each block,
            see `ModSquadBlock`; `epsilon` also of the last `norm`.
        pooling: `"mean"` over the tokens that are present, or the `"last"` of them, which
            under `causal` is the one that has seen all others.
        expert_ids: for each gate of `mixture.gates` a sequence of int, the experts that are
            left, or None for all; see `ModSquadBlock`.

    Call arguments:
        inputs: pair of a float tensor `(b, c, d)`, tokens, and a bool tensor `(b, c)`,
            False at padding.
        task: int tensor `(b,)`, the task of each row; None for all tasks.
        context: ignored.
        training: bool.
        return_aux: bool; if True, also return the gate outputs.

    Returns:
        Float tensor `(b, t, d)`, or `(b, 1, d)` with `task`. With `return_aux` also a list
        of `GateOutput`s, two a block, of the attention's and of the perceptrons' gate, with
        a row for each token: `(b * c, t, .)`, or `(b * c, 1, .)` with `task`. See
        `ModSquadBlock`.

    Raises:
        ValueError: if a count is too small, an argument is of the wrong kind, or tokens
            have another size than `dim`.

    Example:

    >>> mixture = ModSquad(num_tasks=3, dim=8, num_experts=4)
    >>> tokens, mask = np.ones((2, 5, 8)), np.ones((2, 5), bool)
    >>> mixture((tokens, mask)).shape
    TensorShape([2, 3, 8])
    >>> mixture((tokens, mask), task=np.array([0, 2])).shape
    TensorShape([2, 1, 8])

    Source: Chen et al., 2023, https://arxiv.org/abs/2212.08066. Differs from it in its
    tokens, which are columns and not parts of an image; see also `ModSquadBlock`.
    """

    input_kind = "tokens"

    former_arguments = ("kept",)

    def __init__(
        self,
        num_tasks: int | None = None,
        dim: int = 32,
        num_blocks: int = 2,
        num_experts: int = 16,
        gate: Gate | None = None,
        mlp_ratio: float = 4.0,
        causal: bool = False,
        pooling: Literal["mean", "last"] = "mean",
        dropout: float = 0.0,
        dispatch: Dispatch = "auto",
        expert_ids: Sequence[Sequence[int]] | None = None,
        kv_bias: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        expert_ids = nested.renamed("ModSquad", kwargs, "kept", "expert_ids", expert_ids)
        super().__init__(num_tasks, **kwargs)
        dim = validation.integer("ModSquad", "dim", dim, 1)
        num_blocks = validation.integer("ModSquad", "num_blocks", num_blocks, 1)
        if pooling not in ("mean", "last"):
            raise ValueError(
                f'ModSquad takes `pooling` "mean" or "last". Received pooling={pooling!r}.'
            )
        self.dim, self.num_blocks, self.pooling = dim, num_blocks, pooling
        self.token_dim = dim
        self.expert_ids = checked_expert_ids("ModSquad", expert_ids, 2 * num_blocks)
        recipe = nested.config_of(gate) if isinstance(gate, keras.layers.Layer) else gate
        self.blocks = [
            ModSquadBlock(
                num_tasks,
                num_experts,
                reseeded(recipe, 2 * i),  # as in a block, whose second gate takes 1
                mlp_ratio,
                causal,
                dropout,
                dispatch,
                self.expert_ids and self.expert_ids[2 * i : 2 * i + 2],
                kv_bias,
                epsilon,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(num_blocks)
        ]
        self.norm = keras.layers.LayerNormalization(
            epsilon=epsilon, dtype=self.dtype_policy, name="norm"
        )

    @property
    def gates(self) -> list[Gate]:
        return [gate for block in self.blocks for gate in block.gates]

    def select(
        self, experts: Sequence[Sequence[int]], tasks: Sequence[int] | None = None
    ) -> dict[str, Any]:
        config = nested.config_of(self)
        inner = config["config"]
        inner["num_tasks"] = None
        # The blocks fill in the counts, also where the recipe had stated them.
        inner["gate"]["config"].update(num_tasks=None, num_experts=None)
        numbers = [gate.numbers(e) for gate, e in zip(self.gates, experts, strict=True)]
        is_cut = any(len(n) < gate.num_choices for n, gate in zip(numbers, self.gates, strict=True))
        inner["expert_ids"] = numbers if is_cut else None
        return config

    def copy_from(
        self,
        other: Any,
        tasks: Sequence[int],
        experts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        copy_weights(other.norm, self.norm)
        for i, (own, block) in enumerate(zip(self.blocks, other.blocks, strict=True)):
            own.copy_from(block, tasks, experts and experts[2 * i : 2 * i + 2])

    @classmethod
    def from_options(
        cls,
        gate: Gate | None = None,
        hidden_units: Sequence[int] = (32,),
        num_nonzeros: int = 2,
        **options: Any,
    ) -> Structure:
        gate = TopKGate(num_nonzeros=num_nonzeros, usage_decay=0.95) if gate is None else gate
        return super().from_options(gate=gate, dim=hidden_units[-1], **options)

    def computes_sparsely(self, one_task: bool = False) -> bool:
        # Whatever the rows, each pass is of one task a row.
        return any(block.is_sparse(i, training=True) for block in self.blocks for i in range(2))

    def build(self, input_shape: Sequence[Shape]) -> None:
        validation.check_known(self, "num_tasks")
        shapes = [tuple(s) if isinstance(s, list | tuple) else s for s in input_shape]
        is_pair = [isinstance(shape, tuple) for shape in shapes] == [True, True]
        if not is_pair or len(shapes[0]) != 3 or shapes[0][-1] != self.dim:
            raise ValueError(
                f"ModSquad takes a pair, tokens of shape (batch, tokens, {self.dim}) and a mask. "
                f"Received shapes {tuple(shapes)}. Encoder(..., tokens={self.dim}) makes both."
            )
        for layer in (*self.blocks, self.norm):
            layer.build(shapes[0])

    def call(
        self,
        inputs: tuple[Tensor, Tensor],
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        tokens, present = inputs
        if task is not None:
            outputs, records = self._passed(tokens, present, task, training, joint=False)
            return (outputs[:, None], records) if return_aux else outputs[:, None]
        num = self.num_tasks
        # All rows for the first task, then all for the second.
        task = ops.arange(num, dtype="int32")[:, None]
        task = ops.reshape(ops.broadcast_to(task, (num, ops.shape(tokens)[0])), (-1,))
        outputs, records = self._passed(
            ops.tile(tokens, (num, 1, 1)), ops.tile(present, (num, 1)), task, training, joint=True
        )
        outputs = self._tasks_second(outputs)
        return (outputs, records) if return_aux else outputs

    def _passed(
        self, tokens: Tensor, present: Tensor, task: Tensor, training: bool, joint: bool
    ) -> tuple[Tensor, list[GateOutput]]:
        """Pooled tokens `(b, d)`, and gate outputs, of rows of one task each."""
        records: list[GateOutput] = []
        for block in self.blocks:
            tokens, pair = block(
                tokens, present, task, training=training, return_aux=True, joint=joint
            )
            records += pair
        shares = ops.cast(present, "float32")
        if self.pooling == "last":
            places = ops.arange(ops.shape(present)[1])
            last = ops.max(ops.where(present, places, -1), axis=1, keepdims=True)
            shares = ops.cast(places == last, "float32")
        shares = shares / ops.maximum(ops.sum(shares, axis=1, keepdims=True), 1)
        shares = ops.cast(shares, self.compute_dtype)
        return ops.matmul(shares[:, None], self.norm(tokens))[:, 0], records

    def _tasks_second(self, x: Tensor) -> Tensor:
        """Rows of one task after the other, `(t * n, ..., s)`, as `(n, t, s)`."""
        return ops.transpose(ops.reshape(x, (self.num_tasks, -1, x.shape[-1])), (1, 0, 2))

    def compute_output_spec(
        self,
        inputs: tuple[Tensor, Tensor],
        task: Tensor | None = None,
        context: dict[str, Tensor] | None = None,
        training: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, list[GateOutput]]:
        tokens, present = inputs
        num = self.num_tasks if task is None else 1
        outputs = keras.KerasTensor((tokens.shape[0], num, self.dim), dtype=self.compute_dtype)
        if not return_aux:
            return outputs
        joint = task is None
        if joint:
            # Each row once for each task.
            batch = None if tokens.shape[0] is None else num * tokens.shape[0]
            tokens = keras.KerasTensor((batch, *tokens.shape[1:]), dtype=tokens.dtype)
        records: list[GateOutput] = []
        for block in self.blocks:
            options = {"return_aux": True, "joint": joint}
            records += block.compute_output_spec(tokens, present, task, **options)[1]
        return outputs, records

    def get_config(self) -> dict[str, Any]:
        block = self.blocks[0].get_config()
        shared = ["num_experts", "gate", "mlp_ratio", "causal", "dropout", "dispatch"]
        shared += ["kv_bias", "epsilon"]
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "dim": self.dim,
            "num_blocks": self.num_blocks,
            **{name: block[name] for name in shared},
            "pooling": self.pooling,
            "expert_ids": self.expert_ids and [list(ids) for ids in self.expert_ids],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return super().from_config({**OF_OLDER_FILES, **config})
