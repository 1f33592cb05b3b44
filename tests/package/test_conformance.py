"""Every public layer keeps every promise of conformance.py."""

from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import pytest

import tfmoe
from tests.package import conformance

UNIFORM = keras.initializers.RandomUniform(-0.5, 0.5, seed=3)
PERMUTATION = partial(tfmoe.LearnedPermutation, 40, (0.5, 0.1), (25, 50), 0.01)
DECAY = keras.optimizers.schedules.ExponentialDecay(2.0, 10, 0.9)
STACK = {
    "hidden_units": (5, 4),
    "activation": "gelu",
    "dropout": 0.25,
    "layer_norm": True,
    "kernel_initializer": UNIFORM,
}
SCHEMA = tfmoe.Schema(
    columns=[
        tfmoe.Numeric("age"),
        tfmoe.Categorical("city", dim=3),
        tfmoe.MultiCategorical("cities", share="city", pooling="sum"),
        tfmoe.Sequence("visits", share="city", pooling="max"),
        tfmoe.MultiCategorical("tags", dim=2),
        tfmoe.Numeric("income", transform="buckets", dim=2),
    ],
    tasks=[tfmoe.Binary("click"), tfmoe.Regression("spend", standardize=False)],
)
SIZES = {"city": 9, "tags": 6, "income": 7}
HISTORIES = tfmoe.Schema(
    [
        *(SCHEMA.column("age"), SCHEMA.column("city"), tfmoe.Categorical("tag", share="tags")),
        tfmoe.Sequence("visits", share="city", pooling=tfmoe.TargetAttention("city"), weights="w"),
        tfmoe.Sequence("kinds", dim=2, aligned_with="visits", hash_buckets=6),
        tfmoe.Sequence("dwell", dim=2, aligned_with="visits", boundaries=(1, 2, 5)),
        tfmoe.Sequence("tags", dim=2, pooling=tfmoe.BST("tag", 1, hidden_units=3)),
    ],
    [tfmoe.Binary("click")],
)
# The kinds of column that are no single number or id.
KINDS = tfmoe.Schema(
    columns=[
        tfmoe.Vector("emb", size=3),
        tfmoe.Timestamp("at", parts=["hour", "age"]),
        tfmoe.Timestamp("ids", cyclic=False, parts=["weekday"], dim=2),
        tfmoe.Sequence("visits", weights="w", dim=2),
        tfmoe.Text("title", hash_buckets=3, max_length=2, dim=2),
    ],
    tasks=[tfmoe.Binary("click")],
)
KIND_SIZES = {"ids": 10, "visits": 6, "title": 6}


class Case(NamedTuple):
    """A layer with no argument at its default, and what it is called with."""

    make: partial
    inputs: object
    options: dict


