"""Ali-CCP: clicks and purchases of what Taobao recommended."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.columns import Categorical, Column, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.validation import integer

_HOME = "https://tianchi.aliyun.com/dataset/408"
_OWNER = "ali_ccp"

# Fields with one value a row: of the user, in the file of common features, and of the row.
_USER = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
_ROW = ("205", "206", "207", "216", "508", "509", "702", "853", "301")
# What prepared tables may have beside these.
_MORE = ("210", "109_14", "110_14", "127_14", "150_14")
_DENSE = ("D109_14", "D110_14", "D127_14", "D150_14", "D508", "D509", "D702", "D853")
_LARGE = {"101": 16, "205": 16, "206": 8, "207": 16, "210": 8, "216": 16, "508": 8, "509": 16}
_LARGE |= {"702": 16, "853": 16}

_SKELETON = ("sample_id", "click", "purchase", "common", "num_features", "features")
_COMMON = ("common", "num_features", "features")


def ali_ccp(
    path: PathLike,
    fraction: float = 1.0,
    num_rows: int | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Split:
    r"""Products that Taobao showed to a user: were they clicked, were they bought?

    Reads either form in which the data are passed on:

    - the raw one: `sample_skeleton_train.csv`, `common_features_train.csv` and the same two of
      `test`, without a line of names. A skeleton's line is `id,click,purchase,common,number,
      features`, a common one `common,number,features`; features are joined by `\x01`, each is
      `field\x02id\x03value`. Rows are joined with the common features of their user;
    - the prepared one, with numbers for ids and a first line `click,purchase,101,121,...`:
      `ali_ccp_train.csv`, `ali_ccp_val.csv`, `ali_ccp_test.csv` of torch-rechub, or
      `ctr_cvr.train`, `ctr_cvr.dev`, `ctr_cvr.test` of AITM.

    Args:
        path: folder that holds the files, perhaps gzipped, or whose folders `sample_train` and
            `sample_test` do.
        fraction: float in (0, 1], the share of the users' visits (of the rows, in the prepared
            form) that is read, drawn by `seed`.
        num_rows: int >= 1, or None: read no further than so many rows of each file, before
            `fraction`. The first rows are of few users.
        valid_fraction: float in (0, 0.5], the share of the training file that is the validation
            part, unless the form has a file for it.
        seed: int, of both.

    Returns:
        A `Split`. Columns: `click` and `purchase`, 0 or 1, the two tasks; and the fields under
        their numbers, 0 where a row lacks one (or, in the prepared form, where its id was rare),
        which counts as missing. Of the raw form these are the 18 fields with one value a row that
        AITM uses: 101 (the user), 121, 122, 124 to 129, 205 (the product), 206, 207, 216, 508,
        509, 702, 853, 301. The prepared form may also have 210, 109_14, 110_14, 127_14, 150_14 and
        the numbers `D...`. In the schema field 101 is named `field_101`, for names do not begin
        with a digit. Rows that were bought but not clicked are left out, as they are there. Part:
        the test files are the test part; of the training file a random share of the rows is the
        validation part, unless there is one.

    Raises:
        ValueError: if a file has other columns or cells, or a row's common features are lacking.
        FileNotFoundError: if the files are not there.

    The raw form is read in blocks, and of each line of common features, which has hundreds, only
    nine numbers are kept: a row takes 74 bytes, all 84 million of both files 6 GB, and half as
    much again while they are put together. It takes tens of minutes; try `num_rows` first.

    Forms of the files: https://github.com/xidongbo/AITM and
    https://github.com/datawhalechina/torch-rechub (`examples/ranking/data/ali-ccp`), whose scripts
    read the raw files and write the prepared ones. Data and their terms:
    https://tianchi.aliyun.com/dataset/408. Ma et al., 2018, https://doi.org/10.1145/3209978.3210104.
    """
    fraction, valid_fraction = public.check_parts(_OWNER, fraction, valid_fraction)
    num_rows = integer(_OWNER, "num_rows", num_rows, 1, optional=True)
    seed = integer(_OWNER, "seed", seed, 0)
    inner = ("sample_train", "sample_test", "train", "test")
    places = public.folders(_OWNER, path, inner, _HOME)
    stems = ("sample_skeleton", "common_features")
    raw = [
        [public.find(places, f"{stem}_{part}.csv") for stem in stems] for part in ("train", "test")
    ]
    if None not in (*raw[0], *raw[1]):
        names = (*_USER, *_ROW)
        rest, test = (_join(files, fraction, num_rows, seed) for files in raw)
        train, valid = public.hold_out(rest, valid_fraction, seed)
    else:
        files = _prepared(path, places)
        names = _names(files[0])
        train, valid, test = (
            None if file is None else _read(file, names, fraction, num_rows, seed) for file in files
        )
        if valid is None:
            train, valid = public.hold_out(train, valid_fraction, seed)
    return Split(train, valid, test, _schema(names))


def _schema(names):
    columns: list[Column] = [
        Numeric(name)
        if name in _DENSE
        else Categorical(
            f"field_{name}", source=name, dim=_LARGE.get(name, 4), dtype="int", missing=(0,)
        )
        for name in names
    ]
    return Schema(columns, [Binary("click"), Binary("purchase")])


# The prepared form


def _prepared(path, places):
    """The files to train, to validate (or None) and to test."""
    for names in (
        [f"ali_ccp_{part}.csv" for part in ("train", "val", "test")],
        [f"ali_ccp_{part}_sample.csv" for part in ("train", "val", "test")],
        [f"ctr_cvr.{part}" for part in ("train", "dev", "test")],
    ):
        files = [public.find(places, name) for name in names]
        if files[0] is not None and files[2] is not None:
            return files
    wanted = (
        "sample_skeleton_train.csv, common_features_train.csv, sample_skeleton_test.csv and "
        "common_features_test.csv (raw), or ali_ccp_train.csv and ali_ccp_test.csv, or "
        "ctr_cvr.train and ctr_cvr.test (prepared)"
    )
    raise public.lacking(_OWNER, path, wanted, _HOME)


def _names(path):
    present = public.header(path)
    public.check_columns(_OWNER, path, ("click", "purchase", *_USER, *_ROW), _HOME)
    return tuple(name for name in (*_USER, *_ROW, *_MORE, *_DENSE) if name in present)


def _read(path, names, fraction, num_rows, seed):
    types = dict.fromkeys(("click", "purchase"), pa.int8())
    types |= {name: pa.float32() if name in _DENSE else pa.int32() for name in names}
    public.check_columns(_OWNER, path, types, _HOME)
    start = 0

    def keep(batch):
        nonlocal start
        positions = start + np.arange(len(batch))
        start += len(batch)
        kept = public.drawn(positions, fraction, seed)
        return kept if num_rows is None else kept & (positions < num_rows)

    return public.table(_OWNER, path, types, _HOME, keep)


# The raw form


def _join(files, fraction, num_rows, seed):
    """The rows of a skeleton with the common features that they point to."""
    skeleton, common = files
    rows, visits = _rows(skeleton, fraction, num_rows, seed)
    features = _features(common, visits)
    visit = rows.pop("visit").to_numpy()
    for name, values in features.items():
        rows[name] = values[visit]
    return rows[["click", "purchase", *_USER, *_ROW]]


def _rows(path, fraction, num_rows, seed):
    """The skeleton's rows, with the number of their visit, and a dict from visits to numbers."""
    types = {"click": pa.int8(), "purchase": pa.int8(), "common": pa.string()}
    types["features"] = pa.string()
    visits, parts, left = {}, [], num_rows
    for batch in public.batches(_OWNER, path, types, _HOME, list(_SKELETON)):
        if left is not None:
            batch, left = batch.slice(0, left), max(0, left - len(batch))
        bought = pa.compute.less_equal(batch["purchase"], batch["click"])
        kept = pa.compute.fill_null(bought, False).to_numpy(zero_copy_only=False)
        if fraction < 1:
            common = batch["common"].to_numpy(zero_copy_only=False)
            kept = kept & public.drawn(common, fraction, seed)
        batch = batch.filter(pa.array(kept))
        codes, values = pd.factorize(batch["common"].to_numpy(zero_copy_only=False))
        numbers = np.array([visits.setdefault(one, len(visits)) for one in values], "int32")
        part = {name: batch[name].to_numpy() for name in ("click", "purchase")}
        part["visit"] = numbers[codes] if len(codes) else np.zeros(0, "int32")
        part |= {name: _ids(batch["features"], name) for name in _ROW}
        parts.append(pd.DataFrame(part))
        if left == 0:
            break
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if not len(rows) or not rows["205"].any():
        raise _no_features(path, "205", _SKELETON)
    return rows, visits


def _features(path, visits):
    """For each field of the user its ids `(visits,)`."""
    found = {name: np.zeros(len(visits), "int32") for name in _USER}
    seen = np.zeros(len(visits), bool)
    wanted = pa.array(list(visits), pa.string())
    types = {"common": pa.string(), "features": pa.string()}
    for batch in public.batches(_OWNER, path, types, _HOME, list(_COMMON)):
        batch = batch.filter(pa.compute.is_in(batch["common"], value_set=wanted))
        numbers = np.array([visits[one] for one in batch["common"].to_pylist()], int)
        seen[numbers] = True
        for name in _USER:
            found[name][numbers] = _ids(batch["features"], name)
        if seen.all():
            break
    if not seen.all():
        lost = next(one for one, number in visits.items() if not seen[number])
        raise ValueError(
            f"{_OWNER} joins each row with the line of common features that it names. Received "
            f"{path}, which lacks {np.sum(~seen):,} of {len(seen):,}, such as {lost!r}. Unpack the "
            "archive anew: the file is cut short, or of the other part."
        )
    if not found["101"].any():
        raise _no_features(path, "101", _COMMON)
    return found


def _ids(features, field):
    """The first id of a field in each line `(n,)`; 0 where there is none."""
    pattern = rf"(?:^|\x01){field}\x02(?P<id>[0-9]+)\x03"
    found = pa.compute.extract_regex(features, pattern).field("id")
    # A row without the field gets no struct, so that its `id` is empty or null.
    number = pa.compute.if_else(pa.compute.is_valid(found), found, "0")
    number = pa.compute.if_else(pa.compute.equal(number, ""), "0", number)
    return number.cast(pa.int32()).to_numpy()


def _no_features(path, field, columns):
    return ValueError(
        f"{_OWNER} reads lines of {', '.join(columns)}, whose features are joined by \\x01 and are "
        rf"each field\x02id\x03value. Received {path}, in which no row that was to be read has the "
        f"field {field}. Unpack the archive anew, without a change of its characters."
    )
