"""The tasks proposed for a table: of which kind its labels seem to be, and where they count."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.schema.missing import MARKERS
from tfmoe.schema.tasks import Binary, Multiclass, Regression, Task
from tfmoe.validation import NAME

if TYPE_CHECKING:
    from tfmoe.data.read.look import Traits

# What a label may be that counts as 1, and as 0: in small letters, with spaces for `_` and `-`.
_POSITIVE = {
    *("yes", "true", "1", "on", "+", "positive", "pos", "present", "ok", "good"),
    *("success", "succeeded", "successful", "passed", "pass", "accepted", "approved", "won", "win"),
    *("click", "clicked", "bought", "buy", "purchase", "purchased", "sold", "order", "ordered"),
    *("converted", "conversion", "watched", "viewed", "read", "opened", "like", "liked", "up"),
    *("subscribed", "returned", "churn", "churned", "default", "fraud", "spam", "paid"),
}
_NEGATIVE = {
    *("no", "false", "0", "off", "-", "negative", "neg", "absent", "none", "bad"),
    *("failure", "failed", "fail", "rejected", "declined", "denied", "lost", "lose", "loss"),
    *("skip", "skipped", "ignored", "ignore", "unsold", "dislike", "disliked", "down"),
    *("retained", "kept", "stayed", "legit", "legitimate", "ham", "free", "abandoned"),
}
# Letters mean that only beside each other: F is female beside M.
_LETTERS = ({"y", "n"}, {"t", "f"})
# `no click`, `not bought`, and `unsubscribed` beside `subscribed`.
_DENIED = re.compile(r"(?:no|not|non|never|without|did not|didn't) .+")
_DENYING = ("un", "in", "non", "not", "no", "dis")


def names(raw: Iterable[Any], may_be: Callable[[str], Any]) -> list[dict[str, str]]:
    """Names of which all `may_be`, all different, and sources where they had to change."""
    taken: set[str] = set()
    found = []
    for name in map(str, raw):
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)
        base = fitting = base if may_be(base) else f"c_{base}"
        number = 1
        while fitting.lower() in taken:
            number += 1
            fitting = f"{base}_{number}"
        taken.add(fitting.lower())
        found.append({"name": fitting} if fitting == name else {"name": fitting, "source": name})
    return found


def proposed_tasks(labels: Sequence[Traits]) -> list[Task]:
    """A task of the kind that suits its cells for each label.

    Raises:
        ValueError: if a label has no value, or but one text, or is no single value.
    """
    named = names([label.name for label in labels], NAME.match)
    return [_task(label, its) for label, its in zip(labels, named, strict=True)]


def limited(labels: Sequence[Traits], tasks: Sequence[Task]) -> list[Task]:
    """The tasks, with `where` if a label is missing exactly where a binary one is not 1.

    Rows in which the binary label is missing too are not 1. That it is 0 and that it is 1 must
    both be seen, or nothing tells that the one follows from the other.
    """
    limits = {
        task.name: _is_one(label, task)
        for label, task in zip(labels, tasks, strict=True)
        if isinstance(task, Binary) and _is_zero(label, task).any()
    }
    found = []
    for label, task in zip(labels, tasks, strict=True):
        present = _present(label, task)
        where = next(
            (
                name
                for name, inside in limits.items()
                if name != task.name and inside.any() and np.array_equal(inside, present)
            ),
            None,
        )
        found.append(task if where is None else dataclasses.replace(task, where=where))
    return found


def _cells(label: Traits) -> np.ndarray:
    """Each cell of a label of text, without spaces around, "" for a missing one: `(n,)`."""
    return np.array([*label.words, ""], object)[label.codes]


def _present(label: Traits, task: Task) -> np.ndarray:
    """In which rows there is a label: bool `(n,)`."""
    if label.values is not None:
        return ~np.isnan(label.values)
    named = getattr(task, "negative", None) or ()
    return ~np.isin(_cells(label), ["", *(one for one in MARKERS if one not in named)])


def _is_one(label: Traits, task: Binary) -> np.ndarray:
    """In which rows a binary label is 1: bool `(n,)`."""
    if label.values is not None:
        return label.values == 1
    return _cells(label) == task.positive


def _is_zero(label: Traits, task: Binary) -> np.ndarray:
    return _present(label, task) & ~_is_one(label, task)


def _task(traits: Traits, named: dict[str, Any]) -> Task:
    if traits.holds in ("other", "lists", "vectors", "times", "dates"):
        advice = traits.advice or "A label is one value a row."
        if traits.holds in ("times", "dates"):
            advice = "Make a number of it, such as days until then."
        raise ValueError(
            f"A label is a number, a truth value or text. Received label {traits.name!r} of "
            f"another kind. {advice}"
        )
    if traits.holds == "nothing":
        raise ValueError(
            f"Label {traits.name!r} has no value to infer a task from, in the "
            f"{traits.num_rows:,} rows looked at. Fill the column, or write the schema by hand."
        )
    if traits.values is not None:
        present = traits.values[~np.isnan(traits.values)]
        # True is 1 and False 0.
        return Binary(**named) if set(np.unique(present)) <= {0.0, 1.0} else Regression(**named)
    texts = traits.texts
    if len(texts) == 1 and "-" in traits.markers and texts[0] == "+":
        return Binary(**named, positive="+", negative=("-",))
    if len(texts) < 2:
        raise ValueError(
            f"A label has at least two values. Received label {traits.name!r} with {texts} alone, "
            f"in the {traits.num_rows:,} rows looked at. Write the schema by hand if others come."
        )
    if len(texts) == 2:
        return Binary(**named, positive=_positive(traits))
    return Multiclass(**named, classes=tuple(texts))


def _positive(label: Traits) -> str:
    """Of a label's two texts the one that is likelier to mean yes, else the rarer one.

    Of two that are equally rare it is the last by the alphabet.
    """
    one, other = label.texts
    by_word = _means_yes(one, other) - _means_yes(other, one)
    if by_word:
        return one if by_word > 0 else other
    counts = {text: (_cells(label) == text).sum() for text in label.texts}
    return one if counts[one] < counts[other] else other


def is_named_positive(label: Traits) -> bool:
    """Whether words tell which of a label's two texts means yes."""
    one, other = label.texts
    return _means_yes(one, other) != _means_yes(other, one)


def _means_yes(text: str, other: str) -> int:
    """1 if it does by its words, -1 if it means no, else 0."""
    word, beside = (re.sub(r"(?<=\w)[\s_-]+", " ", one.lower()) for one in (text, other))
    if _DENIED.fullmatch(word) or any(word == f"{prefix}{beside}" for prefix in _DENYING):
        return -1
    if {word, beside} in _LETTERS:
        return 1 if word in ("y", "t") else -1
    return (word in _POSITIVE) - (word in _NEGATIVE)


def a_task_each(traits: Traits, task: Task, label: str) -> list[Task]:
    """A task for each value of the column that says which one a row belongs to."""
    keys = sorted([*traits.texts, *traits.markers], key=_by_number)
    plain = [key if NAME.match(key) else f"{traits.name}_{key}" for key in dict.fromkeys(keys)]
    return [
        dataclasses.replace(
            task,
            name=named["name"],
            source=label,
            key=None if named["name"] == key else key,
        )
        for key, named in zip(dict.fromkeys(keys), names(plain, NAME.match), strict=True)
    ]


def _by_number(text: str) -> tuple[int, float, str]:
    """Sorts "2" before "10", and text behind numbers."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text
