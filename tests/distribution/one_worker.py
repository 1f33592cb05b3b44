"""One of several workers on this machine, or the only one; prints what it found as JSON.

Run as `python -m tests.distribution.one_worker INDEX PORT...`, with INDEX -1 for one process.
"""

import contextlib
import json
import os
import sys

import numpy as np
import pandas as pd

ROWS, BATCH, EPOCHS = 101, 20, int(os.environ.get("EPOCHS", 3))


def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=ROWS), "user": rng.integers(0, 30, ROWS)})
    frame["a"] = (frame.x + rng.normal(size=ROWS) > 0).astype(float)
    frame["b"] = 2 * frame.x + rng.normal(size=ROWS)
    frame.loc[rng.random(ROWS) < 0.8, "b"] = np.nan
    frame.loc[::2, "a"] = np.nan  # of one worker's rows all
    frame.loc[0, "a"] = 1.0
    return frame


def backups(index):
    """Keras's own or ours, and what ends a worker in the midst of the second epoch where asked."""
    import keras

    import tfmoe

    class Dies(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 2):
                os._exit(9)

    found = []
    if "BACKUP" in os.environ:
        folder = os.environ["BACKUP"]
        if "APART" in os.environ:
            folder = f"{folder}-{index}"
        found += [
            keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False),
            keras.callbacks.ModelCheckpoint(f"{folder}/models/{{epoch}}.keras"),
            keras.callbacks.CSVLogger(f"{folder}.csv", append=True),
        ]
    if "CHECKPOINTS" in os.environ:
        folder = os.environ["CHECKPOINTS"]
        if "APART" in os.environ:
            folder = f"{folder}-{index}"
        found.append(tfmoe.Checkpoint(folder, every_steps=1))
    return [*found, Dies()] if str(index) == os.environ.get("DIES") else found


def main(index, *ports):
    if index >= 0:
        workers = [f"127.0.0.1:{port}" for port in ports]
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    import keras
    import tensorflow as tf

    import tfmoe

    strategy = tf.distribute.MultiWorkerMirroredStrategy() if index >= 0 else None
    columns = [
        tfmoe.Numeric("x", transform="none"),
        tfmoe.Categorical("user", hash_buckets=9, dim=4),
    ]
    tasks = [tfmoe.Binary("a"), tfmoe.Regression("b", standardize=False)]
    prep = tfmoe.Preprocessor(tfmoe.Schema(columns, tasks)).fit(table(), progress=False)
    keras.utils.set_random_seed(0)
    gate = tfmoe.TopKGate(balance=tfmoe.ImportanceLoss(0.5))
    kind = tfmoe.MultiWorkerModel if index >= 0 else tfmoe.MultiTaskModel
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = kind(prep, tfmoe.MMoE(num_experts=4, hidden_units=(6,), gate=gate), tower_units=())
        optimizer = tfmoe.optimizers.LazyAdam(0.01, global_clipnorm=0.5)
        model.compile(optimizer, jit_compile=False, weighting=os.environ.get("WEIGHTING"))

    def batches(size):
        if strategy is None:
            return prep.dataset(table(), size)
        shuffle = "SHUFFLE" in os.environ
        return tfmoe.distribution.dataset(prep, table(), size, strategy=strategy, shuffle=shuffle)

    found = {"seen": [], "refused": []}
    for features, *_ in model.batches_of(batches(BATCH)):
        found["seen"] += np.asarray(features["x"]).tolist()
    history = model.fit(
        batches(BATCH),
        epochs=EPOCHS,
        verbose=0,
        validation_data=batches(40),
        callbacks=backups(index),
    )
    found["history"], found["plan"] = history.history, model.plan
    found["exact"] = model.evaluate(batches(40), verbose=0)
    found["binned"] = model.evaluate(batches(40), verbose=0, exact=False)
    found["scores"] = model.predict(table()[["x", "user"]], verbose=0)["a"].tolist()
    found["weights"] = [np.array(weight).tolist() for weight in model.trainable_weights]
    if index >= 0:
        for data in (table(), prep.dataset(table(), 10, shard=(index, len(ports)))):
            try:
                model.fit(data, verbose=0)
            except ValueError as error:
                found["refused"].append(str(error))
        model.save(os.environ["MODEL"])
    print(json.dumps(found), flush=True)
    os._exit(0)  # TensorFlow may wait for a worker that is gone


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