def _matrix(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _router():
    return tfmoe.MLPRouter((6,), "tanh", UNIFORM)


def _ids(size, *shape):
    return np.random.default_rng(0).integers(0, size, shape).astype("int32")


FEATURES = {
    "age": _matrix(4),
    "city": _ids(9, 4),
    "cities": _ids(9, 4, 3),
    "visits": _ids(9, 4, 5),
    "tags": _ids(6, 4, 2),
    "income": _ids(7, 4),
}
READ = {**FEATURES, "tag": _ids(6, 4), "kinds": _ids(9, 4, 5), "dwell": _ids(7, 4, 5)}
READ["visits_weights"] = _matrix(4, 5)
HISTORY = {
    "history": _matrix(4, 5, 4),
    "candidate": _matrix(4, 2),
    "present": np.arange(5) < np.array([5, 3, 1, 2])[:, None],
}


KIND_FEATURES = {
    "emb": _matrix(4, 3),
    "at": _matrix(4, 3),
    "ids": _ids(10, 4, 1),
    "visits": _ids(6, 4, 2),
    "visits_weights": _matrix(4, 2),
    "title": _ids(6, 4, 2),
}


def _case(kind, *arguments, inputs=None, **keywords):
    options = {
        key: keywords.pop(key) for key in ("aux", "keeps_float32", "defaults") if key in keywords
    }
    inputs = _matrix(4, 5) if inputs is None else inputs
    return Case(partial(kind, *arguments, **keywords), inputs, options)


def _gates():
    static = [
        _case(tfmoe.SoftmaxGate, 2, 3, 2.0, "static", UNIFORM, aux=True),
        _case(tfmoe.TopKGate, 2, 4, 3, True, "static", UNIFORM, 7, False, aux=True),
        _case(tfmoe.DSelectKGate, 2, 5, 3, 2.0, 0.1, "static", "penalty", aux=True),
        _case(tfmoe.GumbelGate, 2, 4, 2, DECAY, "static", UNIFORM, 7, aux=True),
        _case(tfmoe.SparsemaxGate, 2, 4, "static", UNIFORM, aux=True),
        _case(tfmoe.EntmaxGate, 2, 4, "static", UNIFORM, aux=True),
        _case(tfmoe.ReLUGate, 2, 4, 3, 0.5, "static", UNIFORM, aux=True),
        _case(tfmoe.CometGate, 2, 5, 3, 2.0, DECAY, "static", PERMUTATION(), aux=True),
        _case(tfmoe.BalancedTopKGate, 2, 4, 3, 0.1, "static", UNIFORM, aux=True),
    ]
    routed = [
        _case(tfmoe.SoftmaxGate, 2, 3, 2.0, _router(), UNIFORM, aux=True),
        _case(tfmoe.TopKGate, 2, 4, 3, True, _router(), UNIFORM, 7, False, aux=True),
        _case(tfmoe.DSelectKGate, 2, 5, 3, 2.0, 0.1, _router(), "penalty", aux=True),
        _case(tfmoe.GumbelGate, 2, 4, 2, DECAY, _router(), UNIFORM, 7, aux=True),
        _case(tfmoe.SparsemaxGate, 2, 4, _router(), UNIFORM, aux=True),
        _case(tfmoe.EntmaxGate, 2, 4, _router(), UNIFORM, aux=True),
        _case(tfmoe.ReLUGate, 2, 4, 3, 0.5, _router(), UNIFORM, aux=True),
        _case(tfmoe.CometGate, 2, 5, 3, 2.0, DECAY, _router(), PERMUTATION(), aux=True),
        _case(tfmoe.BalancedTopKGate, 2, 4, 3, 0.1, _router(), UNIFORM, aux=True),
    ]
    hashed = {"inputs": _matrix(4, 5), "ids": _ids(9, 4)}
    one_task = {"inputs": _matrix(4, 5), "task": np.array([2, 0, 1, 2], "int32")}
    by_task = [
        _case(tfmoe.TaskAwareGate, 3, 4, 3, router, True, UNIFORM, inputs=x, aux=True)
        for router in (
            tfmoe.TaskRouter(3, (6, 3), "mlp", "tanh", UNIFORM, UNIFORM),
            tfmoe.TaskRouter(3, (), "low_rank", "tanh", UNIFORM, UNIFORM),
        )
        for x in (one_task, _matrix(4, 5))
    ]
    return [
        *static,
        *routed,
        *by_task,
        # Enough tasks for each row's own router to be computed alone.
        _case(tfmoe.TaskAwareGate, 5, 4, 3, "linear", True, UNIFORM, inputs=one_task, aux=True),
        _case(tfmoe.HashGate, 2, 4, "user", True, 7, [3, 0], inputs=hashed, aux=True),
    ]


def _mixtures():
    gate = tfmoe.DSelectKGate(num_nonzeros=3, gamma=2.0, router=_router())
    top_k = tfmoe.TopKGate(router="static")
    sparse = {"dispatch": "sparse", "aux": True, "defaults": ["experts"], **STACK}
    # As configs, for each mixture needs layers of its own.
    as_config = keras.saving.serialize_keras_object
    dense = as_config(keras.layers.Dense(4, "tanh", kernel_initializer=UNIFORM))
    flat = as_config(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)]))
    ready = {"dispatch": "dense", "aux": True, **STACK}
    images = _matrix(4, 2, 3)
    return [
        _case(tfmoe.MMoE, 2, 5, gate=gate, **sparse),
        _case(tfmoe.MMoE, 2, 5, gate=tfmoe.TopKGate(), **sparse),
        _case(tfmoe.OMoE, 2, 5, gate=top_k, **sparse),
        _case(tfmoe.MMoE, 2, 3, gate=gate, experts=[dense] * 3, **ready),
        _case(tfmoe.OMoE, 2, 2, gate=top_k, experts=[flat] * 2, **ready, inputs=images),
        _case(tfmoe.SharedBottom, 2, **STACK, aux=True),
        *_own_experts(),
        *_homes(),
        *_stems(),
        *_streams(),
        *_scenarios(),
    ]


