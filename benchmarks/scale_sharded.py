"""Memory of a table on one of several devices of JAX, for the `scale` benchmark."""

import json
import sys

import jax
import keras
import numpy as np

import tfmoe
from benchmarks.rivals.worker import MARK
from tfmoe.schema.columns import FIRST_ID


def find(rows, of):
    """MB on the first of the devices, of weights and the optimizer's state."""
    mesh = keras.distribution.DeviceMesh((1, of), ("batch", "model"), jax.devices())
    column = tfmoe.Categorical("id", dim=16, hash_buckets=rows - FIRST_ID)
    schema = tfmoe.Schema([column], [tfmoe.Binary("click"), tfmoe.Binary("buy")])
    with tfmoe.distribution.ModelParallel(mesh).scope():
        model = tfmoe.MultiTaskModel(
            tfmoe.Preprocessor(schema), tfmoe.MMoE(num_experts=8), rows_multiple=of
        )
        model.compile("adam")
        ids = np.arange(8 * of) % rows
        labels = {name: (ids % 2).astype("float32") for name in ("click", "buy")}
        model.fit({"id": ids.astype("int32")}, labels, batch_size=4 * of, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    own = {id(variable.value): variable.value for variable in variables}.values()
    first = jax.devices()[0]
    held = (
        shard.data.nbytes
        for value in own
        for shard in value.addressable_shards
        if shard.device == first
    )
    return {"device_mb": sum(held) / 1e6}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(MARK + json.dumps(find(asked["rows"], asked["of"])))
