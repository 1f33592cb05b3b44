"""Checkpoints of a training, and going on from the newest where a process died."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfmoe.files import PathLike, check_local
from tfmoe.keras_private import counting
from tfmoe.model import checkpoint_file, kept
from tfmoe.model.data_place import DataPlace
from tfmoe.model.finite import weights_are_finite
from tfmoe.remote import address
from tfmoe.validation import checks_arguments, integer

# Written into each file; another number is of a version that keeps other things.
_FORMAT = 1
_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.npz")


@checks_arguments
class Checkpoint(keras.callbacks.Callback):
    """Keeps a whole training in a folder, so that it goes on where a process died.

    What is kept: the model's weights, averages and random states; the optimizer's state, that of
    its parts and of a loss scale, and its learning rate; what a weighting has learned; the
    metrics of an epoch that has not ended; what callbacks know (Keras's `EarlyStopping` with its
    best weights, `ReduceLROnPlateau`, `ModelCheckpoint`, and those of tfmoe); the history; the
    epoch, the step, and the place in the data.

    The same lines, started again, go on: `fit` passes over what was trained on and returns the
    whole history. A training that went on ends with the numbers of one that was never stopped: to
    the bit with one thread and `tf.config.experimental.enable_op_determinism()`, else up to
    rounding. A training that has ended is not begun again. A file appears whole or not at all, and
    older ones are removed after it; so a process may die at any moment, also while it writes.

    Data come again in the same order if they are

    - a table or files that `fit` is given, or a dataset of `Preprocessor.dataset`, shuffled or
      not. Tables in memory, and streams whose callable has a parameter `start`, are not read
      again for what was trained on; files are read again, from the epoch's beginning.
    - any other `tf.data.Dataset`, generator or arrays with `shuffle=False`: batches are read and
      left out. Whether they are the same is up to the data: of `tf.data` shuffled with a `seed`
      those of the first pass come again, so go on with whole epochs only where
      `reshuffle_each_iteration=False`.

    Arrays that Keras shuffles come in an order that nobody can repeat, and are refused.

    A callback of one's own is kept too if it has the methods `get_state()`, which returns a dict
    of lists, numbers, texts and arrays, and `set_state(state)`, called before the first step.

    A training on several replicas goes on alike, up to rounding, from a file that is the same for
    any number of them; on data of `Preprocessor.dataset` also with another number, and on what
    `tfmoe.distribution.dataset` makes with the same. Of several workers the chief's file is
    written, in a folder that all of them see.

    Args:
        folder: local folder of this one training, made if there is none.
        every_steps: int >= 1, batches after which a checkpoint is written, or None to write one
            at the end of each epoch only. It is written then, too. On JAX none is written behind
            an epoch's last batch, where Keras could not go on, if its number is known.
        resume: bool; whether to go on from the newest checkpoint, if there is one. If not, the
            folder must be empty.
        keep: int >= 1, the newest checkpoints, which are kept.

    Raises:
        FileExistsError: before the first step, with `resume=False`, if something is in the folder.
        ValueError: if an argument is out of range; before the first step, if the newest
            checkpoint is of another schema, structure, optimizer, data or callbacks, or the data
            are of those that are refused, or a callback changes the model's shapes, as
            `CompactExperts`, or workers do not find the same checkpoint.
        RuntimeError: on the other workers, if one of them ends with an error of these.

    Warns:
        UserWarning: if the newest file cannot be read, and one before it is taken.

    Example:

    >>> import tempfile, warnings
    >>> ages = {"age": np.linspace(0, 1, 8, dtype="float32"), "click": np.arange(8) > 3}
    >>> schema = tfmoe.Schema([tfmoe.Numeric("age", transform="none")], [tfmoe.Binary("click")])
    >>> prep = tfmoe.Preprocessor(schema)
    >>> folder = tempfile.mkdtemp()
    >>> def training(epochs):
    ...     model = tfmoe.MultiTaskModel(prep, tfmoe.MMoE(num_experts=2, hidden_units=(4,)))
    ...     model.compile("adam", jit_compile=False)
    ...     data = prep.dataset(ages, batch_size=4, shuffle=True, seed=1)
    ...     saved = tfmoe.Checkpoint(folder, every_steps=1)
    ...     with warnings.catch_warnings(action="ignore"):  # of so few steps
    ...         return model.fit(data, epochs=epochs, callbacks=[saved], verbose=0)
    >>> first, all_three = training(1), training(3)
    >>> all_three.epoch, all_three.history["loss"][0] == first.history["loss"][0]
    ([0, 1, 2], True)
    """

    def __init__(
        self,
        folder: PathLike,
        every_steps: int | None = None,
        resume: bool = True,
        keep: int = 2,
    ) -> None:
        super().__init__()
        check_local(folder)
        self.folder = Path(address(folder))
        self.every_steps = integer("Checkpoint", "every_steps", every_steps, 1, optional=True)
        self.resume = bool(resume)
        self.keep = integer("Checkpoint", "keep", keep, 1)
        self._training: _Training | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._of_fit.begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._of_fit.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._of_fit.end_batch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._of_fit.end_epoch(epoch, logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        self._of_fit.end()

    @property
    def _of_fit(self) -> _Training:
        if self._training is None:
            raise ValueError(
                "Checkpoint keeps the training of a MultiTaskModel. Received "
                f"model={self.model!r}. Use keras.callbacks.BackupAndRestore for others."
            )
        return self._training


class _First(keras.callbacks.Callback):
    """Comes before all other callbacks of a fit."""

    def __init__(self, training: _Training) -> None:
        super().__init__()
        self.training = training

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.training.first_of_epoch()


class _Training:
    """A `fit` that is kept: what was found, where it is, what it writes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Any,
        callbacks: list[Any],
        place: DataPlace,
        settings: dict[str, Any],
        epochs: int,
    ) -> None:
        self.checkpoint, self.model, self.place = checkpoint, model, place
        self.callbacks = [one for one in callbacks if one is not checkpoint]
        names = list(kept.with_state(self.callbacks))
        self.description = {**kept.described(model), "data": settings, "callbacks": names}
        self.found: dict[str, Any] | None = None
        self.unreadable: set[Path] = set()
        self.epochs, self.epoch, self.steps, self.before_epoch = epochs, 0, 0, 0
        self.history: dict[str, Any] = {"epoch": [], "history": {}}
        self.words = f"Nothing is in {checkpoint.folder}: the training begins with its first step."

    def look(self) -> None:
        """Finds the newest checkpoint, if it is to be gone on with.

        Raises:
            ValueError: if it is of another training, or another one for another worker.
        """
        # Nothing is written before all have looked, for none of them has left this.
        self.model.together(self._look)
        found = self.found or {"epoch": -1, "step": -1}
        own = np.array([[found["epoch"], found["step"]]])
        (of_all,) = self.model.rows_of_all({"places": (own,)})["places"]
        if (of_all != own).any():
            raise ValueError(
                "Workers go on from one folder, which all of them see. Received "
                f"folder={str(self.checkpoint.folder)!r}, in which they find checkpoints of "
                f"(epoch, step) {of_all.tolist()}; -1 is none. Take a folder that they share."
            )

    def _look(self) -> None:
        folder = self.checkpoint.folder
        if not self.checkpoint.resume:
            if folder.exists() and any(folder.iterdir()):
                raise FileExistsError(
                    "A training's checkpoints have a folder of their own, and nothing is written "
                    f"over. Received folder={str(folder)!r}, which is not empty, with "
                    "resume=False. Go on with resume=True, or choose another folder."
                )
            return
        for path in reversed(files_in(folder)):
            try:
                found = checkpoint_file.read(path)
            except ValueError as error:
                warnings.warn(f"{error} The one before it is taken.", stacklevel=6)
                self.unreadable.add(path)
                continue
            self._check(found, path)
            found.setdefault("draws", [])  # not in files of before
            self.found = found
            self.words = self._where(found, path)
            return

    def _check(self, found: dict[str, Any], path: Path) -> None:
        if found["format"] != _FORMAT:
            raise ValueError(
                f"Checkpoints of format {_FORMAT} are read. Received {path} of format "
                f"{found['format']}. Go on with the version of tfmoe that wrote it."
            )
        ours, theirs = dict(self.description), dict(found["description"])
        if None in (ours["learning_rate"], theirs["learning_rate"]):
            # In a process that has trained the model already, callbacks may have set it.
            del ours["learning_rate"], theirs["learning_rate"]
        differs = kept.difference(ours, theirs)
        if differs:
            raise ValueError(
                "A training goes on with the model, the data and the callbacks that it began "
                f"with. Received another {differs}, in {path}. Make them as they were, or begin "
                "anew in another folder."
            )

    def _where(self, found: dict[str, Any], path: Path) -> str:
        if self.initial_epoch >= self.epochs:
            return f"The training has ended already, as {path} says."
        step = f"step {found['step']:,} of " if found["step"] else ""
        number = found["epoch"] + bool(step)
        return f"Goes on after {step}epoch {number}, from {path}."

    @property
    def initial_epoch(self) -> int:
        """The epoch that Keras begins with."""
        found = self.found or {"stopped": False, "epoch": 0}
        return self.epochs if found["stopped"] else min(found["epoch"], self.epochs)

    def begin(self) -> None:
        """All other callbacks have begun."""
        if self.found is not None and self.initial_epoch >= self.epochs:
            self._restore(self.found)

    def first_of_epoch(self) -> None:
        """Before the callbacks' own beginning of an epoch, and after Keras's."""
        if self.found is not None:
            self._restore(self.found)
            if not self.found["step"]:
                # Metrics begin anew, as Keras had them do; what a weighting has learned stays.
                self.model.reset_metrics()
            # torch's loader draws a number where it is opened, which is in what was kept.
            draws = partial(kept.set_draws, self.found["draws"])
            self.place.seek(self.found["data"], self.found["step"], draws)
        self.place.steps.start()

    def begin_epoch(self) -> None:
        """After the callbacks' own, which may set what they have set in this epoch already."""
        if self.found is not None and self.found["step"]:
            self._restore(self.found)
        self.found = None

    def end_batch(self) -> None:
        before, every = self.steps, self.checkpoint.every_steps
        step, of_epoch = self.place.steps.step, self.checkpoint.params.get("steps")
        self.steps = self.before_epoch + step
        # Keras's trainer on JAX cannot begin behind the last step. The epoch's end has a file too.
        is_last = keras.backend.backend() == "jax" and of_epoch is not None and step >= of_epoch
        if every is not None and self.steps // every > before // every and not is_last:
            self._write(self.epoch, step, self.place.within())

    def end_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        self.history["epoch"].append(epoch)
        for name, value in logs.items():
            self.history["history"].setdefault(name, []).append(value)
        self.epoch, self.before_epoch = epoch + 1, self.steps
        self._write(self.epoch, 0, self.place.between())

    def end(self) -> None:
        """The end of the training; Keras's history begins after this callback."""
        self._set_history()

    def _restore(self, found: dict[str, Any]) -> None:
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        kept.set_values(model, found["values"])
        kept.set_draws(found["draws"])
        kept.set_states(self.callbacks, found["callbacks"])
        self.epoch, self.steps = found["epoch"], found["steps"]
        self.before_epoch = self.steps - found["step"]
        self.history = found["history"]
        self._set_history()

    def _set_history(self) -> None:
        callback = self.model.history
        callback.epoch = list(self.history["epoch"])
        callback.history = {n: list(values) for n, values in self.history["history"].items()}

    def _write(self, epoch: int, step: int, data: dict[str, Any]) -> None:
        model = self.checkpoint.model
        if not weights_are_finite(model):
            return
        tree = {
            "format": _FORMAT,
            "description": self.description,
            "epoch": epoch,
            "step": step,
            "steps": self.steps,
            "stopped": bool(model.stop_training),
            "data": data,
            "history": self.history,
            "callbacks": kept.states_of(self.callbacks),
            "values": kept.values_of(model),
            "draws": kept.draws(),
        }
        if not model.is_chief:
            return
        folder = self.checkpoint.folder
        written = folder / f"epoch-{epoch:05d}-step-{step:09d}.npz"
        checkpoint_file.write(written, tree)
        # One that was passed over may be of a later step, and is none of those that are kept.
        self.unreadable.discard(written)
        readable = [path for path in files_in(folder) if path not in self.unreadable]
        for path in readable[: -self.checkpoint.keep]:
            path.unlink(missing_ok=True)


