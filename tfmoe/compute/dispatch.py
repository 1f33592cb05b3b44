r"""Sparse compute: only the chosen (row, expert) pairs are computed, and none is dropped.

Pairs are sorted by expert and laid out in slots, so that a matmul meets slots of one
expert only. There are two kinds of slots. A span is the same for all experts:
`(e, span, f) @ (e, f, u)` reads every kernel where it is. Blocks take what an expert has
beyond its span: `(n, block, f)`, each block with the kernel of its expert. Balanced
routing wants a long span, skewed routing many blocks.

Where shapes may depend on data (TensorFlow without XLA, torch), the best span is found
for each batch, and there are as many blocks as it takes. Under XLA and on JAX spans hold
balanced routing, and there is room for the blocks of the worst case, of which a loop
computes those that a batch needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from tfmoe.compute import thresholds
from tfmoe.keras_private import is_compiled_by_xla


class Slots:
    """Values of the chosen (row, expert) pairs, each in a slot of its expert.

    >>> chosen = np.array([[0, 2], [2, 3]])  # the second row has one expert only, of three
    >>> slots = Slots.of(np.ones((2, 4)), chosen, num_experts=3)
    >>> slots.matmul(np.ones((3, 4, 8))).add(np.ones((3, 8))).map(ops.relu).gather().shape
    TensorShape([2, 2, 8])

    Methods return new slots of the same pairs, and change nothing.
    """

    def __init__(self, plan: Plan, span: Any, blocks: Any) -> None:
        """Slots as they lie: `(e, span, u)` and `(n, block, u)`."""
        self._plan, self._span, self._blocks = plan, span, blocks

    @classmethod
    def of(cls, inputs: Any, chosen: Any, num_experts: int) -> Slots:
        """Every pair with its row's input.

        Args:
            inputs: `(b, f)`.
            chosen: int `(b, k)`, experts of each row, each at most once; `num_experts` where a
                row has fewer than k.
            num_experts: int >= 1.
        """
        found = plan(chosen, num_experts)
        rows = found.pairs // found.slots.shape[1]
        return cls(found, *_spread(inputs, rows, found.slots, found.mask, found, num_experts))

    def refill(self, values: Any) -> Slots:
        """The same pairs with other values, `(b, k, f)`, as `gather` returns them."""
        found = self._plan
        flat = ops.reshape(values, (-1, values.shape[-1]))
        # Each pair is a row of its own.
        slots, mask = (ops.reshape(part, (-1, 1)) for part in (found.slots, found.mask))
        parts = _spread(flat, found.pairs, slots, mask, found, self._span.shape[0])
        return Slots(found, *parts)

    def matmul(self, kernel: Any) -> Slots:
        """Each pair's values times its expert's kernel, of `(e, f, u)`."""
        return Slots(self._plan, *_grouped_matmul(self._span, self._blocks, kernel, self._plan))

    def add(self, bias: Any) -> Slots:
        """Each pair's values plus its expert's, of `(e, u)`."""
        return self.map(lambda values, own: values + own, bias)

    def map(self, function: Callable, *weights: Any) -> Slots:
        """`function` of the values, which must treat every slot alone.

        Args:
            function: gets `(n, slots, u)` with what experts have as `(n, 1, u)`; returns the like.
            weights: tensors `(e, u)`, of which each slot gets its expert's.
        """
        of_spans = [ops.expand_dims(w, 1) for w in weights]
        of_blocks = [ops.take(w, self._plan.experts, axis=0)[:, None] for w in weights]
        span = function(self._span, *of_spans)
        return Slots(self._plan, span, function(self._blocks, *of_blocks))

    def gather(self) -> Any:
        """Gather pair outputs, `(b, k, u)`; entries without an expert are undefined, yet finite."""
        return _gather(self._span, self._blocks, self._plan)


class Plan(NamedTuple):
    """Where every pair is computed.

    Slots are numbered through: first the spans', then the blocks'.

    Attributes:
        slots: int `(b, k)`, the slot of each pair.
        mask: bool `(b, k)`, False where a row has fewer than k experts.
        pairs: int `(slots,)`, the pair in each slot, as an index of `b * k`.
        live: bool `(slots,)`, False where a slot has no pair.
        span: int, slots of each expert's span.
        block: int, slots of a block.
        experts: int `(n,)`, the expert of each block.
        blocks: int, how many of the blocks have pairs.
    """

    slots: Any
    mask: Any
    pairs: Any
    live: Any
    span: Any
    block: Any
    experts: Any
    blocks: Any


def pays(num_chosen: int, num_experts: int, num_weights: int, certain: bool) -> bool:
    """Whether computing `num_chosen` experts of a row is faster than all of them.

    Args:
        num_chosen: int, the most experts of a row.
        num_experts: int.
        num_weights: int, weights of an expert's kernels.
        certain: bool; False if every batch must be looked at first.
    """
    limits = thresholds.current()
    large = num_weights >= limits.large_expert
    times = limits.break_even if certain and large else limits.break_even_small
    return num_chosen * times <= num_experts


def shapes_follow_data() -> bool:
    """Whether shapes may depend on data here: not on JAX, nor where XLA compiles."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        return backend == "torch"
    return not is_compiled_by_xla()


