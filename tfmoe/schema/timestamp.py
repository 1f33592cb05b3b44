"""A column of points in time. Plain data."""

import datetime
import zoneinfo
from dataclasses import KW_ONLY, dataclass

from tfmoe.schema.columns import FIRST_ID, Column, check_regularizer
from tfmoe.validation import check_bool, check_choice, checks_arguments, integer

#: How many values each part of a time has that comes again and again.
CYCLES = {"hour": 24, "weekday": 7}
#: By unit, how many of them a second has.
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@checks_arguments
@dataclass(frozen=True)
class Timestamp(Column):
    """A point in time: the hour of the day, the day of the week, the age.

    Cells are timestamps and dates of Arrow or pandas, texts by ISO 8601 (`2024-03-31`,
    `2024-03-31T01:30:00+01:00`, also `2024-03-31 01:30:00 UTC`), and numbers, also as text, since
    1970 began in UTC. Times without a zone of their own, and dates, are in UTC. Missing are None,
    NaT, NaN, infinite numbers and the texts of `tfmoe.schema.missing.MARKERS`; they give zeros, or
    the missing id.

    A served request has float64 `(b,)`, the seconds since 1970 began in UTC, whatever `unit` is,
    with NaN for missing. The graph has the time zone's changes in it, as they were known when the
    column was fitted, so that it needs no tables of zones. They are those of 1900 to 2100; outside
    the nearest one holds.

    Args:
        name, source: see `Column`.
        parts: of `"hour"` (0 to 23), `"weekday"` (0, Monday, to 6), both of local time, and
            `"age"`, the days since `since`, standardised as `Numeric` is.
        cyclic: whether hour and weekday are a sine and a cosine each, so that 23 is near 0; if
            not, each is an id with an embedding. An age is then a column of its own.
        since: date by ISO 8601, such as `"2020-01-01"`, or None for 1970-01-01.
        time_zone: name of a zone, such as `"Europe/Berlin"`.
        unit: of numbers: `"s"`, `"ms"`, `"us"` or `"ns"`.
        dim: int >= 1, size of each embedding if not `cyclic`.
        regularizer: see `Categorical`.
    """

    _: KW_ONLY
    parts: tuple[str, ...] = ("hour", "weekday")
    cyclic: bool = True
    since: str | None = None
    time_zone: str = "UTC"
    unit: str = "s"
    dim: int = 4
    regularizer: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        owner = f"Timestamp({self.name!r})"
        check_regularizer(owner, self)
        known = (*CYCLES, "age")
        given = self.parts
        if isinstance(given, str) or not isinstance(given, list | tuple):
            given = ()
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise ValueError(
                f"{owner} takes as `parts` some of {list(known)}, each once. Received "
                f"parts={self.parts!r}."
            )
        object.__setattr__(self, "parts", tuple(given))
        check_bool(owner, "cyclic", self.cyclic)
        if self.cyclic and self.regularizer is not None:
            raise ValueError(
                f"{owner} has embeddings with cyclic=False alone. Received regularizer="
                f"{self.regularizer!r}. Leave it out."
            )
        if not self.cyclic and "age" in given:
            raise ValueError(
                f"{owner} is ids with cyclic=False, and an age is a number. Received "
                f"parts={list(given)}. Declare it beside it: Timestamp('{self.name}_age', "
                f"source={self.raw_name!r}, parts=['age'])."
            )
        if isinstance(self.since, datetime.date) and not isinstance(self.since, datetime.datetime):
            object.__setattr__(self, "since", self.since.isoformat())
        check_choice(owner, "unit", self.unit, UNITS)
        integer(owner, "dim", self.dim, 1)
        try:
            datetime.date.fromisoformat(self.since or "1970-01-01")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{owner} takes as `since` a date such as '2020-01-01'. Received "
                f"since={self.since!r}."
            ) from error
        try:
            zoneinfo.ZoneInfo(self.time_zone)
        except (OSError, TypeError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
            raise ValueError(
                f"{owner} takes as `time_zone` a name of the IANA's, such as 'Europe/Berlin'. "
                f"Received time_zone={self.time_zone!r}. Where no zone is found, install tzdata."
            ) from error

    @property
    def embeds(self) -> bool:
        return not self.cyclic

    @property
    def is_wide(self) -> bool:
        return True

    @property
    def width(self) -> int | None:
        if not self.cyclic:
            return len(self.parts)
        return sum(2 if part in CYCLES else 1 for part in self.parts)

    @property
    def table_rows(self) -> int | None:
        if self.cyclic:
            return None
        return FIRST_ID + sum(CYCLES[part] for part in self.parts)

    @property
    def epoch(self) -> int:
        """The second at which `since` begins, in UTC."""
        date = datetime.date.fromisoformat(self.since or "1970-01-01")
        return (date - datetime.date(1970, 1, 1)).days * 86_400
