"""What a run of `ranking` in another environment is told."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rivals.worker import Told


@dataclass(frozen=True)
class Job(Told):
    """A run: where the encoded rows are, the model, how it is trained.

    Attributes:
        folder: str, with `train.npz`, `valid.npz` and `test.npz`: int32 columns, `seen` among
            them, and `watch`.
        table_sizes: dict by column, how many ids it has.
    """

    folder: str
    table_sizes: dict
    body: str
    seed: int
    epochs: int
    patience: int
    dim: int = 16
    units: tuple = (128, 64)
    attention_units: tuple = (32,)
    batch_size: int = 1024
    learning_rate: float = 1e-3

    def read(self, part):
        """Arrays of the columns, and of `watch`."""
        with np.load(Path(self.folder) / f"{part}.npz") as arrays:
            arrays = dict(arrays)
        return arrays, arrays.pop("watch")
