"""torch-rechub's MMOE in `peers`.

All its MLPs have batch normalisation, the gates too; there is no way to leave it out.
"""

from importlib.metadata import version

import numpy as np
import torch
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer

from benchmarks.rivals.peer import TASKS, serve


class Contestant:
    what = (
        f"torch-rechub {version('torch-rechub')}, torch {torch.__version__}: MTLTrainer, "
        "batches from a list"
    )

    def __init__(self, job):
        torch.manual_seed(0)
        columns = [SparseFeature(name, size, job.dim) for name, size in job.table_sizes.items()]
        self.model = MMOE(
            columns,
            ["classification", "regression"],
            n_expert=job.num_experts,
            expert_params={"dims": list(job.expert_units)},
            tower_params_list=[{"dims": list(job.tower_units)}] * len(TASKS),
        )
        # The trainer's own setting adds weight decay, which nobody else has.
        self.trainer = MTLTrainer(
            self.model,
            ["classification", "regression"],
            optimizer_params={"lr": job.learning_rate},
        )
        # It does not know missing labels.
        self.trainer.loss_fns[1] = _mean_of_those_there
        self.batch_size, self.random = job.batch_size, np.random.default_rng(0)
        self.columns, self.labels = job.read("train")

    def train(self):
        # In place of its data loader, which collects a batch row by row in Python.
        order = self.random.permutation(len(self.labels["watch"]))
        labels = np.stack([self.labels[task] for task in TASKS], axis=1).astype("float32")
        self.trainer.train_one_epoch(
            [
                (_tensors(self.columns, rows), torch.from_numpy(labels[rows]))
                for rows in np.split(order, range(self.batch_size, len(order), self.batch_size))
            ]
        )

    def predict(self, columns):
        return _predict(self.trainer, self.model, columns)

    def reload(self, path, columns):
        torch.save(self.model, path / "model.pth")
        model = torch.load(path / "model.pth", weights_only=False)
        return _predict(self.trainer, model, columns)

    def export(self, path, columns):
        import onnxruntime

        self.trainer.export_onnx(str(path / "model.onnx"))
        session = onnxruntime.InferenceSession(path / "model.onnx")
        (found,) = session.run(
            None, {one.name: columns[one.name].astype("int64") for one in session.get_inputs()}
        )
        return "ONNX, encoded ids", {task: found[:, i] for i, task in enumerate(TASKS)}


def _mean_of_those_there(predicted, labels):
    there = ~torch.isnan(labels)
    return torch.mean((predicted[there] - labels[there]) ** 2)


def _tensors(columns, rows):
    return {name: torch.from_numpy(column[rows]) for name, column in columns.items()}


def _predict(trainer, model, columns):
    num = len(next(iter(columns.values())))
    batches = [_tensors(columns, slice(i, i + 8192)) for i in range(0, num, 8192)]
    found = np.array(trainer.predict(model, batches))
    return {task: found[:, i] for i, task in enumerate(TASKS)}


if __name__ == "__main__":
    serve("rechub", Contestant)
