"""Rows a second on an accelerator, on JAX: a step, sparse compute, ModSquad, several devices.

A process of its own runs on JAX, for that of the benchmarks has TensorFlow. All train by
`model.fit` on batches in the host's memory, with Adam and without metrics, and take turns; a turn
is one epoch. `speed` is the rows a second divided by those of the first of the same name, the
median of the ratios within the rounds.
"""

from benchmarks.job import answer


def run(quick):
    """A row for each contestant.

    Raises:
        RuntimeError: if the process on JAX fails, as it does without an accelerator.
    """
    options = ["--quick"] if quick else []
    return answer("benchmarks.gpu_worker", *options, KERAS_BACKEND="jax")


def headline(rows):
    """How fast the second of each name is, beside the first."""
    first = f"devices={rows[0]['devices']}"
    speeds = [f"{row['name']}_{row['way'].replace(' ', '_')}={row['speed']:.2f}" for row in rows]
    return " ".join([first, *speeds])
