"""Counts may be NumPy's, such as `ids.max() + 1`; configs are JSON, which knows none of them."""

import inspect
import json

import numpy as np
import pytest

import tfmoe

_int = np.int64
_SCHEMA = tfmoe.Schema(
    [tfmoe.Categorical("a", hash_buckets=_int(5), dim=_int(2))], [tfmoe.Binary("y")]
)


def gate(name, **given):
    kind = getattr(tfmoe, name)
    counts = {"num_tasks": _int(2), "num_experts": _int(3), "num_nonzeros": _int(2)}
    counts |= {"seed": _int(3), **given}
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in counts.items() if name in known})


_GATES = [
    name
    for name in tfmoe.__all__
    if inspect.isclass(getattr(tfmoe, name))
    and issubclass(getattr(tfmoe, name), tfmoe.Gate)
    and name != "Gate"
]
_LAYERS = {
    "MMoE": lambda: tfmoe.MMoE(_int(2), _int(3), (_int(4),)),
    "OMoE": lambda: tfmoe.OMoE(_int(2), _int(3), (_int(4),)),
    "SharedBottom": lambda: tfmoe.SharedBottom(_int(2), (_int(3),)),
    "ModSquad": lambda: tfmoe.ModSquad(
        _int(2), dim=_int(4), num_blocks=_int(1), num_experts=_int(3)
    ),
    "ModSquadBlock": lambda: tfmoe.ModSquadBlock(
        _int(2), _int(4), expert_ids=[[_int(1)], [_int(0)]]
    ),
    "Experts": lambda: tfmoe.Experts(_int(2), (_int(3),)),
    "Towers": lambda: tfmoe.Towers((_int(1), _int(2)), (_int(3),)),
    "Encoder": lambda: tfmoe.Encoder(_SCHEMA, {"a": _int(8)}, tokens=_int(4)),
    "Embedding": lambda: tfmoe.Embedding(_int(4), _int(3)),
    "MLPRouter": lambda: tfmoe.MLPRouter((_int(4),)),
    "TaskRouter": lambda: tfmoe.TaskRouter(dim=_int(4), hidden_units=(_int(3),)),
    "LearnedPermutation": lambda: tfmoe.LearnedPermutation(_int(5), num_iterations=(_int(20), 30)),
    **{name: lambda name=name: gate(name) for name in _GATES},
    **{
        f"{name} of some": lambda name=name: gate(name, num_choices=_int(8), kept=[_int(1), 2, 5])
        for name in _GATES
    },
}


@pytest.mark.parametrize("name", _LAYERS)
def test_numpys_counts_are_pythons_in_the_config(name):
    config = _LAYERS[name]().get_config()
    assert json.loads(json.dumps(config))
