"""Keras's callbacks whose paths begin with `~`, the user's folder, as the model's own may."""

from __future__ import annotations

from typing import Any

import keras

from tfmoe.remote import address

# Callbacks that write, and their attribute that says where.
PLACES = (
    (keras.callbacks.ModelCheckpoint, "filepath"),
    (keras.callbacks.CSVLogger, "filename"),
)


def at_home(callback: Any) -> Any:
    """A callback that writes to the user's folder where its path says so.

    The model it saves by itself knows `~`, and what Keras makes and looks for beside would be in a
    folder of that name.
    """
    for kind, name in PLACES:
        if isinstance(callback, kind):
            setattr(callback, name, address(getattr(callback, name)))
    if type(callback) is keras.callbacks.BackupAndRestore and _begins_at_home(callback):
        # Not all versions of Keras have all of them.
        names = ("save_freq", "double_checkpoint", "delete_checkpoint")
        given = {name: getattr(callback, name) for name in names if hasattr(callback, name)}
        return keras.callbacks.BackupAndRestore(address(callback.backup_dir), **given)
    return callback


def _begins_at_home(callback: Any) -> bool:
    return str(callback.backup_dir).startswith("~")
