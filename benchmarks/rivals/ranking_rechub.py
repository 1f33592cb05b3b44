"""torch-rechub's single-task models in `ranking`: one run, whose scores are printed.

Adam of the same rate without weight decay; batches come from a list in place of its data loader,
which collects them row by row in Python. `DIN` and `BST` get the history as it is; `DeepFM` and
`DCN-v2` its mean. Its `AutoInt` and `FiBiNET` take no history. The feed-forward part of its `BST`
is as large as ours, in place of its own of 2,048 units, with which a run takes many times as long.
"""

import copy
import json
import sys
import time

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import BST, DIN, AutoInt, DCNv2, DeepFM, FiBiNet
from torch_rechub.trainers import CTRTrainer

from benchmarks.rivals.ranking_job import Job
from benchmarks.rivals.worker import MARK


def build(job):
    """The model."""
    sizes, mlp = job.table_sizes, {"dims": list(job.units)}
    sparse = [SparseFeature(name, size, job.dim) for name, size in sizes.items()]
    pooled = SequenceFeature("seen", sizes["movie_id"], job.dim, "mean", "movie_id", 0)
    whole = SequenceFeature("seen", sizes["movie_id"], job.dim, "concat", "movie_id", 0)
    item = [feature for feature in sparse if feature.name == "movie_id"]
    others = [feature for feature in sparse if feature.name != "movie_id"]
    if job.body == "DeepFM":
        return DeepFM([*sparse, pooled], [*sparse, pooled], mlp)
    if job.body == "DCN-v2":
        return DCNv2([*sparse, pooled], 2, mlp, use_low_rank_mixture=False)
    if job.body == "AutoInt":
        return AutoInt(sparse, [], num_layers=2, num_heads=2, mlp_params=mlp)
    if job.body == "FiBiNET":
        return FiBiNet(sparse, mlp)
    if job.body == "DIN":
        return DIN(others, [whole], item, mlp, {"dims": list(job.attention_units)})
    model = BST(others, [whole], item, mlp, nhead=2, dropout=0.0)
    layer = torch.nn.TransformerEncoderLayer(
        job.dim, 2, 4 * job.dim, 0.0, torch.nn.LeakyReLU(), batch_first=True
    )
    model.transformer_layers = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return model


def run(job):
    """Trains, and measures the epoch that was best on validation rows."""
    torch.manual_seed(job.seed)
    model = build(job)
    # The trainer's own setting adds weight decay, which nobody else has.
    trainer = CTRTrainer(model, optimizer_params={"lr": job.learning_rate})
    columns, labels = job.read("train")
    order_of, best, speeds = np.random.default_rng(job.seed), None, []
    for epoch in range(job.epochs):
        start, order = time.perf_counter(), order_of.permutation(len(labels))
        cuts = range(job.batch_size, len(order), job.batch_size)
        trainer.train_one_epoch(
            [
                (_tensors(columns, rows), torch.from_numpy(labels[rows]))
                for rows in np.split(order, cuts)
            ]
        )
        speeds.append(len(labels) / (time.perf_counter() - start))
        valid = _auc(trainer, model, *job.read("valid"))
        if best is None or valid > best[0]:
            best = valid, copy.deepcopy(model.state_dict()), epoch
        if epoch - best[2] == job.patience:
            break
    model.load_state_dict(best[1])
    return {
        "epochs_run": len(speeds),
        "valid": best[0],
        "score": _auc(trainer, model, *job.read("test")),
        "rows_per_s": max(speeds),
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }


def _tensors(columns, rows):
    return {name: torch.from_numpy(column[rows]) for name, column in columns.items()}


def _auc(trainer, model, columns, labels):
    parts = [slice(i, i + 8192) for i in range(0, len(labels), 8192)]
    batches = [(_tensors(columns, rows), torch.from_numpy(labels[rows])) for rows in parts]
    return float(roc_auc_score(labels, np.ravel(trainer.predict(model, batches))))


if __name__ == "__main__":
    print(f"{MARK}{json.dumps(run(Job.from_json(sys.argv[1])))}", flush=True)
