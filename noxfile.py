"""tfmoe with other versions than those in .venv: `make matrix`, or `.venv/bin/nox -s lowest`."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import nox

HERE = Path(__file__).parent
LOWEST, NEWEST = "3.11", "3.13"  # TensorFlow 2.18 has no wheel for 3.13

# What leans most on Keras, TensorFlow, pandas and pyarrow.
LEANING = [
    "tests/golden",
    "tests/package/test_conformance.py",
    "tests/package/test_keras_private.py",
    "tests/package/test_tfrs.py",
    "tests/data/test_preprocessor.py",
    "tests/model",
    "tests/extraction",
    "tests/serving",
]

nox.options.sessions = ["lowest", "newest", "wheel"]  # torch is said by name: it is gigabytes
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False  # the session is reported as skipped


def floors():
    """The lowest version of each requirement in setup.py, extras too, as text for pip."""
    texts = (
        node.value
        for node in ast.walk(ast.parse((HERE / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    found = filter(None, (re.fullmatch(r"([\w.-]+)>=([\d.]+)", text) for text in texts))
    return "".join(f"{match[1]}=={match[2]}\n" for match in found)


def interpreter(version):
    """A Python of a version that runs; pyenv's stand on PATH even where they do not."""
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for python in filter(None, (shutil.which(f"python{version}"), *map(str, homes))):
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return version


def try_tests(session, *arguments):
    names = ["tensorflow", "keras", "numpy", "pandas", "pyarrow", "scikit-learn"]
    versions = "from importlib.metadata import version; import sys; "
    versions += f"print(sys.version.split()[0], *(n + '=' + version(n) for n in {names}))"
    session.run("python", "-c", versions, log=False)
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *arguments)


@nox.session(name="lowest", python=interpreter(LOWEST))
def lowest(session):
    """The lowest versions that setup.py promises, all together; long cases once, with others."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text(floors())
    session.install(
        "--constraint",
        constraints,
        "--editable",
        ".[plot,rs,tfrs]",
        *("hypothesis", "nbmake", "ipykernel", "pytest", "pytest-xdist"),
    )
    # Libraries of that age warn of what they use of newer ones.
    quick = ("-m", "not slow", "--override-ini", "filterwarnings=default")
    try_tests(session, *quick, *(session.posargs or LEANING))


@nox.session(name="newest", python=interpreter(NEWEST))
def newest(session):
    """The newest versions there are, on the newest Python."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "--editable", ".[test]")
    try_tests(session, "-m", "not slow", *session.posargs)


@nox.session(name="torch")
def torch(session):
    """What is run on torch too, which the tests skip where it is not installed."""
    session.install("--editable", ".[test]", "torch")
    try_tests(session, "-k", "torch", *session.posargs)


@nox.session(name="wheel", reuse_venv=False)
def wheel(session):
    """A wheel in an environment of its own, and the README's first example with it."""
    folder = Path(session.create_tmp())
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder / "dist", HERE)
    (built,) = (folder / "dist").glob("*.whl")
    session.install(built)
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    (folder / "example.py").write_text(
        # Fewer rows, for time.
        "import functools, pathlib, sys, tfmoe\n"
        "assert sys.prefix in tfmoe.__file__, tfmoe.__file__\n"
        "assert (pathlib.Path(tfmoe.__file__).parent / 'py.typed').exists()\n"
        "rows = functools.partial(tfmoe.data.synthetic_ratings, num_rows=5000)\n"
        f"tfmoe.data.synthetic_ratings = rows\n{example}",
        encoding="utf-8",
    )
    with session.chdir(folder):  # away from the checkout's tfmoe
        session.run("tfmoe", "--help", silent=True)
        session.run("python", "example.py")
