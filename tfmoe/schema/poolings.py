"""How a history becomes a vector with regard to a candidate. Plain data, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tfmoe.schema.nested import of_kind
from tfmoe.validation import (
    check_bool,
    check_name,
    checks_arguments,
    integer,
    make_plain,
    number,
    sizes,
)

# Above it the scale of what stays would overflow in half precision.
MOST_DROPPED = 0.999


@dataclass(frozen=True)
class Pooling:
    """What poolings of a `Sequence` by a candidate share. Use one of the two kinds.

    The history and the candidate must be of one space: a candidate column uses the table of the
    sequence, or of one that is aligned with it, by `share`. A list among the candidates, such as
    a film's genres, is pooled as its column says.

    Args:
        candidate: name of the column of the row's candidate, or of several, each of another
            table: the item, and its category.
    """

    candidate: str | tuple[str, ...]

    # Whether the values' own `weights` have a part in it.
    takes_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        make_plain(self)
        owner, given = type(self).__name__, self.candidate
        names = (given,) if isinstance(given, str) else given
        if not isinstance(names, tuple | list) or not names or len({*names}) < len(names):
            raise ValueError(
                f"{owner} needs `candidate` to be the name of a column, or different ones. "
                f"Received candidate={given!r}."
            )
        for name in names:
            check_name(owner, name)
        object.__setattr__(self, "candidate", names[0] if len(names) == 1 else tuple(names))

    @property
    def candidates(self) -> tuple[str, ...]:
        """The names of the candidate columns."""
        return (self.candidate,) if isinstance(self.candidate, str) else self.candidate


@checks_arguments
@dataclass(frozen=True)
class TargetAttention(Pooling):
    """The values' vectors, weighed by a small network that sees each beside the candidate.

        a_j = MLP([h_j, t, h_j - t, h_j * t])
        sum over j of a_j h_j

    Padding has no part in it. The cost grows linearly with the length. The `a_j` start near 1, so
    that training starts from the sum of the history.

    A sequence with `weights` is the sum over j of `w_j a_j h_j`, with `softmax`

        a_j = exp(MLP_j) / sum over i of |w_i| exp(MLP_i)

    so that, where the network says the same of all values, it is the sum or the mean that
    `weights` make in other poolings. A value of weight 0 is as if it were not there.

    Args:
        candidate: see `Pooling`.
        hidden_units: sizes of the MLP's hidden layers; a linear unit follows.
        activation: name of a Keras activation, of the hidden layers.
        softmax: whether the `a_j` are turned into shares of 1. Without, the sum says also how
            much interest there was.

    Source: Zhou et al., 2018, https://arxiv.org/abs/1706.06978 (DIN), which does not normalise.
        Its activation Dice needs the statistics of a batch and is not offered: no row's score
        depends on the others here.
    """

    hidden_units: tuple[int, ...] = (32,)
    activation: str = "relu"
    softmax: bool = False

    takes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        units = sizes("TargetAttention", "hidden_units", self.hidden_units)
        object.__setattr__(self, "hidden_units", units)
        check_bool("TargetAttention", "softmax", self.softmax)


@checks_arguments
@dataclass(frozen=True)
class BST(Pooling):
    """Transformer blocks over the history with the candidate as last token, of which it is read.

        x = [h_1 + p_1, ..., h_n + p_n, t + p_0]
        x <- LN(x + attention(x)),  x <- LN(x + W_2 relu(W_1 x + b_1) + b_2)

    `p` is a learned vector of how long before the candidate the position is: padding behind a
    history changes nothing. The pooled vector is the last token. In the last block only that is
    computed, so that with one block the cost grows linearly with the length. It takes no `weights`
    of the values: tokens are normed, whatever they were multiplied by, and attention has shares,
    which cannot be below 0 as weights may.

    Args:
        candidate: see `Pooling`.
        num_heads: int >= 1; must divide the sizes of the sequence's embeddings, added up.
        num_layers: int >= 1, number of blocks.
        hidden_units: int >= 1, of the feed-forward part, or None for four times its input.
        dropout_rate: float in [0, 0.999], of attention and feed-forward part in training.

    Source: Chen et al., 2019, https://arxiv.org/abs/1905.06874. Differs from it in that the
        candidate's token is read and not all of them, and in positions that are counted from the
        candidate where theirs are spans of time.
    """

    num_heads: int = 2
    num_layers: int = 1
    hidden_units: int | None = None
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("BST", "num_heads", self.num_heads, 1)
        integer("BST", "num_layers", self.num_layers, 1)
        integer("BST", "hidden_units", self.hidden_units, 1, optional=True)
        rate = number("BST", "dropout_rate", self.dropout_rate, least=0, most=MOST_DROPPED)
        object.__setattr__(self, "dropout_rate", rate)


_KINDS: dict[str, type[Pooling]] = {kind.__name__: kind for kind in (TargetAttention, BST)}


def pooling_of(owner: str, given: Any, words: tuple[str, ...]) -> str | Pooling:
    """A pooling, of itself, its word, or the mapping that a schema file has.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(given, str) and given in words:
        return given
    if isinstance(given, Pooling) and type(given) is not Pooling:
        return given
    found = of_kind(owner, "pooling", _KINDS, given)
    if found is None:
        raise ValueError(
            f"{owner} takes as `pooling` one of {list(words)}, or an object of {list(_KINDS)}. "
            f"Received pooling={given!r}."
        )
    return found
