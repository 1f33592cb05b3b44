"""KuaiRand: what users of a short-video app did with the videos they were shown."""

import re
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.validation import check_choice, integer

_HOME = "https://kuairand.com"
_OWNER = "kuairand"
_TRAIN, _TEST = "log_standard_4_08_to_4_21", "log_standard_4_22_to_5_08"

_LABELS = (
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
    "is_profile_enter",
)  # fmt: skip
_OUTCOMES = ("play_time_ms", "profile_stay_time", "comment_stay_time")
_LOG = {
    **dict.fromkeys(("user_id", "video_id", "date", "hourmin"), pa.int32()),
    "time_ms": pa.int64(),
    **dict.fromkeys(_LABELS, pa.int8()),
    **dict.fromkeys(_OUTCOMES, pa.int64()),
    "duration_ms": pa.int64(),
    "tab": pa.int16(),
}
# Numbers with empty cells are written as floats by some tools: all are read as such.
_USER_RANGES = (
    "follow_user_num_range", "fans_user_num_range", "friend_user_num_range",
    "register_days_range",
)  # fmt: skip
_USER_TEXTS = ("user_active_degree", *_USER_RANGES)
_USER_FLAGS = ("is_lowactive_period", "is_live_streamer", "is_video_author")
_USER_CODES = tuple(f"onehot_feat{i}" for i in range(18))
_USERS = {
    "user_id": pa.int32(),
    **dict.fromkeys(_USER_TEXTS, pa.string()),
    **dict.fromkeys((*_USER_FLAGS, *_USER_CODES), pa.float64()),
}
_VIDEO_TEXTS = ("video_type", "upload_type", "tag")
_VIDEO_NUMBERS = ("author_id", "music_id", "music_type")
_VIDEOS = {
    "video_id": pa.int32(),
    **dict.fromkeys(_VIDEO_TEXTS, pa.string()),
    **dict.fromkeys(_VIDEO_NUMBERS, pa.float64()),
}


