"""tfmoe: multi-task recommender models on mixtures of experts, in Keras 3."""

import importlib
from typing import TYPE_CHECKING

from tfmoe import loading

__version__ = "0.1.0"

# Where each public name lives. It is imported at first use, so that `import tfmoe`, the command
# line and all that only reads tables load no TensorFlow.
HOMES = {
    "AITM": "schema.links",
    "AUC": "objectives.metrics",
    "AdaTT": "structures.adatt",
    "AlignedMTL": "objectives.weighting.combined",
    "AutoInt": "features.interactions.auto_int",
    "BST": "schema.poolings",
    "BalancedTopKGate": "gates.balanced",
    "Binary": "schema.tasks",
    "ByColumns": "features.interactions.base",
    "CAGrad": "objectives.weighting.combined",
    "CGC": "structures.cgc",
    "Calibration": "objectives.streaming",
    "Categorical": "schema.columns",
    "Checkpoint": "model.checkpoint",
    "CometGate": "gates.comet",
    "CompactExperts": "extraction.compact",
    "Cross": "features.interactions.cross",
    "CrossStitch": "structures.cross_stitch",
    "Crossed": "schema.crossed",
    "DBMTL": "schema.links",
    "DSelectKGate": "gates.dselect_k",
    "DWA": "objectives.weighting.by_progress",
    "DualBalancing": "objectives.weighting.combined",
    "EPNet": "features.epnet",
    "ESCM2": "schema.links",
    "ESMM": "schema.links",
    "Embedding": "features.embedding",
    "Encoder": "features.encoder",
    "EntmaxGate": "gates.entmax",
    "Experts": "experts.mlp",
    "FAMO": "objectives.weighting.famo",
    "FM": "features.interactions.fm",
    "FiBiNET": "features.interactions.fibinet",
    "GLS": "objectives.weighting.geometric",
    "Gate": "gates.base",
    "GateOutput": "gates.output",
    "GateReport": "reports.callback",
    "GradNorm": "objectives.weighting.gradnorm",
    "GradientReport": "reports.conflict",
    "GumbelGate": "gates.gumbel",
    "HardenPermutations": "gates.permutation",
    "HashGate": "gates.hashed",
    "HoME": "structures.home",
    "IMTLG": "objectives.weighting.combined",
    "ImportanceLoss": "gates.balance",
    "Interactions": "features.interactions.interactions",
    "InterestAttention": "features.interest.attention",
    "InterestTransformer": "features.interest.transformer",
    "LearnedPermutation": "gates.permutation",
    "LoadLoss": "gates.balance",
    "MGDA": "objectives.weighting.combined",
    "MLPRouter": "gates.routers",
    "MMoE": "structures.mmoe",
    "MTAN": "structures.mtan",
    "MaskNet": "features.interactions.mask_net",
    "Measures": "model.measure",
    "ModSquad": "structures.mod_squad",
    "ModSquadBlock": "structures.mod_squad_block",
    "MultiCategorical": "schema.columns",
    "MultiTaskEarlyStopping": "model.stopping",
    "MultiTaskModel": "model.model",
    "MultiWorkerModel": "distribution.workers",
    "Multiclass": "schema.tasks",
    "MutualInformationLoss": "objectives.mutual_information",
    "NashMTL": "objectives.weighting.combined",
    "NormalizedEntropy": "objectives.streaming",
    "Numeric": "schema.columns",
    "OMoE": "structures.mmoe",
    "PCGrad": "objectives.weighting.combined",
    "PLE": "structures.ple",
    "PPNet": "heads.ppnet",
    "Preprocessor": "data.preprocessor",
    "Pretrained": "schema.pretrained",
    "RLW": "objectives.weighting.random",
    "ReLUGate": "gates.relu",
    "Regression": "schema.tasks",
    "Run": "runs.run",
    "SNR": "structures.snr",
    "STAR": "structures.star",
    "STCH": "objectives.weighting.by_progress",
    "STEM": "structures.stem",
    "ScenarioTowers": "heads.scenario_towers",
    "Schema": "schema.schema",
    "ScoreSpec": "gates.routers",
    "Sequence": "schema.columns",
    "SharedBottom": "structures.shared_bottom",
    "SoftmaxGate": "gates.softmax",
    "SparsemaxGate": "gates.sparsemax",
    "Structure": "structures.base",
    "SwitchLoss": "gates.balance",
    "TargetAttention": "schema.poolings",
    "TaskAwareGate": "gates.task_aware",
    "TaskCheckpoint": "extraction.checkpoint",
    "TaskMixer": "data.batch.task_mixer",
    "TaskRouter": "gates.task_router",
    "Text": "schema.text",
    "Timestamp": "schema.timestamp",
    "TopKGate": "gates.top_k",
    "Towers": "heads.towers",
    "UPGrad": "objectives.weighting.combined",
    "Uncertainty": "objectives.weighting.uncertainty",
    "Vector": "schema.vector",
    "Weighting": "objectives.weighting.base",
    "ZLoss": "gates.balance",
    "data": "data",
    "datasets": "datasets",
    "distribution": "distribution",
    "draw_conflict": "reports.conflict",
    "draw_gates": "reports.pictures",
    "draw_weights": "reports.pictures",
    "export": "serving.export",
    "extract": "extraction.extract",
    "gate_use": "reports.gate_use",
    "gradient_conflict": "reports.conflict",
    "load_model": "model.load",
    "measure": "model.measure",
    "optimizers": "optimizers",
    "permutation_importance": "reports.importance",
    "spark": "spark",
    "task_affinity": "reports.conflict",
    "tune": "runs.tune",
    "write_report": "reports.pictures",
}

