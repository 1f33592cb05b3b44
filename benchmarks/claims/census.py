"""Claims of Census-Income."""

from benchmarks.verdicts import Paired


def census(ours, published=None):
    return [
        Paired(
            main,
            {"name": f"{ours} beats shared bottom", "set": main},
            {"name": ours, "set": main},
            {"name": "shared bottom", "set": main},
            "main_auc",
            published,
        )
        for main in ("income", "college")
    ]
