"""Settings of all tests: those in tests/ and the examples in tfmoe's docstrings."""

import gc
import os
import random
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import settings

# Read when TensorFlow is imported, so nothing above imports it. One thread each: `pytest -n`
# keeps the cores busy, and how threads cut a matrix product is no test's concern.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[variable] = "1"

# Building a layer takes long the first time, and a slow machine is no fault.
settings.register_profile("tests", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("quick", settings.get_profile("tests"), max_examples=10)


def pytest_addoption(parser):
    words = "of a test's slow cases no more than N, the same in every run, unless it is `whole`"
    parser.addoption("--most-cases", type=int, metavar="N", help=words)


def pytest_configure(config):
    quick = config.option.markexpr == "not slow"
    settings.load_profile("quick" if quick else "tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Of a test marked `quick(n)`, all but n cases are slow; and so are notebooks."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")
    for name, cases in _by_test(item for item in items if item.get_closest_marker("quick")):
        (number,) = cases[0].get_closest_marker("quick").args
        for case in _surplus(name, cases, number):
            case.add_marker("slow")
    most = config.option.most_cases
    if most is not None:
        slow = (item for item in items if item.get_closest_marker("slow"))
        sampled = _by_test(item for item in slow if not item.get_closest_marker("whole"))
        left = {case for name, cases in sampled for case in _surplus(name, cases, most)}
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]


def _by_test(items):
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.split("[")[0]].append(item)
    return tests.items()


def _surplus(name, cases, number):
    """All cases of a test but so many, which are drawn, for neighbours are alike."""
    chosen = random.Random(name).sample(range(len(cases)), min(number, len(cases)))
    return [case for place, case in enumerate(cases) if place not in chosen]


def pytest_collection_finish():
    # What was imported stays: a third of a second for each time that it is looked through.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Nothing of one file's models stays for the next: a worker would grow by gigabytes.

    Embeddings start large, for beside small ones a wrong id would hardly be seen.
    """
    if initializers := sys.modules.get("tfmoe.compute.initializers"):
        initializers.SMALL = 0.03
    yield
    if "tensorflow" not in sys.modules:
        return
    import keras
    from tensorflow.python.framework import ops

    keras.utils.clear_session()
    # A custom gradient is registered anew in each graph, for good, and holds the graph. Steps of
    # models forget theirs; functions that tests make by hand, and replicas, do not.
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient")]:
        del gradients[name]
    gc.collect()


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whichever tests ran before."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def names_of_examples(doctest_namespace):
    """What the examples in docstrings may use without importing it."""
    import tfmoe

    doctest_namespace["np"] = np
    doctest_namespace["tfmoe"] = tfmoe
