"""The shape of the package: who imports whom, what is public, what is forbidden."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfmoe

ROOT = Path(tfmoe.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A file imports only from rooms before its own; within a room, files sort it out among
# themselves. Packages' `__init__.py` only gather names and belong to their room.
ROOMS = [
    "ops",
    "checks",
    "columns",
    "tasks",
    "infer",
    "schema",
    "recipe",
    "initializers",
    "data",
    "embedding",
    "encoder",
    "dispatch",
    "stacked",
    "device",
    "dropout",
    "relu",
    "experts",
    "gates",
    "attention",
    "mixtures",
    "towers",
    "metrics",
    "evaluation",
    "optimizers",
    "losses",
    "objectives",
    "mutual_information",
    "copying",
    "added",
    "features",
    "frozen",
    "jit",
    "model",
    "raw_inputs",
    "export",
    "gate_use",
    "report",
    "callbacks",
    "extract",
    "compact",
    "tfrs",
    "demo",
    "by_name",
    "cli",
]
# In a room, files come in this order too.
ORDER = {
    "data": [
        "convert",
        "hashing",
        "vocabulary",
        "statistics",
        "encoding",
        "labels",
        "rows",
        "fitting",
        "storage",
        "tfrecord",
        "readers",
        "mixer",
        "pipeline",
        "preprocessor",
        "synthetic",
        "correlated",
        "grouped",
        "movielens",
        "census",
    ],
    "gates": [
        "rows",
        "balance",
        "schedules",
        "routers",
        "task_router",
        "base",
        "softmax",
        "top_k",
        "dselect_k",
        "gumbel",
        "sparsemax",
        "entmax",
        "relu",
        "balanced",
        "hashed",
        "permutation",
        "comet",
        "task_aware",
        "extended",
    ],
    "mixtures": ["mmoe", "shared_bottom", "mod_squad_block", "mod_squad"],
}


def place(module):
    """Where a module such as `gates.base` stands in the order of imports."""
    room, _, file = module.partition(".")
    return ROOMS.index(room), ORDER[room].index(file) if file else -1


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
                # `from tfmoe.data import storage` names a module, or a name of one.
                name = f"{node.module}.{alias.name}"
                parts = name.split(".")
                whole = (
                    parts[0] == "tfmoe" and ROOT.joinpath(*parts[1:]).with_suffix(".py").exists()
                )
                yield node, name if whole else node.module


def test_every_file_has_its_place():
    modules = {module_of(path) for path in FILES} - {"", "data", "gates", "mixtures"}
    listed = {room for room in ROOMS if room not in ORDER}
    listed |= {f"{room}.{file}" for room, files in ORDER.items() for file in files}
    assert modules == listed


def test_files_import_only_what_stands_before_them():
    wrong = []
    for path, tree in trees().items():
        own = module_of(path)
        if path.name == "__init__.py":
            continue
        for node, name in imports(tree):
            # The bare package stands above all: only the last room may import it.
            inner = name.removeprefix("tfmoe").removeprefix(".")
            ours = name.split(".")[0] == "tfmoe"
            if ours and (own != "cli" if inner == "" else place(inner) >= place(own)):
                wrong.append(f"{path.name}:{node.lineno} imports {name}")
    assert wrong == []


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


def test_public_names_are_sorted_and_no_others_leak():
    assert tfmoe.__all__ == sorted(set(tfmoe.__all__), key=str)
    found = {
        name
        for name, value in vars(tfmoe).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    modules = {name for name in tfmoe.__all__ if inspect.ismodule(getattr(tfmoe, name))}
    assert found | modules == set(tfmoe.__all__)


def test_data_needs_neither_tensorflow_nor_keras():
    modules = [
        "tfmoe.columns",
        "tfmoe.tasks",
        "tfmoe.infer",
        "tfmoe.schema",
        *(f"tfmoe.data.{file}" for file in ORDER["data"]),
    ]
    code = (
        # The package's own file gathers the layers; an empty one stands in for it.
        "import importlib, sys, types\n"
        "sys.modules['tfmoe'] = package = types.ModuleType('tfmoe')\n"
        f"package.__path__ = [{str(ROOT)!r}]\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "loaded = {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
