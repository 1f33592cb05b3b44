"""torch-rechub's MMOE, trained by its own `MTLTrainer`.

All its MLPs have batch normalisation, the gates too; there is no way to leave it out.
"""

from importlib.metadata import version

import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer

from benchmarks.rivals.worker import make_batches, serve


def build(sizes):
    columns = [SparseFeature(name, sizes.num_values, sizes.dim) for name in sizes.categorical]
    columns += [DenseFeature(name) for name in sizes.numeric]
    kinds = ["classification"] * sizes.num_tasks
    model = MMOE(
        columns,
        kinds,
        n_expert=sizes.num_experts,
        expert_params={"dims": list(sizes.expert_units)},
        tower_params_list=[{"dims": list(sizes.tower_units)}] * sizes.num_tasks,
    )
    # The trainer's own setting adds weight decay, which nobody else has.
    trainer = MTLTrainer(model, kinds, optimizer_params={"lr": 1e-3})
    features, labels = make_batches(sizes)
    # A list in place of its data loader, which collects a batch row by row in Python.
    batches = [
        (
            {name: torch.from_numpy(column[i]) for name, column in features.items()},
            torch.stack([torch.from_numpy(column[i]) for column in labels.values()], dim=1),
        )
        for i in range(sizes.num_batches)
    ]

    def turn():
        trainer.train_one_epoch(batches)

    what = (
        f"torch-rechub {version('torch-rechub')}, torch {torch.__version__}: "
        "MTLTrainer.train_one_epoch, batches from a list"
    )
    return {"torch-rechub": (what, turn)}


if __name__ == "__main__":
    serve(build)
