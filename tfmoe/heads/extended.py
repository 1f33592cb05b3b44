"""Towers that were trained, and towers for tasks that came later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tfmoe.compute.registered import registered
from tfmoe.heads.scenario_towers import ScenarioTowers
from tfmoe.heads.tower_links import Links, links_of
from tfmoe.heads.towers import Towers
from tfmoe.heads.values import imputed_tasks
from tfmoe.schema.tasks import Task


@registered
class ExtendedTowers(keras.layers.Layer):
    """Towers that were trained, and one for each task that came after them.

    All but the newest task's tower are frozen. Those trained before run apart, on the
    shapes they had, so that their logits stay the same to the bit.

    Args:
        num_outputs: see `Towers`; those of the added tasks come last.
        num_added: int >= 1, how many tasks were added, one at a time.
        hidden_units, dropout: see `Towers`.
        links: see `Towers`; of those trained together alone.

    Call arguments, returns: see `Towers`.
    """

    def __init__(
        self,
        num_outputs: Sequence[int],
        num_added: int,
        hidden_units: Sequence[int] = (64,),
        dropout: float = 0.0,
        links: Links | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_outputs, self.num_added = tuple(num_outputs), num_added
        self.num_base = len(self.num_outputs) - num_added
        groups = [self.num_outputs[: self.num_base]]
        groups += [(num,) for num in self.num_outputs[self.num_base :]]
        self.groups = [
            Towers(
                group,
                hidden_units,
                dropout=dropout,
                links=None if i else links,
                dtype=self.dtype_policy,
                name=f"group_{i}",
            )
            for i, group in enumerate(groups)
        ]
        self.hidden_units, self.dropout = tuple(hidden_units), dropout

    def build(self, input_shape: Any) -> None:
        for group in self.groups:
            group.build((input_shape[0], len(group.num_outputs), input_shape[2]))
            group.trainable = group is self.groups[-1]

    def call(self, inputs: Any, task: Any = None, training: bool = False) -> Any:
        base, *added = self.groups
        if task is None:
            # Without an axis of tasks all read the same.
            shared = inputs.shape[1] == 1
            logits = base(inputs if shared else inputs[:, : self.num_base], training=training)
            for i, group in enumerate(added, self.num_base):
                own = inputs if shared else inputs[:, i : i + 1]
                logits = logits + group(own, training=training)
            return logits
        widest = max(self.num_outputs)
        old = ops.minimum(task, self.num_base - 1)
        logits = _widened(base(inputs, task=old, training=training), widest)
        for i, group in enumerate(added, self.num_base):
            own = group(inputs, training=training)[0]
            logits = ops.where((task == i)[:, None], _widened(own, widest), logits)
        return logits

    def copy_extended(self, other: Towers | ExtendedTowers, like: int | None = None) -> None:
        """Takes over the weights of towers that lack the newest task's.

        Args:
            other: built towers of all tasks but the newest.
            like: index of the task among those trained together whose tower the new one starts
                as; None to leave it as it was initialised.
        """
        trained = other.groups if isinstance(other, ExtendedTowers) else [other]
        *groups, newest = self.groups
        for old, group in zip(trained, groups, strict=True):
            group.copy_from(old)
        if like is not None:
            newest.copy_from(trained[0], [like])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_outputs": list(self.num_outputs),
            "num_added": self.num_added,
            "hidden_units": list(self.hidden_units),
            "dropout": self.dropout,
            "links": self.groups[0].get_config()["links"],
        }


def towers_of(
    tasks: Sequence[Task], num_added: int, num_scenarios: int | None = None, **options: Any
) -> Any:
    """`Towers` of some tasks, or `ExtendedTowers` if the last `num_added` came one by one.

    With `num_scenarios` they are `ScenarioTowers`.

    Raises:
        ValueError: if scenarios have towers of their own and a task was added, or towers are
            linked; or if an added task's tower would be.
    """
    num_outputs, links = [task.num_logits for task in tasks], links_of(tasks)
    linked = [*map(int, links), *imputed_tasks(tasks)]
    if num_added and max(linked, default=0) >= len(tasks) - num_added:
        raise ValueError(
            "The tower of a task that add_task adds stands apart from the others. Received "
            f'{tasks[-1]!r}, whose link reads another tower. Use link="esmm", or train the model '
            "anew with the task among the others."
        )
    if links:
        options = {**options, "links": links}
    if num_scenarios is not None:
        if links:
            raise ValueError(
                "The links AITM and DBMTL are between towers that all scenarios share. Received "
                'them with scenario_towers=True. Use link="esmm" or "escm2-dr", or leave '
                "scenario_towers out."
            )
        if num_added:
            raise ValueError(
                "add_task takes models whose towers are the tasks' alone. Received one with "
                "scenario_towers=True. Train it anew with the task among the others."
            )
        return ScenarioTowers(num_outputs, num_scenarios, **options)
    if num_added:
        return ExtendedTowers(num_outputs, num_added, **options)
    return Towers(num_outputs, **options)


def _widened(logits: Any, width: int) -> Any:
    """`(b, n)` with columns of zeros up to `width`."""
    return ops.pad(logits, ((0, 0), (0, width - logits.shape[1])))
