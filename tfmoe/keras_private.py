"""Every private name of Keras and TensorFlow that tfmoe touches, and nothing else of them.

None of these is promised to stay. Each is looked up through `_private`, which says what to do
when it is gone; `tests/package/test_keras_private.py` tries each on the lowest and the newest
versions. Keras is imported where it is used: see `tfmoe/loading.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def _private(owner: Any, name: str) -> Any:
    """`owner.name`, a private name of Keras or TensorFlow.

    Raises:
        RuntimeError: if this version has no such name.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        kind = owner.__name__ if hasattr(owner, "__name__") else type(owner).__name__
        raise _gone(kind, name) from error


def _gone(owner: str, name: str) -> RuntimeError:
    """The error that says what to do where a private name is no more."""
    import keras

    return RuntimeError(
        f"tfmoe relies on a name that Keras and TensorFlow do not promise. Received "
        f"{owner} of Keras {keras.__version__} without {name!r}. Install an older Keras or "
        "TensorFlow, or a newer tfmoe, and please report this."
    )


def flatten_layers(layer: Any) -> list:
    """A layer, and all layers inside it at any depth, holders before what they hold."""
    return list(_private(layer, "_flatten_layers")())


def sublayers(layer: Any) -> list:
    """The layers that a layer holds itself."""
    return list(_private(layer, "_layers"))


def calls_of(layer: Any) -> list[tuple[list, dict[str, Any]]]:
    """Positional and named arguments of each symbolic call of a layer, as list of pairs."""
    given = [_private(node, "arguments") for node in _private(layer, "_inbound_nodes")]
    return [(list(_private(one, "args")), dict(_private(one, "kwargs"))) for one in given]


# `fit` validates through `evaluate`, and says so by this argument.
_VALIDATES = "_use_cached_eval_dataset"


def validates_in_fit(arguments: Mapping[str, Any]) -> bool:
    """Whether named arguments of `evaluate` are those by which `fit` validates.

    Raises:
        RuntimeError: if `fit` says it by another private argument. Unnoticed, each epoch
            would read the validation data twice, for the exact AUC.
    """
    others = sorted(name for name in arguments if name.startswith("_") and name != _VALIDATES)
    if others:
        raise _gone(f"`evaluate` called with {', '.join(others)}", _VALIDATES)
    return bool(arguments.get(_VALIDATES, False))


class ReportsAtTheEnd:
    """Before `keras.Model` among a class's bases: its steps may return fewer numbers than it has.

    At the end of an epoch Keras would then report those of the last step; `metrics_at_the_end`
    says whether all metrics are reported all the same. So they are where an epoch that is gone on
    with has no step left.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "train_step"):
            _private(super(), "_get_metrics_result_or_logs")

    metrics_at_the_end: bool
    get_metrics_result: Callable[[], dict[str, Any]]

    def _get_metrics_result_or_logs(self, logs: Any) -> Any:
        if self.metrics_at_the_end or not logs:
            return self.get_metrics_result()
        return _private(super(), "_get_metrics_result_or_logs")(logs)


class BuiltBefore:
    """Before `keras.Model` among a class's bases: of a model with all its variables before `fit`.

    Under a strategy of TensorFlow, Keras would have a first batch make them, and fails where
    replicas have other numbers of its rows, or are those of several workers.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "train_step") and hasattr(cls, "distribute_strategy"):
            _private(super(), "_maybe_symbolic_build")

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        return


def report_loss_by(model: Any, metric: Any) -> None:
    """Has a compiled model report its loss by another metric, which Keras gives those of steps."""
    _private(model, "_loss_tracker")
    # Past Keras's own lists, in which a metric stays for ever.
    model.__dict__["_loss_tracker"] = metric


def metrics_in_order(model: Any, logs: dict[str, Any]) -> list:
    """A dict of metrics as the list that `evaluate(return_dict=False)` returns."""
    return _private(model, "_flatten_metrics_in_order")(logs)


def say_better(metric: Any, direction: str) -> None:
    """Tells Keras's callbacks whether more of a metric is better, `"up"`, or less, `"down"`.

    Raises:
        RuntimeError: if Keras's own metrics no longer say so by this name.
    """
    _private(_metric_of_keras(), "_direction")
    metric._direction = direction


@functools.cache
def _metric_of_keras() -> Any:
    import keras

    return keras.metrics.BinaryAccuracy()


def better(metric: Any) -> str | None:
    """`"up"` where more of a metric is better, `"down"` where less is, None where it is unknown."""
    return getattr(metric, "_direction", None)


def resize(variable: Any, values: np.ndarray) -> None:
    """Gives a Keras variable values of another shape.

    The variable stays the same object, so all lists of variables that layers, optimizers
    and Keras keep still hold.
    """
    from keras import ops

    _private(variable, "_shape")
    _private(variable, "_initialize")(ops.convert_to_tensor(values, dtype=variable.dtype))
    variable._shape = tuple(values.shape)


