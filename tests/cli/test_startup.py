"""What the commands import, and what they say besides their own words: in fresh processes."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.oracles import tables
from tfmoe.cli import quiet


def fresh(code, folder, **environment):
    """Runs code as a user's terminal would, where nobody has chosen a log level."""
    inherited = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    # This tfmoe, wherever the process stands.
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**inherited, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


COMMANDS = ("demo", "schema", "train", "evaluate", "predict", "export", "extract", "report")
HEAVY = "{'tensorflow', 'keras', 'jax', 'torch', 'matplotlib'} & set(sys.modules)"
TABLES = "{'pandas', 'pyarrow', 'numpy'} & set(sys.modules)"


def test_help_and_a_schema_load_no_keras(tmp_path):
    tables.rows()[["user_id", "genres", "watch"]].to_csv(tmp_path / "rows.csv", index=False)
    done = fresh(
        f"""
        import sys
        from typer.testing import CliRunner
        from tfmoe.cli.app import app
        run = CliRunner().invoke
        for command in {COMMANDS}:
            shown = run(app, [command, "--help"])
            assert shown.exit_code == 0 and "Usage" in shown.output, shown.output
        assert run(app, ["--help"]).exit_code == 0
        print({HEAVY}, {TABLES})
        done = run(app, ["schema", "rows.csv", "--label", "watch"])
        assert done.exit_code == 0, done.output
        print({HEAVY})
        """,
        tmp_path,
    )
    assert done.stdout == "set() set()\nset()\n", done.stderr
    assert (tmp_path / "schema.yaml").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tfmoe ex", ["export", "extract"]),
        ("tfmoe train --gate s", ["softmax", "sparsemax"]),
        ("tfmoe train --mixture m", ["mmoe", "mtan", "mod-squad"]),
        ("tfmoe train --dtype mixed", ["mixed_bfloat16", "mixed_float16"]),
        ("tfmoe extract --by u", ["usage"]),
        ("tfmoe demo --data ml-1", ["ml-1m"]),
    ],
)
def test_completion_knows_names_and_loads_no_keras(line, expected, tmp_path):
    code = f"""
        import atexit, sys
        sys.argv = ["tfmoe"]
        from tfmoe.cli.app import app
        atexit.register(lambda: print({HEAVY}, {TABLES}))
        app()
        """
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    done = fresh(code, tmp_path, _TFMOE_COMPLETE="complete_bash", **words)
    assert done.stdout.split("\n")[:-1] == [*expected, "set() set()"], done.stderr


