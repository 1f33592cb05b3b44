"""How contestants are timed: in turn, so that what slows the machine slows them all."""

import time

import numpy as np


def alternating(turns, rounds, seconds):
    """Seconds a call, an array of `rounds` for each turn; turns alternate."""
    for turn in turns.values():
        turn()
        turn()
    times = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            turn()  # the contestant before may have left the caches and the memory to it
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds:
                turn()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return {name: np.array(taken) for name, taken in times.items()}
