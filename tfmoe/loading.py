"""What makes it possible to load late: Keras's registry, and the places things had before.

Keras finds the classes in a saved file by their registered names, and registers a class when its
module is imported. As tfmoe imports its layers at first use, they must be registered as soon as
there is a Keras to load files with, whichever of the two was imported first.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import types
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

# All that Keras may have to find by name.
KERAS_ROOMS = (
    "compute",
    "experts",
    "gates",
    "features",
    "structures",
    "heads",
    "objectives",
    "optimizers",
    "model",
    "distribution",
)

# Modules of version 0.1 whose objects people pickle, and where these are now.
MOVED = {
    "tfmoe.columns": ["tfmoe.schema.columns"],
    "tfmoe.tasks": ["tfmoe.schema.tasks"],
    "tfmoe.data.encoding": ["tfmoe.data.encode.columns"],
    "tfmoe.data.fitting": ["tfmoe.data.fit.statistics", "tfmoe.data.fit.fitted"],
    "tfmoe.data.mixer": ["tfmoe.data.batch.task_mixer"],
    "tfmoe.data.statistics": ["tfmoe.data.fit.sketches"],
    "tfmoe.data.vocabulary": ["tfmoe.data.encode.vocabulary", "tfmoe.data.fit.counts"],
}


def install() -> None:
    """Registers our classes with Keras, now or once it is imported; makes old places known."""
    sys.meta_path.insert(0, _MovedModules())
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _KerasWatch())


def register() -> None:
    """Imports every module whose classes Keras may have to find by name."""
    for room in KERAS_ROOMS:
        module = importlib.import_module(f"tfmoe.{room}")
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
            importlib.import_module(found.name)


class _KerasWatch(MetaPathFinder):
    """Lets Keras be found as ever, and registers our classes when it has been loaded."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != "keras":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Registering(spec.loader)
                return spec
        return None


class _Registering(Loader):
    """Keras's loader, and what is to be done after it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        # Tools ask a module for its loader.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        register()


class _MovedModules(MetaPathFinder, Loader):
    """Modules of old that look for their names where these have moved."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name, "Moved; kept for pickles.")

    def exec_module(self, module: Any) -> None:
        def find(name: str) -> Any:
            for place in MOVED[module.__name__]:
                found = getattr(importlib.import_module(place), name, None)
                if found is not None:
                    return found
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = find
