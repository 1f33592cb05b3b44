"""What the folder of a run's checkpoints has beside them: the run, its tables' sizes, and its
Preprocessor.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.paths import files_of
from tfmoe.files import replaced
from tfmoe.schema.schema import Schema

if TYPE_CHECKING:
    from tfmoe.runs.run import Run

_RUN, _SIZES, _PREPROCESSOR = "run.yaml", "sizes.json", "preprocessor"
# What may be another when a training goes on.
_FREE = ("checkpoints", "checkpoint_steps", "resume", "epochs")


def begin(run: Run) -> None:
    """Keeps what a run is, or makes sure that it is the one that goes on.

    Args:
        run: `Run` with a folder of checkpoints.

    Raises:
        FileExistsError: if something is in the folder of a run that does not go on.
        ValueError: if the run that goes on was begun with other settings, or its tables have
            other sizes now.
    """
    from tfmoe.model.checkpoint import files_in

    folder = Path(str(run.checkpoints))
    known = folder / _RUN
    if not run.resume:
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(
                "A training's checkpoints have a folder of their own, and nothing is written over. "
                f"Received checkpoints={str(folder)!r}, which is not empty. Go on with what is "
                "there by --resume (`resume=True`), or choose another folder."
            )
    elif known.exists():
        before = type(run).load(known)
        if files_in(folder):
            _check(run.to_dict(), before.to_dict(), known)
            _check_sizes(run, folder / _SIZES)
            return
        # It ended before a step was kept, as by a slip of the pen: it begins anew.
        kept = folder / _PREPROCESSOR
        if kept.exists() and (
            before.data != run.data or Preprocessor.load(kept).schema != run.read_schema()
        ):
            shutil.rmtree(kept)
        known.unlink()
    sizes = _sizes(run)  # or its error, before anything is written
    run.save(known)
    with replaced(folder / _SIZES) as draft:
        draft.write_text(json.dumps(sizes), encoding="utf-8")


def begun_epochs(run: Run) -> int | None:
    """The epochs that a training was begun with, which may be fewer than those that it goes on to.

    Args:
        run: `Run`, which has begun.
    """
    known = Path(run.checkpoints or "") / _RUN
    return type(run).load(known).epochs if run.resume and known.exists() else run.epochs


def check_begun(run: Run) -> None:
    """What workers do for whom another one has begun.

    Raises:
        ValueError: if they see another folder, or are started with other settings.
    """
    known = Path(str(run.checkpoints)) / _RUN
    if not known.exists():
        raise ValueError(
            "Workers keep a training in one folder, which all of them see. Received checkpoints="
            f"{run.checkpoints!r}, in which this one finds nothing of what the first one has "
            "written. Name a folder that they share."
        )
    _check(run.to_dict(), type(run).load(known).to_dict(), known)


def _check(ours: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
    for name in sorted({*ours, *theirs} - {*_FREE}):
        if ours.get(name) != theirs.get(name):
            raise ValueError(
                "A training goes on with the settings that it was begun with. Received "
                f"{name}={ours.get(name, 'its default')!r} in place of "
                f"{theirs.get(name, 'its default')!r}, of {path}. Take that, or begin anew in "
                "another folder."
            )


def _sizes(run: Run) -> dict[str, list[int]]:
    """Bytes of each file of a run's tables."""
    paths = {"data": run.data, "valid": run.valid}
    return {
        name: [file.stamp[0] for file in files_of([path])]
        for name, path in paths.items()
        if path is not None
    }


def _check_sizes(run: Run, path: Path) -> None:
    """Raises ValueError if tables changed; folders of earlier versions tell no sizes."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else _sizes(run)
    for name, now in _sizes(run).items():
        if now != before[name]:
            raise ValueError(
                "A training goes on with the rows that it was begun with. Received "
                f"{name}={getattr(run, name)!r}, whose files have {sum(now):,} bytes now and had "
                f"{sum(before[name]):,}. Bring them back; or begin anew in another folder, or "
                "train the model on by --from."
            )


def fitted(run: Run, schema: Schema) -> Preprocessor:
    """The Preprocessor of a run: the one that was kept, or one that is fitted now.

    Args:
        run: `Run`.
        schema: its schema.

    Raises:
        ValueError: if the one that was kept is of another schema.
    """
    if run.checkpoints is None:
        return Preprocessor(schema).fit(run.data)
    path = Path(run.checkpoints) / _PREPROCESSOR
    if not path.exists():
        prep = Preprocessor(schema).fit(run.data)
        prep.save(path, state=False)
        return prep
    prep = Preprocessor.load(path)
    if prep.schema != schema:
        raise ValueError(
            "A training goes on with the schema that it was begun with. Received another, with a "
            f"Preprocessor in {path} that was fitted under the first. Take that, or begin anew in "
            "another folder."
        )
    return prep