def _scenarios():
    """Every scenario has rows, or what is its own would get no gradient."""
    x, ids = _matrix(4, 5), np.arange(4, dtype="int32") % 3
    rows = {"inputs": x, "context": {"scenario": ids}}
    one = {"task": np.array([0, 1, 1, 0], "int32")}
    norm = {n: v for n, v in STACK.items() if n != "layer_norm"}
    gated = {"inputs": x, "prior": _matrix(4, 2)}
    towers = {"inputs": _matrix(4, 2, 5), "scenario": ids}
    return [
        _case(tfmoe.STAR, 2, 3, auxiliary_units=(4,), **norm, inputs=rows, defaults=["layer_norm"]),
        _case(
            tfmoe.STAR, 2, 3, auxiliary_units=(4,), **norm, layer_norm=False, inputs={**rows, **one}
        ),
        _case(tfmoe.EPNet, (4,), "tanh", UNIFORM, inputs=gated),
        *_meetings(),
        _case(tfmoe.PPNet, ["user"], (4,), "tanh", UNIFORM, 2, (3, 6), inputs=gated),
        _case(tfmoe.ScenarioTowers, (1, 3), 3, **STACK, inputs=towers, keeps_float32=True),
    ]


def _meetings():
    """Layers in which columns meet."""
    by_column = _matrix(4, 3, 5)
    some = [tfmoe.FM(), tfmoe.Cross(1)]
    return [
        _case(tfmoe.FM, vector=True, inputs=by_column),
        _case(tfmoe.FiBiNET, 2, "each", inputs=by_column),
        _case(tfmoe.AutoInt, 2, 3, 4, inputs=by_column),
        _case(tfmoe.Cross, 3, 2),
        _case(tfmoe.MaskNet, (6, 4), 5, [1, 2, 2]),
        _case(tfmoe.Interactions, some, True, False, 3, [3, 2]),
    ]


def _streams():
    gate = tfmoe.TopKGate(num_nonzeros=3, router=_router())
    some = {"num_streams": 3, "task_ids": [2, 0], "aux": True}
    one = {"inputs": _matrix(4, 5), "task": np.array([0, 1, 1, 0], "int32")}
    equal = {name: value for name, value in STACK.items() if name != "hidden_units"}
    return [
        _case(tfmoe.AdaTT, 2, 3, 1, 2, gate=gate, **some, **STACK),
        _case(tfmoe.AdaTT, 2, 3, 1, 2, gate=gate, **some, **STACK, inputs=one),
        _case(tfmoe.CrossStitch, 2, self_weight=0.7, **some, **STACK),
        _case(tfmoe.MTAN, 2, attention_units=3, **some, **STACK),
        _case(tfmoe.SNR, 2, 3, penalty=0.1, **some, **STACK, defaults=["kind"]),
        _case(tfmoe.SNR, 2, 3, (4, 4), "average", penalty=0.1, **some, **equal),
    ]


