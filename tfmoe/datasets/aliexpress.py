"""AliExpress: clicks and conversions of a search engine in five countries."""

import pyarrow as pa

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.columns import Categorical, Column, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.validation import check_choice, integer

_HOME = "https://github.com/easezyc/Multitask-Recommendation-Library"
_OWNER = "aliexpress"

MARKETS = ("NL", "ES", "FR", "US", "RU")
_CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
_NUMERICAL = tuple(f"numerical_{i}" for i in range(1, 64))
_LABELS = ("click", "conversion")


def aliexpress(
    path: PathLike,
    market: str,
    fraction: float = 1.0,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Split:
    """Products that AliExpress showed for a search: were they clicked, were they bought?

    One market's files in the prepared form, which most papers on these data use: `train.csv` and
    `test.csv` with the columns `search_id`, `categorical_1` to `_16`, `numerical_1` to `_63`,
    `click`, `conversion`. The authors' own archive has users and products in files of their own;
    MTReclib's `data/preprocess.py` joins them.

    Args:
        path: folder that holds `AliExpress_<market>` (or `<market>`) with the two files, perhaps
            gzipped; or that folder itself.
        market: `"NL"`, `"ES"`, `"FR"` or `"US"`; `"RU"` if you have prepared it yourself.
        fraction: float in (0, 1], the share of the searches whose rows are read, drawn by `seed`.
        valid_fraction: float in (0, 0.5], the share of the training file that is the validation
            part.
        seed: int, of both.

    Returns:
        A `Split` with the columns above. The labels are 0 or 1, and `conversion` is that of
        what was shown (click and conversion, what papers call CTCVR), so that every row has both.
        Both tasks are in the schema, the categorical and numerical columns are its inputs;
        `search_id` is none. Part: `test.csv`, which is later in time, is the test part; of
        `train.csv` a random share of the rows is the validation part.

    Raises:
        ValueError: if `market` is unknown, or a file has other columns or cells.
        FileNotFoundError: if the files are not there.

    A row takes 322 bytes: NL, the smallest, has some 18 million rows, which is 6 GB, and half as
    much again while it is parted.

    Form of the files: https://github.com/easezyc/Multitask-Recommendation-Library, which also
    links to them. Data and their terms: https://tianchi.aliyun.com/dataset/74690, offered there for
    research; read the terms before another use. Li et al., 2020,
    https://doi.org/10.1145/3340531.3412713.
    """
    check_choice(_OWNER, "market", market, MARKETS)
    fraction, valid_fraction = public.check_parts(_OWNER, fraction, valid_fraction)
    seed = integer(_OWNER, "seed", seed, 0)
    rest, test = (
        _read(file, fraction, seed) for file in _files(path, market, ("train.csv", "test.csv"))
    )
    train, valid = public.hold_out(rest, valid_fraction, seed)
    columns: list[Column] = [Categorical(name, dim=8, dtype="int") for name in _CATEGORICAL]
    columns += [Numeric(name) for name in _NUMERICAL]
    return Split(train, valid, test, Schema(columns, [Binary(name) for name in _LABELS]))


def _files(path, market, names):
    places = public.folders(_OWNER, path, (f"AliExpress_{market}", market), _HOME)
    # The folder itself counts only if it is named as the market's: all markets' files are alike.
    if not places[0].resolve().name.upper().endswith(market):
        places = places[1:]
    files = [public.find(places, name) for name in names]
    if None in files:
        wanted = f"AliExpress_{market}/train.csv and AliExpress_{market}/test.csv"
        raise public.lacking(_OWNER, path, wanted, _HOME)
    return files


def _read(path, fraction, seed):
    types = {"search_id": pa.int32(), **dict.fromkeys(_CATEGORICAL, pa.int32())}
    types |= {**dict.fromkeys(_NUMERICAL, pa.float32()), **dict.fromkeys(_LABELS, pa.int8())}
    public.check_columns(_OWNER, path, types, _HOME)

    def keep(batch):
        return public.drawn(batch["search_id"], fraction, seed)

    return public.table(_OWNER, path, types, _HOME, keep if fraction < 1 else None)
