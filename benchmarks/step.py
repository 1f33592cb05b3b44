"""Training rows per second of MMoE: tfmoe, a hand-written Keras model, DeepCTR, torch-rechub.

All train the same sizes (`Sizes`) on the same batches in memory, with Adam in float32 on
two threads, each by its own training loop: forward pass, losses, backward pass, update.
They take turns in one run, and while one trains the others wait. Next to them, the
matmul peak: the best rate of float32 matmuls of the shapes that occur, and the rows per
second it would allow if a step were nothing but its matmuls. tfmoe and the hand-written
model train in Keras's `mixed_bfloat16` too, where a matmul may be faster than that peak.
"""

import contextlib
import itertools

import numpy as np

from benchmarks.rivals import REQUIREMENTS, taking_part
from benchmarks.rivals.process import Process
from benchmarks.rivals.worker import Sizes, Worker

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


def run(quick):
    """Measures, and returns a row for each contestant and one for the matmul peak."""
    sizes = QUICK if quick else Sizes()
    names = taking_part({name: name for name in ("local", *REQUIREMENTS)}, quick)
    with contextlib.ExitStack() as stack:
        if quick:
            from benchmarks.rivals.local import build  # starts TensorFlow

            workers = [Worker(build, sizes)]
        else:
            # Started together, for getting warm takes longer than any turn.
            workers = [stack.enter_context(Process(name, name, sizes.to_json())) for name in names]
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
    half = f"bfloat16={1 / ratio['tfmoe, bfloat16']:.3g}" if "tfmoe, bfloat16" in ratio else ""
    return " ".join([*versus, f"of_peak={of_peak['tfmoe']}", half]).strip()
