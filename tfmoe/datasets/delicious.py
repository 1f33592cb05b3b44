"""Delicious: bookmarks and the tags that people gave them, a task each."""

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.schema.vector import Vector
from tfmoe.validation import integer

_HOME = "https://mulan.sourceforge.net/datasets-mlc.html"
_NAME, _OWNER = "delicious", "delicious"
_LABEL = "TAG_"


def delicious(name_or_path: PathLike = _NAME, num_tasks: int = 128, seed: int = 0) -> Split:
    """Bookmarks of del.icio.us: which of many tags does a page have?

    The file of the Mulan collection: 16,105 pages, of which it is known which of 500 words they
    contain, and which of 983 tags people gave them. The most frequent tags are the tasks, and
    every row has the labels of all of them.

    Args:
        name_or_path: path of a folder that holds the file `delicious.arff`, perhaps gzipped; or
            `"delicious"`, which is looked for in the folder that the environment variable
            TFMOE_DATA names.
        num_tasks: int >= 1, how many tags are tasks: the most frequent ones of the whole file, of
            equally frequent ones the first in it. The last of 128 has 560 rows.
        seed: int, of the split.

    Returns:
        A `Split`. `words` holds a vector of zeros and ones, in the order of the file; it is the one
        input. The labels (0 or 1) are named by their tags, the most frequent first: `tag_` and
        the tag, in which what is no letter, digit or underscore is an underscore, and a number
        behind it where two would be the same (`tag_web`, `tag_web2_0`). Random parts: a fifth of
        the rows is the test part, a fifth of the others the validation part. They are not
        stratified, for that could be by some tags only.

    Raises:
        ValueError: if the file is of another form, or has fewer tags than `num_tasks`.
        FileNotFoundError: if it is not there.

    The collection states no terms: https://mulan.sourceforge.net/datasets-mlc.html. Tsoumakas et
    al., 2008, "Effective and efficient multilabel classification in domains with large number of
    labels".
    """
    num_tasks = integer(_OWNER, "num_tasks", num_tasks, 1)
    seed = integer(_OWNER, "seed", seed, 0)
    path = public.named(_OWNER, name_or_path, _NAME, "delicious.arff", _HOME)
    names, cells = _read(path)
    is_label = np.array([name.startswith(_LABEL) for name in names], bool)
    labels = np.flatnonzero(is_label)
    if num_tasks > len(labels):
        raise ValueError(
            f"delicious has a task for each of at most {len(labels)} tags. Received "
            f"num_tasks={num_tasks}. Ask for fewer."
        )
    frequent = labels[np.argsort(-cells[:, labels].sum(axis=0), kind="stable")[:num_tasks]]
    tasks = _plain([names[i].removeprefix(_LABEL) for i in frequent])
    words = cells[:, ~is_label].astype("float32")
    rows = pd.DataFrame({"words": list(words)})
    rows = rows.join(pd.DataFrame(cells[:, frequent].astype("int8"), columns=tasks))
    rest, test = public.hold_out(rows, 0.2, seed)
    train, valid = public.hold_out(rest, 0.2, seed)
    words_column = Vector("words", size=words.shape[1], standardize=False)
    return Split(train, valid, test, Schema([words_column], [Binary(name) for name in tasks]))


def _plain(tags):
    """Names of tasks, each once."""
    found: list[str] = []
    for tag in tags:
        name = "tag_" + re.sub(r"\W", "_", tag.lower(), flags=re.ASCII)
        same = sum(re.fullmatch(re.escape(name) + r"(_\d+)?", other) is not None for other in found)
        found.append(f"{name}_{same + 1}" if name in found else name)
    return found


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    """Names of the columns `(c,)` and the cells `(n, c)`, True for 1, of a sparse ARFF file."""
    names: list[str] = []
    rows: list[list[int]] = []
    in_rows = False
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            line = line.strip()
            begins = line.lower()
            if not line or line.startswith("%") or begins.startswith("@relation"):
                continue
            if in_rows:
                rows.append(_row(path, number, line, len(names)))
            elif begins.startswith("@data"):
                in_rows = True
            elif begins.startswith("@attribute") and re.search(r"\{\s*0\s*,\s*1\s*\}$", line):
                names.append(line.split()[1].strip("'\""))
            else:
                raise _other_form(path, number, line)
    cells = np.zeros((len(rows), len(names)), bool)
    for row, ones in zip(cells, rows, strict=True):
        row[ones] = True
    return names, cells


def _row(path, number, line, num_columns):
    """Which columns of a row are 1."""
    if re.fullmatch(r"\{\s*(\d+\s+1\s*(,\s*\d+\s+1\s*)*)?\}", line):
        ones = [int(cell.split()[0]) for cell in line.strip("{} ").split(",") if cell.strip()]
        if all(one < num_columns for one in ones):
            return ones
    raise _other_form(path, number, line)


def _other_form(path, number, line):
    return ValueError(
        "delicious reads Mulan's sparse ARFF file, with attributes {0,1} and, below @data, rows "
        f"such as {{60 1,248 1}}. Received {path}, whose line {number} is {line[:80]!r}. Get the "
        f"file from {_HOME}."
    )
