"""Columns and tasks as a schema's file has them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import abc
from typing import Any

from tfmoe.schema.columns import Categorical, Column, MultiCategorical, Numeric, Sequence
from tfmoe.schema.crossed import Crossed
from tfmoe.schema.links import Link, link_to_plain
from tfmoe.schema.nested import to_plain
from tfmoe.schema.poolings import Pooling
from tfmoe.schema.pretrained import Pretrained
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task
from tfmoe.schema.text import Text
from tfmoe.schema.timestamp import Timestamp
from tfmoe.schema.vector import Vector
from tfmoe.validation import check_choice, did_you_mean

_COLUMNS = (
    *(Numeric, Categorical, MultiCategorical, Sequence),
    *(Vector, Timestamp, Crossed, Text, Pretrained),
)
KINDS = {kind.__name__: kind for kind in (*_COLUMNS, Binary, Regression, Multiclass)}


def part_to_dict(part: Column | Task) -> dict[str, Any]:
    """A column's or task's kind and the fields that differ from their defaults."""
    given: dict[str, Any] = {"kind": type(part).__name__, "name": part.name}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if not field.compare and not isinstance(value, str):
            continue  # a table, of which a schema's file has but the path
        if field.name != "name" and value != field.default:
            given[field.name] = list(value) if isinstance(value, tuple) else value
        if isinstance(value, Link):
            given[field.name] = link_to_plain(value)
        if isinstance(value, Pooling):
            given[field.name] = to_plain(value)
    return given


def part_from_dict(given: Any, base: type[Any]) -> Any:
    """The column or task, as `base` says, of what `part_to_dict` made."""
    if not isinstance(given, dict) or not isinstance(given.get("kind"), str):
        raise ValueError(
            "A schema file lists columns and tasks as mappings with a `kind` and a "
            f"`name`. Received {given!r}."
        )
    kinds = {name: kind for name, kind in KINDS.items() if issubclass(kind, base)}
    check_choice(
        f"The schema's {base.__name__.lower()} {given.get('name')!r}", "kind", given["kind"], kinds
    )
    kind = kinds[given["kind"]]
    if not all(isinstance(name, str) for name in given):
        raise ValueError(f"A schema file names fields by text. Received {given!r}.")
    fields = {name: value for name, value in given.items() if name != "kind"}
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(fields) - set(known))
    if unknown or "name" not in fields:
        raise ValueError(
            f"A {given['kind']} has the fields {known}, of which `name` is required. "
            f"Received {given!r}, with unknown fields {unknown}."
            f"{nearest(unknown, known)}"
        )
    return kind(**fields)


def nearest(unknown: list[str], known: abc.Iterable[str]) -> str:
    """What each unknown field may have been meant to be."""
    hints = {name: did_you_mean(name, known) for name in unknown}
    return "".join(f" For {name!r}:{hint}" for name, hint in hints.items() if hint)


_BOOL = "tag:yaml.org,2002:bool"
_TRUTH = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")


def parsed_yaml(text: str, path: str | os.PathLike[str]) -> Any:
    """What a YAML file holds. `yes`, `no`, `on` and `off` are words, as YAML has them since 2009.

    Raises:
        ValueError: if a mapping names a key twice, of which YAML would keep the last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        # A label may be a yes, and a country NO.
        yaml_implicit_resolvers = {
            first: [one for one in known if one[0] != _BOOL]
            for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            lines: dict[Any, int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    name, line = key.value, key.start_mark.line + 1
                    if name in lines:
                        raise _named_twice(name, f"lines {lines[name]} and {line} of {path}")
                    lines[name] = line
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(_BOOL, _TRUTH, list("tTfF"))
    return yaml.load(text, Loader)


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError if it names a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise _named_twice(name, f"one object, with {dict(pairs)}")
    return found


def _named_twice(name: str, place: str) -> ValueError:
    return ValueError(
        f"A schema file says a thing once. Received {name!r} twice, in {place}. Remove one of "
        "them; columns and tasks are lists, of which each item begins with a dash in YAML."
    )
