"""Objects inside columns and tasks, such as links, as a schema file has them. Plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind")


def of_kind(owner: str, what: str, kinds: Mapping[str, type[Kind]], given: Any) -> Kind | None:
    """The object of a mapping with a `kind` and its fields, or None if it is no such mapping.

    Args:
        owner, what: what the object belongs to and what it is, for the error.
        kinds: dict of class by its name.
        given: anything.

    Raises:
        ValueError: if a field is unknown or missing.
    """
    if not isinstance(given, Mapping) or given.get("kind") not in kinds:
        return None
    kind: Any = kinds[given["kind"]]
    fields = {name: value for name, value in given.items() if name != "kind"}
    known = [field.name for field in dataclasses.fields(kind)]
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    unknown = sorted(set(fields) - set(known), key=str)
    absent = [name for name in needed if name not in fields]
    if unknown or absent:
        raise ValueError(
            f"{owner}: the {what} {kind.__name__} has the fields {known}. Received unknown fields "
            f"{unknown}, and none of {absent}. Remove the ones, and add the others."
        )
    return kind(**fields)


def to_plain(part: Any) -> dict[str, Any]:
    """What `of_kind` reads."""
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    lists = {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
    return {"kind": type(part).__name__, **lists}
