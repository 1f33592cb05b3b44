"""How often each task comes in the rows of an epoch, where a row belongs to one task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfmoe.validation import check_choice, checks_arguments, number


@checks_arguments
@dataclass(frozen=True)
class TaskMixer:
    """The mix of tasks in training, for `Preprocessor.dataset(..., mixer=...)`.

    Each row's task is drawn; a task with n rows comes with a probability in proportion to

        n ** (1 / temperature)

    Within a task the rows come in a random order, and none comes again before all have
    come. The loss is a mean over rows, so the mix decides how much a task counts.

    Args:
        by: `"size"`, in proportion to the tasks' rows; `"even"`, the same for all tasks
            that have rows; or `"temperature"`, between the two.
        temperature: float > 0, for `"temperature"`. 1 is `"size"`; the larger, the
            closer to `"even"`; below 1 large tasks come more often than their rows do.

    Raises:
        ValueError: if `by` is none of the three, `temperature` is not above 0, or it is
            given without `by="temperature"`.

    Example:
    >>> TaskMixer("temperature", temperature=2.0).probabilities([900, 100, 0]).tolist()
    [0.75, 0.25, 0.0]

    Source: the exponent is that of temperature sampling in multilingual translation,
    Arivazhagan et al., 2019, https://arxiv.org/abs/1907.05019.
    """

    by: str = "size"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_choice("TaskMixer", "by", self.by, ("size", "temperature", "even"))
        number("TaskMixer", "temperature", self.temperature, above=0)
        if self.by != "temperature" and self.temperature != 1.0:
            raise ValueError(
                'TaskMixer uses `temperature` with by="temperature" only. Received '
                f"by={self.by!r} with temperature={self.temperature!r}. Leave one of them out."
            )

    def probabilities(self, counts: ArrayLike) -> np.ndarray:
        """The tasks' probabilities.

        Args:
            counts: ints `(t,)`, the tasks' rows; not all 0.

        Returns:
            float64 `(t,)`, 0 for tasks without rows; their sum is 1.
        """
        counts = np.asarray(counts, np.float64)
        if self.by == "even":
            shares = np.where(counts > 0, 1.0, 0.0)
        else:
            # Relative to the largest, whose power cannot overflow.
            shares = (counts / counts.max()) ** (1 / self.temperature)
        return shares / shares.sum()


class MixedOrder:
    """The order in which held rows come, epoch by epoch.

    What an epoch leaves of a task's rows comes first in the next.

    Args:
        mixer: `TaskMixer`.
        task_indices: ints `(n,)`, the rows' tasks; n > 0.
        seed: int, or sequence of ints; the orders follow from it.
    """

    def __init__(
        self, mixer: TaskMixer, task_indices: np.ndarray, seed: int | Sequence[int]
    ) -> None:
        counts = np.bincount(task_indices)
        self._seed = seed
        self._probabilities = mixer.probabilities(counts)
        by_task = np.argsort(task_indices, kind="stable")
        self._rows = np.split(by_task, np.cumsum(counts)[:-1])
        self._start()

    def _start(self):
        self._epoch = 0
        self._rng = np.random.default_rng(self._seed)
        self._left = [rows[:0] for rows in self._rows]

    def seek(self, epoch: int) -> None:
        """Lets `next_epoch` return the order of an epoch, by its number from 0.

        An order follows from all before it, which are drawn again if they have not just been.
        """
        if epoch < self._epoch:
            self._start()
        while self._epoch < epoch:
            self.next_epoch()

    def next_epoch(self) -> np.ndarray:
        """The next epoch's rows, by their places: int64 `(n,)`."""
        self._epoch += 1
        num_rows = sum(map(len, self._rows))
        task_indices = self._rng.choice(len(self._rows), num_rows, p=self._probabilities)
        counts = np.bincount(task_indices, minlength=len(self._rows))
        order = np.empty(num_rows, np.int64)
        order[np.argsort(task_indices, kind="stable")] = np.concatenate(
            [self._next_rows(task, count) for task, count in enumerate(counts)]
        )
        return order

    def _next_rows(self, task, count):
        rows, left = self._rows[task], self._left[task]
        if len(left) < count:
            rounds = -(-(count - len(left)) // len(rows))
            fresh = self._rng.permuted(np.tile(rows, (rounds, 1)), axis=1)
            left = np.concatenate([left, fresh.ravel()])
        self._left[task] = left[count:]
        return left[:count]
