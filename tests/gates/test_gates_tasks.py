"""Gates where each row has one task; routers that know the task; how often experts are used."""

import json
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.gates.test_gates import FEATURES, GATES, LEARNED, inputs
from tests.oracles import reference

TASKS, EXPERTS = 5, 6
ROUTERS = {
    "linear": "linear",
    "static": "static",
    "mlp": tfmoe.MLPRouter((6,)),
    "task_mlp": tfmoe.TaskRouter(3, (5, 4)),
    "task_low_rank": tfmoe.TaskRouter(3, kind="low_rank"),
}
SELECTING = [kind for kind in LEARNED if kind is not tfmoe.SoftmaxGate]
each_kind = pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)
each_learned = pytest.mark.parametrize("kind", LEARNED, ids=lambda kind: kind.__name__)


def made(kind, router="linear", num_tasks=TASKS, seed=0, scale=0.5, **options):
    """A built gate with other weights than those it starts with."""
    if kind is tfmoe.CometGate and router == "linear":
        options["permutation"] = tfmoe.LearnedPermutation(9, (0.5, 0.1))
    if kind is tfmoe.HashGate:
        gate = kind(num_tasks, EXPERTS, per_task=True, **options)
    else:
        gate = kind(num_tasks, EXPERTS, router=ROUTERS.get(router, router), **options)
    gate.build((None, FEATURES))
    rng = np.random.default_rng(seed)
    for weight in gate.trainable_weights:
        weight.assign(rng.normal(scale=scale, size=weight.shape))
    if isinstance(gate, tfmoe.BalancedTopKGate):
        gate.bias.assign(0.3 * rng.normal(size=gate.bias.shape))
    return gate


def own_rows(values, task):
    """`(b, t, c)`, or `(1, t, c)`, to each row's own `(b, 1, c)`."""
    values = ops.broadcast_to(values, (len(task), *values.shape[1:]))
    return ops.take_along_axis(values, task[:, None, None], axis=1)


def gradients(gate, call, along):
    with tf.GradientTape() as tape:
        loss = ops.sum(call() * along)
    variables = [weight.value for weight in gate.trainable_weights]
    found = tape.gradient(loss, variables, unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient).numpy() for gradient in found]


