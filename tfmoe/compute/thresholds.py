r"""Thresholds that choose between ways of computing, and what they were measured on.

Which way is faster depends on the processor, and all ways give the same numbers up to
rounding. So that runs can be repeated, the choice follows from what the processor is, never from
a clock: see `kind_of_processor`. `python -m benchmarks thresholds` measures every threshold
on the machine at hand, says which are off there, and what to set.

To set some, before layers are called:

>>> _ = use(large_kernel=None, block_cost=60)  # for this process
>>> current().block_cost
60
>>> with use("other"):  # or within a block, all those of a kind of processor
...     current().large_kernel is None
True
>>> _ = use()  # as at the start
>>> current().block_cost
40

or in the environment, for a program that is not to be changed:

    TFMOE_THRESHOLDS="large_kernel=null block_cost=60"
    TFMOE_THRESHOLDS='{"large_kernel": null, "block_cost": 60}'
    TFMOE_THRESHOLDS="other block_cost=60"

A graph that was traced keeps those of its time. Of several machines whose runs are to be the same
up to the last bit as far as their processors allow, all need the same thresholds: name a kind.

Half precision has no threshold, for it is the user's choice: under `mixed_bfloat16` a step of the
benchmark `step` was 1.7 times as fast on a processor that multiplies bfloat16 in tiles (Intel Xeon
with AMX), and slower on one that has nothing of the kind (AMD EPYC, Zen 1, AVX2: 6,120 rows/s
against 7,100 in float32).
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

VARIABLE = "TFMOE_THRESHOLDS"


@dataclass(frozen=True)
class Thresholds:
    """Where one way of computing gives way to another.

    "The Xeon" is an Intel Xeon with AVX-512 and AMX, "the EPYC" an AMD EPYC (Zen 1, AVX2), both
    with two cores. The defaults are what an unknown processor gets.

    Attributes:
        most_unrolled: int. Up to so many experts or towers TensorFlow runs one after the other,
            with bias and activation in the operation of the matmul; more would make the graph
            long. Measured on the Xeon; on an EPYC (AVX2, oneDNN) 8, 16 and 32 experts of
            128 -> 32 -> 16 took 1.04, 1.08 and 1.14 times as long so.
        most_unrolled_large: int, the same where the first kernel has `large_expert` weights or
            more. On an EPYC (AVX2, oneDNN) 8, 16 and 32 experts of 128 -> 256 -> 128 took 0.97 to
            1.0, 0.92 to 0.99 and 0.94 to 1.0 times as long one after the other.
        large_kernel: int or None. In training, experts whose first kernel has at least so many
            weights run all at once, as batched matmuls; two at most, and all for None, run one
            after the other. 8 experts of 429 -> 256 -> 128 took 0.87 of the time at once on the
            Xeon; later, beside other work, the two were level (0.98 to 1.02). On the EPYC the
            whole step was 1.15 times as fast one after the other (8,170 against 7,100 rows/s).
        large_kernel_inference: int or None, the same at inference, where no gradient gains from
            batched matmuls. On the Xeon, beside other work, the experts above took 0.70, 0.82,
            0.98 and 0.89 of the time one after the other for 1, 100, 1,000 and 4,096 rows; on the
            EPYC the whole model, served, 3.0, 7.2, 41.0 ms for 1, 100, 1,000 rows against 4.1,
            16.2, 50.6.
        narrow: int. Networks side by side that read the same features and have at least so many
            times fewer units have gradients of one wide product, instead of one each that are added
            up. On the EPYC 64 of 429 -> 16, 32 and 64, 512 rows, took 0.37, 0.52 and 0.67 to 0.97
            of the time, with oneDNN 0.77, 0.92 and 1.0. Not measured on the Xeon.
        most_looked_up: int or None. `compile(jit_compile="auto")` takes XLA on a CPU where a row
            looks up at most so many embedding values, whose gradients XLA adds up on one core;
            None for never. On the Xeon XLA took 1.03, 1.13, 1.11 and 1.17 times as long with 0,
            64, 128 and 416 values; on the EPYC it was behind experts one after the other too
            (7,640 against 8,170 rows/s with 416). Random numbers (dropout: 630 ms a step against
            31), half precision and sparse compute rule XLA out whatever the number.
        dense_rows: int. Up to so many rows an embedding table's gradient is a whole table, which
            costs little beside the optimizer's own pass and which XLA can compile; above, it is
            the distinct rows, if the optimizer gains by them: see `tfmoe.optimizers.LazyAdam`,
            whose step took 0.91, 0.98, 1.50 and 13.5 times as long with the whole table on the
            Xeon, for 10,000, 30,000, 100,000 and 1,000,000 rows of 16; on an EPYC (AVX2, oneDNN)
            1.00, 1.07, 1.8 and 12 times.
        break_even: number. Sparse compute pays where a row's experts times this are at most all
            experts, if experts are large. On the Xeon 2 of 4 experts of 128 -> 256 -> 128 took
            0.76 of the dense time, 2 of 3 0.89; on an EPYC (AVX2, oneDNN) 0.65 and 0.87.
        break_even_small: number, likewise where matmuls take no longer than laying out the pairs,
            or where every batch must be looked at first: a quarter on the Xeon.
        large_expert: int, weights from which an expert, or its first kernel, is large. Between
            128 -> 32 -> 16 and 128 -> 256 -> 128 on the Xeon.
        spans: tuple of int. Lengths of a span of slots to choose from, in eighths of the mean
            number of pairs of an expert, where shapes may depend on data. With every second of them
            2 of 64 experts of 128 -> 256 -> 128 took 1.06 times as long on the Xeon and 1.07 times
            on an EPYC (AVX2, oneDNN).
        block_cost: int. Slots' worth of time that it takes to gather a block's kernels and to
            add up their gradients; decides between spans. Measured on the Xeon with kernels of
            128 x 256.
        block_pairs: two int, mean numbers of pairs of an expert from which on blocks are of
            the second and of the third length.
        blocks: three int, lengths of a block. Measured on the Xeon.
        spans_xla: two int. Length of the spans under XLA and on JAX, in eighths of the mean: below
            the last of `block_pairs`, where pairs scatter more around their mean, and from there
            on.
        blocks_xla: two int, lengths of a block there, likewise.
    """

    most_unrolled: int = 12
    most_unrolled_large: int = 32
    large_kernel: int | None = None
    large_kernel_inference: int | None = None
    narrow: int = 6
    most_looked_up: int | None = None
    dense_rows: int = 20_000
    break_even: float = 1.5
    break_even_small: float = 4
    large_expert: int = 2**14
    spans: tuple[int, ...] = tuple(range(17))
    block_cost: int = 40
    block_pairs: tuple[int, int] = (16, 64)
    blocks: tuple[int, int, int] = (16, 64, 128)
    spans_xla: tuple[int, int] = (10, 9)
    blocks_xla: tuple[int, int] = (32, 128)

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check(field, value)


# Numbers that divide, count networks or are lengths must not be 0.
_LEAST = dict.fromkeys(
    (
        "most_unrolled",
        "most_unrolled_large",
        "break_even",
        "break_even_small",
        "blocks",
        "blocks_xla",
    ),
    1,
)


def _check(field, value):
    """Raises ValueError unless a threshold is what its default is like."""
    least, default = _LEAST.get(field.name, 0), field.default
    if default is None or field.name.startswith("large_kernel"):
        right, rule = value is None or _is_count(value, least), f"an integer >= {least} or None"
    elif field.name.startswith("break_even"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right, rule = number and value >= least, f"a number >= {least}"
    elif isinstance(default, int):
        right, rule = _is_count(value, least), f"an integer >= {least}"
    else:
        free = field.name == "spans"
        right = isinstance(value, tuple) and all(_is_count(one, least) for one in value)
        right = right and (len(value) > 0 if free else len(value) == len(default))
        rule = f"a list of {'' if free else f'{len(default)} '}integers >= {least}"
    if not right:
        raise ValueError(
            f"The threshold `{field.name}` is {rule}. Received {field.name}={value!r}. "
            f"On most processors it is {default!r}."
        )


def _is_count(value, least):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


# By kind of processor. Experts run at once in training only where that was measured to pay.
KINDS = {
    "avx512": Thresholds(
        most_unrolled=16,
        most_unrolled_large=16,
        large_kernel=2**16,
        dense_rows=30_000,
    ),
    "other": Thresholds(),
}


def kind_of_processor(cpuinfo: str | None = None) -> str:
    """The key of `KINDS` for a processor.

    `"avx512"` is an x86 processor with AVX-512 and its instructions for neural networks (VNNI):
    there TensorFlow takes oneDNN's batched matmuls by itself. All others, those of ARM, and those
    of systems other than Linux are `"other"`.

    Args:
        cpuinfo: text as in `/proc/cpuinfo`; None for this machine's.
    """
    if cpuinfo is None:
        return _kind_here()
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return "avx512" if {"avx512f", "avx512_vnni"} <= flags else "other"


@functools.cache
def _kind_here():
    path = Path("/proc/cpuinfo")
    return kind_of_processor(path.read_text(encoding="utf-8") if path.exists() else "")


_used = None


def current() -> Thresholds:
    """Those in use: of `use`, or of the environment, or of the processor."""
    return _used or _from_environment(os.environ.get(VARIABLE, ""))


def use(base: Thresholds | str | None = None, **changes: Any) -> _InUse:
    """Sets thresholds for this process, or for a `with` block.

    Args:
        base: `Thresholds`, or a key of `KINDS`: what those that are not named are like. None for
            those of the environment or the processor.
        **changes: thresholds, by name. Without any, and without `base`, all are as at the start.

    Raises:
        ValueError: if a name or a value is none.
    """
    global _used
    before = _used
    if base is None and not changes:
        _used = None
    else:
        if base is None:
            base = _from_environment(os.environ.get(VARIABLE, ""))
        _used = _changed(base, changes)
    return _InUse(before)


class _InUse:
    """A block within which thresholds are in use, or what may be thrown away."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __enter__(self):
        return current()

    def __exit__(self, *error: Any) -> None:
        global _used
        _used = self._before