def _homes():
    gate = tfmoe.TopKGate(num_nonzeros=3, router=_router())
    one = {"inputs": _matrix(4, 5), "task": np.array([0, 1, 1, 0], "int32")}
    shared = {"hidden_units": (5, 4), "rank": 3, "gate": gate, "dropout": 0.25}
    shared |= {"kernel_initializer": UNIFORM, "aux": True}
    # Of three groups, the tasks of one of which are gone, as an expert of a group and a shared one.
    cut = {"expert_ids": [0, 1, 2, 3, 5, 6, 7]}
    return [
        _case(tfmoe.HoME, 2, [[1], [0]], 1, 3, 4, **shared, defaults=["expert_ids"]),
        _case(tfmoe.HoME, 2, [[1], [], [0]], 3, 3, 4, **shared, **cut),
        _case(tfmoe.HoME, 2, [[1], [], [0]], 3, 3, 4, **shared, **cut, inputs=one),
    ]


def _stems():
    gate = tfmoe.TopKGate(num_nonzeros=3, router=_router())
    shared = {"num_task_experts": 3, "num_shared_experts": 4, "gate": gate, "aux": True, **STACK}
    # Of four tasks the last and the first, which reads an expert of the second.
    cut = {"expert_ids": [0, 2, 3, 9, 10, 13, 15], "task_ids": [3, 0], "num_trained_tasks": 4}
    one = {"inputs": _matrix(4, 4, 5), "task": np.array([0, 1, 1, 0], "int32")}
    return [
        _case(tfmoe.STEM, 2, **shared, defaults=list(cut), inputs=_matrix(4, 3, 5)),
        _case(tfmoe.STEM, 2, **shared, **cut, inputs=_matrix(4, 4, 5)),
        _case(tfmoe.STEM, 2, **shared, **cut, inputs=one),
    ]


def _own_experts():
    gate = tfmoe.TopKGate(num_nonzeros=3, router=_router())
    one = {"inputs": _matrix(4, 5), "task": np.array([0, 1, 1, 0], "int32")}
    shared = {"num_task_experts": 3, "num_shared_experts": 4, "gate": gate, "aux": True, **STACK}
    # Of two tasks that there were with three own experts each, and four shared ones.
    level = [[0, 2], [0, 2, 3, 5, 1, 6, 9]]
    last = [[1, 2], [1, 2, 4, 5, 7, 8]]
    cut = {"num_trained_tasks": 2}
    return [
        _case(tfmoe.PLE, 2, 3, dispatch="sparse", defaults=["expert_ids", *cut], **shared),
        _case(tfmoe.PLE, 2, 1, expert_ids=[last], **cut, **shared, defaults=["dispatch"]),
        _case(tfmoe.CGC, 2, dispatch="sparse", expert_ids=[last], **cut, **shared, inputs=one),
        _case(
            tfmoe.PLE,
            2,
            3,
            expert_ids=[level, last, last],
            **cut,
            **shared,
            inputs=one,
            defaults=["dispatch"],
        ),
    ]


def _transformers():
    tokens, present = _matrix(6, 5, 6), np.arange(5) < np.array([5, 4, 5, 3, 5, 2])[:, None]
    task = np.array([0, 1, 1, 0, 1, 0], "int32")
    gate = tfmoe.TopKGate(num_nonzeros=3, usage_decay=0.8)
    shared = {"gate": gate, "mlp_ratio": 2.0, "causal": True, "dropout": 0.25, "aux": True}
    shared |= {"kv_bias": True, "epsilon": 1e-4}
    block = {"tokens": tokens, "present": present, "task": task}
    one = {"inputs": (tokens, present), "task": task}
    kept = [[0, 1, 3, 4], [4, 3, 2, 1]]
    return [
        _case(tfmoe.ModSquadBlock, 2, 5, dispatch="dense", expert_ids=kept, inputs=block, **shared),
        *(
            _case(tfmoe.ModSquad, 2, 6, 1, 5, **shared, **more, pooling="last", expert_ids=kept)
            for more in (
                {"dispatch": "sparse", "inputs": one},
                {"dispatch": "dense", "inputs": (tokens, present)},
            )
        ),
    ]


