"""Points in time.

A time is a float64 of seconds since 1970 began in UTC. Its whole seconds, rounded down and clipped
to 3 million years, plus the zone's offset are local time. Its hour and weekday (Monday is 0) give
two float32 each out of a table, the sine and cosine of 2 pi v / 24 or / 7, or an id: `FIRST_ID`
plus the number of values of the parts before plus the value. The age is `(seconds - since) /
86400`, standardised as `Numeric` is. Missing times give zeros, or `MISSING_ID`.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfmoe.data.arrow import at_row, decoded, to_floats, to_text, wrong_type
from tfmoe.data.encode.codecs.base import Codec
from tfmoe.data.encode.codecs.numeric import flushed, scaled
from tfmoe.data.encode.codecs.zones import offsets
from tfmoe.data.encode.columns import SMALLEST, scaled_feature, without_subnormals
from tfmoe.data.fit.sketches import Moments
from tfmoe.data.kinds import is_text, to_arrow
from tfmoe.data.numerals import number_of
from tfmoe.data.read.tables import one_array
from tfmoe.schema.columns import FIRST_ID, MISSING_ID
from tfmoe.schema.missing import MARKERS
from tfmoe.schema.times import EARLIEST, LATEST, read_like_dates, unit_of
from tfmoe.schema.timestamp import CYCLES, UNITS

_LIMIT = 1e14
_DAY = 86_400


@dataclass(frozen=True)
class TimestampFit:
    """What was fitted of a `Timestamp`.

    Args:
        starts, offsets: see `zones.offsets`; kept, for zones change their rules.
        mean, scale: of the age in days.
    """

    starts: np.ndarray
    offsets: np.ndarray
    mean: float = 0.0
    scale: float = 1.0


class TimestampCodec(Codec):
    """See `Codec`."""

    fit_kind = TimestampFit

    @property
    def needs_fit(self):
        return "age" in self.column.parts

    def kinds(self, dtypes):
        return {self.column.raw_name: "text"}

    def nothing(self):
        return Moments() if self.needs_fit else None

    def count(self, chunk, seen):
        return seen.merge(Moments.of(self._age(self._seconds(chunk[self.column.raw_name]))))

    def fit(self, seen):
        starts, values = offsets(self.column.time_zone)
        seen = seen or Moments()
        return TimestampFit(starts, values, seen.mean, seen.scale)

    def grown(self, fit, seen):
        later = super().grown(fit, seen)
        # Zones change their rules, and what was trained knows the earlier ones.
        zone = {} if fit is None else {"starts": fit.starts, "offsets": fit.offsets}
        return dataclasses.replace(later, **zone)

    def check(self, fit):
        alike = fit.starts.ndim == 1 and fit.starts.shape == fit.offsets.shape and len(fit.starts)
        whole = fit.starts.dtype == fit.offsets.dtype == np.int64
        known = alike and whole and fit.starts[0] == np.iinfo(np.int64).min
        return bool(
            known
            and (fit.starts[1:] > fit.starts[:-1]).all()
            and (np.abs(fit.offsets) <= _DAY).all()
            and np.isfinite([fit.mean, fit.scale]).all()
        )

    def _age(self, seconds):
        return (seconds - self.column.epoch) / _DAY

    def _seconds(self, array: pa.Array) -> np.ndarray:
        """Cells as float64 `(n,)`, NaN for missing."""
        name, array = self.column.raw_name, decoded(array) if not is_text(array.type) else array
        kind = array.type
        if is_text(kind):
            return self._of_text(to_text(array, name))
        if pa.types.is_date(kind):
            array = array.cast(pa.date64()).cast(pa.timestamp("ms"))
            kind = array.type
        if pa.types.is_timestamp(kind):
            whole = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            seconds, parts = np.divmod(whole, UNITS[kind.unit])
            missing = pc.is_null(array).to_numpy(zero_copy_only=False)
            return np.where(missing, np.nan, seconds + parts / UNITS[kind.unit])
        if pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
            raise wrong_type(name, "points in time", array)
        return self._finite(to_floats(array, name) / UNITS[self.column.unit])

    def _finite(self, seconds):
        return np.where(np.isfinite(seconds), without_subnormals(seconds), np.nan)

    def _of_text(self, text):
        if not pa.types.is_dictionary(text.type):
            text = text.dictionary_encode()
        cells = text.dictionary.to_pylist()
        seconds, bad = np.full(len(cells) + 1, np.nan), np.zeros(len(cells) + 1, bool)
        for place, cell in enumerate(cells):
            cell = (cell or "").strip()
            if cell and cell not in MARKERS:
                try:
                    seconds[place] = self._second(cell)
                except ValueError:
                    bad[place] = True
        places = text.indices.fill_null(len(cells)).to_numpy(zero_copy_only=False)
        if bad[places].any():
            row = int(np.flatnonzero(bad[places])[0])
            error = wrong_type(self.column.raw_name, "points in time", text, cells[places[row]])
            raise at_row(error, row)
        return self._finite(seconds[places])

    def _second(self, cell):
        number = number_of(cell)
        if number is not None:
            return number / UNITS[self.column.unit]
        # As BigQuery writes them.
        moment = datetime.fromisoformat(cell.removesuffix(" UTC"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()

    def encode(self, chunk, fitted):
        column = self.column
        seconds, fit = self._seconds(chunk[column.raw_name]), fitted.fits[column.name]
        missing = ~np.isfinite(seconds)
        if _are_numbers(chunk[column.raw_name]):
            self._check_unit(seconds[~missing])
        seconds = np.where(missing, 0.0, seconds)
        whole = np.floor(np.clip(seconds, -_LIMIT, _LIMIT)).astype(np.int64)
        local = whole + fit.offsets[np.searchsorted(fit.starts, whole, side="right") - 1]
        values = {"hour": local // 3600 % 24, "weekday": (local // _DAY + 3) % 7}
        parts, start = [], FIRST_ID
        for part in column.parts:
            if part == "age":
                parts.append(scaled_feature(self._age(seconds), fit.mean, fit.scale)[:, None])
            elif column.cyclic:
                parts.append(_circle(part)[values[part]])
            else:
                parts.append((start + values[part]).astype(np.int32)[:, None])
                start += CYCLES[part]
        feature = np.concatenate(parts, axis=1)
        feature[missing] = MISSING_ID if column.embeds else 0
        return {column.name: feature}

    def _check_unit(self, seconds):
        """Warns of times that are plausible in another unit, or as dates, and not as they are."""
        middle = float(np.median(seconds)) if len(seconds) else 0.0
        if 0 < middle < EARLIEST or middle >= LATEST:
            given = middle * UNITS[self.column.unit]
            unit = unit_of(given)
            if unit is not None:
                remedy = f"Those are plausible with unit={unit!r}"
            elif self.column.unit == "s" and read_like_dates(seconds):
                remedy = "Make dates of what is written as 20240331, as by `pd.to_datetime`"
            else:
                return
            # The same text of each chunk, so that Python shows it once.
            when = "before 1990" if middle < EARLIEST else "after 2100"
            warnings.warn(
                f"Timestamp({self.column.name!r}) reads numbers since 1970 in "
                f"unit={self.column.unit!r}. Received some of which most are {when}. {remedy}.",
                stacklevel=2,
            )

    def signature(self, fitted):
        return {self.column.name: ("float64", 1)}

    def request(self, df, fitted):
        raw = self.column.raw_name
        array = one_array(to_arrow(df[raw], raw, numbers=True))
        return {self.column.name: self._seconds(array)}

    def graph(self, raw, encoder):
        import tensorflow as tf

        column, seconds = self.column, raw[self.column.name]
        fit = encoder.preprocessor.fits[column.name]
        missing = ~tf.math.is_finite(seconds)
        # A second just before 0 is in another hour than 0.
        seconds = flushed(tf.where(missing, np.float64(0), seconds), SMALLEST)
        whole = tf.clip_by_value(seconds, np.float64(-_LIMIT), np.float64(_LIMIT))
        whole = tf.cast(tf.floor(whole), tf.int64)
        starts = tf.constant(fit.starts)[None]
        places = tf.searchsorted(starts, whole[None], side="right")[0] - 1
        local = whole + tf.gather(tf.constant(fit.offsets), places)
        values = {"hour": local // 3600 % 24, "weekday": (local // _DAY + 3) % 7}
        parts: list[Any] = []
        start = FIRST_ID
        for part in column.parts:
            if part == "age":
                parts.append(scaled(self._age(seconds), fit.mean, fit.scale)[:, None])
            elif column.cyclic:
                parts.append(tf.gather(tf.constant(_circle(part)), values[part]))
            else:
                parts.append(tf.cast(start + values[part], tf.int32)[:, None])
                start += CYCLES[part]
        feature = tf.concat(parts, axis=1)
        empty = tf.fill(
            tf.shape(feature), tf.cast(MISSING_ID if column.embeds else 0, feature.dtype)
        )
        return {column.name: tf.where(missing[:, None], empty, feature)}

    def sample(self, fitted, num_rows, generator):
        fit = fitted.fits[self.column.name]
        if self.needs_fit:
            days = generator.normal(size=num_rows) / fit.scale + fit.mean
            seconds = self.column.epoch + np.clip(days, -1e6, 1e6) * _DAY
        else:
            seconds = generator.uniform(-1e9, 4e9, num_rows)
        # Just before and after a change of the zone.
        late = slice(num_rows // 2, None, 3)
        some = generator.choice(fit.starts[-50:], num_rows)[late].clip(-2e9)
        seconds[late] = some + generator.integers(-1, 2, len(some))
        cells: list[Any] = list(np.round(seconds) * UNITS[self.column.unit])
        for row in range(num_rows // 2 + 1, num_rows, 5):
            cells[row] = None
        return cells

    def typical(self, fitted, row):
        fit = fitted.fits[self.column.name]
        middle = 1_700_000_000.0
        if self.needs_fit:
            middle = self.column.epoch + round(fit.mean * _DAY)
        return float(middle + row % 3 * 7 * 3600) * UNITS[self.column.unit]


def _are_numbers(array: pa.Array) -> bool:
    """Whether cells are numbers; of text the first that is there tells."""
    kind = array.type
    if not is_text(kind):
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
    first = array.drop_null().slice(0, 1)
    return any(number_of(cell.strip()) is not None for cell in decoded(first).to_pylist())


def _circle(part: str) -> np.ndarray:
    """Sine and cosine of each value of a part, float32 `(n, 2)`."""
    angles = 2 * np.pi * np.arange(CYCLES[part]) / CYCLES[part]
    return np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
