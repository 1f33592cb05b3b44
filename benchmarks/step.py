"""Training rows per second of MMoE: tfmoe, a hand-written Keras model, DeepCTR, torch-rechub.

All train the same sizes (`Sizes`) on the same batches in memory, with Adam in float32 on
two threads, each by its own training loop: forward pass, losses, backward pass, update.
They take turns in one run, and while one trains the others wait. Next to them, the
matmul peak: the best rate of float32 matmuls of the shapes that occur, and the rows per
second it would allow if a step were nothing but its matmuls.
"""

import contextlib
import itertools
import json
import os
import subprocess
import tempfile

import numpy as np

from benchmarks.results import ROOT
from benchmarks.rivals import HOW_TO_INSTALL, REQUIREMENTS, interpreter
from benchmarks.rivals.worker import MARK, Sizes

QUICK = Sizes(
    num_categorical=3,
    num_values=100,
    dim=4,
    num_numeric=2,
    num_experts=3,
    expert_units=(8, 4),
    tower_units=(4,),
    batch_size=32,
    num_batches=3,
)
ROUNDS = 7
THREADS = 2


def run(quick):
    """Measures, and returns a row for each contestant and one for the matmul peak."""
    sizes = QUICK if quick else Sizes()
    installed = [name for name in REQUIREMENTS if interpreter(name) is not None]
    names = ["local"] if quick else ["local", *installed]
    if left_out := sorted(set(REQUIREMENTS) - set(names)):
        print(
            f"Left out: {', '.join(left_out)}. The rivals take part in full runs, once "
            f"`{HOW_TO_INSTALL}` has installed them."
        )
    with contextlib.ExitStack() as stack:
        # Started together, for getting warm takes longer than any turn.
        workers = [stack.enter_context(Worker(name, sizes)) for name in names]
        turns = {}
        for worker in workers:
            turns |= {name: (what, worker) for name, what in worker.ready().items()}
        results = {name: [] for name in turns}
        for _ in range(2 if quick else ROUNDS):
            for name, (_, worker) in turns.items():
                results[name].append(worker.turn(name))
    return summarise(results, {name: what for name, (what, _) in turns.items()}, sizes)


def summarise(results, what, sizes):
    """Rows from the results of all rounds.

    Args:
        results: dict by contestant of its seconds in each round, but GFLOP/s for
            `"matmul"`.
        what: dict by contestant, what was timed.
        sizes: `Sizes`.

    Returns:
        List of rows. `rows_per_s`, `of_peak` (the share of the matmul peak's rows/s) and
        `tfmoe_ratio` (tfmoe's rows/s divided by the contestant's) are medians over the
        rounds, each ratio taken within a round; `q1` and `q3` are the quartiles.
    """
    gflops = np.array(results["matmul"])
    rates = {name: sizes.rows / np.array(results[name]) for name in results if name != "matmul"}
    rates["matmul"] = gflops * 1e9 / flops_per_row(sizes)
    rows = []
    for name, rate in rates.items():
        q1, median, q3 = np.percentile(rate, (25, 50, 75))
        ratio_q1, ratio, ratio_q3 = np.percentile(rates["tfmoe"] / rate, (25, 50, 75))
        rows.append(
            {
                "name": name,
                "rows_per_s": round(median),
                "q1": round(q1),
                "q3": round(q3),
                "of_peak": round(np.median(rate / rates["matmul"]), 3),
                "tfmoe_ratio": round(ratio, 3),
                "ratio_q1": round(ratio_q1, 3),
                "ratio_q3": round(ratio_q3, 3),
                "what": what[name],
            }
        )
    rows[-1]["what"] += f": {np.median(gflops):.0f} GFLOP/s"
    return rows


def flops_per_row(sizes):
    """Floating-point operations of a step's matmuls for one row.

    A layer costs a multiplication and an addition per weight, three times: forward,
    gradient of its kernel, gradient of its input (which the embeddings need).
    """
    towers = [sizes.expert_units[-1], *sizes.tower_units, 1]
    weights = (
        sizes.num_experts * _weights([sizes.num_inputs, *sizes.expert_units])
        + sizes.num_tasks * sizes.num_inputs * sizes.num_experts
        + sizes.num_tasks * _weights(towers)
    )
    return 3 * 2 * weights


def _weights(units):
    return sum(a * b for a, b in itertools.pairwise(units))


def headline(rows):
    """The benchmark in a line: how many times a rival's rows/s tfmoe makes."""
    ratio = {row["name"]: row["tfmoe_ratio"] for row in rows}
    of_peak = {row["name"]: row["of_peak"] for row in rows}
    parts = {"deepctr": "deepctr", "rechub": "torch-rechub", "dense_list": "dense list"}
    versus = [f"vs_{key}={ratio.get(name, 'left_out')}" for key, name in parts.items()]
    return " ".join([*versus, f"of_peak={of_peak['tfmoe']}"])


class Worker:
    """A process that runs the contestants of one environment."""

    def __init__(self, name, sizes):
        self._name = name
        # Closed in `__exit__`; a pipe that nobody reads would fill up and stop the worker.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        threads = {
            variable: str(THREADS)
            for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        }
        module = f"benchmarks.rivals.{name}"
        self._process = subprocess.Popen(
            [interpreter(name), "-m", module, sizes.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **threads, "KERAS_BACKEND": "tensorflow"},
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ready(self):
        """Waits until the contestants are warm; dict by name of what is timed."""
        return json.loads(self._answer())

    def turn(self, name):
        """Seconds (or the contestant's own result) of a turn."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith(MARK):
                return line.removeprefix(MARK)
        self._errors.seek(0)
        raise RuntimeError(
            f"The contestants of {self._name!r} must run to be compared, but their process "
            f"ended. It said:\n{self._errors.read()[-3000:]}\nIf an installation is broken, "
            f"delete benchmarks/.rivals and run {HOW_TO_INSTALL}."
        )