def _changed(base, changes):
    if not isinstance(base, Thresholds):
        if base not in KINDS:
            raise ValueError(
                f"Thresholds are known for the kinds of processor {list(KINDS)}. Received "
                f"{base!r}. Name one of them, or leave it out for this machine's."
            )
        base = KINDS[base]
    known = [field.name for field in fields(Thresholds)]
    for name in changes:
        if name not in known:
            raise ValueError(
                f"Thresholds are {', '.join(known)}. Received {name}={changes[name]!r}. "
                "See tfmoe.compute.thresholds.Thresholds for what each is."
            )
    return replace(base, **changes)


@functools.lru_cache(maxsize=16)
def _from_environment(text):
    """Thresholds of this processor, as far as the variable's text says no other."""
    try:
        kind, changes = _parsed(text)
        return _changed(kind_of_processor() if kind is None else kind, changes)
    except ValueError as error:
        raise ValueError(
            f"{error} It came from the environment variable {VARIABLE}={text!r}."
        ) from None


_PAIR = re.compile(r"(\w+)\s*=\s*(\[[^\]]*\]|[^\s,;=]+)")


def _parsed(text):
    """A kind or None, and a dict of changes."""
    if text.strip().startswith("{"):
        try:
            return None, json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Thresholds may be given as a JSON object ({error}).") from None
    changes = {name: _value(name, value) for name, value in _PAIR.findall(text)}
    words = re.findall(r"[^\s,;]+", _PAIR.sub(" ", text))
    if len(words) > 1 or not all(word.isidentifier() for word in words):
        raise ValueError(
            "Thresholds are given as `name=value` pairs, after the name of a kind of processor if "
            f"it is to be another: 'other block_cost=60 spans=[0,4,8]'. Received {text!r}."
        )
    return (words[0] if words else None), changes


def _value(name, text):
    try:
        return json.loads("null" if text.lower() == "none" else text)
    except json.JSONDecodeError:
        raise ValueError(
            f"A threshold is a number, a list of numbers, or null. Received {name}={text}. Write "
            "for example large_kernel=65536, or spans=[0,4,8]."
        ) from None