CASES = [
    *_gates(),
    *_mixtures(),
    *_transformers(),
    _case(tfmoe.MLPRouter, (6, 3), "tanh", UNIFORM),
    Case(PERMUTATION, _matrix(4, 3, 5), {"keeps_float32": True}),
    _case(tfmoe.Experts, 3, **STACK, last_activation="tanh"),
    _case(tfmoe.Experts, 20, **STACK, last_activation="tanh"),
    _case(tfmoe.Experts, 3, **STACK, last_activation="tanh", inputs=_matrix(4, 3, 5)),
    *(
        _case(
            tfmoe.Towers,
            (1, 3),
            **STACK,
            links={"1": (kind, 0)},
            inputs=_matrix(4, 2, 5),
            keeps_float32=True,
        )
        for kind in ("aitm", "dbmtl")
    ),
    _case(tfmoe.InterestAttention, (6, 3), "tanh", True, inputs=HISTORY),
    _case(
        tfmoe.InterestAttention,
        (6, 3),
        "tanh",
        True,
        inputs={**HISTORY, "weights": np.where(np.arange(5) == 1, 0, _matrix(4, 5))},
    ),
    _case(tfmoe.InterestTransformer, 4, 2, 6, 0.25, inputs=HISTORY),
    _case(tfmoe.Embedding, 9, 3, UNIFORM, 4, inputs=_ids(9, 4, 2)),
    *(
        _case(
            tfmoe.Encoder,
            *given,
            embeddings_regularizer=0.1,
            rows_multiple=2,
            inputs=features,
            defaults=["tokens", "copies", "lengths"],
        )
        for given, features in (
            ((SCHEMA, SIZES, UNIFORM), FEATURES),
            ((SCHEMA, SIZES, UNIFORM, 6), FEATURES),
            ((SCHEMA, SIZES, UNIFORM, None, 3), FEATURES),
            ((HISTORIES, {**SIZES, "kinds": 9, "dwell": 7}, UNIFORM), READ),
            ((KINDS, KIND_SIZES, UNIFORM), KIND_FEATURES),
            ((KINDS, KIND_SIZES, UNIFORM, 6), KIND_FEATURES),
            ((KINDS, KIND_SIZES, UNIFORM, None, 2), KIND_FEATURES),
        )
    ),
]


def _name(case):
    routers = [a for a in case.make.args if a == "static" or isinstance(a, tfmoe.MLPRouter)]
    parts = [case.make.func, *map(type, routers)]
    return "-".join([part.__name__ for part in parts] + [str(getattr(case.inputs, "ndim", 0))])


each_case = pytest.mark.parametrize("case", CASES, ids=_name)


@pytest.mark.quick(14)
@pytest.mark.whole
@each_case
def test_layer_keeps_its_promises(case):
    conformance.check_layer(case.make, case.inputs, **case.options)


@pytest.mark.quick(5)
@pytest.mark.whole
@each_case
def test_layer_survives_saving(case, tmp_path):
    conformance.check_saving(case.make, case.inputs, tmp_path)


def test_no_public_layer_escapes():
    abstract = {tfmoe.Gate, tfmoe.Structure, tfmoe.ByColumns}
    public = {getattr(tfmoe, name) for name in tfmoe.__all__} - abstract
    layers = {
        one
        for one in public
        if isinstance(one, type)
        and issubclass(one, keras.layers.Layer)
        and not issubclass(one, keras.Model)
    }
    assert layers == {case.make.func for case in CASES}
