"""Numbers that change during training, given as Keras's schedules: plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import keras

from tfmoe.compute import nested
from tfmoe.validation import plain

#: A number that changes over the training steps.
Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


def is_schedule(value: Any) -> bool:
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def number_or_schedule(
    name: str, argument: str, value: Any, least: float, above: bool = False
) -> Any:
    """The argument as a number or a Keras schedule.

    Args:
        name: str, the gate's class.
        argument: str, the argument's name.
        value: number, Keras schedule, or a schedule's config.
        least: float; a number must be at least this.
        above: bool; a number must be above it.

    Raises:
        ValueError: if it is anything else, or a schedule of whole numbers.
    """
    value = nested.given(value)
    if is_schedule(value):
        _check_floats(name, argument, value)
        return value
    value = plain(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value > least if above else value >= least):
        raise ValueError(
            f"{name} takes `{argument}` as a number {'above' if above else 'of at least'} "
            f"{least}, or as one of keras.optimizers.schedules over the training steps. "
            f"Received {argument}={value!r}."
        )
    return value


def ramp(steps: int, most: float) -> Schedule:
    """A number that rises from 0 to `most` in so many training steps, and stays there."""
    return keras.optimizers.schedules.PolynomialDecay(0.0, steps, end_learning_rate=most)


def steps_to_rest(gates: Iterable[Any]) -> int:
    """Further training steps until all schedules of gates that ever stand still do so."""
    left = [
        _rests_after(getattr(gate, name)) - steps_taken(getattr(gate, "steps", 0))
        for gate in gates
        for name in gate.scheduled()
    ]
    return max([0, *left])


def steps_taken(counter: Any) -> int:
    """What a counter of steps holds, also one that is on several replicas."""
    return int(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(counter)))


def _rests_after(value: Any) -> int:
    """The steps after which a schedule stays as it is; 0 for a number, and one that never does."""
    schedules = keras.optimizers.schedules
    if isinstance(value, schedules.PolynomialDecay):
        return 0 if value.cycle else value.decay_steps
    if isinstance(value, schedules.CosineDecay):
        return value.warmup_steps + value.decay_steps
    if isinstance(value, schedules.PiecewiseConstantDecay):
        return max(value.boundaries)
    # Those that fall by a share in so many `decay_steps` always go on falling.
    return 0


def schedule_config(value: Any) -> Any:
    """For `get_config`."""
    return keras.saving.serialize_keras_object(value) if is_schedule(value) else value


def _check_floats(name, argument, schedule):
    """Keras takes the type of a schedule's first value for all: from 0 to 0.5 stays at 0."""
    config = schedule.get_config()
    values = [config.get("initial_learning_rate", 0.0), *config.get("values", [])]
    if any(isinstance(value, int) for value in values):
        raise ValueError(
            f"{name} takes as `{argument}` schedules whose values are written as floats, for "
            f"Keras rounds the others to the type of the first. Received {argument}="
            f"{type(schedule).__name__} with {values}. Write 0.0 for 0."
        )
