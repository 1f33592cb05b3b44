"""A search for the settings of a run that measure best on validation rows."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfmoe.files import PathLike, check_local, replaced
from tfmoe.remote import address
from tfmoe.runs.run import Run
from tfmoe.runs.search import alone, check_values, space_of, suggested, taken_by
from tfmoe.validation import checks_arguments, did_you_mean, integer, number

if TYPE_CHECKING:
    import pandas as pd

_STUDY = "tfmoe"
# Below so many finished trials, no trial is ended early.
_FIRST_TRIALS = 5
# So many refusals one after the other, all for one reason or for any, and no trial will be taken.
_MOST_ALIKE, _MOST_REFUSALS = 5, 25
# What ends a trial without a number, as its attributes are called.
_ENDS = ("refused", "diverged")


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        best: `Run` of the best trial.
        number: its number, on validation rows.
        metric: what the number is, such as `"loss"`.
        trials: DataFrame with a row for each trial: `trial`, `state` (`finished`, `ended early`,
            `diverged`, or `refused`, if its settings do not go together), `number` (of one that
            was not finished the best until then), `epochs`, `seconds`, a column for each key that
            was tried, and `reason`, why it was refused or diverged.
        importances: dict by key of the share that it has in how the numbers differ, the largest
            first; empty where too few trials are finished to tell.
    """

    best: Run
    number: float
    metric: str
    trials: pd.DataFrame
    importances: dict[str, float]


@checks_arguments
def tune(
    settings: Mapping[str, Any],
    search: Mapping[str, Any] | None = None,
    folder: PathLike = "tuned",
    trials: int | None = 20,
    minutes: float | None = None,
    metric: str = "loss",
    started: Callable[[int, dict[str, Any]], Any] | None = None,
) -> Tuned:
    """Tries settings of a run, one after the other, and keeps what it has found in a folder.

    Each trial trains a model as `tfmoe train` does, on the same rows, and is measured at the end
    of each epoch on validation rows: `valid`, or the tenth that is held out by the seed. The epoch
    counts whose weights the training keeps, that of the least `val_loss`. A trial that is worse at
    an epoch than half of those before is ended early, from the sixth trial on. Which settings are
    tried next is decided by Optuna's tree-structured Parzen estimator.

    The folder gets `trials.db`, after each epoch, and `best.yaml`, a file for `Run.load` and
    `tfmoe train --config`, and `trials.csv`, after each trial. Run again with the same folder, a
    search goes on; if none of its trials counts, another may begin there. A trial whose process was
    killed, which was interrupted or refused, does not count, and nothing is learnt from it. One
    process at a time writes a folder.

    Args:
        settings: what a file says of a run: fields of `Run` by name. Those that are given are
            the same in all trials, unless `search` names them.
        search: by name of a field a list of values, a dict with `low`, `high` and perhaps
            `log`, or None not to try it. Of fields that neither names, see
            `tfmoe.runs.search.DEFAULT`.
        folder: local folder for the results, made if there is none. The tables and the schema may
            be behind URLs.
        trials: int >= 1, how many trials there are in the end, with those of before, or None.
        minutes: float > 0, after which no further trial is started, or None.
        metric: `"loss"`, the sum of the tasks' losses by their weights, without those of weights;
            or a reported number such as `"watch_auc"`.
        started: function that is told the trial's number and its settings, or None.

    Returns:
        `Tuned`.

    Raises:
        ImportError: if Optuna is not installed.
        ValueError: if `folder` is an URL, settings are unknown, neither `trials` nor `minutes` is
            given, nothing is left to validate on, the folder holds another search, or no trial was
            finished.
    """
    optuna = require_optuna()
    check_local(folder)
    trials = integer("tune", "trials", trials, 1, optional=True)
    minutes = number("tune", "minutes", minutes, above=0, optional=True)
    if trials is None and minutes is None:
        raise ValueError("tune ends after some `trials`, or `minutes`. Received neither. Give one.")
    space = space_of(settings, search or {})
    run = Run.from_dict(alone(settings, space))
    if run.checkpoints is not None:
        raise ValueError(
            "A search goes on from its own folder, trial by trial. Received checkpoints="
            f"{run.checkpoints!r}. Leave it out; it is for `tfmoe train`."
        )
    check_values(settings, space)
    if run.valid is None and (run.epochs is not None or "epochs" in space):
        raise ValueError(
            "Settings are measured on validation rows: a table, or a tenth that is held out where "
            f"training ends by itself. Received valid=None with epochs={run.epochs}. Give `valid`, "
            "or leave out `epochs`."
        )
    folder = Path(address(folder))
    folder.mkdir(parents=True, exist_ok=True)
    objective = _Objective(run, dict(settings), space, metric, started)
    study = _study(optuna, folder, objective)
    end = None if minutes is None else time.monotonic() + 60 * minutes
    while (trials is None or len(_done(study)) < trials) and (
        end is None or time.monotonic() < end
    ):
        # From where it stands, so that a search that goes on draws no number twice.
        study.sampler = optuna.samplers.TPESampler(seed=run.seed + len(study.trials))
        study.optimize(objective, n_trials=1)
        _write(study, folder, objective)
        _check_refusals(study)
    return _tuned(study, objective)