def checkpoint_of(callbacks: list[Any]) -> Checkpoint | None:
    """The Checkpoint among callbacks, if there is one.

    Raises:
        ValueError: if there are several.
    """
    found = [one for one in keras.tree.flatten(callbacks) if isinstance(one, Checkpoint)]
    if len(found) > 1:
        raise ValueError(
            f"A training is kept in one folder. Received {len(found)} Checkpoints, of "
            f"{[str(one.folder) for one in found]}. Leave out all but one."
        )
    return found[0] if found else None


@contextlib.contextmanager
def kept_training(
    model: Any,
    callbacks: list[Any],
    x: Any,
    validation_data: Any,
    epochs: int,
    settings: dict[str, Any],
    says: bool,
) -> Iterator[dict[str, Any]]:
    """A `fit` in which the Checkpoint among its callbacks, if there is one, keeps the training.

    Args:
        model: compiled `MultiTaskModel`.
        callbacks: list of all callbacks but Keras's own, which is changed.
        x, validation_data, epochs: what Keras's `fit` gets.
        settings: dict of the other arguments that a training which goes on must have again.
        says: whether to print where it goes on.

    Yields:
        Dict of arguments for Keras's `fit`.
    """
    checkpoint = checkpoint_of(callbacks)
    if checkpoint is None:
        yield {}
        return
    callbacks[:] = [one for one in keras.tree.flatten(callbacks) if one is not None]
    for one in callbacks:
        if getattr(one, "changes_shapes", False):
            raise ValueError(
                "A training goes on with a model of the shapes that it began with. Received "
                f"{type(one).__name__} beside a Checkpoint. Leave one of them out."
            )
    place = DataPlace(x, validation_data, settings.pop("shuffle"))
    training = _Training(
        checkpoint, model, callbacks, place, {**place.description, **settings}, epochs
    )
    training.look()
    # The one that comes first and the one that comes last, when all others have done theirs.
    callbacks[:] = [_First(training), *training.callbacks, checkpoint]
    for one in training.callbacks:
        if hasattr(one, "resumes"):
            one.resumes = training.found is not None
    model.plan = f"{model.plan} {training.words}".strip()
    if says:
        print(training.words)
    checkpoint._training = training
    try:
        with counting(place.steps):
            yield {} if training.found is None else {"initial_epoch": training.initial_epoch}
    finally:
        checkpoint._training = None


def files_in(folder: Path) -> list[Path]:
    """A folder's checkpoints, the newest last."""
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    placed = [((int(name[1]), int(name[2])), path) for name, path in found if name]
    return [path for _, path in sorted(placed)]
