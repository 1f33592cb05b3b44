"""Public names say what they take and give; mypy, in `make test`, says whether it is so."""

import inspect
from pathlib import Path

import pytest

import tfmoe

# What Keras calls, not a user.
PROTOCOL = {
    *("build", "call", "compute_output_shape", "compute_output_spec", "compute_mask"),
    *("get_config", "from_config", "get_compile_config", "compile_from_config"),
    *("save_assets", "load_assets", "train_step", "test_step"),
    *("compute_loss", "compute_metrics", "update_step", "update_state", "result"),
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
}


def public_callables(name):
    """A public function, or the constructor and public methods that a class of ours defines."""
    value = getattr(tfmoe, name)
    if inspect.isfunction(value):
        yield name, value
    if not inspect.isclass(value):
        return
    for attribute, found in vars(value).items():
        function = inspect.unwrap(getattr(found, "__func__", found))
        is_public = attribute == "__init__" or not attribute.startswith("_")
        is_public = is_public and attribute not in PROTOCOL
        if is_public and inspect.isfunction(function):
            yield f"{name}.{attribute}", function


def lacks_hints(name, function):
    parameters = list(inspect.signature(function).parameters.values())
    parameters = [p for p in parameters if p.name not in ("self", "cls")]
    lacking = [p.name for p in parameters if p.annotation is p.empty]
    returns = name.endswith("__init__") or "return" in function.__annotations__
    return lacking + ([] if returns else ["return"])


@pytest.mark.parametrize("name", tfmoe.__all__)
def test_public_names_have_type_hints(name):
    lacking = {
        called: lacks
        for called, function in public_callables(name)
        if (lacks := lacks_hints(called, function))
    }
    assert lacking == {}


def test_type_checkers_believe_the_hints():
    assert (Path(tfmoe.__file__).parent / "py.typed").exists()


def test_there_are_many_to_look_at():
    assert len([pair for name in tfmoe.__all__ for pair in public_callables(name)]) > 80
