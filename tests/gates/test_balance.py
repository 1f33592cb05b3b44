import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import ops

import tfmoe
from tests.oracles import reference

TASKS, EXPERTS, FEATURES, ROWS = 3, 5, 4, 6
LOSSES = [tfmoe.ImportanceLoss, tfmoe.LoadLoss, tfmoe.SwitchLoss, tfmoe.ZLoss]
each_loss = pytest.mark.parametrize("kind", LOSSES)
USAGE = LOSSES[:3]


def inputs(rows=ROWS, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return (scale * rng.normal(size=(rows, FEATURES))).astype("float32")


def top_k(balance, k=2, router="linear", **options):
    """A top-k gate with other weights than it starts with."""
    gate = tfmoe.TopKGate(TASKS, EXPERTS, k, router=router, balance=balance, **options)
    gate.build((None, FEATURES))
    rng = np.random.default_rng(1)
    for weight in gate.weights:
        if weight in gate.trainable_weights:
            weight.assign(rng.normal(size=weight.shape))
    return gate


def loss_of(gate, x):
    gate(x, training=True)
    return float(sum(gate.losses))


def expected_loss(loss, gate, record):
    """By the oracles, without the weight."""
    record = record._replace(
        **{
            n: np.asarray(getattr(record, n), "float64")
            for n in ("probabilities", "scores", "weights")
        }
    )
    logits, learned = np.split(record.scores, [gate.num_experts], axis=-1)
    if isinstance(loss, tfmoe.ImportanceLoss):
        return reference.importance_loss(record.weights, loss.per_task)
    if isinstance(loss, tfmoe.LoadLoss):
        spread = np.log1p(np.exp(learned)) if gate.noisy else np.full(logits.shape, loss.sigma)
        return reference.load_loss(logits, spread, gate.num_nonzeros, loss.per_task)
    if isinstance(loss, tfmoe.SwitchLoss):
        return reference.switch_loss(record.weights, record.probabilities, loss.per_task)
    return reference.z_loss(logits)


CASES = [
    *(kind(0.3, per_task=per_task) for kind in USAGE for per_task in (False, True)),
    tfmoe.LoadLoss(0.3, sigma=0.2),
    tfmoe.ZLoss(0.3),
]


@pytest.mark.quick(30)
@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("loss", CASES, ids=lambda loss: f"{type(loss).__name__}-{loss.__dict__}")
def test_balance_loss_matches_reference(loss, router, k, noisy):
    gate = top_k([loss], k, router, noisy=noisy, seed=3)
    _, record = gate(inputs(), training=True, return_aux=True)
    expected = 0.3 * expected_loss(loss, gate, record)
    assert float(sum(gate.losses)) == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_papers_are_the_defaults():
    assert [kind().weight for kind in LOSSES] == [0.1, 0.1, 0.01, 1e-3]
    for kind in LOSSES:
        assert loss_of(top_k(kind()), inputs()) == pytest.approx(
            kind().weight * loss_of(top_k(kind(1.0)), inputs()), rel=1e-5
        )


def row_of(*weights):
    """A record of one row of one task."""
    weights = ops.reshape(ops.convert_to_tensor(weights, "float32"), (1, 1, -1))
    return tfmoe.GateOutput(probabilities=weights, scores=weights, weights=weights)


@pytest.mark.parametrize(
    ("loss", "weights", "expected"),
    [
        (tfmoe.ImportanceLoss(1.0), (0.25, 0.25, 0.25, 0.25), 0.0),
        (tfmoe.ImportanceLoss(1.0), (1.0, 0.0, 0.0, 0.0), 3.0),
        (tfmoe.ImportanceLoss(1.0), (0.0, 0.0, 0.0, 0.0), 0.0),
        (tfmoe.SwitchLoss(1.0), (0.25, 0.25, 0.25, 0.25), 1.0),
        (tfmoe.SwitchLoss(1.0), (1.0, 0.0, 0.0, 0.0), 4.0),
        (tfmoe.SwitchLoss(1.0), (0.0, 0.0, 0.0, 0.0), 0.0),
        (tfmoe.ZLoss(1.0), (0.0, 0.0, 0.0, 0.0), math.log(4) ** 2),
        (tfmoe.LoadLoss(1.0), (0.5, 0.5, 0.5, 0.5), 0.0),
        # Far from the threshold: one of k = 1 is always chosen, the others never.
        (tfmoe.LoadLoss(1.0, sigma=1e-3), (1.0, 0.0, -1.0, -2.0), 3.0),
    ],
)
def test_balance_loss_at_its_ends(loss, weights, expected):
    gate = tfmoe.TopKGate(1, 4, num_nonzeros=1)
    assert float(loss(gate, row_of(*weights))) == pytest.approx(expected, abs=1e-6)


def test_load_is_the_share_of_choices_that_noise_makes():
    gate = top_k((), k=2, noisy=True)
    logits, spread = np.array([1.0, 0.8, 0.5, -0.2, -3.0]), np.array([0.4, 0.1, 0.6, 0.9, 0.2])
    rng = np.random.default_rng(0)
    threshold = [np.sort(np.delete(logits, e))[-2] for e in range(EXPERTS)]
    drawn = logits + spread * rng.normal(size=(100_000, EXPERTS))
    shares = np.mean(drawn > threshold, axis=0)
    scores = np.concatenate([logits, np.log(np.expm1(spread))]).astype("float32")
    record = tfmoe.GateOutput(scores=ops.convert_to_tensor(scores.reshape(1, 1, -1)))
    expected = reference.squared_variation(shares)
    assert float(tfmoe.LoadLoss(1.0)(gate, record)) == pytest.approx(expected, rel=0.02)


def test_load_is_even_where_all_experts_are_always_chosen():
    for k in (EXPERTS, EXPERTS + 3):
        assert loss_of(top_k(tfmoe.LoadLoss(), k), inputs()) == 0


def test_pooled_tasks_may_have_experts_of_their_own():
    gate = tfmoe.TopKGate(2, 4, num_nonzeros=2, router="static")
    gate.build((None, FEATURES))
    gate.head.scores.assign([[5.0, 5, 0, 0, 0, 0, 5, 5]])
    record = gate(inputs(), return_aux=True)[1]
    for kind, even in ((tfmoe.ImportanceLoss, 0), (tfmoe.LoadLoss, 0), (tfmoe.SwitchLoss, 1)):
        pooled, alone = (float(kind(1.0, per_task=p)(gate, record)) for p in (False, True))
        assert pooled == pytest.approx(even, abs=1e-5)
        assert alone > even + 0.9


@pytest.mark.parametrize("loss", CASES, ids=lambda loss: f"{type(loss).__name__}-{loss.__dict__}")
def test_value_is_the_same_at_any_batch_size_and_number_of_tasks(loss):
    once = loss_of(top_k(loss), inputs())
    assert loss_of(top_k(loss), np.tile(inputs(), (5, 1))) == pytest.approx(once, rel=1e-5)
    more = tfmoe.TopKGate(2 * TASKS, EXPERTS, 2, balance=loss)
    more.build((None, FEATURES))
    more.head.kernel.assign(np.tile(top_k(loss).head.kernel.numpy(), (1, 2)))
    assert loss_of(more, inputs()) == pytest.approx(once, rel=1e-5)


@pytest.mark.quick(7)
@pytest.mark.parametrize("router", ["linear", "static"])
@pytest.mark.parametrize("loss", CASES, ids=lambda loss: f"{type(loss).__name__}-{loss.__dict__}")
def test_gradients_match_finite_differences(loss, router):
    # Without noise, which would be another in each call; the spread has a test below.
    gate = top_k(loss, router=router, dtype="float64")
    x = inputs().astype("float64")
    (weight,) = gate.trainable_weights
    start = weight.numpy()
    along = np.random.default_rng(2).normal(size=start.shape)

    def value(step=0.0):
        weight.assign(start + step * along)
        gate(x, training=True)
        return gate.losses[0]

    with tf.GradientTape() as tape:
        total = value()
    slope = np.sum(tape.gradient(total, weight.value).numpy() * along)
    expected = (float(value(1e-6)) - float(value(-1e-6))) / 2e-6
    assert abs(expected) > 1e-6
    assert slope == pytest.approx(expected, rel=1e-5)


def test_the_learned_spread_learns_from_the_load():
    gate = top_k(tfmoe.LoadLoss(), noisy=True)
    with tf.GradientTape() as tape:
        gate(inputs(), training=True)
        loss = gate.losses[0]
    gradient = tape.gradient(loss, gate.head.kernel.value).numpy()
    of_spread = gradient.reshape(FEATURES, TASKS, 2, EXPERTS)[:, :, 1]
    assert np.isfinite(gradient).all()
    assert np.any(of_spread != 0, axis=(0, 2)).all()


def test_losses_are_for_training_only_and_come_before_experts_are_dropped():
    gate = top_k([tfmoe.ImportanceLoss(), tfmoe.ZLoss()])
    gate(inputs())
    assert gate.losses == []
    whole = loss_of(gate, inputs())
    part = tfmoe.TopKGate(
        TASKS,
        2,
        2,
        expert_ids=[4, 1],
        num_choices=EXPERTS,
        balance=[tfmoe.ImportanceLoss(), tfmoe.ZLoss()],
    )
    part.build((None, FEATURES))
    part.head.kernel.assign(gate.head.kernel)
    assert loss_of(part, inputs()) == pytest.approx(whole, rel=1e-6)


@each_loss
@given(
    k=st.integers(1, 6),
    router=st.sampled_from(["linear", "static"]),
    noisy=st.booleans(),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 1e4]),
    policy=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16"]),
    seed=st.integers(0, 100),
)
def test_losses_and_gradients_are_finite(kind, k, router, noisy, scale, policy, seed):
    # The logits' squares have gradients of more than float16 can hold, which no loss can mend.
    assume(not (kind is tfmoe.ZLoss and policy == "mixed_float16" and scale > 1))
    gate = top_k(kind(), k, router, noisy=noisy, dtype=policy)
    for weight in gate.trainable_weights:
        weight.assign(weight * max(scale, 1))
    x = tf.constant(inputs(3, scale, seed))
    with tf.GradientTape() as tape:
        gate(x, training=True)
        loss = gate.losses[0]
    assert np.isfinite(float(loss))
    assert float(loss) >= 0
    for gradient in tape.gradient(loss, [w.value for w in gate.trainable_weights]):
        assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_uneven_gate_becomes_even_in_training(jit_compile):
    losses = [kind(1.0) for kind in LOSSES]
    gate = tfmoe.TopKGate(2, EXPERTS, 2, balance=losses)
    x = np.abs(inputs(256))
    symbol = keras.Input((FEATURES,))
    model = keras.Model(symbol, gate(symbol))
    start = gate.head.kernel.numpy()
    start[:, [0, 1, 5, 6]] += 1
    gate.head.kernel.assign(start)
    before = loss_of(gate, x)
    chosen = np.count_nonzero(gate(x), axis=(0, 1))
    assert chosen.max() > 5 * (chosen.min() + 1)
    model.compile(keras.optimizers.Adam(0.05), "mse", loss_weights=0.0, jit_compile=jit_compile)
    model.fit(x, np.zeros((256, 2, EXPERTS)), batch_size=64, epochs=20, verbose=0)
    chosen = np.count_nonzero(gate(x), axis=(0, 1))
    assert chosen.max() < 2 * chosen.min()
    assert loss_of(gate, x) < 0.7 * before