def track_again(layer: Any) -> None:
    """Lets a layer list its variables' values anew, where the backend lists them (torch)."""
    _private(layer, "_track_variables")()


def recompile(model: Any) -> None:
    """Has the functions of a model that is being fitted made anew at the next step."""
    model.test_function = model.predict_function = None
    model.make_train_function(force=True)


def optimizer_key(optimizer: Any, variable: Any) -> Any:
    """By what an optimizer tells a variable: on TensorFlow, by its value."""
    return _private(optimizer, "_var_key")(variable)


def rename_key(optimizer: Any, old: Any, new: Any) -> None:
    """Tells an optimizer that a variable has another key."""
    indices = _private(optimizer, "_trainable_variables_indices")
    if old in indices:  # a frozen variable is in none
        indices[new] = indices.pop(old)
    # Made only when something is left out of the decay.
    undecayed: set = getattr(optimizer, "_exclude_from_weight_decay", set())
    if old in undecayed:
        undecayed.add(new)


def slot(optimizer: Any, name: str, variable: Any) -> Any:
    """The TensorFlow variable of an optimizer's state for one of the model's.

    Args:
        optimizer: Keras optimizer.
        name: `"momentums"`, `"velocities"` or `"accumulators"`.
        variable: a variable it updates.
    """
    index = _private(optimizer, "_get_variable_index")(variable)
    return _private(optimizer, f"_{name}")[index].value


