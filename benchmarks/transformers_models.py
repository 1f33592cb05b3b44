"""The transformers of the Mod-Squad study, and how they are trained and scored.

All are `ModSquad` of one block over one token a column, with a tower of one layer for each task. A
token of a mixture goes through 4 of 16 heads, and 4 of 16 perceptrons, that its task's routers
choose:

- `Mod-Squad` learns with the mutual-information loss, `plain mixture` without;
- `shared, equal compute` has 4 heads and perceptrons, all of weight 1 for every token: a
  transformer whose tasks have an embedding and a tower of their own, and nothing else;
- `shared, equal parameters` has 16 of them, and four times the multiplications;
- `single tasks` are one of the first kind each, which gets an equal share of the steps.

Models are layers in a plain Keras model: one table of tokens, where a schema has one a column.
"""

import math

import keras
import numpy as np
from keras import ops

from benchmarks.many_tasks_models import TowerOfEach
from tfmoe.gates.softmax import SoftmaxGate
from tfmoe.gates.top_k import TopKGate
from tfmoe.objectives.mutual_information import joint_of, mutual_information
from tfmoe.optimizers import Adam
from tfmoe.structures.mod_squad import ModSquad

MOD_SQUAD, PLAIN, SINGLE = "Mod-Squad", "plain mixture", "single tasks"
COMPUTE, PARAMETERS = "shared, equal compute", "shared, equal parameters"
EXPERTS, CHOSEN, DIM, MLP_RATIO = 16, 4, 16, 4.0
VALIDATIONS = 10
STEPS_AT_ONCE = 10
AT_ONCE = 2000


@keras.saving.register_keras_serializable("benchmarks")
class EveryExpert(SoftmaxGate):
    """Gives each expert a weight of 1; `CHOSEN` of them are as large as a token's."""

    num_nonzeros = CHOSEN

    def select(self, scores, rows, training):
        weights = ops.ones_like(scores[..., : self.num_choices])
        return weights / self.num_choices, weights


class Squad(keras.layers.Layer):
    """A transformer over tokens that are all present, with the mutual information in its loss.

    As `MutualInformationLoss` does in a `MultiTaskModel`.
    """

    def __init__(self, structure, weight):
        super().__init__()
        self.structure, self.weight = structure, weight

    def build(self, input_shape):
        self.structure.build((input_shape, input_shape[:2]))

    def call(self, tokens, task=None, training=False):
        outputs, records = self.structure(
            (tokens, everywhere(tokens)), task=task, training=training, return_aux=True
        )
        if training and self.weight:
            labels = ops.ones_like(task, dtype=self.compute_dtype)
            for record in records:
                joint = joint_of(record, labels, self.structure.num_tasks)
                self.add_loss(-self.weight * mutual_information(joint))
        return outputs


def everywhere(tokens):
    """A mask `(b, c)` without padding."""
    return ops.ones_like(tokens[..., 0], dtype="bool")


def structure_of(name, tasks):
    """A contestant's structure."""
    if name in (MOD_SQUAD, PLAIN):
        experts, gate = EXPERTS, TopKGate(num_nonzeros=CHOSEN)
    else:
        experts, gate = EXPERTS if name == PARAMETERS else CHOSEN, EveryExpert()
    return ModSquad(tasks, DIM, 1, experts, gate, MLP_RATIO)


def build(cell, tokens, columns, tasks):
    """A compiled Keras model of tokens and tasks to logits `(b, 1)`, and its `Squad`."""
    x = keras.Input((columns,), dtype="int32", name="x")
    task = keras.Input((), dtype="int32", name="task")
    squad = Squad(structure_of(cell["model"], tasks), cell.get("weight", 0.0))
    hidden = squad(keras.layers.Embedding(tokens, DIM)(x), task=task)
    for gate in squad.structure.gates:
        gate.trainable = not isinstance(gate, EveryExpert)
    model = keras.Model({"x": x, "task": task}, TowerOfEach(tasks)(hidden, task=task))
    model.compile(
        Adam(cell["learning_rate"]),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
        # A number that a round's steps are a multiple of, or Keras would make more of them.
        steps_per_execution=math.gcd(_round_of(steps_of(cell)), STEPS_AT_ONCE),
    )
    # A step that creates variables is traced twice.
    model.optimizer.build(model.trainable_variables)
    return model, squad