@pytest.mark.parametrize(
    "loss",
    [
        tfmoe.ImportanceLoss(0.7, per_task=True),
        tfmoe.LoadLoss(0.7, per_task=True, sigma=0.4),
        tfmoe.SwitchLoss(0.7, per_task=True),
        tfmoe.ZLoss(0.7),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_balance_survives_json_and_saving(loss, tmp_path):
    gate = tfmoe.TopKGate(balance=loss, router="static")
    saved = json.dumps(keras.saving.serialize_keras_object(gate))
    (again,) = keras.saving.deserialize_keras_object(json.loads(saved)).balance
    assert type(again) is type(loss)
    assert again.__dict__ == loss.__dict__
    symbol = keras.Input((FEATURES,))
    model = keras.Model(symbol, tfmoe.MMoE(2, 3, (4,), gate=gate)(symbol))
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, reloaded):
        one(inputs(), training=True)
    assert float(reloaded.losses[0]) == pytest.approx(float(model.losses[0]), rel=1e-6)
    assert float(model.losses[0]) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfmoe.SwitchLoss(-1), "SwitchLoss is weighed.*Received weight=-1"),
        (lambda: tfmoe.ZLoss(math.nan), "at least 0. Received weight=nan"),
        (lambda: tfmoe.LoadLoss(sigma=0), "above 0. Received sigma=0. Take"),
        (
            lambda: tfmoe.SoftmaxGate(balance="switch"),
            r"takes as `balance` losses such as tfmoe.SwitchLoss\(\). Received balance=",
        ),
        (
            lambda: tfmoe.SoftmaxGate(2, 3, balance=tfmoe.LoadLoss())(inputs(), training=True),
            "among the `num_nonzeros`.*Received gate=SoftmaxGate.*Use ImportanceLoss",
        ),
        (
            lambda: tfmoe.DSelectKGate(2, 3, balance=tfmoe.LoadLoss())(inputs(), training=True),
            "LoadLoss needs logits.*Received gate=DSelectKGate.*Use ImportanceLoss",
        ),
        (
            lambda: tfmoe.DSelectKGate(2, 3, balance=tfmoe.ZLoss())(inputs(), training=True),
            "ZLoss needs logits.*Received gate=DSelectKGate",
        ),
    ],
)
def test_balance_losses_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