def test_completion_can_be_installed_without_keras(tmp_path):
    program = f"""
import atexit, sys
sys.argv = ["tfmoe", "--install-completion"]
from tfmoe.cli.app import app
atexit.register(lambda: print({HEAVY}, {TABLES}))
app()
"""
    # From a shell, which typer asks for its name; the second command keeps it alive.
    code = f"""
        import subprocess, sys
        command = ["bash", "-c", '"$0" -c "$1"; exit $?', sys.executable, {program!r}]
        sys.exit(subprocess.run(command).returncode)
        """
    done = fresh(code, tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "set() set()" in done.stdout
    assert (tmp_path / ".bash_completions" / "tfmoe.sh").exists()


@pytest.mark.slow
def test_commands_print_nothing_but_their_own_words(tmp_path):
    """All commands that start TensorFlow, in the one process that can start it."""
    columns = ["user_id", "genres", "age", "watch", "rating"]
    tables.rows()[columns].to_csv(tmp_path / "rows.csv", index=False)
    done = fresh(
        """
        import os
        from tfmoe.cli.app import app
        train = "train rows.csv --schema schema.yaml --valid rows.csv --epochs 1 --gate top-k"
        train += " --num-experts 3 --hidden-units 4 --history history.csv"
        for line in (
            "schema rows.csv --label watch --label rating",
            train,
            "evaluate model.keras rows.csv",
            "predict model.keras rows.csv --out predictions.csv",
            "export model.keras serving",
            "extract model.keras --task watch --data rows.csv --out watch.keras",
            "report model.keras rows.csv --out report --history history.csv",
        ):
            try:
                app(line.split())
            except SystemExit as end:
                assert end.code in (0, None), line
        os.write(2, b"stderr is as it was\\n")
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *warned, last = done.stderr.splitlines()
    assert last == "stderr is as it was"
    assert all(re.match(r"(Whole|Labels|The model) .*\.$", line) for line in warned), warned
    assert "…" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    # Nothing of TensorFlow's or absl's on stdout either.
    assert not re.search(r"^[IWEF]\d{4} |INFO:|WARNING", done.stdout, re.MULTILINE), done.stdout


NOTICES = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1.1 1 port.cc:153] oneDNN custom operations are on. You may see slightly
2025-01-01 00:00:00.1: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
I0000 00:00:1.1 1 guard.cc:2] This TensorFlow binary is optimized to use available CPU instructions
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with
E0000 00:00:1.1 1 cuda_fft.cc:467] Unable to register cuFFT factory: Attempting to register \
factory for plugin cuFFT when one has already been registered
W0000 00:00:1.1 1 computation_placer.cc:177] computation placer already registered. Please
"""
# As they come in the middle of a command.
LATE_NOTICES = """\
E0000 00:00:1.1 1 util.cc:131] oneDNN supports DT_INT64 only on platforms with AVX-512. Falling \
back to the default Eigen-based implementation if present.
2025-01-01 00:00:00.1: E tensorflow/core/util/util.cc:131] oneDNN supports DT_BOOL only on \
platforms with AVX-512. Falling back to the default Eigen-based implementation if present.
E0000 00:00:1.1 1 mkl_graph_util.h:1] oneDNN BFloat16 support are only on platforms with AVX512. \
Falling back to default implementation if present.
W0000 00:00:1.1 1 type_inference.cc:340] Type inference failed. This indicates an invalid graph \
that escaped type checking. Error message: INVALID_ARGUMENT: expected compatible input types, but \
input 1:
goo.gle/debugproto
type_id: TFT_OPTIONAL
args {
  type_id: TFT_PRODUCT
  args {
    type_id: TFT_TENSOR
  }
}
 is neither a subtype nor a supertype of the combined inputs preceding it:
goo.gle/debugproto
type_id: TFT_OPTIONAL

\tfor Tuple type infernce function 0
\twhile inferring type of node 'StatefulPartitionedCall/model/cond/output/_133'
"""
OF_A_GPU = """\
I0000 00:00:1.1 1 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not
E0000 00:00:1.1 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN
"""
ERRORS = """\
E0000 00:00:1.1 1 somewhere.cc:1] disk is full
F0000 00:00:1.1 1 cpu_feature_guard.cc:110] The TensorFlow library was compiled to use AVX
instructions, but these aren't available on your machine.
args {

"""


@pytest.mark.parametrize("has_gpu", [False, True])
def test_errors_come_through_also_when_the_process_dies(has_gpu, tmp_path):
    drivers = (str(tmp_path),) if has_gpu else ()
    done = fresh(
        f"""
        import os, sys
        from tfmoe.cli import quiet
        quiet._DRIVERS = {drivers!r}
        with quiet.without_lines(quiet.known_notices()):
            os.write(2, {NOTICES.encode()!r} + {OF_A_GPU.encode()!r})
        print("a line of Python", file=sys.stderr)
        with quiet.without_lines(quiet.known_notices()):
            os.write(2, {ERRORS.encode()!r})
            os.abort()
        """,
        tmp_path,
    )
    assert done.returncode != 0
    before = OF_A_GPU if has_gpu else ""
    assert done.stderr == before + "a line of Python\n" + ERRORS


@pytest.mark.parametrize("end", ["pass", "raise ValueError('of the user')", "raise KeyError(1)"])
def test_notices_are_left_out_until_a_command_ends(end, tmp_path):
    """TensorFlow first meets some types long after its start."""
    done = fresh(
        f"""
        import os, sys, types
        import typer
        from tfmoe.cli import quiet
        from tfmoe.cli.terminal import errors_shown
        # Keras without TensorFlow, which takes seconds to start.
        backend = types.SimpleNamespace(backend=lambda: "none")
        sys.modules["keras"] = types.SimpleNamespace(backend=backend)
        try:
            with errors_shown():
                quiet.start_tensorflow()
                os.write(2, {(LATE_NOTICES + ERRORS).encode()!r})
                {end}
        except (typer.Exit, KeyError):
            pass
        os.write(2, {LATE_NOTICES.encode()!r})
        """,
        tmp_path,
    )
    told = "Error: of the user\n" if "of the user" in end else ""
    assert done.stderr == ERRORS + told + LATE_NOTICES
    assert done.returncode == 0


def test_an_error_leaves_stderr_as_it_was(tmp_path):
    done = fresh(
        """
        import os
        from tfmoe.cli import quiet
        try:
            with quiet.without_lines(["hidden"]):
                os.write(2, b"hidden 1\\nshown 2\\n")
                raise ImportError("no library")
        except ImportError as error:
            os.write(2, f"hidden no more: {error}\\n".encode())
        os.close(2)
        with quiet.without_lines(["hidden"]):
            print("without stderr too")
        """,
        tmp_path,
    )
    assert done.stderr == "shown 2\nhidden no more: no library\n"
    assert done.stdout == "without stderr too\n"


def test_who_asks_for_all_notices_gets_them(monkeypatch):
    def fail(patterns):
        raise AssertionError("filtered")

    monkeypatch.setattr(quiet, "without_lines", fail)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    quiet.start_tensorflow()