def kuairand(
    path: PathLike,
    tasks: Sequence[str] = (
        "is_click", "is_like", "is_follow", "is_comment", "is_forward", "long_view",
    ),
    fraction: float = 1.0,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Split:  # fmt: skip
    """Videos that Kuaishou showed to a user: clicked, liked, viewed for long, ...?

    KuaiRand-Pure, -1K or -27K, whichever the folder holds: the two logs of standard
    recommendation, joined with `user_features_*.csv` and `video_features_basic_*.csv`. The log of
    random exposure and the videos' statistics, which are means over the whole month, test days
    too, are left alone.

    Args:
        path: folder that holds the files, perhaps gzipped, or whose folder `data` does.
        tasks: the labels to learn, of `is_click`, `is_like`, `is_follow`, `is_comment`,
            `is_forward`, `is_hate`, `long_view`, `is_profile_enter`.
        fraction: float in (0, 1], the share of the users whose rows are read, drawn by `seed`.
        valid_fraction: float in (0, 0.5], the share of the first log that is the validation part.
        seed: int, of both.

    Returns:
        A `Split`. Inputs: of the user `user_id`, `user_active_degree`, three flags (`is_...`), the
        ranges of four counts and `onehot_feat0` to `17`; of the video `video_id`, `author_id`,
        `video_type`, `upload_type`, `music_id`, `music_type`, `tag` (parted by commas) and
        `duration_ms`; `tab`, the scenario; `hour`. The tables also have `date`, `hourmin` and
        `time_ms`, all labels, and what was measured with them: `play_time_ms`,
        `profile_stay_time`, `comment_stay_time`. These are outcomes, no inputs. Part: there is no
        official one; here the log of April 22 to May 8, 2022 is the test part, and of that of
        April 8 to 21 a random share of the rows is the validation part. `is_click` means a valid
        play in scenarios that show one video at a time.

    Raises:
        ValueError: if a task is unknown, the folder holds several versions, or a file has other
            columns or cells.
        FileNotFoundError: if the files are not there.

    A row takes some 200 bytes, and twice that while the files are joined: Pure (1.4 million rows)
    is below 1 GB, 1K (11.7 million) some 5 GB, and of 27K (322 million) a `fraction` is what fits.

    Form of the files, where to get them, and citation: https://kuairand.com. Licence CC BY-SA 4.0,
    as that page says. Gao et al., 2022, https://doi.org/10.1145/3511808.3557624.
    """
    if isinstance(tasks, str) or not tasks:
        raise ValueError(
            f"{_OWNER} takes `tasks` as a list of labels. Received tasks={tasks!r}. Name at least "
            f"one of {list(_LABELS)}."
        )
    for task in tasks:
        check_choice(_OWNER, "tasks", task, _LABELS)
    fraction, valid_fraction = public.check_parts(_OWNER, fraction, valid_fraction)
    seed = integer(_OWNER, "seed", seed, 0)
    logs, user_files, video_files = _files(path)
    rest, test = (_log(files, fraction, seed) for files in logs)
    users = _table(user_files, _USERS, "user_id", rest, test)
    videos = _table(video_files, _VIDEOS, "video_id", rest, test)
    rest, test = (
        part.merge(users, how="left", on="user_id").merge(videos, how="left", on="video_id")
        for part in (rest, test)
    )
    train, valid = public.hold_out(rest, valid_fraction, seed)
    return Split(train, valid, test, Schema(_columns(), [Binary(task) for task in tasks]))


def _columns():
    columns: list[Column] = [
        Categorical(name, dim=16, dtype="int") for name in ("user_id", "video_id", "author_id")
    ]
    columns += [Categorical("music_id", dim=8, dtype="int")]
    columns += [Categorical(name, dim=4, dtype="int") for name in ("music_type", "tab", "hour")]
    texts = (*_USER_TEXTS, "video_type", "upload_type")
    columns += [Categorical(name, dim=4, dtype="string") for name in texts]
    columns += [Categorical(name, dim=4, dtype="int") for name in (*_USER_FLAGS, *_USER_CODES)]
    tag = MultiCategorical("tag", dim=8, dtype="string", separator=",")
    return [*columns, tag, Numeric("duration_ms", transform="log")]


def _files(path):
    """The logs to train and test on, the users and the videos, each a list of files."""
    places = public.folders(_OWNER, path, ("data",), _HOME)
    for place in places:
        names = re.compile(rf"{_TRAIN}_(\w+?)(?:_part\d+)?\.csv(?:\.gz)?")
        found = [names.fullmatch(file.name) for file in place.iterdir()]
        versions = sorted({match[1] for match in found if match})
        if len(versions) > 1:
            raise ValueError(
                f"{_OWNER} reads one version of the data. Received path={str(path)!r}, which holds "
                f"{versions}. Give the folder of one of them."
            )
        for version in versions:
            stems = (_TRAIN, _TEST, "user_features", "video_features_basic")
            files = [_parts(place, f"{stem}_{version}") for stem in stems]
            if all(files):
                return files[:2], *files[2:]
    wanted = (
        f"{_TRAIN}_<version>.csv, {_TEST}_<version>.csv, user_features_<version>.csv and "
        "video_features_basic_<version>.csv of the version pure, 1k or 27k"
    )
    raise public.lacking(_OWNER, path, wanted, _HOME)


def _parts(place, stem):
    """A file, or all its parts in order; of one that lies there packed too, the unpacked one."""
    names = re.compile(rf"{stem}(?:_part(\d+))?\.csv(?:\.gz)?")
    parts = {}
    for file in sorted(place.iterdir(), key=lambda file: file.name, reverse=True):
        match = names.fullmatch(file.name)
        if match:
            parts[int(match[1] or 0)] = file  # last the one without `.gz`
    return [parts[number] for number in sorted(parts)]


def _log(files, fraction, seed):
    def keep(batch):
        return public.drawn(batch["user_id"], fraction, seed)

    rows = _read(files, _LOG, keep if fraction < 1 else None)
    rows.insert(4, "hour", (rows["hourmin"] // 100).astype("int16"))
    return rows


def _table(files, types, key, *logs):
    """The features of the users, or videos, that the logs have."""
    seen = pa.array(pd.unique(pd.concat([log[key] for log in logs])), types[key])

    def keep(batch):
        return pa.compute.is_in(batch[key], value_set=seen).to_numpy(zero_copy_only=False)

    features = _read(files, types, keep).drop_duplicates(key)
    for name, kind in types.items():
        if kind == pa.float64() and features[name].notna().all():
            # In two steps: pandas 2.2 warns where a float is out of a smaller type's range.
            whole = features[name].astype("int64")
            features[name] = pd.to_numeric(whole, downcast="integer")
    return features


def _read(files, types, keep):
    for file in files:
        public.check_columns(_OWNER, file, types, _HOME)
    return pd.concat(
        [public.table(_OWNER, file, types, _HOME, keep) for file in files], ignore_index=True
    )
