"""DeepCTR's MMOE on Keras 2, trained by its `model.fit`."""

import os

# Read when `tf.keras` is first touched: Keras 3 cannot run DeepCTR.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
from deepctr import __version__
from deepctr.feature_column import DenseFeat, SparseFeat
from deepctr.models.multitask.mmoe import MMOE

from benchmarks.rivals.worker import keras_turn, serve


def build(sizes):
    columns = [SparseFeat(name, sizes.num_values, sizes.dim) for name in sizes.categorical]
    columns += [DenseFeat(name) for name in sizes.numeric]
    model = MMOE(
        columns,
        num_experts=sizes.num_experts,
        expert_dnn_hidden_units=sizes.expert_units,
        tower_dnn_hidden_units=sizes.tower_units,
        l2_reg_embedding=0,  # nobody else regularises
        task_types=["binary"] * sizes.num_tasks,
        task_names=sizes.tasks,
    )
    model.compile("adam", ["binary_crossentropy"] * sizes.num_tasks)
    what = f"DeepCTR {__version__}, TensorFlow {tf.__version__} with Keras 2: model.fit"
    return {"deepctr": (what, keras_turn(model, sizes))}


if __name__ == "__main__":
    serve(build)
