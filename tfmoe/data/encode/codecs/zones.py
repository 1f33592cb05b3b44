"""A time zone's changes as a table, for arithmetic in place of the zone."""

import functools
import zoneinfo
from datetime import UTC, datetime, timedelta

import numpy as np

_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=32)
def offsets(time_zone: str) -> tuple[np.ndarray, np.ndarray]:
    """From which second on which offset from UTC holds.

    A change is looked for between the days of 1900 to 2100, of which no two have several.

    Args:
        time_zone: its name.

    Returns:
        int64 `(n,)`, ascending, the first before all times, and the offsets in seconds, int64
        `(n,)`.
    """
    zone = zoneinfo.ZoneInfo(time_zone)

    def offset(second: int) -> int:
        moment = (_EPOCH + timedelta(seconds=second)).astimezone(zone)
        return round((moment.utcoffset() or timedelta()).total_seconds())

    first, last = (int((one - _EPOCH).total_seconds()) for one in (_FIRST, _LAST))
    starts, values = [np.iinfo(np.int64).min], [offset(first)]
    for day in range(first, last, 86_400):
        before, after = day, day + 86_400
        found = offset(after)
        if found == values[-1]:
            continue
        while after - before > 1:
            middle = (before + after) // 2
            if offset(middle) == values[-1]:
                before = middle
            else:
                after = middle
        starts.append(after)
        values.append(found)
    return np.array(starts, np.int64), np.array(values, np.int64)
