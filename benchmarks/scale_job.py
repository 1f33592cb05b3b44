"""A figure of the `scale` benchmark; run as `python -m benchmarks.scale_job JSON`."""

import contextlib
import functools
import gc
import json
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from benchmarks.rivals.worker import MARK

USERS, ITEMS, FILE_ROWS, BATCH = 100_000, 20_000, 1_000_000, 4096
NUMBERS = ("price", "age")


class Job:
    """What a process is asked for.

    Args:
        name, rows, of, way: of the cell.
        folder: str, where the parent keeps the rows.
        quick: bool.
    """

    def __init__(self, name, folder, quick, rows=0, of=0, way="", seed=0):
        self.name, self.rows, self.of, self.way = name, rows, of, way
        self.folder, self.quick = Path(folder), quick
        self.batch = 32 if quick else BATCH

    def find(self):
        """The figures, a dict."""
        kind = {"one device": "replicas", "models": "repeated", "epochs": "repeated"}
        return getattr(self, kind.get(self.name, self.name))()

    def fit(self):
        rows = self._partitions()
        with _measured() as found:
            _prep().fit(rows, progress=False)
        return _speed(self.rows, found)

    def train(self):
        rows = self._partitions()
        prep = _prep().fit(next(iter(sorted(Path(rows).rglob("*.parquet")))), progress=False)
        model = _model(prep)
        model.fit(prep.dataset(rows, self.batch).take(3), verbose=0)
        with _measured() as found:
            model.fit(prep.dataset(rows, self.batch, shuffle=True), verbose=0)
        return _speed(self.rows, found)

    def replicas(self):
        """Milliseconds of a step of as many threads, with or without replicas."""
        import tensorflow as tf

        if not self.quick:
            tf.config.threading.set_intra_op_parallelism_threads(self.of)
        scope = contextlib.nullcontext()
        if self.name == "replicas":
            (cpu,) = tf.config.list_physical_devices("CPU")
            devices = [tf.config.LogicalDeviceConfiguration() for _ in range(self.of)]
            tf.config.set_logical_device_configuration(cpu, devices)
            names = [f"CPU:{place}" for place in range(self.of)]
            scope = tf.distribute.MirroredStrategy(names).scope()
        frame = _rows(0, 8 * self.batch)
        prep = _prep().fit(frame, progress=False)
        with scope:
            model = _model(prep)
        batches = prep.dataset(frame, self.batch).cache().repeat(2 if self.quick else 10)
        taken = []
        for _ in range(2 if self.quick else 6):
            start = time.perf_counter()
            model.fit(batches, verbose=0)
            taken.append(time.perf_counter() - start)
        # The first makes the graph.
        return {"ms": 1e3 * float(np.median(taken[1:])) / (8 * (2 if self.quick else 10))}

    def repeated(self):
        """MB that the process holds after the tenth, or fifth part, and after all."""
        import keras

        frame = _rows(0, 10 * self.batch)
        prep = _prep().fit(frame, progress=False)
        held = []
        if self.name == "epochs":
            after = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: held.append(_resident()))
            _model(prep).fit(
                prep.dataset(frame, self.batch, shuffle=True),
                validation_data=prep.dataset(frame, self.batch),
                epochs=self.of,
                callbacks=[after],
                verbose=0,
            )
        else:
            for _ in range(self.of):
                _model(prep).fit(prep.dataset(frame, self.batch), verbose=0)
                gc.collect()
                held.append(_resident())
        return {"first_mb": held[max(self.of // 5 - 1, 0)], "last_mb": held[-1]}

    def export(self):
        """Of a vocabulary of text, as ids that a shop might have."""
        import tensorflow as tf

        import tfmoe
        from tfmoe.data.encode import vocabulary
        from tfmoe.data.preprocessor import Preprocessor

        saved = self._saved_prep()

        large = 0 if self.way == "sorted" else 10**12
        home = self.folder / f"export_{self.rows}_{self.way.replace(' ', '_')}"
        with mock.patch.object(vocabulary, "LARGE", large):
            model = _model(Preprocessor.load(saved))
            with _measured() as found:
                out = tfmoe.export(model, home)
        del model
        gc.collect()
        start = time.perf_counter()
        served = tf.saved_model.load(out)
        load = time.perf_counter() - start
        ask = served.signatures["serving_default"]
        row = {"id": tf.constant([f"item-{self.rows // 2:08d}"])}
        times = []
        for _ in range(20 if self.quick else 500):
            start = time.perf_counter()
            ask(**row)
            times.append(time.perf_counter() - start)
        graph = (out / "saved_model.pb").stat().st_size / 1e6
        return {
            **found,
            "graph_mb": graph,
            "load_s": load,
            "lookup_us": 1e6 * float(np.median(times)),
        }

    def _saved_prep(self):
        """A fitted preprocessor in a folder, made by the first that asks."""
        from tfmoe.data.preprocessor import Preprocessor
        from tfmoe.schema.columns import Categorical
        from tfmoe.schema.schema import Schema
        from tfmoe.schema.tasks import Binary

        saved = self.folder / f"prep_{self.rows}"
        if not saved.exists():
            schema = Schema([Categorical("id", dim=4)], [Binary("click"), Binary("buy")])
            numbers = pd.Series(np.arange(self.rows)).astype(str).str.zfill(8)
            frame = pd.DataFrame({"id": "item-" + numbers})
            frame["click"] = frame["buy"] = (np.arange(self.rows) % 2).astype("int8")
            prep = Preprocessor(schema, max_distinct=10**8)
            prep.fit(frame, progress=False).save(saved)
        return saved

    def _partitions(self):
        """The folder of so many rows, made by the first that asks."""
        home = self.folder / f"rows_{self.rows}"
        if not home.exists():
            draft = home.with_suffix(".draft")
            for place, start in enumerate(range(0, self.rows, FILE_ROWS)):
                part = draft / f"day={place}"
                part.mkdir(parents=True)
                end = min(start + FILE_ROWS, self.rows)
                _rows(start, end - start).to_parquet(part / "rows.parquet")
            draft.rename(home)
        return str(home)


def _rows(seed, num):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, USERS, num), rng.integers(0, ITEMS, num)
    frame = pd.DataFrame({"user": users, "item": items}).astype(str)
    frame["item"] = "item-" + frame["item"]
    frame["price"], frame["age"] = rng.lognormal(size=num), rng.normal(40, 9, num)
    frame["market"] = rng.integers(0, 64, num)
    frame["click"] = (rng.random(num) < 0.1 + 0.2 * (users % 3 == items % 3)).astype("int8")
    frame["buy"] = frame["click"] * (rng.random(num) < 0.3).astype("int8")
    return frame


def _prep():
    from tfmoe.data.preprocessor import Preprocessor
    from tfmoe.schema.columns import Categorical, Numeric
    from tfmoe.schema.schema import Schema
    from tfmoe.schema.tasks import Binary

    ids = [Categorical(name, dim=16) for name in ("user", "item", "market")]
    tasks = [Binary("click"), Binary("buy")]
    return Preprocessor(Schema([*ids, *map(Numeric, NUMBERS)], tasks))


def _model(prep):
    from tfmoe.model.model import MultiTaskModel
    from tfmoe.structures.mmoe import MMoE

    model = MultiTaskModel(prep, MMoE(num_experts=4, hidden_units=(64, 32)))
    model.compile("adam")
    return model


def _speed(rows, found):
    return {**found, "rows_per_s": rows / found["seconds"]}


def _memory(key):
    """MB of `key` in what Linux says of this process."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


_resident = functools.partial(_memory, "VmRSS:")


@contextlib.contextmanager
def _measured():
    """Fills a dict: seconds of what is inside, and the MB of its peak above the start."""
    import tfmoe.serving.export  # noqa: F401  what is imported is not what is measured

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    found, before, start = {}, _resident(), time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - start
    found["peak_mb"] = _memory("VmHWM:") - before


if __name__ == "__main__":
    print(MARK + json.dumps(Job(**json.loads(sys.argv[1])).find()))
