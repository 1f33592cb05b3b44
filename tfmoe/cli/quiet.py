"""Runs TensorFlow without the notices that it prints on every machine.

Most come before TensorFlow reads `TF_CPP_MIN_LOG_LEVEL`, and one is logged as an error, when it
first meets a type in some graph, so a level cannot hide them: from TensorFlow's start to the end of
a command, what is written to stderr runs through a filter.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

# Of TensorFlow 2.18 to 2.21. A fatal error, such as that of a processor without AVX, is no notice.
NOTICES = (
    r"All log messages before absl::InitializeLog\(\) is called",
    r"oneDNN custom operations are on",
    r"This TensorFlow binary is optimized to use available CPU instructions",
    r"^To enable the following instructions: .* in other operations, rebuild TensorFlow",
    r"Unable to register cu\w+ factory: .* has already been registered",
    r"computation placer already registered",
    # Once, of the first type that it meets: in training, an export or an extraction.
    r"oneDNN supports DT_\w+ only on platforms with AVX-512\. Falling back",
    r"oneDNN BFloat16 support are only on platforms with AVX512\. Falling back",
    # Of DSelect-k's choice between two graphs, both of which compute what they should.
    r"Type inference failed\. This indicates an invalid graph that escaped type checking\. "
    r"Error message: INVALID_ARGUMENT: expected compatible input types",
)
# Lines that go on with a notice before them: the types of that last one.
_CONTINUED = (
    r"goo\.gle/debugproto| *type_id: TFT_| *args \{$| *\}$|$"
    r"| is neither a subtype nor a supertype|\tfor \w+ type infern|\twhile inferring type of node"
)
# True of every machine without a GPU; on one with a GPU they say what is wrong.
NOTICES_WITHOUT_GPU = (
    r"Could not find cuda drivers on your machine",
    r"failed call to cuInit",
    r"TF-TRT Warning: Could not find TensorRT",
)
# What is undone when a command ends.
_UNTIL_THE_END = ExitStack()
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")

# A process of its own: while a library is loaded no other thread of ours runs, and if loading
# ends the process, what it said last still comes through. Ctrl-C is for us, not for the filter.
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
notice, continued = (re.compile(pattern.encode()) for pattern in sys.argv[1:])
hidden = False
for line in sys.stdin.buffer:
    hidden = notice.search(line) or (hidden and continued.match(line))
    if not hidden:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


def start_tensorflow() -> None:
    """Imports Keras and, if it is the backend, TensorFlow, and finds its devices.

    A command calls it before it imports what needs Keras, and after all that can be checked
    without. From then on notices are left out of stderr, until `end_filter`. With
    `TF_CPP_MIN_LOG_LEVEL=0` everything is shown.
    """
    # Keras retraces for each model and each last batch, and TensorFlow warns of it.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if "tensorflow" in sys.modules:
        return
    # On by itself on newer processors of Intel only; on others steps take up to twice as long.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1") == "0":
        return
    _UNTIL_THE_END.enter_context(without_lines(known_notices()))
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Devices are looked for when the first operation runs.
        tf.constant(0) + tf.constant(0)


def end_filter() -> None:
    """Gives stderr back: a command has ended, well or not."""
    _UNTIL_THE_END.close()


def known_notices() -> tuple[str, ...]:
    """Regular expressions of the lines that say nothing on this machine."""
    has_gpu = any(Path(driver).exists() for driver in _DRIVERS)
    return NOTICES if has_gpu else NOTICES + NOTICES_WITHOUT_GPU


@contextmanager
def without_lines(patterns: Sequence[str]) -> Iterator[None]:
    """Leaves out of stderr, also of what C++ writes there, the lines that match a pattern."""
    pattern = "|".join(f"(?:{one})" for one in patterns)
    re.compile(pattern)  # a mistake is told here, not by the filter
    try:
        saved = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _FILTER, pattern, _CONTINUED]
    child = subprocess.Popen(command, stdin=read, stdout=saved)
    os.close(read)
    sys.stderr.flush()
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        # Whoever was started meanwhile may hold the pipe open: it is not waited for.
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
