"""A process in a contestant's own environment, which the parent gives turns."""

import json
import os
import subprocess
import tempfile

from benchmarks.results import ROOT
from benchmarks.rivals import HOW_TO_INSTALL, interpreter
from benchmarks.rivals.worker import MARK

# As many as this process has cores, so that none waits for another of its own.
AVAILABLE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(2)
THREADS = min(2, len(AVAILABLE))


class Process:
    """Runs a module until the `with` block ends.

    Args:
        name: the environment, a key of `REQUIREMENTS`, or "local".
        module: str, of `benchmarks.rivals`.
        argument: str, the module's.
    """

    def __init__(self, name, module, argument):
        self._name = name
        # Closed in `__exit__`; a pipe that nobody reads would fill up and stop the process.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        threads = {
            variable: str(THREADS)
            for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        }
        self._process = subprocess.Popen(
            [interpreter(name), "-m", f"benchmarks.rivals.{module}", argument],
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
        """Waits until the process is ready; what it says then."""
        return self._answer()

    def turn(self, name):
        """What a turn of that name results in."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        self._errors.seek(0)
        raise RuntimeError(
            f"The contestants of {self._name!r} must run to be compared, but their process "
            f"ended. It said:\n{self._errors.read()[-3000:]}\nIf an installation is broken, "
            f"delete benchmarks/.rivals and run {HOW_TO_INSTALL}."
        )
