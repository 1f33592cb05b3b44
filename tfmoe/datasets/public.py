"""What the readers of public files share: the files, some columns of some rows, a part held out."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import ArrayLike

from tfmoe.files import PathLike
from tfmoe.remote import address
from tfmoe.validation import did_you_mean, number

# Large enough for the longest line of a public file, which is some tens of kilobytes.
_BLOCK = 32 << 20


def check_parts(owner: str, fraction: object, valid_fraction: object) -> tuple[float, float]:
    """Both shares as floats.

    Raises:
        ValueError: if `fraction` is not in (0, 1], or `valid_fraction` not in (0, 0.5].
    """
    return (
        number(owner, "fraction", fraction, above=0, most=1),
        number(owner, "valid_fraction", valid_fraction, above=0, most=0.5),
    )


def folders(owner: str, path: PathLike, inner: Iterable[str], home: str) -> list[Path]:
    """A folder and those of `inner` that are in it.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(address(path))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{owner} takes the path of a folder that holds the files. Received "
            f"path={str(path)!r}, which is none. Get the files from {home}."
        )
    return [folder, *(folder / name for name in inner if (folder / name).is_dir())]


def find(places: Iterable[Path], *names: str) -> Path | None:
    """The first file of one of these names, perhaps gzipped, in these folders."""
    for place in places:
        for name in names:
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def named(owner: str, name_or_path: PathLike, name: str, file: str, home: str) -> Path:
    """A file in a folder, or in the folder `name` of the one that TFMOE_DATA names.

    Raises:
        FileNotFoundError: if there is neither `file` nor `file.gz`.
    """
    folder = Path(address(name_or_path))
    if name_or_path == name and os.environ.get("TFMOE_DATA"):
        folder = Path(os.environ["TFMOE_DATA"]) / name
    found = find([folder], file)
    if found is None:
        raise FileNotFoundError(
            f"{owner} takes the path of a folder that holds {file} or {file}.gz, or {name!r} with "
            "the environment variable TFMOE_DATA set to the folder that holds such a folder. "
            f"Received name_or_path={str(name_or_path)!r} and "
            f"TFMOE_DATA={os.environ.get('TFMOE_DATA')!r}. Get the files from {home}."
        )
    return found


def lacking(owner: str, path: PathLike, wanted: str, home: str) -> FileNotFoundError:
    """The error for a folder that does not hold what is wanted."""
    found = sorted(one.name for one in Path(address(path)).iterdir())
    return FileNotFoundError(
        f"{owner} reads {wanted}. Received path={str(path)!r}, which holds "
        f"{found[:10]}{' and more' * (len(found) > 10)}. Get the files from {home} and "
        "unpack them there."
    )


def header(path: Path) -> list[str]:
    """The names in a CSV file's first line."""
    try:
        return [str(name) for name in pd.read_csv(path, nrows=0).columns]
    except pd.errors.EmptyDataError:
        return []


def check_columns(owner: str, path: Path, names: Iterable[str], home: str) -> None:
    """Raises ValueError unless a CSV file has all these columns."""
    present = header(path)
    absent = [name for name in names if name not in present]
    if absent:
        raise ValueError(
            f"{owner} needs the columns {absent[:8]}{' and more' * (len(absent) > 8)} in "
            f"{path}. Received a file whose first line is {present[:8]}"
            f"{' and more' * (len(present) > 8)}.{did_you_mean(absent[0], present)} Its form is "
            f"described at {home}."
        )


def batches(
    owner: str,
    path: Path,
    types: Mapping[str, pa.DataType],
    home: str,
    names: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Some columns of a CSV file, block by block.

    Args:
        owner: the reader, for errors.
        path: a file, perhaps gzipped.
        types: dict from columns to Arrow's types. Empty cells of numbers are null.
        home: where its form is described.
        names: of all columns, if the file has no first line of names. Quotes are characters then.

    Raises:
        ValueError: if a cell is of another type, or a line has more or fewer cells.
    """
    try:
        with pyarrow.csv.open_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK, column_names=names),
            parse_options=pyarrow.csv.ParseOptions(quote_char=False if names else '"'),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=list(types)
            ),
        ) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{owner} reads numbers and text of the form described at {home}. Received {path}, "
            f"of which Arrow says: {error}. Unpack the file anew, or compare its first lines "
            "with the description."
        ) from error


def table(
    owner: str,
    path: Path,
    types: Mapping[str, pa.DataType],
    home: str,
    keep: Callable[[pa.RecordBatch], np.ndarray] | None = None,
) -> pd.DataFrame:
    """Some columns of a CSV file, and of its rows those of which `keep` is True.

    Integers with empty cells become floats with NaN.
    """
    kept = []
    for batch in batches(owner, path, types, home):
        kept.append(batch if keep is None else batch.filter(pa.array(keep(batch))))
    schema = pa.schema(list(types.items()))
    found = pa.Table.from_batches(kept, schema)
    del kept
    # One column at a time is turned, and let go of.
    return found.to_pandas(split_blocks=True, self_destruct=True)


def drawn(keys: ArrayLike, fraction: float, seed: int) -> np.ndarray:
    """Which rows to keep `(n,)`, so that those of equal keys stay together.

    It depends on the key alone, not on other rows, so that files can be read in any order and
    block by block; a larger fraction keeps the rows of a smaller one.
    """
    keys = np.asarray(keys)
    if fraction == 1:
        return np.ones(len(keys), bool)
    hashes = pd.util.hash_array(keys)
    hashes = pd.util.hash_array(hashes ^ pd.util.hash_array(np.array([seed], np.uint64))[0])
    return hashes < fraction * 2.0**64


def hold_out(rows: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to train on and a random share to validate by, both in the order they had."""
    held = np.zeros(len(rows), bool)
    order = np.random.default_rng(seed).permutation(len(rows))
    held[order[: max(1, round(fraction * len(rows)))]] = True
    return rows[~held].reset_index(drop=True), rows[held].reset_index(drop=True)