def plan(chosen: Any, num_experts: int) -> Plan:
    """Lays out pairs.

    Args:
        chosen: int `(b, k)`, experts of each row, each at most once; `num_experts`
            where a row has fewer than k.
        num_experts: int >= 1.

    Returns:
        `Plan`.
    """
    flat = ops.reshape(ops.cast(chosen, "int32"), (-1,))
    num = ops.shape(flat)[0]
    order = ops.cast(ops.argsort(flat), "int32")
    experts = ops.take(flat, order)
    # One more, for TensorFlow cannot search where there is nothing.
    ends = ops.concatenate([experts, ops.full((1,), num_experts, dtype="int32")])
    starts = ops.searchsorted(ends, ops.arange(num_experts + 1, dtype="int32"))
    starts = ops.cast(starts, "int32")
    counts = starts[1:] - starts[:-1]
    span, block, most = _sizes(counts, num, num_experts)
    stops = ops.cumsum(_blocks(counts, span, block))
    first = ops.concatenate([ops.zeros_like(stops[:1]), stops])
    # There is always a slot to read, even where no row has an expert; but without rows, none.
    numbers = ops.arange(ops.maximum(stops[-1], 1) if most is None else most, dtype="int32")
    owners = ops.cast(ops.searchsorted(stops, numbers, side="right"), "int32")
    owners = ops.minimum(owners, num_experts - 1)
    if most is None:
        least = ops.maximum(stops[-1], ops.minimum(num, 1))
        numbers, owners = numbers[:least], owners[:least]
    # Which of its expert's pairs a slot has, and whether there is one.
    own = ops.broadcast_to(ops.arange(span, dtype="int32"), (num_experts, span))
    own_live = own < counts[:, None]
    later = (numbers - ops.take(first, owners))[:, None] * block + span
    later = later + ops.arange(block, dtype="int32")
    later_live = (later < ops.take(counts, owners)[:, None]) & (numbers < stops[-1])[:, None]
    place = _flat(own + starts[:-1, None], later + ops.take(starts, owners)[:, None])
    # Which slot a pair has. A pair without expert gets slot 0.
    rank = ops.arange(num, dtype="int32") - ops.take(starts, experts)
    beyond = num_experts * span + ops.take(first, experts) * block + rank - span
    slots = ops.where(rank < span, experts * span + rank, beyond)
    slots = ops.where(experts < num_experts, slots, 0)
    return Plan(
        slots=ops.reshape(ops.scatter(order[:, None], slots, (num,)), ops.shape(chosen)),
        mask=chosen < num_experts,
        pairs=ops.take(order, ops.clip(place, 0, num - 1)),
        live=_flat(own_live, later_live),
        span=span,
        block=block,
        experts=owners,
        blocks=stops[-1],
    )


def _flat(*parts):
    return ops.concatenate([ops.reshape(part, (-1,)) for part in parts])


def _blocks(counts, span, block):
    """Blocks that each expert needs beyond its span."""
    return (ops.maximum(counts - span, 0) + block - 1) // block


