"""What all contestants of `peers` share: the data, the sizes, the protocol.

The parent writes the encoded rows to a file and starts a process for each contestant, which
answers once it has built its model. Then a word on stdin makes it `train` one epoch or
`predict` the test rows, which it answers by the seconds that took, or makes its `report`.
"""

import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.rivals.worker import Told, answer_turns

TASKS = ("watch", "rating")


@dataclass(frozen=True)
class Job(Told):
    """The model that is trained, and where its data are.

    Attributes:
        folder: str, with `train.npz` and `test.npz`: int32 columns, and in the first the
            labels `watch` and `rating`, which is NaN where there is none. Predictions go there
            too.
        table_sizes: dict by column, how many ids it has.
    """

    folder: str
    table_sizes: dict
    dim: int = 16
    num_experts: int = 8
    expert_units: tuple = (64, 32)
    tower_units: tuple = (32,)
    batch_size: int = 4096
    learning_rate: float = 1e-3

    def read(self, part):
        """Arrays of the columns, and of the labels of the part that has them."""
        with np.load(Path(self.folder) / f"{part}.npz") as arrays:
            arrays = dict(arrays)
        columns = {name: arrays.pop(name) for name in self.table_sizes}
        return columns, arrays


class Peer:
    """A contestant.

    Args:
        name: str, the contestant's.
        job: `Job`.
        build: function from a `Job` to an object with `what`, a str; `train()`, one epoch;
            `predict(columns)`, a dict by task of arrays; `reload(path, columns)` and
            `export(path, columns)`, which save the model below a path: the first returns
            what the model read from there predicts, the second how it can be served and what
            it predicts so. They raise where they cannot.
    """

    def __init__(self, name, job, build):
        self._contestant = build(job)
        self._path = Path(job.folder) / f"{name}.npz"
        self._test, _ = job.read("test")
        self._predicted = None

    def ready(self):
        """What the contestant is."""
        return {"what": self._contestant.what}

    def turn(self, word):
        """Seconds of `"train"` or `"predict"`, or the `"report"`."""
        if word == "report":
            np.savez(self._path, **self._predicted)
            # Before saving and loading, which may hold a second model.
            return {"peak_mb": _peak(), **_kept(self._contestant, self._test, self._predicted)}
        start = time.perf_counter()
        if word == "train":
            self._contestant.train()
        else:
            self._predicted = self._contestant.predict(self._test)
        return time.perf_counter() - start


def serve(name, build):
    """Runs a `Peer` whose job comes as JSON in `sys.argv[1]`."""
    answer_turns(Peer(name, Job.from_json(sys.argv[1]), build))


def _peak():
    """MB that this process had at most; `getrusage` would count its parent's before it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _kept(contestant, test, predicted):
    """Whether the model can be saved and read again, and how it can be served."""
    first = {name: column[:1000] for name, column in test.items()}

    def compared(found):
        same = all(np.allclose(found[t], predicted[t][:1000], atol=1e-4) for t in TASKS)
        return "" if same else ", with other predictions"

    with tempfile.TemporaryDirectory() as folder:
        try:
            reloads = f"yes{compared(contestant.reload(Path(folder), first))}"
        except Exception as error:
            reloads = _said(error)
        try:
            how, found = contestant.export(Path(folder), first)
            exports = how + compared(found)
        except Exception as error:
            exports = _said(error)
    return {"reloads": reloads, "exports": exports}


def _said(error):
    return f"no: {type(error).__name__}: {' '.join(str(error).split())[:80]}"
