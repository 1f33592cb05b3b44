"""How a text file is to be read, said behind its path: `"t.csv?encoding=latin-1&quoting=no"`."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from urllib.parse import unquote

from tfmoe.validation import did_you_mean

_SUFFIX = re.compile(r"\?([A-Za-z_]+=[^&]*(?:&[A-Za-z_]+=[^&]*)*)\Z")
_DELIMITERS = {"tab": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}
_NAMES = ("delimiter", "quoting", "encoding")


@dataclass(frozen=True)
class TextOptions:
    """How a CSV or TSV file is written, if not as its name says.

    Args:
        delimiter: character between cells; None for a tab in TSV files, a comma in others.
        quoting: whether quotes enclose cells that have delimiters or lines in them; None for
            yes in CSV files, and in TSV files where some line shows it.
        encoding: of the text, as Python names it; "utf8" is Arrow's word, which reads it quickest.
    """

    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str = "utf8"


def split_options(source: str) -> tuple[str, TextOptions]:
    """The path, glob or folder, and the options behind it.

    Args:
        source: a path; with options `path?name=value&name=value`.

    Raises:
        ValueError: if an option is unknown, or its value.
    """
    found = _SUFFIX.search(source)
    if found is None:
        return source, TextOptions()
    given = dict(pair.split("=", 1) for pair in found[1].split("&"))
    if source.startswith(("http:", "https:")) and not given.keys() & {*_NAMES}:
        return source, TextOptions()  # it is what the web server is asked
    given = {name: unquote(value) for name, value in given.items()}
    for name in given:
        if name not in _NAMES:
            raise ValueError(
                f"A text file's options are {', '.join(_NAMES)}. Received {name}={given[name]!r} "
                f"in source={source!r}.{did_you_mean(name, _NAMES)}"
            )
    return source[: found.start()], TextOptions(
        _delimiter(given.get("delimiter")),
        _quoting(given.get("quoting")),
        _encoding(given.get("encoding", "utf-8")),
    )


def _delimiter(value):
    value = _DELIMITERS.get(value, value)
    if value is not None and (len(value) != 1 or value in '"\r\n'):
        raise ValueError(
            f"A delimiter is one character, or one of {list(_DELIMITERS)}. Received "
            f"delimiter={value!r}. An & is written %26."
        )
    return value


def _quoting(value):
    words = {"yes": True, "true": True, "no": False, "false": False}
    if value is not None and value.lower() not in words:
        raise ValueError(
            f"Quotes enclose cells or are characters as others: quoting is yes or no. Received "
            f"quoting={value!r}."
        )
    return None if value is None else words[value.lower()]


def _encoding(value):
    try:
        name = codecs.lookup(value).name
    except LookupError as error:
        raise ValueError(
            f"An encoding is named as Python does: utf-8, latin-1, cp1252, utf-16, shift_jis. "
            f"Received encoding={value!r}.{did_you_mean(value, ('utf-8', 'latin-1', 'utf-16'))}"
        ) from error
    return "utf8" if name in ("utf-8", "utf-8-sig", "ascii") else name
