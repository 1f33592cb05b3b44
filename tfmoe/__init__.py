"""tfmoe: multi-task recommender models on mixtures of experts, in Keras 3."""

from tfmoe import data, optimizers
from tfmoe.callbacks import GateReport
from tfmoe.columns import Categorical, MultiCategorical, Numeric, Sequence
from tfmoe.compact import CompactExperts
from tfmoe.data.mixer import TaskMixer
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.embedding import Embedding
from tfmoe.encoder import Encoder
from tfmoe.experts import Experts
from tfmoe.export import export
from tfmoe.extract import extract
from tfmoe.gates import (
    BalancedTopKGate,
    CometGate,
    DSelectKGate,
    EntmaxGate,
    GumbelGate,
    HardenPermutations,
    HashGate,
    ImportanceLoss,
    LearnedPermutation,
    LoadLoss,
    MLPRouter,
    ReLUGate,
    SoftmaxGate,
    SparsemaxGate,
    SwitchLoss,
    TaskAwareGate,
    TaskRouter,
    TopKGate,
    ZLoss,
)
from tfmoe.metrics import AUC
from tfmoe.mixtures import MMoE, ModSquad, ModSquadBlock, OMoE, SharedBottom
from tfmoe.model import MultiTaskModel
from tfmoe.mutual_information import MutualInformationLoss
from tfmoe.schema import Schema
from tfmoe.tasks import Binary, Multiclass, Regression
from tfmoe.towers import Towers

__version__ = "0.1.0"

__all__ = [
    "AUC",
    "BalancedTopKGate",
    "Binary",
    "Categorical",
    "CometGate",
    "CompactExperts",
    "DSelectKGate",
    "Embedding",
    "Encoder",
    "EntmaxGate",
    "Experts",
    "GateReport",
    "GumbelGate",
    "HardenPermutations",
    "HashGate",
    "ImportanceLoss",
    "LearnedPermutation",
    "LoadLoss",
    "MLPRouter",
    "MMoE",
    "ModSquad",
    "ModSquadBlock",
    "MultiCategorical",
    "MultiTaskModel",
    "Multiclass",
    "MutualInformationLoss",
    "Numeric",
    "OMoE",
    "Preprocessor",
    "ReLUGate",
    "Regression",
    "Schema",
    "Sequence",
    "SharedBottom",
    "SoftmaxGate",
    "SparsemaxGate",
    "SwitchLoss",
    "TaskAwareGate",
    "TaskMixer",
    "TaskRouter",
    "TopKGate",
    "Towers",
    "ZLoss",
    "data",
    "export",
    "extract",
    "optimizers",
]
