"""What has a name on the command line: gates, structures, precisions, ways to count.

Help, completion and errors follow from these tables, which need no Keras.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import tfmoe

if TYPE_CHECKING:
    from tfmoe.gates.base import Gate
    from tfmoe.gates.schedules import Schedule
    from tfmoe.structures.base import Structure


def _short(name: str) -> str:
    """A class's name as it is typed: `DSelectK` is `dselect-k`, `ModSquad` is `mod-squad`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z]|K$)", "-", name).lower()


def _public(room: str) -> list[str]:
    """Public names of a room but for those of its abstract class."""
    homes = tfmoe.HOMES.items()
    return [n for n, home in homes if home.startswith(f"{room}.") and home != f"{room}.base"]


def _weightings() -> list[str]:
    """Public weightings, those of losses first."""
    homes = tfmoe.HOMES.items()
    found = [n for n, home in homes if home.startswith("objectives.weighting.")]
    found.remove("Weighting")
    return sorted(found, key=lambda name: (tfmoe.HOMES[name].endswith(".combined"), name.lower()))


# From what is public, so that a new one has a name here too. A HashGate has a column to be told,
# for which there is no option; a block is a part.
GATES = {
    _short(name.removesuffix("Gate")): name
    for name in _public("gates")
    if name.endswith("Gate") and name != "HashGate"
}
STRUCTURES = {_short(name): name for name in _public("structures") if not name.endswith("Block")}

WEIGHTINGS = {"fixed": ""} | {name.lower(): name for name in _weightings()}

# Layers between the encoder and the structure; `Interactions` holds them.
INTERACTIONS = {
    name.lower(): name
    for name in _public("features.interactions")
    if name not in ("ByColumns", "Interactions")
} | {"dot": "DotInteraction"}

# Keras's and ours; of two with one name ours.
OPTIMIZERS = {
    "adam": "Adam",
    "lazy_adam": "LazyAdam",
    "adagrad": "Adagrad",
    "adamw": "AdamW",
    "ftrl": "Ftrl",
    "lion": "Lion",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}

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


def units_of(hidden_units: str, option: str = "--hidden-units") -> tuple[int, ...]:
    """`(256, 128)` of `"256,128"`, or a ValueError."""
    if not all(units.strip().isdigit() for units in hidden_units.split(",")):
        raise ValueError(
            f"{option} takes integers with commas between them, such as 256,128. "
            f"Received {option} {hidden_units}."
        )
    return tuple(int(units) for units in hidden_units.split(","))


def check_structure(structure: str, gate: str | None, hidden_units: str | None) -> None:
    """Raises ValueError if a name is unknown, before TensorFlow is started."""
    check_known("--mixture", structure, STRUCTURES)
    if gate is not None:
        check_known("--gate", gate, GATES)
    units_of(UNITS if hidden_units is None else hidden_units)


# What a structure gets where its option is not given.
UNITS, NUM_EXPERTS, NUM_NONZEROS = "256,128", 8, 2
# At 0.1 a tenth of the selectors on generated ratings had not decided, at 1 both selectors of every
# task named one expert. At 0.3 over two epochs all but 0.4 % had, there and on Census-Income.
ENTROPY_REG = 0.3


def gate_by_name(
    gate: str, num_nonzeros: int | None = None, entropy_reg: "float | Schedule | None" = None
) -> "Gate":
    """A gate's recipe from what `tfmoe train` was told.

    Raises:
        ValueError: if the gate takes no such option.
    """
    check_known("--gate", gate, GATES)
    kind = getattr(tfmoe, GATES[gate])
    takes = inspect.signature(kind.__init__).parameters
    given = {"num_nonzeros": num_nonzeros, "entropy_reg": entropy_reg}
    check_taken(f"--gate {gate}", given, takes)
    options: dict[str, object] = {n: value for n, value in given.items() if value is not None}
    if "num_nonzeros" in takes:
        # It notes what training selects, for `tfmoe extract --by usage`.
        options = {"num_nonzeros": NUM_NONZEROS, "usage_decay": 0.95, **options}
    return kind(**options)


def decisive(
    gate: str | None, num_rows: int, batch_size: int, epochs: int | None
) -> "Schedule | None":
    """The `entropy_reg` with which a gate has decided before a training's second half.

    It rises over the first two epochs, or half of the training if that is shorter. Chosen on
    generated ratings and Census-Income, see `ENTROPY_REG`.

    Args:
        gate: str, or None.
        num_rows, batch_size, epochs: of the training; epochs None for one that ends by itself.

    Returns:
        A schedule; None for a gate that takes no such weight, or has one by default.
    """
    if gate is None:
        return None
    taken = inspect.signature(getattr(tfmoe, GATES[gate]).__init__).parameters
    if "entropy_reg" not in taken or taken["entropy_reg"].default != 0:
        return None
    from tfmoe.gates.schedules import ramp

    return ramp(round(num_rows / batch_size * min(2, (epochs or 4) / 2)) or 1, ENTROPY_REG)