def _check_refusals(study: Any) -> None:
    """Raises ValueError where trial after trial is refused."""
    words = [one.user_attrs.get("refused") for one in study.trials[-_MOST_REFUSALS:]]
    last = words[-_MOST_ALIKE:]
    alike = len(last) == _MOST_ALIKE and len(set(last)) == 1
    if last[-1] is not None and (alike or (len(words) == _MOST_REFUSALS and None not in words)):
        most = _MOST_ALIKE if alike else _MOST_REFUSALS
        raise ValueError(
            f"Settings must go together. Received {most} trials one after the other that were "
            f"refused: {last[-1]}"
        )


def require_optuna() -> Any:
    """Optuna; raises ImportError, with what to do, if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError("Tuning needs Optuna: pip install 'tfmoe[tune]'") from error
    # What ends a trial is told by the error, or in the table of trials.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _Objective:
    """What Optuna calls with a trial, and gets its number from."""

    def __init__(
        self,
        run: Run,
        settings: dict[str, Any],
        space: dict[str, Any],
        metric: str,
        started: Callable[[int, dict[str, Any]], Any] | None,
    ) -> None:
        self.run, self.settings, self.space = run, settings, space
        self.metric, self.started = metric, started
        self._fitted: dict[Any, Any] = {}

    @property
    def says(self) -> str:
        """What tells this search from another one."""
        return repr((self.run.to_dict(), sorted(self.space.items()), self.metric))

    def settings_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return taken_by({**self.settings, **params}, self.space)

    def __call__(self, trial: Any) -> float:
        import keras
        import optuna

        settings = suggested(trial, self.settings, self.space)
        if self.started is not None:
            self.started(trial.number, {name: settings[name] for name in trial.params})
        try:
            with _refused(trial):
                run = Run.from_dict(settings)
                run.check_goes_together(run.read_schema())
            prep = self._prep(run)
            with _refused(trial):
                model = run.build(prep)
            watch = _watch(trial, _sign(trial.study, model, self.metric), self.metric)
            run.fit(model, [watch])
        except FloatingPointError as error:
            trial.set_user_attr("diverged", str(error))
            raise optuna.TrialPruned() from None
        finally:
            keras.utils.clear_session()
            gc.collect()
        return watch.numbers[-1 if model.best_epoch is None else model.best_epoch]

    def _prep(self, run: Run) -> Any:
        """The Preprocessor of a run's rows, which is fitted once for each size of embeddings."""
        from tfmoe.data.preprocessor import Preprocessor

        if run.embedding_dim not in self._fitted:
            prep = Preprocessor(run.read_schema())
            self._fitted[run.embedding_dim] = prep.fit(run.data, progress=False)
        return self._fitted[run.embedding_dim]


@contextlib.contextmanager
def _refused(trial: Any) -> Iterator[None]:
    """A trial whose settings do not go together ends as one that was given up."""
    import optuna

    try:
        yield
    except ValueError as error:
        trial.set_user_attr("refused", str(error))
        raise optuna.TrialPruned() from None


def _sign(study: Any, model: Any, metric: str) -> float:
    """1 where less of a metric is better, as a study has it, -1 where more is; kept in the study.

    Raises:
        ValueError: if the model reports no such number, or cannot say which way is better.
    """
    from tfmoe.model.watched import reported

    modes = reported(model)
    if modes.get(metric) is None:
        known = [name for name, mode in modes.items() if mode]
        raise ValueError(
            f"A search is by a number that training reports, one of {known}. Received "
            f"metric={metric!r}.{did_you_mean(metric, known)}"
        )
    sign = -1.0 if modes[metric] == "max" else 1.0
    study.set_user_attr("sign", sign)
    return sign


