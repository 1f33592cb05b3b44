"""A process of its own that computes one answer: what a benchmark must not have in its own."""

import json
import os
import subprocess
import sys

from benchmarks.results import ROOT
from benchmarks.rivals.worker import MARK


def answer(module, *arguments, **environment):
    """What a module prints after `MARK`, as JSON.

    Args:
        module: str, run by `python -m`.
        arguments: str, its arguments.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: if it fails or prints no answer.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        raise RuntimeError(f"`{' '.join(command[1:])}` failed: {done.stderr[-3000:]}")
    return json.loads(answers[-1].removeprefix(MARK))
