"""How a task hangs on the one before it, as a purchase on a click. Plain data, no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfmoe.schema.nested import of_kind, to_plain
from tfmoe.validation import check_choice, checks_arguments, make_plain, number


@dataclass(frozen=True)
class Link:
    """What all links share. Use one of the four kinds.

    A link joins a binary task to the one that it is `given`. All of them predict, of a task `buy`
    given `click`, both `buy`, the probability of a click and a purchase, and `buy_given_click`.
    """

    def __post_init__(self) -> None:
        make_plain(self)


@checks_arguments
@dataclass(frozen=True)
class ESMM(Link):
    """The task's tower says the probability given the parent, which the parent's multiplies.

        P(buy) = P(click) P(buy | click)

    Losses are of `click` and of `buy`, over all rows, so that the conditional probability is
    learnt on the rows that it is asked for, not on clicked ones alone.

    Source: Ma et al., 2018, https://arxiv.org/abs/1804.07931.
    """


@checks_arguments
@dataclass(frozen=True)
class ESCM2(Link):
    """As `ESMM`, with a loss of the conditional probability that the clicks' bias is taken from.

        loss = whole_weight * L(buy) + weight * L(buy | click)

    With `o` the click, `o' = max(P(click), floor)` not differentiated, `d` the log loss of
    `P(buy | click)` and `d'` the loss that an imputation tower expects of a row:

        "ips": mean(o d / o')
        "dr":  mean(d' + o (d - d') / o') + mean(o (d - d')^2 / o')

    In the first mean the imputation tower is not trained, in the second it alone is: else `d'`
    would be pushed down on rows without a click. The tower stands beside the task's own, and is
    left out of what is served.

    Args:
        method: `"ips"`, inverse propensities, or `"dr"`, doubly robust.
        weight, whole_weight: float >= 0, see above.
        floor: float in (0, 1], what `P(click)` counts as at least.

    Source: Wang et al., 2022, https://arxiv.org/abs/2204.05125. Differs from it in the floor, which
    theirs sets on the weight `1 / o'`.
    """

    method: str = "dr"
    weight: float = 1.0
    whole_weight: float = 1.0
    floor: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("ESCM2", "method", self.method, ("ips", "dr"))
        number("ESCM2", "weight", self.weight, least=0)
        number("ESCM2", "whole_weight", self.whole_weight, least=0)
        number("ESCM2", "floor", self.floor, above=0, most=1)


@checks_arguments
@dataclass(frozen=True)
class AITM(Link):
    """The task's tower attends to itself and to what the parent's tower passes on.

    With `q` the last hidden layer of the task's tower and `i = relu(W z_parent)`,

        z = sum over v in {q, i} of softmax_v(<K v, Q v> / sqrt(u)) V v

    The tower then says the probability of the whole chain, which must not be above the parent's:

        loss += penalty * mean(max(P(buy) - P(click), 0))

    Args:
        penalty: float >= 0.

    Source: Xi et al., 2021, https://arxiv.org/abs/2105.08489.
    """

    penalty: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        number("AITM", "penalty", self.penalty, least=0)


@checks_arguments
@dataclass(frozen=True)
class DBMTL(Link):
    """The task's tower reads the last hidden layer of the parent's beside its own.

        h = relu(W [h_buy; h_click] + b)

    It says the probability of the whole chain.

    Source: Wang et al., 2019, https://arxiv.org/abs/1902.09154.
    """


_SHORT: dict[str, Link] = {
    "esmm": ESMM(),
    "escm2-ips": ESCM2("ips"),
    "escm2-dr": ESCM2("dr"),
    "aitm": AITM(),
    "dbmtl": DBMTL(),
}
_KINDS: dict[str, type[Link]] = {kind.__name__: kind for kind in (ESMM, ESCM2, AITM, DBMTL)}


def link_of(owner: str, given: Any) -> Link:
    """A link, of itself, its short name, or the dict that a schema file has.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(given, str) and given in _SHORT:
        return _SHORT[given]
    if isinstance(given, Link) and type(given) is not Link:
        return given
    found = of_kind(owner, "link", _KINDS, given)
    if found is None:
        raise ValueError(
            f"{owner} takes as `link` one of {sorted(_SHORT)}, or an object of {list(_KINDS)}. "
            f"Received link={given!r}."
        )
    return found


def link_to_plain(link: Link) -> str | dict[str, Any]:
    """A link as a schema file has it: its short name if that says all."""
    for name, one in _SHORT.items():
        if one == link:
            return name
    return to_plain(link)
