"""Gates: for each task, a weight for each expert."""

from tfmoe.gates.balance import ImportanceLoss, LoadLoss, SwitchLoss, ZLoss
from tfmoe.gates.balanced import BalancedTopKGate
from tfmoe.gates.comet import CometGate
from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.gates.entmax import EntmaxGate
from tfmoe.gates.gumbel import GumbelGate
from tfmoe.gates.hashed import HashGate
from tfmoe.gates.permutation import HardenPermutations, LearnedPermutation
from tfmoe.gates.relu import ReLUGate
from tfmoe.gates.routers import MLPRouter
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.sparsemax import SparsemaxGate
from tfmoe.gates.task_aware import TaskAwareGate
from tfmoe.gates.task_router import TaskRouter
from tfmoe.gates.top_k import TopKGate

__all__ = [
    "BalancedTopKGate",
    "CometGate",
    "DSelectKGate",
    "EntmaxGate",
    "GumbelGate",
    "HardenPermutations",
    "HashGate",
    "ImportanceLoss",
    "LearnedPermutation",
    "LoadLoss",
    "MLPRouter",
    "ReLUGate",
    "SoftmaxGate",
    "SparsemaxGate",
    "SwitchLoss",
    "TaskAwareGate",
    "TaskRouter",
    "TopKGate",
    "ZLoss",
]