def _watch(trial: Any, sign: float, metric: str) -> Any:
    """A callback that tells Optuna the number of each epoch, and ends a trial that it gives up.

    A function, for Keras is imported where it is used.
    """
    import keras
    import optuna

    class Watch(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.numbers: list[float] = []

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            number = _number(self.model, metric, logs or {})
            if np.isnan(number):
                raise ValueError(
                    "Trials are compared by a number of the validation rows. Received rows without "
                    f"a {metric}: none of them has a label, or all have the same. Give others as "
                    "`valid`, or another `metric`."
                )
            self.numbers.append(sign * number)
            trial.report(self.numbers[-1], epoch)
            trial.set_user_attr("epochs", epoch + 1)
            if trial.should_prune():
                raise optuna.TrialPruned()

    return Watch()


def _number(model: Any, metric: str, logs: Mapping[str, float]) -> float:
    """The number of an epoch, on validation rows.

    Raises:
        ValueError: if there are none.
    """
    if not any(name.startswith("val_") for name in logs):
        raise ValueError(
            "Trials are measured on validation rows: a table, or a tenth that is held out of 100 "
            "rows or more. Received fewer rows, without a table. Give `valid`."
        )
    if metric != "loss":
        return float(logs[f"val_{metric}"])
    # Not `val_loss`, which has the losses of weights, and these depend on their factors.
    weights = (model.get_compile_config().get("loss_weights")) or {}
    losses = [
        weights.get(task.name, task.weight) * logs[f"val_{task.name}_loss"]
        for task in model.schema.tasks
    ]
    return float("nan") if np.isnan(losses).all() else float(np.nansum(losses))


def _study(optuna: Any, folder: Path, objective: _Objective) -> Any:
    """The search of a folder, new or to be gone on with.

    Raises:
        ValueError: if it is one of other settings.
    """
    storage = f"sqlite:///{(folder / 'trials.db').resolve()}"

    def opened() -> Any:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS, n_warmup_steps=1)
        return optuna.create_study(
            storage=storage, study_name=_STUDY, pruner=pruner, load_if_exists=True
        )

    study = opened()
    said = study.user_attrs.get("says", objective.says)
    if said != objective.says and _done(study):
        raise ValueError(
            "A folder holds the trials of one search. Received folder="
            f"{str(folder)!r}, whose search has the settings {said}, and now {objective.says}. "
            "Choose another folder, or the same settings."
        )
    if said != objective.says:
        # It has found nothing, as after a slip of the pen.
        optuna.delete_study(study_name=_STUDY, storage=storage)
        study = opened()
    study.set_user_attr("says", objective.says)
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        # Of a process that was killed.
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _done(study: Any) -> list[Any]:
    """The trials that count: finished, diverged, or ended early because they were worse."""
    return [one for one in _told(study) if "refused" not in one.user_attrs]


def _told(study: Any) -> list[Any]:
    """The trials that were neither killed nor interrupted."""
    return [one for one in study.trials if one.state.name in ("COMPLETE", "PRUNED")]


def _state(trial: Any) -> str:
    if trial.state.name == "COMPLETE":
        return "finished"
    ends = (one for one in _ENDS if one in trial.user_attrs)
    return next(ends, "ended early")


def _tuned(study: Any, objective: _Objective) -> Tuned:
    import pandas as pd

    finished = [one for one in _done(study) if one.state.name == "COMPLETE"]
    if not finished:
        raise ValueError(
            f"A search needs a trial that is finished. Received {len(study.trials)} trials, none "
            f"of which is{_why(study)}. Give more `trials` or `minutes`, or other settings."
        )
    best, sign = min(finished, key=lambda one: one.value), study.user_attrs["sign"]
    rows = [
        {
            "trial": one.number,
            "state": _state(one),
            "number": sign
            * (one.value if one.state.name == "COMPLETE" else _least(one.intermediate_values)),
            "epochs": one.user_attrs.get("epochs", 0),
            "seconds": one.duration.total_seconds(),
            **{name: one.params.get(name) for name in objective.space},
            "reason": one.user_attrs.get(_state(one), ""),
        }
        for one in _told(study)
    ]
    return Tuned(
        Run.from_dict(objective.settings_of(best.params)),
        sign * best.value,
        objective.metric,
        pd.DataFrame(rows),
        _importances(study, finished, objective),
    )


def _why(study: Any) -> str:
    """What ended the last trial that could not be trained."""
    told = [one.user_attrs.get(key) for one in study.trials for key in _ENDS]
    return next((f" (one because: {text})" for text in reversed(told) if text), "")


def _least(values: Mapping[int, float]) -> float:
    return min(values.values(), default=float("nan"))


def _importances(study: Any, finished: list[Any], objective: _Objective) -> dict[str, float]:
    """Shares of keys in how finished trials differ, by a forest over them (fANOVA)."""
    import optuna

    common = [name for name in objective.space if all(name in one.params for one in finished)]
    tried = [name for name in common if len({repr(one.params[name]) for one in finished}) > 1]
    if len(finished) < 2 or len({one.value for one in finished}) < 2 or not tried:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=objective.run.seed)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=tried))


def _write(study: Any, folder: Path, objective: _Objective) -> None:
    """Brings the files of a folder up to date, if a trial is finished."""
    if not any(one.state.name == "COMPLETE" for one in study.trials):
        return
    tuned = _tuned(study, objective)
    with replaced(folder / "best.yaml") as draft:
        draft.write_text(tuned.best.to_yaml(), encoding="utf-8")
    with replaced(folder / "trials.csv") as draft:
        tuned.trials.to_csv(draft, index=False)