def structure_by_name(
    structure: str,
    gate: str | None = None,
    num_experts: int | None = None,
    num_nonzeros: int | None = None,
    hidden_units: str | None = None,
    dropout: float | None = None,
    entropy_reg: "float | Schedule | None" = None,
    layer_norm: bool = False,
) -> "Structure":
    """A structure's recipe from what `tfmoe train` was told; None is what it was not told.

    Args:
        structure: str, such as `"mmoe"`.
        gate: str, such as `"top-k"`, or None for the structure's own.
        num_experts: int, by default 8.
        num_nonzeros: int, by default 2, for gates that take a number.
        hidden_units: str, integers with commas between them, by default `"256,128"`.
        dropout: float, of the experts' hidden layers.
        entropy_reg: float or schedule, for gates that take such a weight.
        layer_norm: bool, of the experts' hidden layers.

    Raises:
        ValueError: if it does not know one of them, or they do not go together.
    """
    check_structure(structure, gate, hidden_units)
    kind = getattr(tfmoe, STRUCTURES[structure])
    takes = {*inspect.signature(kind.from_options).parameters}
    takes |= {*inspect.signature(kind.__init__).parameters}
    given: dict[str, object] = {"gate": gate, "num_experts": num_experts, "dropout": dropout}
    given |= {"hidden_units": hidden_units, "layer_norm": layer_norm or None}
    if gate is None:
        given |= {"num_nonzeros": num_nonzeros, "entropy_reg": entropy_reg}
    check_taken(f"--mixture {structure}", given, takes)
    options: dict[str, Any] = {"num_experts": num_experts or NUM_EXPERTS, "dropout": dropout}
    options["layer_norm"] = layer_norm or None
    options = {name: value for name, value in options.items() if value is not None}
    return kind.from_options(
        **options,
        hidden_units=units_of(UNITS if hidden_units is None else hidden_units),
        gate=None if gate is None else gate_by_name(gate, num_nonzeros, entropy_reg),
        num_nonzeros=num_nonzeros or NUM_NONZEROS,
    )


def conditions(pepnet: str | None) -> dict[str, Any]:
    """The gates around the structure, for columns with commas between them, or None for none."""
    if pepnet is None:
        return {}
    columns = [name.strip() for name in pepnet.split(",") if name.strip()]
    return {"input_gate": tfmoe.EPNet(), "tower_gate": tfmoe.PPNet(columns)}


def interactions(given: str | None, stacked: bool = False, alone: bool = False) -> Any:
    """`Interactions` of the layers of names with commas between them, or None for none.

    Args:
        given: such as `"cross,fm"`, or None.
        stacked: see `Interactions`.
        alone: whether they stand in place of the row; see `keep_input` of `Interactions`.

    Raises:
        ValueError: if a name is unknown.
        ImportError: if a layer is keras_rs's, which is not installed.
    """
    if given is None:
        return None
    names = [name.strip() for name in given.split(",")]
    for name in names:
        check_known("--interactions", name, INTERACTIONS)
    layers = [_interaction(INTERACTIONS[name]) for name in names]
    return tfmoe.Interactions(layers, stacked, keep_input=not alone)


def _interaction(name: str) -> Any:
    if hasattr(tfmoe, name):
        return getattr(tfmoe, name)()
    try:
        import keras_rs
    except ImportError as error:
        raise ImportError(
            f"{name} is a layer of keras_rs's, which is not installed. Install it: "
            "pip install 'tfmoe[rs]'."
        ) from error
    return getattr(keras_rs.layers, name)()


def optimizer_parts(given: str) -> dict[str, tuple[str, float | None]]:
    """`{"gates": ("adam", 0.001), "rest": ("sgd", None)}` of `"gates=adam:0.001,rest=sgd"`.

    One optimizer for all, `"sgd:0.1"`, is that of `"rest"`.

    Raises:
        ValueError: if it is written in another way, or a name is unknown.
    """
    parts: dict[str, tuple[str, float | None]] = {}
    for text in given.split(","):
        part, found, optimizer = text.strip().rpartition("=")
        name, _, rate = optimizer.partition(":")
        part = part if found else "rest"
        check_known("--optimizer", name, OPTIMIZERS)
        valid = part not in parts and (bool(found) or "," not in given)
        try:
            parts[part] = name, float(rate) if rate else None
            valid = valid and (not rate or 0 <= float(rate) < math.inf)
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(
                "--optimizer takes one optimizer, adam or adam:0.001, or one for each part, such "
                f"as embeddings=lazy_adam:0.01,rest=adam. Received --optimizer {given}."
            )
    return parts


def optimizer(given: str, learning_rate: float) -> Any:
    """The optimizer that `--optimizer` asks for; its rates by default `--learning-rate`'s."""
    import keras

    def made(name: str, rate: float | None) -> Any:
        kind = OPTIMIZERS[name]
        own = getattr(tfmoe.optimizers, kind, None) or getattr(keras.optimizers, kind)
        return own(learning_rate if rate is None else rate)

    parts = {part: made(*one) for part, one in optimizer_parts(given).items()}
    return parts["rest"] if [*parts] == ["rest"] else tfmoe.optimizers.ByPart(parts)


def check_taken(owner: str, given: Mapping[str, object], takes: Iterable[str]) -> None:
    """Raises ValueError if an option was given that its owner does not take."""
    strange = [name for name, value in given.items() if value is not None and name not in takes]
    if strange:
        option = f"--{strange[0].replace('_', '-')}"
        raise ValueError(
            f"{owner} takes no {option}. Received {option} {given[strange[0]]}. Leave it out, or "
            "choose another mixture or gate."
        )
