"""What has a name on the command line: gates, mixtures, precisions, ways to count.

Help, completion and errors follow from these tables, which need no Keras.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from tfmoe.gates.base import Gate

# What a gate is given. It notes what training selects, for `tfmoe extract --by usage`.
_COUNTED = ("num_nonzeros", "usage_decay")

# Public name, and the arguments that the command line has for it.
GATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "softmax": ("SoftmaxGate", ()),
    "top-k": ("TopKGate", _COUNTED),
    "task-aware": ("TaskAwareGate", _COUNTED),
    "balanced-top-k": ("BalancedTopKGate", _COUNTED),
    "dselect-k": ("DSelectKGate", _COUNTED),
    "comet": ("CometGate", _COUNTED),
    "gumbel": ("GumbelGate", _COUNTED),
    "relu": ("ReLUGate", _COUNTED),
    "sparsemax": ("SparsemaxGate", ()),
    "entmax": ("EntmaxGate", ()),
}
MIXTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "mmoe": ("MMoE", ("num_experts", "hidden_units", "gate")),
    "omoe": ("OMoE", ("num_experts", "hidden_units", "gate")),
    "mod-squad": ("ModSquad", ("num_experts", "dim", "gate")),
    "shared-bottom": ("SharedBottom", ("hidden_units",)),
}
# The gate of a mixture where none is named.
DEFAULT_GATE = "softmax"
DEFAULT_GATES = {"mod-squad": "top-k"}

DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
DATA_SETS = ("synthetic", "ml-1m", "ml-latest-small")
USES = ("weight", "usage")


def one_of(names: Iterable[str]) -> str:
    """`a, b or c`, for help."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def completion(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What typer calls to complete an option that takes one of some names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def check_known(option: str, value: str, names: Iterable[str]) -> None:
    """Raises ValueError if an option's value is none of its names."""
    if value not in names:
        raise ValueError(f"Choose {option} from {', '.join(names)}. Received {option} {value}.")


def units_of(hidden_units: str) -> tuple[int, ...]:
    """`(256, 128)` of `"256,128"`, or a ValueError."""
    if not all(units.strip().isdigit() for units in hidden_units.split(",")):
        raise ValueError(
            "--hidden-units takes integers with commas between them, such as 256,128. "
            f"Received --hidden-units {hidden_units}."
        )
    return tuple(int(units) for units in hidden_units.split(","))


def check_mixture(mixture: str, gate: str | None, hidden_units: str) -> None:
    """Raises ValueError if `mixture_by_name` would, before TensorFlow is started."""
    check_known("--mixture", mixture, MIXTURES)
    if gate is not None:
        check_known("--gate", gate, GATES)
    units_of(hidden_units)


def gate_by_name(gate: str, num_nonzeros: int) -> "Gate":
    """A gate's recipe from what `tfmoe train` was told."""
    import tfmoe

    check_known("--gate", gate, GATES)
    name, takes = GATES[gate]
    known = {"num_nonzeros": num_nonzeros, "usage_decay": 0.95}
    return getattr(tfmoe, name)(**{key: known[key] for key in takes})


def mixture_by_name(
    mixture: str, gate: str | None, num_experts: int, num_nonzeros: int, hidden_units: str
) -> "keras.Layer":
    """A mixture's recipe from what `tfmoe train` was told.

    Args:
        mixture: str, such as `"mmoe"`.
        gate: str, such as `"top-k"`, or None for the mixture's own.
        num_experts: int.
        num_nonzeros: int, for gates that take a number.
        hidden_units: str, integers with commas between them.

    Raises:
        ValueError: if it does not know one of them.
    """
    import tfmoe

    check_mixture(mixture, gate, hidden_units)
    units = units_of(hidden_units)
    known = {
        "num_experts": num_experts,
        "hidden_units": units,
        "dim": units[-1],
        "gate": gate_by_name(gate or DEFAULT_GATES.get(mixture, DEFAULT_GATE), num_nonzeros),
    }
    name, takes = MIXTURES[mixture]
    return getattr(tfmoe, name)(**{key: known[key] for key in takes})
