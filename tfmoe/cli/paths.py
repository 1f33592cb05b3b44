"""Paths that commands take: checked before the work, in the words of the command line."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfmoe.files import check_new
from tfmoe.remote import address, exists, is_remote

if TYPE_CHECKING:
    from tfmoe.model.model import MultiTaskModel

DataFiles = Annotated[
    str,
    typer.Argument(
        help="Table: .csv, .tsv, .parquet, .feather, .orc or .tfrecord, a folder of such, or an "
        "URL; a glob in quotes for several. Behind a text file's path, if need be: "
        "'t.csv?delimiter=;&quoting=no&encoding=latin-1'."
    ),
]
MaybeDataFiles = Annotated[
    str | None,
    typer.Argument(help="Table, as of the other commands; needed without --config."),
]
ModelFile = Annotated[Path, typer.Argument(help="A .keras file that `tfmoe train` has written.")]


def must_be_new(path: Path, *suffixes: str) -> None:
    """Fails before the work whose results could not be written, and makes their folder."""
    check_new(path)
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"A name that ends in {' or '.join(suffixes)} is needed. Received {path}.")
    if not is_remote(path):
        Path(address(path)).parent.mkdir(parents=True, exist_ok=True)


def free_beside(path: Path) -> Path:
    """`model_2.keras` for a `model.keras` that has come while the work was done."""
    names = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    return next(name for name in names if not exists(name))


def load_model(path: Path) -> "MultiTaskModel":
    """The model of a file; starts TensorFlow if there is one."""
    if not exists(path):
        raise FileNotFoundError(f"There is no model at {address(path)}. `tfmoe train` writes one.")

    from tfmoe.cli.quiet import start_tensorflow

    start_tensorflow()
    from tfmoe.model.load import load_model as load

    return load(path)