@pytest.mark.quick(3)
@each_kind
@settings(max_examples=settings.default.max_examples // 3)
@given(
    tasks=st.lists(st.integers(0, TASKS - 1), min_size=1, max_size=12),
    router=st.sampled_from(sorted(ROUTERS)),
    num_tasks=st.sampled_from([TASKS, TASKS, 1, 3]),
    seed=st.integers(0, 100),
)
def test_a_row_gets_what_its_task_gets(kind, tasks, router, num_tasks, seed):
    gate = made(kind, router, num_tasks, seed)
    own, x = np.array(tasks) % num_tasks, inputs(len(tasks), seed=seed)
    ids = np.random.default_rng(seed).integers(0, 99, len(tasks))
    along = np.random.default_rng(1).normal(size=(len(tasks), 1, EXPERTS)).astype("float32")
    # A gate of one task takes all rows for it, whatever number they have.
    given = own if num_tasks > 1 else np.array(tasks)
    weights, record = gate(x, task=given, ids=ids, return_aux=True)
    all_weights, all_of = gate(x, ids=ids, return_aux=True)
    np.testing.assert_allclose(weights, own_rows(all_weights, own), atol=1e-6)
    np.testing.assert_array_equal(record.task, own)
    for name in ("scores", "probabilities", "weights"):
        np.testing.assert_allclose(
            getattr(record, name), own_rows(getattr(all_of, name), own), atol=1e-5
        )
    of_own = gradients(gate, lambda: gate(x, task=given, ids=ids), along)
    of_all = gradients(gate, lambda: own_rows(gate(x, ids=ids), own), along)
    for weight, one, other in zip(gate.trainable_weights, of_own, of_all, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=weight.path)


@pytest.mark.parametrize("router", ["linear", "static", "task_mlp", "task_low_rank"])
def test_a_task_without_rows_gets_no_gradient(router):
    gate, task = made(tfmoe.SoftmaxGate, router), np.array([3, 0, 3, 3])
    along = np.random.default_rng(1).normal(size=(4, 1, EXPERTS)).astype("float32")
    found = gradients(gate, lambda: gate(inputs(4), task=task), along)
    # What belongs to tasks comes first: a linear or static router's scores, or embeddings.
    first = found[0]
    if router in ("linear", "static"):
        first = np.moveaxis(first.reshape(-1, TASKS, EXPERTS), 1, 0)
    moved = [bool(np.any(part)) for part in first]
    assert moved == [True, False, False, True, False]


@pytest.mark.quick(1)
@pytest.mark.parametrize("num_tasks", [2, TASKS])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_compiled_and_in_half_precision_too(num_tasks, policy):
    gate = made(tfmoe.DSelectKGate, num_tasks=num_tasks, dtype=policy)
    x, task = inputs(40), np.arange(40, dtype="int32") % num_tasks
    compiled = tf.function(gate, jit_compile=True)
    expected = own_rows(gate(x), task)
    near = {"atol": 1e-6 if policy == "float32" else 0.01}
    for found in (gate(x, task=task), compiled(x, task=task)):
        assert found.dtype == gate.compute_dtype
        np.testing.assert_allclose(*(ops.cast(v, "float32") for v in (found, expected)), **near)


USAGE_LOSSES = (tfmoe.ImportanceLoss, tfmoe.SwitchLoss, tfmoe.LoadLoss)
BALANCE = [kind(0.3, per_task) for kind in USAGE_LOSSES for per_task in (None, False)]
BALANCE += [tfmoe.ZLoss(0.3)]


def balance_by_reference(loss, record, task):
    """Of rows with one task each: the mean over the tasks there, or of all together."""
    arrays = {name: np.asarray(values, "float64") for name, values in record._asdict().items()}
    groups = [np.ones(len(task), bool)]
    if getattr(loss, "per_task", False) is None:
        groups = [task == t for t in np.unique(task)]
    found = []
    for rows in groups:
        weights, logits = arrays["weights"][rows], arrays["scores"][rows]
        if isinstance(loss, tfmoe.ImportanceLoss):
            found.append(reference.importance_loss(weights))
        elif isinstance(loss, tfmoe.SwitchLoss):
            found.append(reference.switch_loss(weights, arrays["probabilities"][rows]))
        elif isinstance(loss, tfmoe.LoadLoss):
            found.append(reference.load_loss(logits, np.ones_like(logits), 2))
        else:
            found.append(reference.z_loss(logits))
    return loss.weight * np.mean(found)


@pytest.mark.parametrize("loss", BALANCE, ids=lambda loss: f"{type(loss).__name__}-{loss.__dict__}")
def test_balance_is_a_tasks_own_where_rows_have_one(loss):
    gate, task = made(tfmoe.TopKGate, balance=loss), np.array([3, 0, 3, 3, 1, 0, 1])
    _, record = gate(inputs(7), task=task, training=True, return_aux=True)
    expected = balance_by_reference(loss, record, task)
    assert float(sum(gate.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("reachability", ["fold", "penalty"])
def test_a_gates_own_losses_are_means_over_the_rows(reachability):
    options = {"entropy_reg": 0.3, "reachability": reachability}
    gate, task = made(tfmoe.DSelectKGate, **options, scale=0.1), np.array([3, 0, 3, 1])
    expected = 0.0
    for row in range(4):
        one = made(tfmoe.DSelectKGate, num_tasks=1, **options)
        start = task[row] * gate.head.num_scores
        for own, whole in zip(one.head.weights, gate.head.weights, strict=True):
            own.assign(whole[..., start : start + gate.head.num_scores])
        one(inputs(4)[row : row + 1], training=True)
        expected += float(sum(one.losses)) / 4
    gate(inputs(4), task=task, training=True)
    assert float(sum(gate.losses)) == pytest.approx(expected, rel=1e-5)


def test_state_of_a_task_moves_by_its_own_rows():
    task, x = np.array([3, 0, 3, 3, 1, 0]), inputs(6)
    balanced = made(tfmoe.BalancedTopKGate, rate=0.1)
    start = balanced.bias.numpy()
    weights = balanced(x, task=task, training=True).numpy()
    relu = made(tfmoe.ReLUGate)
    relu.coefficient.assign(np.full(TASKS, 1e-4))
    positive = relu(x, task=task, training=True).numpy()
    loss, expected_loss = float(relu.losses[0]), 0.0
    for t in range(TASKS):
        rows = task == t
        bias, moved = start[t : t + 1], np.array([1e-4])
        if rows.any():
            bias = reference.balanced_bias(weights[rows], bias, 0.1)
            moved = reference.relu_gate_coefficients(positive[rows], 2, moved)
            own = reference.relu_gate_loss(positive[rows], 2, [1e-4])
            expected_loss += rows.mean() * own
        np.testing.assert_allclose(balanced.bias[t], bias[0], atol=1e-6)
        np.testing.assert_allclose(relu.coefficient[t], moved[0], rtol=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5)


@pytest.mark.quick(10)
# Without the gate whose noise is other numbers for fewer rows, and static gates of all tasks,
# of which one row stands for all.
@pytest.mark.parametrize("kind", [k for k in LEARNED if k is not tfmoe.GumbelGate])
@pytest.mark.parametrize(
    ("one_task", "router"), [(True, "linear"), (True, "static"), (False, "linear")]
)
def test_rows_that_are_not_present_do_not_count(kind, one_task, router):
    balance = [tfmoe.ImportanceLoss(), tfmoe.SwitchLoss(), tfmoe.SwitchLoss(per_task=True)]
    options = {"balance": balance}
    if kind in (tfmoe.DSelectKGate, tfmoe.CometGate):
        options["entropy_reg"] = 0.3
    if kind is tfmoe.TopKGate:
        options["balance"] = [*balance, tfmoe.LoadLoss(), tfmoe.ZLoss()]
    if kind is not tfmoe.SoftmaxGate:
        options["usage_decay"] = 0.9
    x, task, present = inputs(6), np.array([3, 0, 3, 3, 1, 0]), np.array([1, 0, 1, 1, 0, 1.0])
    some, fewer = (made(kind, router, **options) for _ in range(2))
    there = present > 0
    of_some = {"task": task} if one_task else {}
    of_fewer = {"task": task[there]} if one_task else {}
    weights, record = some(x, **of_some, row_mask=present, training=True, return_aux=True)
    np.testing.assert_array_equal(record.mask, present)
    expected = fewer(x[there], **of_fewer, training=True)
    np.testing.assert_allclose(weights.numpy()[there], expected, atol=1e-6)
    assert [float(loss) for loss in some.losses] == pytest.approx(
        [float(loss) for loss in fewer.losses], rel=1e-5
    )
    for one, other in zip(some.weights, fewer.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7, err_msg=one.path)


@given(
    kind=st.sampled_from(["mlp", "low_rank"]),
    hidden=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dim=st.integers(1, 4),
    seed=st.integers(0, 100),
)
@settings(max_examples=settings.default.max_examples * 2 // 3)
def test_task_router_matches_reference(kind, hidden, dim, seed):
    router = tfmoe.TaskRouter(dim, hidden, kind, activation="tanh")
    gate = made(tfmoe.SoftmaxGate, router, 3, seed)
    x = inputs(4, seed=seed)
    values = {weight.name: weight.numpy() for weight in gate.head.weights}
    embeddings, kernel = values["embeddings"], values["kernel"]
    if kind == "mlp":
        layers = [
            (values[f"hidden_kernel_{i}"], values[f"hidden_bias_{i}"]) for i in range(len(hidden))
        ]
        make = partial(reference.task_router_mlp, layers=layers, head=kernel, activation=np.tanh)
    else:
        make = partial(
            reference.task_router_low_rank,
            shared=kernel[:FEATURES],
            down=values["down"],
            up=kernel[FEATURES:],
        )
    _, record = gate(x, return_aux=True)
    np.testing.assert_allclose(record.scores, make(x, embeddings), atol=1e-5)
    assert len(gate.head.weights) == (2 + 2 * len(hidden) if kind == "mlp" else 3)


@each_learned
@pytest.mark.parametrize("router", ["task_mlp", "task_low_rank"])
def test_tasks_of_a_shared_router_do_not_start_alike(kind, router):
    gate = kind(TASKS, EXPERTS, router=ROUTERS[router])
    _, record = gate(inputs(40), return_aux=True)
    scores = record.scores.numpy()
    # Not even up to a constant: that is what a linear router would add.
    varying = scores - scores.mean(axis=0)
    for t in range(1, TASKS):
        assert np.abs(varying[:, t] - varying[:, 0]).max() > 0.1 * np.abs(varying[:, 0]).max()


@pytest.mark.quick(4)
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_task_aware_gate_matches_reference(k, renormalize):
    gate = made(tfmoe.TaskAwareGate, "task_mlp", num_nonzeros=k, renormalize=renormalize)
    weights, record = gate(inputs(), return_aux=True)
    for b, row in enumerate(np.asarray(record.scores, "float64")):
        for t, scores in enumerate(row):
            expected = reference.task_aware_gate(scores, k, renormalize)
            np.testing.assert_allclose(weights[b, t], expected, atol=1e-6)
            np.testing.assert_allclose(
                record.probabilities[b, t], reference.softmax(scores), atol=1e-6
            )


def test_one_expert_of_a_task_aware_gate_is_learned_unless_renormalized():
    task, along = np.array([0, 1, 2, 3]), np.random.default_rng(0).normal(size=(4, 1, EXPERTS))
    for renormalize in (False, True):
        gate = made(tfmoe.TaskAwareGate, num_nonzeros=1, renormalize=renormalize)
        found = gradients(gate, lambda gate=gate: gate(inputs(4), task=task), along)
        assert bool(np.any(found[0])) is not renormalize


def test_experts_that_are_gone_do_not_inflate_the_others():
    whole = made(tfmoe.TaskAwareGate, "task_mlp")
    kept = [4, 0, 2]
    part = tfmoe.TaskAwareGate(
        TASKS, 3, router=ROUTERS["task_mlp"], expert_ids=kept, num_choices=EXPERTS
    )
    part.build((None, FEATURES))
    part.set_weights(whole.get_weights())
    x, task = inputs(50), np.arange(50) % TASKS
    weights, record = whole(x, task=task, return_aux=True)
    np.testing.assert_allclose(part(x, task=task), weights.numpy()[..., kept], rtol=1e-5, atol=1e-6)
    # A softmax over the survivors alone, which is what ours is not.
    pruned = np.array([reference.softmax(row) for row in record.scores.numpy()[:, 0, kept]])
    chosen = weights.numpy()[:, 0, kept] > 0
    assert (pruned[chosen] / weights.numpy()[:, 0, kept][chosen]).min() > 1.01


@pytest.mark.parametrize("kind", [*SELECTING, tfmoe.HashGate], ids=lambda kind: kind.__name__)
def test_usage_is_the_average_share_of_a_tasks_rows(kind):
    gate = made(kind, usage_decay=0.7)
    assert np.isnan(gate.usage).all()
    steps = []
    for step, tasks in enumerate([[0, 0, 2], [2, 4, 2, 2], [0, 2, 0, 4, 4]]):
        task, x = np.array(tasks), inputs(len(tasks), seed=step)
        weights = gate(x, task=task, ids=np.arange(len(tasks)) + step, training=True)
        steps.append((weights.numpy(), task))
        gate(x, task=task, ids=task)
    expected = reference.usage(steps, TASKS, 0.7)
    assert np.isnan(expected[[1, 3]]).all()
    np.testing.assert_allclose(gate.usage, expected, atol=1e-6)


@pytest.mark.parametrize("router", ["linear", "static"])
def test_usage_where_rows_have_all_tasks(router):
    gate = made(tfmoe.TopKGate, router, usage_decay=0.7)
    steps = [gate(inputs(8, seed=step), training=True).numpy() > 0 for step in range(3)]
    shares = [step.mean(axis=0) for step in steps]
    expected = np.average(shares, axis=0, weights=[0.49, 0.7, 1.0])
    np.testing.assert_allclose(gate.usage, expected, atol=1e-6)
    part = tfmoe.TopKGate(
        TASKS, 2, router=router, usage_decay=0.7, expert_ids=[4, 1], num_choices=EXPERTS
    )
    assert part.usage is None
    part.build((None, FEATURES))
    part.set_weights(gate.get_weights())
    np.testing.assert_array_equal(part.usage, gate.usage[:, [4, 1]])
    assert made(tfmoe.TopKGate).usage is None


@pytest.mark.quick(1)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_usage_is_kept_in_fit_and_saved(jit_compile, tmp_path):
    symbols = keras.Input((FEATURES,)), keras.Input((), dtype="int32")
    gate = tfmoe.TaskAwareGate(TASKS, EXPERTS, usage_decay=0.5, router="linear")
    model = keras.Model(symbols, gate(symbols[0], task=symbols[1]))
    x, task = inputs(40), np.repeat([0, 2, 4, 2, 0], 8).astype("int32")
    chosen = np.asarray(model([x, task])) > 0
    steps = [(chosen[rows], task[rows]) for rows in np.split(np.arange(40), 5)]
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    y = np.zeros((40, 1, EXPERTS))
    model.fit([x, task], y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(gate.usage, reference.usage(steps, TASKS, 0.5), atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").get_layer(gate.name)
    np.testing.assert_array_equal(again.usage, gate.usage)


@pytest.mark.parametrize("kind", ["mlp", "low_rank"])
def test_a_task_router_starts_by_the_global_seed(kind):
    found = []
    for seed in (1, 2, 1):
        keras.utils.set_random_seed(seed)
        gate = tfmoe.TaskAwareGate(3, 8, router=tfmoe.TaskRouter(dim=4, kind=kind))
        gate.build((None, 5))
        found.append([np.array(weight) for weight in gate.weights])
    for first, second, again in zip(*found, strict=True):
        assert np.any(first != second) or not first.any()
        np.testing.assert_array_equal(first, again)


def test_task_router_survives_json():
    router = tfmoe.TaskRouter(3, [5], "mlp", "gelu", keras.initializers.Orthogonal(seed=1), "zeros")
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(router)))
    again = keras.saving.deserialize_keras_object(saved)
    assert again.get_config() == router.get_config()
    with pytest.raises(AttributeError):
        router.dim = 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.TaskRouter(0), "TaskRouter needs `dim`.*Received dim=0"),
        (lambda: tfmoe.TaskRouter(kind="x"), '"mlp" or "low_rank". Received kind=.x.'),
        (
            lambda: tfmoe.TaskRouter(hidden_units=()),
            r'adds a constant.*Received hidden_units=\(\).*kind="low_rank"',
        ),
        (lambda: tfmoe.TaskAwareGate(num_nonzeros=0), "at least 1. Received num_nonzeros=0"),
        (lambda: tfmoe.TopKGate(usage_decay=1), "between 0 and 1, or None. Received usage_decay=1"),
        (
            lambda: made(tfmoe.SoftmaxGate, usage_decay=0.9),
            "Received usage_decay=0.9 for SoftmaxGate, which gives all.*such as TopKGate",
        ),
        (
            lambda: made(tfmoe.GumbelGate, num_nonzeros=None, usage_decay=0.9),
            "Received usage_decay=0.9 for GumbelGate, which gives all",
        ),
        (
            lambda: made(tfmoe.TopKGate)(inputs(), task=np.ones(5)),
            r"integers of shape \(batch,\). Received task of shape \(5,\) and type float",
        ),
        (
            lambda: made(tfmoe.TopKGate)(inputs(), task=np.ones((5, 1), int)),
            r"integers of shape \(batch,\). Received task of shape \(5, 1\) and type int64",
        ),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("router", ["linear", "task_mlp", "task_low_rank", "static"])
def test_gradients_have_each_task_once(router):
    """Keras's optimizers on TensorFlow take wrong steps where a row comes twice."""
    gate = made(tfmoe.TopKGate, router)
    with tf.GradientTape() as tape:
        loss = ops.sum(gate(inputs(), task=np.ones(len(inputs()), int)) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in gate.trainable_weights])
    assert not any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
