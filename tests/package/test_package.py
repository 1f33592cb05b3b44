"""The shape of the package: who imports whom, what is public, what is forbidden."""

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import tfmoe

ROOT = Path(tfmoe.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A room imports only rooms above it, and inside a room only circles are forbidden.
ROOMS = [
    "validation",
    "remote",
    "files",
    "keras_private",
    "schema",
    "datasets",
    "compute",
    "experts",
    "gates",
    "features",
    "structures",
    "heads",
    "objectives",
    "optimizers",
    "data",
    "model",
    "distribution",
    "reports",
    "extraction",
    "serving",
    "runs",
    "spark",
    "cli",
]
# What a room may load of a later one, late, inside a function: a schema is proposed for paths.
LATE = {
    (module, "data.read.look") for module in ("schema.infer", "schema.infer_labels", "schema.leaks")
}
# Outside the order: what loads the others, and what imports only where Keras 2 is chosen.
DOORS = {"", "loading", "tfrs"}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(tree):
    """Modules that a syntax tree imports, as `(node, full name)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Imports name the whole module."
            for alias in node.names:
                # `from tfmoe.data import arrow` names a module, or a name of one.
                name = f"{node.module}.{alias.name}"
                parts = name.split(".")
                whole = (
                    parts[0] == "tfmoe" and ROOT.joinpath(*parts[1:]).with_suffix(".py").exists()
                )
                yield node, name if whole else node.module


def at_import(tree):
    """The part of a syntax tree that runs when the module is imported."""
    found = []
    for node in tree.body:
        is_lazy = isinstance(node, ast.FunctionDef | ast.ClassDef)
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        found += [] if is_lazy or is_for_types else [node]
    return ast.Module(found, [])


def test_every_room_has_its_place():
    rooms = {module_of(path).split(".")[0] for path in FILES}
    assert rooms - DOORS == set(ROOMS)


def test_rooms_import_only_what_stands_above_them():
    wrong = []
    for path, tree in trees().items():
        own = module_of(path).split(".")[0]
        for node, name in imports(tree) if own not in DOORS else ():
            root, _, inner = name.partition(".")
            if root != "tfmoe" or own == "cli":
                continue
            if (module_of(path), inner) in LATE and node not in at_import(tree).body:
                continue
            # The bare package stands above all: only the rooms of names may import it.
            room = inner.split(".")[0]
            if own == "runs" and not room:
                continue
            if room not in ROOMS or ROOMS.index(room) > ROOMS.index(own):
                wrong.append(f"{module_of(path)}:{node.lineno} imports {name}")
    assert wrong == []


def test_modules_import_each_other_in_no_circle():
    wants = {
        module_of(path): {
            name.removeprefix("tfmoe.") for _, name in imports(at_import(tree)) if "tfmoe." in name
        }
        for path, tree in trees().items()
    }
    done, way = set(), []

    def visit(module):
        assert module not in way, f"circle: {' -> '.join([*way, module])}"
        if module in done:
            return
        way.append(module)
        for wanted in sorted(wants.get(module, ())):
            visit(wanted)
        done.add(way.pop())

    for module in sorted(wants):
        visit(module)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_file_has_what_is_forbidden(path):
    forbidden = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            forbidden.append(f"line {node.lineno}: assert, which python -O removes")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.split(".")[-1] in {"Lambda", "enable_unsafe_deserialization"} or called in {
                "eval",
                "exec",
                "compile",
                "__import__",
            }:
                forbidden.append(f"line {node.lineno}: {called}")
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in {("allow_pickle", True), ("safe_mode", False)}:
                    forbidden.append(f"line {node.lineno}: {keyword.arg}={value}")
    for node, name in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}:
            forbidden.append(f"line {node.lineno}: {name}")
    assert forbidden == []


@pytest.mark.parametrize("name", tfmoe.__all__)
def test_public_names_are_documented(name):
    documented = getattr(tfmoe, name)
    text = inspect.getdoc(documented)
    assert text, f"{name} has no docstring."
    if inspect.isclass(documented):
        arguments = inspect.signature(documented.__init__).parameters.values()
        undocumented = [
            p.name
            for p in arguments
            if p.name != "self"
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and not re.search(rf"\b{p.name}\b", text)
        ]
        assert undocumented == []


PUBLIC = {
    f"{room.__name__}.{name}": getattr(room, name)
    for room, names in (
        (tfmoe, tfmoe.__all__),
        (tfmoe.datasets, tfmoe.datasets.__all__),
        (tfmoe.optimizers, ["Adam", "LazyAdam", "Adagrad", "ByPart"]),
        (tfmoe.distribution, ["dataset", "ModelParallel"]),
        (tfmoe.spark, ["fit", "predict"]),
    )
    for name in names
    if callable(getattr(room, name))
}


@pytest.mark.parametrize("name", PUBLIC)
def test_no_public_name_swallows_an_argument(name):
    with pytest.raises(TypeError, match="'nonsense'"):
        PUBLIC[name](nonsense=1)


def test_the_nearest_argument_is_named():
    with pytest.raises(TypeError, match=r"'tower_unit'. Did you mean 'tower_units'\?"):
        tfmoe.MultiTaskModel(None, None, tower_unit=(3,))
    with pytest.raises(TypeError, match=r"'num_nonzero'. Did you mean 'num_nonzeros'\?"):
        tfmoe.TopKGate(num_nonzero=3)


# The names of version 0.1 before its files moved into rooms, and what has come since.
FIRST_NAMES = [
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
ADDED_NAMES = [
    "AITM",
    "AdaTT",
    "AlignedMTL",
    "AutoInt",
    "BST",
    "ByColumns",
    "CAGrad",
    "CGC",
    "Calibration",
    "Checkpoint",
    "Cross",
    "CrossStitch",
    "Crossed",
    "DBMTL",
    "DWA",
    "DualBalancing",
    "EPNet",
    "ESCM2",
    "ESMM",
    "FAMO",
    "FM",
    "FiBiNET",
    "GLS",
    "Gate",
    "GateOutput",
    "GradNorm",
    "GradientReport",
    "HoME",
    "IMTLG",
    "Interactions",
    "InterestAttention",
    "InterestTransformer",
    "MGDA",
    "MTAN",
    "MaskNet",
    "Measures",
    "MultiTaskEarlyStopping",
    "MultiWorkerModel",
    "NashMTL",
    "NormalizedEntropy",
    "PCGrad",
    "PLE",
    "PPNet",
    "Pretrained",
    "RLW",
    "Run",
    "SNR",
    "STAR",
    "STCH",
    "STEM",
    "ScenarioTowers",
    "ScoreSpec",
    "Structure",
    "TargetAttention",
    "TaskCheckpoint",
    "Text",
    "Timestamp",
    "UPGrad",
    "Uncertainty",
    "Vector",
    "Weighting",
    "datasets",
    "distribution",
    "draw_conflict",
    "draw_gates",
    "draw_weights",
    "gate_use",
    "gradient_conflict",
    "load_model",
    "measure",
    "permutation_importance",
    "spark",
    "task_affinity",
    "tune",
    "write_report",
]


def test_public_names_stay_and_those_that_come_are_listed():
    assert sorted([*FIRST_NAMES, *ADDED_NAMES]) == tfmoe.__all__


def test_public_names_are_sorted_and_can_be_found():
    assert tfmoe.__all__ == sorted(set(tfmoe.__all__), key=str)
    assert set(tfmoe.__all__) <= set(dir(tfmoe))
    for name in tfmoe.__all__:
        assert getattr(tfmoe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'MMOE'"):
        tfmoe.MMOE  # noqa: B018


def test_type_checkers_see_the_public_names():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert sorted(alias.asname for node in block.body for alias in node.names) == tfmoe.__all__


def fresh(code, **environment):
    """What a new process prints that runs some code."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = "{'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)"


def test_tables_need_neither_tensorflow_nor_keras():
    rooms = ("validation", "remote", "files", "schema", "datasets", "data", "runs", "spark", "cli")
    exempt = {"cli.__main__", "cli.demo", "cli.progress", "data.encode.sorted_table"}
    exempt |= {"cli.markets", "cli.markets_picture", "cli.markets_text"}
    modules = [
        f"tfmoe.{module_of(path)}"
        for path in FILES
        if module_of(path).split(".")[0] in rooms and module_of(path) not in exempt
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import tfmoe; tfmoe.Schema, tfmoe.Preprocessor, tfmoe.datasets, dir(tfmoe)\n"
        f"print({HEAVY})"
    )
    assert fresh(code) == "set()\n"


def test_the_package_alone_loads_nothing():
    heavy = "{'tensorflow', 'keras', 'pandas', 'rich'}"
    code = f"import sys, tfmoe; print(sorted({heavy} & set(sys.modules)))"
    assert fresh(code) == "[]\n"


@pytest.mark.slow
def test_keras_knows_every_class_whichever_is_imported_first():
    pattern = re.compile(r"@registered(?:\n@.*)?\nclass (\w+)")
    classes = {
        name
        for path in FILES
        if path.stem != "tfrs"
        for name in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert len(classes) > 30
    for order in (
        "import tfmoe, keras",
        "from tfmoe.optimizers import LazyAdam; import keras",
    ):
        known = fresh(f"{order}; print(*keras.saving.get_custom_objects())").split()
        assert classes <= {name.removeprefix("tfmoe>") for name in known}, order


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder()
    found = set()
    for path in FILES:
        if path.stem == "tfrs":  # imports only where Keras 2 is chosen
            continue
        module = importlib.import_module(".".join(filter(None, ["tfmoe", module_of(path)])))
        found |= {test.name for test in finder.find(module) if test.examples}
    assert len(found) >= 12, sorted(found)


def test_version_is_the_changelogs():
    changelog = ROOT.parent / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("An installed package has no CHANGELOG.md.")
    versions = re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", changelog.read_text("utf-8"), re.MULTILINE)
    assert versions[0] == tfmoe.__version__


# What Keras's layers are on torch has methods of these names, which it calls or users do.
TORCH_NAMES = {
    "apply",
    "children",
    "eval",
    "forward",
    "modules",
    "parameters",
    "to",
    "train",
    "type",
}


def test_no_layer_hides_what_torch_gives_it():
    public = [getattr(tfmoe, name) for name in tfmoe.__all__]
    layers = [one for one in public if isinstance(one, type) and issubclass(one, keras.Layer)]
    assert tfmoe.MultiTaskModel in layers
    for layer in layers:
        ours = [one for one in layer.__mro__ if one.__module__.startswith("tfmoe")]
        assert not TORCH_NAMES & {name for one in ours for name in vars(one)}, layer
