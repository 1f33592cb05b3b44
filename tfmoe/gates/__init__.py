"""Gates: for each task, a weight for each expert."""

from tfmoe.gates.dselect_k import DSelectKGate
from tfmoe.gates.routers import MLPRouter
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.top_k import TopKGate

__all__ = ["DSelectKGate", "MLPRouter", "SoftmaxGate", "TopKGate"]
