"""Several optimizers in one, each for a part of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.compute.types import Tensor
from tfmoe.keras_private import multiply_learning_rate
from tfmoe.optimizers.fused import Adam, SumsRows
from tfmoe.validation import did_you_mean, number

#: The part of all that no other one names.
REST = "rest"


class _Routes:
    """Which variable goes to which optimizer; a plain object, of which Keras tracks nothing.

    Attributes:
        optimizers: dict by part of optimizers.
        part_of: dict of parts by a variable's `id`; None before a model has said it.
        variables: list of the variables that were built for.
    """

    def __init__(self, optimizers: dict[str, Any]) -> None:
        self.optimizers = optimizers
        self.part_of: dict[int, str] | None = None
        self.variables: list[Any] = []


@registered
class ByPart(SumsRows, keras.optimizers.Optimizer):
    r"""An optimizer for each part of a `MultiTaskModel`, with a rate of its own.

    `model.compile({...})` makes one of a dict. The parts are

    - `"embeddings"`: the encoder's tables, one vector for each value of a column;
    - `"embeddings/user_id"`: the table of one column, before `"embeddings"`. Columns that share
      a table are called by the one that owns it;
    - `"gates"`: the weights of the structure's gates;
    - `"experts"`: all other weights of the structure;
    - `"towers"`: the towers;
    - `"wide"`: the first-order term, of a model with `wide=True`;
    - `"rest"`: what no other part that is given names. It may be left out if nothing is left.

    A part that the model does not have, or of which all is frozen, trains nothing. Each optimizer
    keeps its own clipping, weight decay, averages (`use_ema`) and accumulation of gradients, of
    its own part. With the same optimizer for all parts a training is the one of that optimizer
    alone, up to rounding, unless it clips by `global_clipnorm`: give that here, where it is the
    norm of all gradients.

    `learning_rate` multiplies the rates of all parts. It is what callbacks such as
    `ReduceLROnPlateau` and `LearningRateScheduler` read and set, and starts at 1; a schedule here
    warms up or decays all parts alike, beside the schedules that they may have.

    Args:
        parts: dict by part of Keras optimizers or their names; `"adam"` is `tfmoe.optimizers.Adam`.
        learning_rate: float >= 0, or a Keras schedule; the factor of all rates.
        global_clipnorm: float > 0, the largest norm of all gradients together, or None. It is
            clipped before a part's `gradient_accumulation_steps` add up.
        name: str.

    Raises:
        ValueError: if there are no parts, one optimizer stands for two, or one cannot be a part:
            one that scales the loss, or a `ByPart`; when a model is compiled, if a part is
            unknown, or `"rest"` is missing and something is left for it.

    Example:

    >>> optimizer = ByPart({"embeddings": tfmoe.optimizers.LazyAdam(0.01), "rest": "adam"})
    >>> sorted(optimizer.parts)
    ['embeddings', 'rest']
    >>> optimizer.parts["rest"].learning_rate = 1e-4
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
        global_clipnorm: float | None = None,
        name: str = "by_part",
    ) -> None:
        if not isinstance(parts, Mapping) or not parts:
            raise ValueError(
                "ByPart takes optimizers as a dict by part, such as "
                f'{{"embeddings": tfmoe.optimizers.LazyAdam(0.01), "rest": "adam"}}. Received '
                f"parts={parts!r}."
            )
        if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            learning_rate = number("ByPart", "learning_rate", learning_rate, 0)
        clip = number("ByPart", "global_clipnorm", global_clipnorm, above=0, optional=True)
        super().__init__(learning_rate, global_clipnorm=clip, name=name)
        # Sorted, for states in files are numbered in this order.
        made = {part: _checked(part, parts[part]) for part in sorted(parts)}
        if len({id(one) for one in made.values()}) < len(made):
            raise ValueError(
                "Each part has an optimizer of its own, which keeps a state for it. Received "
                f"parts={dict(parts)!r}, with one for two parts. Make one for each."
            )
        for one in made.values():
            multiply_learning_rate(one, self._factor)
        self._routes = _Routes(made)

    def _factor(self) -> Any:
        return ops.convert_to_tensor(self.learning_rate)

    @property
    def parts(self) -> dict[str, keras.optimizers.Optimizer]:
        """Dict by part of the optimizers.

        `parts[name].learning_rate = 1e-4` sets a part's own rate; read, it is that times the
        factor of all.
        """
        return dict(self._routes.optimizers)

    def route(self, known: Mapping[str, Sequence[Any]]) -> None:
        """Tells the parts of a model; `MultiTaskModel.compile` does.

        Args:
            known: dict by part of the model's variables; a part's name may have a `/` before the
                name of a part of it.

        Raises:
            ValueError: if the optimizer has a part that is not among them.
        """
        names = [*known, REST]
        for part in self._routes.optimizers:
            if part not in names:
                raise ValueError(
                    f"Optimizers are given by part of the model, of the parts {names}. Received an "
                    f"optimizer for {part!r}.{did_you_mean(part, names)}"
                )
        routes: dict[int, str] = {}
        for part in sorted(known, key=lambda name: name.count("/")):
            if part in self._routes.optimizers:
                routes |= {id(variable): part for variable in known[part]}
        self._routes.part_of = routes

    def grouped(self, variables: Iterable[Any]) -> dict[str, list[Any]]:
        """Variables of the model by part, in their order.

        Raises:
            ValueError: if a variable is of no part, or no model has told its parts.
        """
        if self._routes.part_of is None:
            raise ValueError(
                "ByPart is for a MultiTaskModel, which tells it its parts when it is compiled. "
                "Received variables before. Pass it to MultiTaskModel.compile."
            )
        groups: dict[str, list[Any]] = {part: [] for part in self._routes.optimizers}
        for variable in variables:
            part = self._routes.part_of.get(id(variable), REST)
            if part not in groups:
                raise ValueError(
                    f"ByPart needs an optimizer for each variable. Received {list(groups)}, of "
                    f'which none has {variable.path!r}. Add one for "{REST}".'
                )
            groups[part].append(variable)
        return groups

    def optimizer_of(self, variable: Any) -> Any:
        """The optimizer of a variable's part."""
        (part,) = [name for name, own in self.grouped([variable]).items() if own]
        return self._routes.optimizers[part]

    @property
    def variables(self) -> list[Any]:
        """Its own, then those of each part."""
        own = super().variables
        return own + [one for part in self._routes.optimizers.values() for one in part.variables]

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        for part, own in self.grouped(variables).items():
            one = self._routes.optimizers[part]
            if own and not one.built:
                one.build(own)
        self._routes.variables = list(variables)
        super().build(variables)

    def apply(self, grads: Iterable[Any], trainable_variables: Any = None) -> None:
        if trainable_variables is not None:
            self.build(list(trainable_variables))
            variables = list(trainable_variables)
        else:
            variables = self._routes.variables
        gradients = self.clipped(list(grads))
        of = {id(one): gradient for one, gradient in zip(variables, gradients, strict=True)}
        for part, own in self.grouped(variables).items():
            found = [of[id(variable)] for variable in own]
            if any(gradient is not None for gradient in found):
                self._routes.optimizers[part].apply(found, own)
        self.iterations.assign_add(1)

    def clip(self, gradients: list[Tensor], usual: Any) -> list[Tensor]:
        """All gradients of a step, clipped together; those of variables without any are None."""
        clipped = iter(super().clip([one for one in gradients if one is not None], usual))
        return [None if one is None else next(clipped) for one in gradients]

    def finalize_variable_values(self, var_list: Iterable[Any]) -> None:
        for part, own in self.grouped(var_list).items():
            if own:
                self._routes.optimizers[part].finalize_variable_values(own)

    def get_config(self) -> dict[str, Any]:
        known = super().get_config()
        optimizers = self._routes.optimizers.items()
        return {
            "parts": {part: keras.optimizers.serialize(one) for part, one in optimizers},
            **{name: known[name] for name in ("learning_rate", "global_clipnorm", "name")},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ByPart:
        parts = {
            part: keras.optimizers.deserialize(one, custom_objects)
            for part, one in config["parts"].items()
        }
        return super().from_config({**config, "parts": parts}, custom_objects)


def made(optimizer: Any) -> Any:
    """What `MultiTaskModel.compile` takes as an optimizer, made unless Keras makes it itself."""
    if isinstance(optimizer, Mapping) and "class_name" not in optimizer:
        return ByPart(optimizer)
    return Adam() if optimizer == "adam" else optimizer


def routed(optimizer: Any) -> ByPart | None:
    """The `ByPart` that an optimizer is, or scales the loss for; None if it is another one."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if isinstance(inner, ByPart) else None


def nested(optimizer: Any) -> list[Any]:
    """An optimizer, and those inside it: of which it scales the loss, and of its parts."""
    inner = getattr(optimizer, "inner_optimizer", None)
    found = [optimizer] if inner is None else [optimizer, inner]
    by_part = routed(optimizer)
    return found if by_part is None else [*found, *by_part.parts.values()]


def _checked(part: str, given: Any) -> Any:
    """The optimizer of a part.

    Raises:
        ValueError: if it cannot be one.
    """
    one = keras.optimizers.get(made(given))
    scales = isinstance(one, keras.optimizers.LossScaleOptimizer) or one.loss_scale_factor
    if isinstance(one, ByPart) or scales:
        raise ValueError(
            "The optimizer of a part is a plain one: the loss is scaled, where it is, for all "
            f"parts together. Received {type(one).__name__} for {part!r}. Give it without "
            "`loss_scale_factor`; keras.optimizers.LossScaleOptimizer goes around ByPart."
        )
    return one
