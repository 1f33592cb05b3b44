"""The rivals' environments: `python -m benchmarks.rivals` installs them."""

import sys
from pathlib import Path

# Inside the checkout but ignored by git; deleting the folder undoes the installation.
HOME = Path(__file__).resolve().parents[1] / ".rivals"

# DeepCTR needs Keras 2, which TensorFlow keeps as tf_keras. torch is pinned because other
# versions bring several gigabytes of CUDA along.
REQUIREMENTS = {
    "deepctr": ["deepctr==0.9.4", "tensorflow==2.21.0", "tf_keras==2.21.0", "setuptools"],
    "rechub": [
        "torch-rechub==0.9.0",
        "torch==2.13.0",
        "onnx==1.23.2",
        "onnxscript==0.7.2",
        "onnxruntime==1.32.0",
    ],
}

HOW_TO_INSTALL = "python -m benchmarks.rivals"


def interpreter(name):
    """Path of the rival's Python, or None if its environment is not installed as it should be.

    Args:
        name: a key of `REQUIREMENTS`, or `"local"` for the environment tfmoe itself is in.
    """
    if name == "local":
        return Path(sys.executable)
    done = stamp(name)
    if done.exists() and done.read_text(encoding="utf-8").split() == REQUIREMENTS[name]:
        return HOME / name / "bin" / "python"
    return None


def taking_part(environments, quick):
    """Those of the contestants that can run; says who is left out.

    Args:
        environments: dict from a contestant's name to its environment.
        quick: bool; whether only those of tfmoe's own environment run.
    """
    names = [
        name
        for name, environment in environments.items()
        if environment == "local" or (not quick and interpreter(environment) is not None)
    ]
    if left_out := sorted(set(environments) - set(names)):
        print(
            f"Left out: {', '.join(left_out)}. The rivals take part in full runs, once "
            f"`{HOW_TO_INSTALL}` has installed them."
        )
    return names


def stamp(name):
    """File that says what was installed, written last."""
    return HOME / name / "installed.txt"