__all__ = [
    "AITM",
    "AUC",
    "AdaTT",
    "AlignedMTL",
    "AutoInt",
    "BST",
    "BalancedTopKGate",
    "Binary",
    "ByColumns",
    "CAGrad",
    "CGC",
    "Calibration",
    "Categorical",
    "Checkpoint",
    "CometGate",
    "CompactExperts",
    "Cross",
    "CrossStitch",
    "Crossed",
    "DBMTL",
    "DSelectKGate",
    "DWA",
    "DualBalancing",
    "EPNet",
    "ESCM2",
    "ESMM",
    "Embedding",
    "Encoder",
    "EntmaxGate",
    "Experts",
    "FAMO",
    "FM",
    "FiBiNET",
    "GLS",
    "Gate",
    "GateOutput",
    "GateReport",
    "GradNorm",
    "GradientReport",
    "GumbelGate",
    "HardenPermutations",
    "HashGate",
    "HoME",
    "IMTLG",
    "ImportanceLoss",
    "Interactions",
    "InterestAttention",
    "InterestTransformer",
    "LearnedPermutation",
    "LoadLoss",
    "MGDA",
    "MLPRouter",
    "MMoE",
    "MTAN",
    "MaskNet",
    "Measures",
    "ModSquad",
    "ModSquadBlock",
    "MultiCategorical",
    "MultiTaskEarlyStopping",
    "MultiTaskModel",
    "MultiWorkerModel",
    "Multiclass",
    "MutualInformationLoss",
    "NashMTL",
    "NormalizedEntropy",
    "Numeric",
    "OMoE",
    "PCGrad",
    "PLE",
    "PPNet",
    "Preprocessor",
    "Pretrained",
    "RLW",
    "ReLUGate",
    "Regression",
    "Run",
    "SNR",
    "STAR",
    "STCH",
    "STEM",
    "ScenarioTowers",
    "Schema",
    "ScoreSpec",
    "Sequence",
    "SharedBottom",
    "SoftmaxGate",
    "SparsemaxGate",
    "Structure",
    "SwitchLoss",
    "TargetAttention",
    "TaskAwareGate",
    "TaskCheckpoint",
    "TaskMixer",
    "TaskRouter",
    "Text",
    "Timestamp",
    "TopKGate",
    "Towers",
    "UPGrad",
    "Uncertainty",
    "Vector",
    "Weighting",
    "ZLoss",
    "data",
    "datasets",
    "distribution",
    "draw_conflict",
    "draw_gates",
    "draw_weights",
    "export",
    "extract",
    "gate_use",
    "gradient_conflict",
    "load_model",
    "measure",
    "optimizers",
    "permutation_importance",
    "spark",
    "task_affinity",
    "tune",
    "write_report",
]