def steps_of(cell):
    """Steps of a training: an equal share of single tasks, of which whole rounds are made."""
    return cell["steps"] // (cell["tasks"] if cell["model"] == SINGLE else 1)


def _round_of(steps):
    """Steps from one validation to the next."""
    return steps // min(VALIDATIONS, steps)


def one_run(table, cell):
    """AUCs of the best validation, on test rows, and of a mixture the information."""
    from sklearn.metrics import roc_auc_score

    keras.backend.clear_session()
    keras.utils.set_random_seed(cell["seed"])
    alone, tasks = cell["model"] == SINGLE, cell["tasks"]
    model, squad = build(cell, table.tokens, table.train.x.shape[1], 1 if alone else tasks)
    if alone:
        valid, logits = _each_alone(model, table, cell)
    else:
        valid = learn(model, cell, table.train, table.valid)
        logits = said(model, table.test)
    places = [table.test.task == task for task in range(tasks)]
    aucs = [roc_auc_score(table.test.y[own, 0], logits[own]) for own in places]
    scores = {"valid": valid, "score": float(np.mean(aucs)), "common": float(np.mean(aucs[:4]))}
    if cell["model"] in (MOD_SQUAD, PLAIN):
        scores["information"] = information(model, squad, table.test)
    return scores


def _each_alone(model, table, cell):
    """One model, which starts anew for each task, so that a step is traced once.

    Returns:
        Mean loss on validation rows, logits `(n,)` of the test rows.
    """
    variables = [*model.variables, *model.optimizer.variables]
    start = [np.copy(ops.convert_to_numpy(variable)) for variable in variables]
    losses, logits = [], np.zeros(len(table.test.y))
    for task in range(cell["tasks"]):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        parts = [part.of(task) for part in (table.train, table.valid, table.test)]
        losses.append(learn(model, cell, *parts[:2]))
        logits[table.test.task == task] = said(model, parts[2])
    return float(np.mean(losses)), logits


def learn(model, cell, train, valid):
    """Trains a model to its best validation; returns its loss there."""
    import tensorflow as tf

    steps = steps_of(cell)
    rounds = min(VALIDATIONS, steps)
    rng = np.random.default_rng(cell["seed"])
    size, number = cell["batch_size"], steps * cell["batch_size"]
    passes = [rng.permutation(len(train.y)) for _ in range(-(-number // len(train.y)))]
    order = np.concatenate(passes)[:number]
    inputs = {"x": train.x[order], "task": train.task[order]}
    rows = tf.data.Dataset.from_tensor_slices((inputs, train.y[order])).batch(size, True)
    best = keras.callbacks.EarlyStopping(patience=rounds, restore_best_weights=True)
    history = model.fit(
        rows,
        shuffle=False,
        steps_per_epoch=_round_of(steps),
        epochs=rounds,
        validation_data=({"x": valid.x, "task": valid.task}, valid.y),
        validation_batch_size=AT_ONCE,
        callbacks=[best],
        verbose=0,
    )
    return float(np.min(history.history["val_loss"]))


def said(model, part):
    """Logits `(n,)` of rows; without a graph, which takes longer to make than they."""
    return np.concatenate([ops.convert_to_numpy(model(rows))[:, 0] for rows in _batches(part)])


def information(model, squad, part):
    """Mutual information of tasks and experts, mean over the gates, over its bound."""
    tasks, tables = squad.structure.num_tasks, model.get_layer(index=1)
    joint = 0.0
    for rows in _batches(part):
        tokens = tables(rows["x"])
        inputs = (tokens, everywhere(tokens))
        _, records = squad.structure(inputs, task=rows["task"], return_aux=True)
        labels = ops.ones_like(rows["task"], dtype="float32")
        joint = joint + np.stack(
            [ops.convert_to_numpy(joint_of(record, labels, tasks)) for record in records]
        )
    return float(np.mean([float(mutual_information(own)) for own in joint]) / np.log(tasks))


def _batches(part):
    for start in range(0, len(part.y), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        yield {"x": part.x[rows], "task": part.task[rows]}
