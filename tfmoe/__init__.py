"""tfmoe: multi-task recommender models on mixtures of experts, in Keras 3."""

from tfmoe import data, optimizers
from tfmoe.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.embedding import Embedding
from tfmoe.encoder import Encoder
from tfmoe.experts import Experts
from tfmoe.export import export
from tfmoe.gates import DSelectKGate, MLPRouter, SoftmaxGate, TopKGate
from tfmoe.metrics import AUC
from tfmoe.mixtures import MMoE, OMoE, SharedBottom
from tfmoe.model import MultiTaskModel
from tfmoe.schema import Schema
from tfmoe.tasks import Binary, Multiclass, Regression
from tfmoe.towers import Towers

__version__ = "0.1.0"

__all__ = [
    "AUC",
    "Binary",
    "Categorical",
    "DSelectKGate",
    "Embedding",
    "Encoder",
    "Experts",
    "MLPRouter",
    "MMoE",
    "MultiCategorical",
    "MultiTaskModel",
    "Multiclass",
    "Numeric",
    "OMoE",
    "Preprocessor",
    "Regression",
    "Schema",
    "Sequence",
    "SharedBottom",
    "SoftmaxGate",
    "TopKGate",
    "Towers",
    "data",
    "export",
    "optimizers",
]