class ClipsGradients:
    """Before a Keras optimizer among a class's bases: `clip` decides how gradients are clipped.

    `clip(gradients, usual)` gets all gradients of a step and Keras's own way of clipping them,
    which it takes unless a class says otherwise.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "apply_gradients"):
            _private(super(), "_clip_gradients")

    def clip(self, gradients: list, usual: Callable[[list], list]) -> list:
        return usual(gradients)

    def clipped(self, gradients: list) -> list:
        """The gradients of a step as it clips them."""
        return self._clip_gradients(gradients)

    def _clip_gradients(self, grads: list) -> list:
        return self.clip(grads, _private(super(), "_clip_gradients"))


def clip_otherwise(optimizer: Any, clip: Callable[[list, Callable[[list], list]], list]) -> None:
    """Lets an optimizer clip its gradients by `clip(gradients, usual)`, as in `ClipsGradients`."""
    # The class's, so that a second one takes the place of the first.
    usual = _private(type(optimizer), "_clip_gradients")
    optimizer._clip_gradients = lambda gradients: clip(
        gradients, lambda given: usual(optimizer, given)
    )


def multiply_learning_rate(optimizer: Any, factor: Callable[[], Any]) -> None:
    """Lets an optimizer take all its steps at its learning rate times `factor()`.

    What it is set to and saves stays its own rate.
    """
    # The class's, so that a second factor takes the place of the first.
    usual = _private(type(optimizer), "_get_current_learning_rate")
    optimizer._get_current_learning_rate = lambda: usual(optimizer) * factor()


def is_compiled_by_xla() -> bool:
    """Whether the TensorFlow graph that is being traced is one that XLA compiles."""
    import tensorflow as tf

    try:
        from tensorflow.python.ops import control_flow_util
    except ImportError as error:
        raise _gone("TensorFlow beside the release", "control_flow_util") from error
    in_xla = _private(control_flow_util, "GraphOrParentsInXlaContext")
    return in_xla(tf.compat.v1.get_default_graph())


@contextlib.contextmanager
def forgetting_gradients() -> Iterator[None]:
    """While the graph of a step is traced, which nobody differentiates afterwards.

    TensorFlow registers the gradient of each `tf.custom_gradient` for good, Keras's own ones too,
    and with it the graph that it is of: the steps of all models that a process has ever trained.
    """
    import tensorflow as tf
    from tensorflow.python.framework import ops

    if tf.executing_eagerly():
        yield
        return
    registry = _private(_private(ops, "gradient_registry"), "_registry")
    before = {*registry}
    try:
        yield
    finally:
        for name in [name for name in registry if name not in before]:
            if name.startswith("CustomGradient"):
                del registry[name]


def track_layers(model: Any, layers: Any) -> None:
    """Makes layers of a Functional model's that are not in its graph count among its layers.

    Up to some version, such a model knows no layer that it is given after its graph is made, so
    that a layer for training alone would neither be trained nor saved.

    Args:
        model: Functional model.
        layers: iterable of layers, or of None.
    """
    known = _private(model, "_layers")
    for layer in layers:
        if layer is not None and not any(layer is other for other in known):
            known.append(layer)


def datasets_of(dataset: Any) -> list:
    """A `tf.data.Dataset`, and all that it was made of, nearest first."""
    found, left = [], [dataset]
    while left:
        found.append(left.pop(0))
        left += _private(found[-1], "_inputs")()
    return found


class CountedSteps:
    """The steps of a `fit`, as its data are read, and where it goes on.

    Attributes:
        before: int, batches of the data that were trained on in earlier epochs, where epochs share
            one pass over the data.
        first: int, batches of the first epoch that were trained on.
        taken: int, batches read since the data were last begun.
        step: int, batches of the epoch up to now, those passed over too.
        begins: callable without arguments, called when data are begun anew.
        passed: callable without arguments, called when all steps that were done are passed over,
            if there are any.
    """

    def __init__(self, begins: Callable[[], None]) -> None:
        self.before = self.first = self.taken = self.step = 0
        self.begins = begins
        self.passed: Callable[[], None] = lambda: None
        self._started = False
        self._thread = threading.get_ident()
        self._owner: Any = None
        self._iterator: Any = None

    def start(self) -> None:
        """Called once Keras begins the first epoch: what it reads before is for building."""
        self._started = True

    def goes_on(self) -> bool:
        """Whether the next epoch reads on where the last one ended."""
        current = None if self._owner is None else _private(self._owner, "_current_iterator")
        shares = self._owner is not None and self._owner.steps_per_epoch is not None
        return shares and current is not None and current is self._iterator

    def enumerate(self, owner: Any, usual: Callable[[Any], Any]) -> Any:
        """The steps of an epoch that Keras is to take, of all that it would.

        Args:
            owner: Keras's iterator of epochs, of training or validation.
            usual: its method, which yields the first and the last batch's place, and the data.
        """
        import keras

        own = self._owner is None or self._owner is owner
        if not self._started or not own or self._thread != threading.get_ident():
            yield from usual(owner)
            return
        if self._owner is None:
            self._owner = owner
            # Where epochs share a pass, Keras opens it at an epoch's end, or here.
            if self.before or owner.steps_per_epoch is not None:
                owner._current_iterator = iter(_private(owner, "_get_iterator")())
                _private(owner, "_steps_seen")
                owner._steps_seen = self.before
                self._read(owner._current_iterator, self.before)
                if not self.first:
                    self.passed()
        goes_on = self.first
        for begin, end, iterator in usual(owner):
            num = self._num_batches(begin, end)
            if begin < self.first:
                # Keras counts them as any others, but nothing is told of them.
                self._read(iterator, num)
                if begin + num >= self.first:
                    self.passed()
                continue
            self.first = 0  # nobody comes back here where data end of which no number is known
            self._follow(iterator)
            batches = iterator
            if goes_on and keras.backend.backend() == "jax":
                batches = _with_a_batch(iterator, goes_on)
            goes_on = 0
            self.taken += num
            self.step = begin + num
            yield begin, end, batches
        if goes_on and keras.backend.backend() == "jax":
            raise _ended(goes_on)
        self.first = 0

    def _num_batches(self, begin: int, end: int) -> int:
        """Batches of the steps that Keras takes at once, of which the last may be fewer."""
        known = _private(self._owner, "_num_batches")
        return (end + 1 if known is None else min(end + 1, known)) - begin

    def _follow(self, iterator: Any) -> None:
        if iterator is not self._iterator:
            self._iterator, self.taken = iterator, 0
            self.begins()

    def _read(self, iterator: Any, batches: int) -> None:
        self._follow(iterator)
        for _ in range(batches):
            if next(iterator, None) is None:
                raise ValueError(
                    "A training that goes on needs the data that it began with. Received data "
                    f"that end after {self.taken} batches, of which {self.before + self.first} "
                    "were trained on. Pass the same data, or begin anew in another folder."
                )
            self.taken += 1


def _with_a_batch(iterator: Any, step: int) -> Any:
    """Batches as they come; ValueError if there are none, which Keras on JAX cannot bear."""
    first = list(itertools.islice(iterator, 1))
    if not first:
        raise _ended(step)
    return itertools.chain(first, iterator)


def _ended(step: int) -> ValueError:
    return ValueError(
        "On JAX Keras goes on where a batch of the epoch is left. Received a checkpoint of step "
        f"{step:,}, the epoch's last. Remove that file: the training goes on from the one before, "
        "or, if there is none, begins anew."
    )


@contextlib.contextmanager
def counting(steps: CountedSteps) -> Iterator[None]:
    """While it lasts, the steps of a `fit` are counted, and those done passed over."""
    try:
        from keras.src.trainers.epoch_iterator import EpochIterator
    except ImportError as error:
        raise _gone("keras.src.trainers", "EpochIterator") from error
    usual = _private(EpochIterator, "_enumerate_iterator")
    EpochIterator._enumerate_iterator = lambda owner: steps.enumerate(owner, usual)
    try:
        yield
    finally:
        EpochIterator._enumerate_iterator = usual
