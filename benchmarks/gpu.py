"""Rows a second on an accelerator, on JAX: a step, sparse compute, ModSquad, several devices.

A process of its own runs on JAX, for that of the benchmarks has TensorFlow. All train by
`model.fit` on batches in the host's memory, with Adam and without metrics, and take turns; a turn
is one epoch. `speed` is the rows a second divided by those of the first of the same name, the
median of the ratios within the rounds.
"""

import json
import os
import subprocess
import sys

from benchmarks.results import ROOT
from benchmarks.rivals.worker import MARK


def run(quick):
    """A row for each contestant.

    Raises:
        RuntimeError: if the process on JAX fails, as it does without an accelerator.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_worker", *(["--quick"] if quick else [])]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        raise RuntimeError(f"`{' '.join(command[1:])}` failed on JAX: {done.stderr[-3000:]}")
    return json.loads(answers[-1].removeprefix(MARK))


def headline(rows):
    """How fast the second of each name is, beside the first."""
    first = f"devices={rows[0]['devices']}"
    speeds = [f"{row['name']}_{row['way'].replace(' ', '_')}={row['speed']:.2f}" for row in rows]
    return " ".join([first, *speeds])