def _sizes(counts, num, num_experts):
    """Span, block, and the number of blocks, None for as many as it takes."""
    limits = thresholds.current()
    some, many = (num >= pairs * num_experts for pairs in limits.block_pairs)
    if not shapes_follow_data():
        # Room for balanced routing in the spans, but a few rows, at inference, are
        # cheaper in blocks alone: spans read every kernel.
        eighths = _choose(many, *reversed(limits.spans_xla))
        span = _choose(num >= num_experts, -(-eighths * num // (8 * num_experts)), 0)
        block = _choose(many, *reversed(limits.blocks_xla))
        # What is in blocks has filled a span before, if that is the longer of the two.
        spare = _choose(num < num_experts, num, num_experts)
        blocks = num // block + _choose(span >= block, 0, spare)
        # XLA compiles what fills a block also where none is filled.
        return span, block, max(blocks, 1) if isinstance(blocks, int) else blocks
    short, middle, long = limits.blocks
    block = _choose(many, long, _choose(some, middle, short))
    lengths = [-(-eighths * num // (8 * num_experts)) for eighths in limits.spans]
    spans = ops.array(lengths, "int32")
    blocks = ops.sum(_blocks(counts, spans[:, None], block), axis=-1)
    costs = spans * num_experts + blocks * (block + limits.block_cost)
    return ops.take(spans, ops.argmin(costs)), block, None


def _choose(test, a, b):
    """`a if test else b`, for sizes that TensorFlow knows as tensors only."""
    if isinstance(test, bool):
        return a if test else b
    return ops.where(test, a, b)


def _spread(inputs, rows, slots, mask, plan, num_experts):
    """Rows to the slots of their pairs.

    Args:
        inputs: `(b, f)`.
        rows: int `(slots,)`, which row each slot holds.
        slots: int `(b, k)`, where each row is.
        mask: bool `(b, k)`, False where a row is in no slot.
        plan: `Plan`.
        num_experts: int.

    Returns:
        Pair of tensors, `(e, span, f)` and `(n, block, f)`. A slot without a pair holds
        some row.
    """

    def split(inputs, rows):
        own = num_experts * plan.span
        features = inputs.shape[-1]
        return (
            ops.reshape(ops.take(inputs, rows[:own], axis=0), (num_experts, plan.span, features)),
            ops.reshape(ops.take(inputs, rows[own:], axis=0), (-1, plan.block, features)),
        )

    if keras.backend.backend() == "torch":
        return split(inputs, rows)

    # What a gradient needs is an argument too, for JAX.
    @ops.custom_gradient
    def spread_rows(inputs, rows, slots, mask):
        def gradient(*upstreams):
            # A gather, where that of a gather would be a slow scatter.
            parts = ops.take(_joined(*keras.tree.flatten(upstreams)), slots, axis=0)
            parts = ops.where(mask[..., None], parts, ops.zeros_like(parts))
            return ops.sum(parts, axis=1), None, None, None

        return split(inputs, rows), gradient

    return spread_rows(inputs, rows, slots, mask)


def _gather(own, later, plan):
    """The pairs' outputs `(b, k, u)` from the slots.

    Args:
        own: `(e, span, u)`.
        later: `(n, block, u)`.
        plan: `Plan`.
    """
    if keras.backend.backend() == "torch":
        return ops.take(_joined(own, later), plan.slots, axis=0)

    @ops.custom_gradient
    def gather_pairs(own, later, slots, pairs, live):
        def gradient(upstream):
            upstream = ops.reshape(upstream, (-1, own.shape[-1]))
            num = ops.shape(own)[0] * ops.shape(own)[1]

            def part(shape, pairs, live):
                values = ops.take(upstream, pairs, axis=0)
                values = ops.where(live[:, None], values, ops.zeros_like(values))
                return ops.reshape(values, shape)

            return (
                part(ops.shape(own), pairs[:num], live[:num]),
                part(ops.shape(later), pairs[num:], live[num:]),
                None,
                None,
                None,
            )

        return ops.take(_joined(own, later), slots, axis=0), gradient

    return gather_pairs(own, later, plan.slots, plan.pairs, plan.live)


def _joined(own, later):
    """All slots, `(slots, u)`."""
    return ops.concatenate([ops.reshape(part, (-1, part.shape[-1])) for part in (own, later)])


def _grouped_matmul(own, later, kernel, plan):
    """Every slot times its expert's kernel.

    Args:
        own: `(e, span, f)`.
        later: `(n, block, f)`.
        kernel: `(e, f, u)`.
        plan: `Plan`.

    Returns:
        Pair of tensors, `(e, span, u)` and `(n, block, u)`.
    """
    if keras.backend.backend() == "torch":
        return ops.matmul(own, kernel), ops.matmul(later, ops.take(kernel, plan.experts, axis=0))

    # One function for both, so that the gradients of the kernels that blocks use are
    # added in place to those of the spans.
    @ops.custom_gradient
    def product(own, later, kernel, experts, blocks):
        def gradient(*upstreams):
            own_upstream, later_upstream = keras.tree.flatten(upstreams)
            summed = _turned_first(own, own_upstream)
            return (
                _turned_second(own_upstream, kernel),
                _on_blocks(_turned_second, later_upstream, kernel, experts, blocks),
                _add_blocks(summed, later, later_upstream, experts, blocks),
                None,
                None,
            )

        later_product = _on_blocks(ops.matmul, later, kernel, experts, blocks)
        return (ops.matmul(own, kernel), later_product), gradient

    # A tensor, for TensorFlow lets custom gradients be of tensors only.
    return product(own, later, ops.copy(kernel), plan.experts, plan.blocks)


def _loops():
    """Whether blocks are computed one by one: where XLA compiles for a CPU.

    A loop copies no kernels and ends with the last block that has pairs; but XLA runs it
    on one core, which skewed routing pays for.
    """
    if shapes_follow_data():
        return False
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def _on_blocks(product, x, kernel, experts, blocks):
    """`product(x, kernel)` for `(n, block, ...)`; 0 for blocks without pairs in a loop."""
    if not _loops():
        return product(x, ops.take(kernel, experts, axis=0))
    shape = [*ops.shape(x)[:2], product(x[:1], kernel[:1]).shape[-1]]

    def body(i, outputs):
        result = product(_row(x, i), _row(kernel, _row(experts, i)))
        return i + 1, ops.slice_update(outputs, (i, 0, 0), result)

    start = (ops.zeros((), "int32"), ops.zeros(shape, x.dtype))
    return ops.while_loop(lambda i, _: i < blocks, body, start)[1]


def _add_blocks(gradient, x, upstream, experts, blocks):
    """Adds the blocks' part to the gradient of the kernel."""
    if _loops():

        def body(i, gradient):
            expert = _row(experts, i)
            part = _row(gradient, expert) + _turned_first(_row(x, i), _row(upstream, i))
            return i + 1, ops.slice_update(gradient, (expert[0], 0, 0), part)

        start = (ops.zeros((), "int32"), gradient)
        return ops.while_loop(lambda i, _: i < blocks, body, start)[1]
    parts = _turned_first(x, upstream)
    if keras.backend.backend() != "tensorflow":
        return gradient + ops.segment_sum(parts, experts, gradient.shape[0], sorted=True)
    import tensorflow as tf

    return tf.tensor_scatter_nd_add(gradient, experts[:, None], parts)


def _row(x, i):
    """`x[i : i + 1]`.

    Not as a slice: XLA takes where a slice begins for a constant if it can, and would
    compile anew for every batch.
    """
    return ops.take(x, ops.reshape(i, (1,)), axis=0)


def _turned_first(x, y):
    """`x^T y`; TensorFlow need not turn x round in memory."""
    if keras.backend.backend() != "tensorflow":
        return ops.matmul(ops.swapaxes(x, 1, 2), y)
    import tensorflow as tf

    return tf.matmul(x, y, transpose_a=True)


def _turned_second(x, y):
    """`x y^T`, likewise."""
    if keras.backend.backend() != "tensorflow":
        return ops.matmul(x, ops.swapaxes(y, 1, 2))
    import tensorflow as tf

    return tf.matmul(x, y, transpose_b=True)
