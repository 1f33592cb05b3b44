"""Keras's callbacks that write files, where several processes run the same program."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from tfmoe.model.home import PLACES


@contextlib.contextmanager
def written_by_chief(callbacks: list[Any], is_chief: bool) -> Iterator[None]:
    """While it lasts, Keras's callbacks write files on the chief alone.

    They are called on all workers, for a model is saved by all of them together; those of the
    others write where nobody looks. In one folder, one of them makes, copies or deletes what
    another one has just made or deleted, and ends with an error.

    Args:
        callbacks: list of all callbacks but Keras's own, which is changed.
        is_chief: whether this worker is the one that writes files.
    """
    if is_chief:
        yield
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found: list[Any] = []
        for one in keras.tree.flatten(callbacks):
            place = folder / str(len(found))
            if isinstance(one, keras.callbacks.BackupAndRestore):
                found += [_Restores(one), keras.callbacks.BackupAndRestore(place, one.save_freq)]
                continue
            found.append(one)
            for kind, name in PLACES:
                if isinstance(one, kind):
                    place.mkdir()
                    stack.callback(setattr, one, name, getattr(one, name))
                    setattr(one, name, str(place / Path(getattr(one, name)).name))
        callbacks[:] = found
        yield


def backups(callbacks: list[Any]) -> list[str]:
    """The folders from which callbacks of Keras's restore a training."""
    found = keras.tree.flatten(callbacks)
    kind = keras.callbacks.BackupAndRestore
    return [str(one.backup_dir) for one in found if isinstance(one, kind)]


class _Restores(keras.callbacks.Callback):
    """What a `BackupAndRestore` reads, for what it writes is the chief's."""

    def __init__(self, backup: keras.callbacks.BackupAndRestore) -> None:
        super().__init__()
        self.backup = backup

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.backup.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        self.backup.on_train_begin(logs)
