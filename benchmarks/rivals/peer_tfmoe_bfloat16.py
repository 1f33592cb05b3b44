"""tfmoe in `peers`, with matmuls and activations in bfloat16."""

import keras

from benchmarks.rivals.peer import serve
from benchmarks.rivals.peer_tfmoe import Contestant

if __name__ == "__main__":
    keras.config.set_dtype_policy("mixed_bfloat16")
    serve("tfmoe_bfloat16", Contestant)
