"""Claims that unrelated tasks do less harm, of two papers."""

from itertools import product

from benchmarks.verdicts import Paired

SETS = ("grouped", "census")
WIDE = "shared bottom, one layer"


def robust(ours, rivals, numbers=(16,)):
    def case(where, number, rival):
        parts = [where, *([f"{number} added"] * (number != 16))]
        return ", ".join([*parts, *([rival] * (len(rivals) > 1))])

    return [
        Paired(
            case(where, number, rival),
            {"name": f"{ours} loses less than {rival}", "set": where, "unrelated": number},
            {"name": ours, "set": where, "unrelated": number},
            {"name": rival, "set": where, "unrelated": number},
            "change",
        )
        for where, number, rival in product(SETS, numbers, rivals)
    ]