if TYPE_CHECKING:
    from tfmoe import data as data
    from tfmoe import datasets as datasets
    from tfmoe import distribution as distribution
    from tfmoe import optimizers as optimizers
    from tfmoe import spark as spark
    from tfmoe.data.batch.task_mixer import TaskMixer as TaskMixer
    from tfmoe.data.preprocessor import Preprocessor as Preprocessor
    from tfmoe.distribution.workers import MultiWorkerModel as MultiWorkerModel
    from tfmoe.experts.mlp import Experts as Experts
    from tfmoe.extraction.checkpoint import TaskCheckpoint as TaskCheckpoint
    from tfmoe.extraction.compact import CompactExperts as CompactExperts
    from tfmoe.extraction.extract import extract as extract
    from tfmoe.features.embedding import Embedding as Embedding
    from tfmoe.features.encoder import Encoder as Encoder
    from tfmoe.features.epnet import EPNet as EPNet
    from tfmoe.features.interactions.auto_int import AutoInt as AutoInt
    from tfmoe.features.interactions.base import ByColumns as ByColumns
    from tfmoe.features.interactions.cross import Cross as Cross
    from tfmoe.features.interactions.fibinet import FiBiNET as FiBiNET
    from tfmoe.features.interactions.fm import FM as FM
    from tfmoe.features.interactions.interactions import Interactions as Interactions
    from tfmoe.features.interactions.mask_net import MaskNet as MaskNet
    from tfmoe.features.interest.attention import InterestAttention as InterestAttention
    from tfmoe.features.interest.transformer import InterestTransformer as InterestTransformer
    from tfmoe.gates.balance import ImportanceLoss as ImportanceLoss
    from tfmoe.gates.balance import LoadLoss as LoadLoss
    from tfmoe.gates.balance import SwitchLoss as SwitchLoss
    from tfmoe.gates.balance import ZLoss as ZLoss
    from tfmoe.gates.balanced import BalancedTopKGate as BalancedTopKGate
    from tfmoe.gates.base import Gate as Gate
    from tfmoe.gates.comet import CometGate as CometGate
    from tfmoe.gates.dselect_k import DSelectKGate as DSelectKGate
    from tfmoe.gates.entmax import EntmaxGate as EntmaxGate
    from tfmoe.gates.gumbel import GumbelGate as GumbelGate
    from tfmoe.gates.hashed import HashGate as HashGate
    from tfmoe.gates.output import GateOutput as GateOutput
    from tfmoe.gates.permutation import HardenPermutations as HardenPermutations
    from tfmoe.gates.permutation import LearnedPermutation as LearnedPermutation
    from tfmoe.gates.relu import ReLUGate as ReLUGate
    from tfmoe.gates.routers import MLPRouter as MLPRouter
    from tfmoe.gates.routers import ScoreSpec as ScoreSpec
    from tfmoe.gates.softmax import SoftmaxGate as SoftmaxGate
    from tfmoe.gates.sparsemax import SparsemaxGate as SparsemaxGate
    from tfmoe.gates.task_aware import TaskAwareGate as TaskAwareGate
    from tfmoe.gates.task_router import TaskRouter as TaskRouter
    from tfmoe.gates.top_k import TopKGate as TopKGate
    from tfmoe.heads.ppnet import PPNet as PPNet
    from tfmoe.heads.scenario_towers import ScenarioTowers as ScenarioTowers
    from tfmoe.heads.towers import Towers as Towers
    from tfmoe.model.checkpoint import Checkpoint as Checkpoint
    from tfmoe.model.load import load_model as load_model
    from tfmoe.model.measure import Measures as Measures
    from tfmoe.model.measure import measure as measure
    from tfmoe.model.model import MultiTaskModel as MultiTaskModel
    from tfmoe.model.stopping import MultiTaskEarlyStopping as MultiTaskEarlyStopping
    from tfmoe.objectives.metrics import AUC as AUC
    from tfmoe.objectives.mutual_information import MutualInformationLoss as MutualInformationLoss
    from tfmoe.objectives.streaming import Calibration as Calibration
    from tfmoe.objectives.streaming import NormalizedEntropy as NormalizedEntropy
    from tfmoe.objectives.weighting.base import Weighting as Weighting
    from tfmoe.objectives.weighting.by_progress import DWA as DWA
    from tfmoe.objectives.weighting.by_progress import STCH as STCH
    from tfmoe.objectives.weighting.combined import IMTLG as IMTLG
    from tfmoe.objectives.weighting.combined import MGDA as MGDA
    from tfmoe.objectives.weighting.combined import AlignedMTL as AlignedMTL
    from tfmoe.objectives.weighting.combined import CAGrad as CAGrad
    from tfmoe.objectives.weighting.combined import DualBalancing as DualBalancing
    from tfmoe.objectives.weighting.combined import NashMTL as NashMTL
    from tfmoe.objectives.weighting.combined import PCGrad as PCGrad
    from tfmoe.objectives.weighting.combined import UPGrad as UPGrad
    from tfmoe.objectives.weighting.famo import FAMO as FAMO
    from tfmoe.objectives.weighting.geometric import GLS as GLS
    from tfmoe.objectives.weighting.gradnorm import GradNorm as GradNorm
    from tfmoe.objectives.weighting.random import RLW as RLW
    from tfmoe.objectives.weighting.uncertainty import Uncertainty as Uncertainty
    from tfmoe.reports.callback import GateReport as GateReport
    from tfmoe.reports.conflict import GradientReport as GradientReport
    from tfmoe.reports.conflict import draw_conflict as draw_conflict
    from tfmoe.reports.conflict import gradient_conflict as gradient_conflict
    from tfmoe.reports.conflict import task_affinity as task_affinity
    from tfmoe.reports.gate_use import gate_use as gate_use
    from tfmoe.reports.importance import permutation_importance as permutation_importance
    from tfmoe.reports.pictures import draw_gates as draw_gates
    from tfmoe.reports.pictures import draw_weights as draw_weights
    from tfmoe.reports.pictures import write_report as write_report
    from tfmoe.runs.run import Run as Run
    from tfmoe.runs.tune import tune as tune
    from tfmoe.schema.columns import Categorical as Categorical
    from tfmoe.schema.columns import MultiCategorical as MultiCategorical
    from tfmoe.schema.columns import Numeric as Numeric
    from tfmoe.schema.columns import Sequence as Sequence
    from tfmoe.schema.crossed import Crossed as Crossed
    from tfmoe.schema.links import AITM as AITM
    from tfmoe.schema.links import DBMTL as DBMTL
    from tfmoe.schema.links import ESCM2 as ESCM2
    from tfmoe.schema.links import ESMM as ESMM
    from tfmoe.schema.poolings import BST as BST
    from tfmoe.schema.poolings import TargetAttention as TargetAttention
    from tfmoe.schema.pretrained import Pretrained as Pretrained
    from tfmoe.schema.schema import Schema as Schema
    from tfmoe.schema.tasks import Binary as Binary
    from tfmoe.schema.tasks import Multiclass as Multiclass
    from tfmoe.schema.tasks import Regression as Regression
    from tfmoe.schema.text import Text as Text
    from tfmoe.schema.timestamp import Timestamp as Timestamp
    from tfmoe.schema.vector import Vector as Vector
    from tfmoe.serving.export import export as export
    from tfmoe.structures.adatt import AdaTT as AdaTT
    from tfmoe.structures.base import Structure as Structure
    from tfmoe.structures.cgc import CGC as CGC
    from tfmoe.structures.cross_stitch import CrossStitch as CrossStitch
    from tfmoe.structures.home import HoME as HoME
    from tfmoe.structures.mmoe import MMoE as MMoE
    from tfmoe.structures.mmoe import OMoE as OMoE
    from tfmoe.structures.mod_squad import ModSquad as ModSquad
    from tfmoe.structures.mod_squad_block import ModSquadBlock as ModSquadBlock
    from tfmoe.structures.mtan import MTAN as MTAN
    from tfmoe.structures.ple import PLE as PLE
    from tfmoe.structures.shared_bottom import SharedBottom as SharedBottom
    from tfmoe.structures.snr import SNR as SNR
    from tfmoe.structures.star import STAR as STAR
    from tfmoe.structures.stem import STEM as STEM
else:
    # Only at run time: a type checker that saw it would take every name for a public one.

    def __getattr__(name: str) -> object:
        if name not in HOMES:
            raise AttributeError(f"module 'tfmoe' has no attribute {name!r}")
        module = importlib.import_module(f"tfmoe.{HOMES[name]}")
        # A room, or what a module of one holds.
        value = module if name == HOMES[name] else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


loading.install()
