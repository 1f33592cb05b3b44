"""TFRecord files of tf.train.Example as Arrow columns. The one reader that needs TensorFlow."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property

import numpy as np
import pyarrow as pa

from tfmoe import remote
from tfmoe.data.read import tables

# What a feature holds is learnt from the first records, or from the first that has it.
_LOOK_RECORDS = 1000
_BATCH_RECORDS = 16_384
# Files of a source that are asked what another one lacks, as many as a proposal of a schema sees.
_LOOK_FILES = 16


class TfrecordFiles:
    """The TFRecord files of one source: what the first records of some of them hold."""

    def __init__(self) -> None:
        self.files: list[TfrecordFragment] = []

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Which of an Example's three lists holds each feature that was seen."""
        import tensorflow as tf

        places = np.unique(np.linspace(0, len(self.files) - 1, _LOOK_FILES).astype(int))
        found: dict[str, str] = {}
        for place in places.tolist():
            # What is gone or changed is told where it is read.
            with suppress(OSError, tf.errors.NotFoundError):
                found = {**self.files[place].first_kinds, **found}
        return found


class TfrecordFragment:
    """A TFRecord file, perhaps gzipped. A record without a feature has it missing.

    So has a whole file, of a feature that the first records of others have: of what is rare some
    files hold nothing. Of a source's files 16 are asked, from all over it.

    Args:
        path: the file.
        file: its number.
        files: `TfrecordFiles` of the source, to which this one is added.
    """

    num_rows = None

    def __init__(self, path: str, file: int, files: TfrecordFiles) -> None:
        self.path = path
        self.file = file
        self._files = files
        self._looked_at = 0
        self._absent: set[str] = set()
        files.files.append(self)

    @contextmanager
    def _records(self):
        """The file's records; of a file behind an URL those of a copy, as long as it is read."""
        import tensorflow as tf

        compression = "GZIP" if remote.without_query(self.path).lower().endswith(".gz") else ""
        with remote.local_copy(self.path) as path:
            yield tf.data.TFRecordDataset(str(path), compression)

    @cached_property
    def first_kinds(self) -> dict[str, str]:
        """Which of an Example's three lists holds each feature of the first records."""
        with self._records() as records:
            return self._kinds_in(self._counted(records.take(_LOOK_RECORDS)))

    @cached_property
    def _kinds(self):
        """Those of all features that are known by now."""
        return dict(self.first_kinds)

    def _counted(self, records):
        for record in records.as_numpy_iterator():
            self._looked_at += 1
            yield record

    def _kinds_in(self, records, sought=None):
        """Those of some records, read until the one that is sought is there."""
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        kinds = {}
        try:
            for record in records:
                for name, feature in tf.train.Example.FromString(record).features.feature.items():
                    kind = feature.WhichOneof("kind")
                    if kind and len(getattr(feature, kind).value):
                        kinds.setdefault(name, kind)
                if sought in kinds:
                    break
        except (tf.errors.DataLossError, DecodeError) as error:
            raise self._unreadable(error) from error
        return kinds

    def has(self, name: str) -> bool:
        """Whether a record has the feature, or the first ones of another file have.

        Looks through the whole file if these have not.
        """
        if name not in self._kinds and name not in self._absent:
            found = self._files.kinds
            if name not in found:
                found = self._behind_the_first(name)
            if name in found:
                self._kinds[name] = found[name]
            else:
                self._absent.add(name)
        return name in self._kinds

    def _behind_the_first(self, name):
        """The kinds of some records behind those looked at; a feature's, if one has it."""
        if self._looked_at < _LOOK_RECORDS:
            return {}
        # Far fewer records hold the name's bytes than there are to parse.
        letters = name.encode()
        with self._records() as records:
            batches = records.skip(_LOOK_RECORDS).batch(_BATCH_RECORDS).as_numpy_iterator()
            likely = (one for batch in batches for one in batch if letters in one)
            return self._kinds_in(likely, name)

    @property
    def names(self) -> Collection[str]:
        return _Names(self)

    def read(self, kinds: Mapping[str, str | None]) -> Iterator[tables.Chunk]:
        """See `Fragment.read`; several values in a record are a list cell."""
        import tensorflow as tf

        dtypes = {"int64_list": tf.int64, "float_list": tf.float32, "bytes_list": tf.string}
        features = {name: tf.io.RaggedFeature(dtypes[self._kinds[name]]) for name in kinds}
        start = 0
        try:
            with self._records() as records:
                parsed = records.batch(_BATCH_RECORDS).map(
                    lambda some: tf.io.parse_example(some, features)
                )
                for batch in parsed.prefetch(1):
                    found = {n: _cells(batch[n], kind == "list") for n, kind in kinds.items()}
                    yield tables.Chunk(found, self.path, start)
                    start += len(next(iter(found.values()), ()))
        except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
            raise self._unreadable(error.message) from error

    def look(self, num_rows: int) -> tables.Chunk:
        """See `Fragment.look`; the first records."""
        kinds = dict.fromkeys(self._kinds)
        chunk = next(self.read(kinds), None) if kinds else None
        if chunk is None:
            return tables.Chunk({}, self.path)
        first = {name: array.slice(0, num_rows) for name, array in chunk.items()}
        return tables.Chunk(first, self.path)

    def _unreadable(self, error):
        return ValueError(
            "A TFRecord file must hold tf.train.Example records whose features are of one type "
            f"throughout. Received {self.path}: {error}. Write the file again."
        )


class _Names(Collection[str]):
    """The features of a file; to ask for one may read the file."""

    def __init__(self, fragment):
        self._fragment = fragment
        self.path = fragment.path

    def __contains__(self, name):
        return self._fragment.has(name)

    def __iter__(self):
        return iter(self._fragment._kinds)

    def __len__(self):
        return len(self._fragment._kinds)


def _cells(ragged, as_lists):
    """A ragged tensor as an Arrow array: of lists if asked for, or if a cell has several values."""
    values = ragged.flat_values.numpy()
    splits = ragged.row_splits.numpy()
    lengths = np.diff(splits)
    if values.dtype == object:
        values = pa.array(values, pa.binary())
    else:
        values = pa.array(values, from_pandas=True)
    if as_lists or lengths.max(initial=0) > 1:
        return pa.LargeListArray.from_arrays(pa.array(splits), values)
    return values.take(pa.array(splits[:-1], mask=lengths == 0))
