"""A whole training as plain data: what is read, what is built of it, and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.source import open_source
from tfmoe.files import PathLike, new_file
from tfmoe.remote import read_text
from tfmoe.runs import by_name, fields
from tfmoe.runs.kept_run import begin, begun_epochs, fitted
from tfmoe.schema.columns import SCENARIO
from tfmoe.schema.files import parsed_yaml
from tfmoe.schema.schema import Schema
from tfmoe.validation import check_choice, checks_arguments, did_you_mean

if TYPE_CHECKING:
    from tfmoe.model.model import MultiTaskModel

# What a run may say that trains a model on: how it is trained, and how it grows.
_CHECKPOINTS = ("checkpoints", "checkpoint_steps", "resume")
_TRAINING = ("data", "valid", "epochs", "batch_size", "patience", "seed", "grow", *_CHECKPOINTS)
_GROWTH = ("new_rows", "moments", "evict_after")


@checks_arguments
@dataclass(frozen=True)
class Run:
    """A whole training: the options of `tfmoe train`, with its defaults. Frozen plain data.

    In a file the fields are keys, of which those may be left out that have a default. Lists may
    be lists, or text with commas between. Paths are those of the folder in which the training
    is started.

    A run with `from_model` trains a model on, with the optimizer and weighting that its file holds.
    What says how a model is built must then be left out.

    Args:
        data: path of the table, or a glob.
        schema: path of a schema file, or the mapping that such a file holds; None with
            `from_model`.
        valid: path of the validation table, or None.
        mixture: the structure, such as `"mmoe"`.
        gate: such as `"top-k"`, or None for the structure's own.
        num_experts: int >= 2, or None for 8.
        num_nonzeros: int >= 1, experts that a task selects, or None for 2.
        entropy_reg: float >= 0, or None for the gate's.
        hidden_units: units of an expert's layers, or None for `"256,128"`.
        tower_units: units of the towers' layers.
        dropout: float in [0, 1), of experts and towers, or None for none.
        layer_norm: bool; whether the experts' hidden layers are normalised.
        embedding_dim: int >= 1, size of all embeddings in place of the schema's, or None.
        embeddings_regularizer: float >= 0, or None; see `MultiTaskModel`.
        kernel_regularizer: float >= 0, factor of an L2, or None; see `MultiTaskModel`.
        column_dropout: float in [0, 1); see `MultiTaskModel`.
        interactions: names such as `"cross,fm"`, or None.
        interactions_stacked: bool; see `stacked` of `Interactions`.
        interactions_alone: bool; whether the structure reads what they make, and not the row
            beside it; see `keep_input` of `Interactions`.
        wide: bool; see `MultiTaskModel`.
        pepnet: columns that personalise, or None.
        position: column that says where a row was shown, or None; see `MultiTaskModel`.
        scenario_towers: bool; see `MultiTaskModel`.
        task_weight: dict by task of floats >= 0.
        weighting: such as `"uncertainty"`.
        epochs: int >= 1, or None to end when validation stops improving.
        batch_size: int >= 1, or None to choose one by the number of rows.
        patience: int >= 0, epochs without a better validation loss before the end.
        learning_rate: float >= 0.
        optimizer: a name, or text or a dict of those by part, such as
            `{"embeddings": "lazy_adam:0.01", "rest": "adam"}`.
        dtype: dtype policy.
        seed: int >= 0.
        from_model: path of a `.keras` file, the model to train on, or None. In a file the key may
            also be `from`.
        grow: bool; whether the model first grows by the values of `data`, see
            `MultiTaskModel.grow`.
        new_rows: `"initializer"` or `"unknown"`, see there.
        moments: `"frozen"` or `"update"`, see `Preprocessor.grow`.
        evict_after: int >= 1, or None, see there.
        checkpoints: folder of the training's checkpoints, or None; see `tfmoe.Checkpoint`. The run
            and the fitted Preprocessor are kept there too.
        checkpoint_steps: int >= 1, or None for a checkpoint at the end of each epoch only.
        resume: bool; whether to go on from the newest checkpoint there. If not, the folder must
            be empty.

    Raises:
        ValueError: if a field is out of range or names nothing known.

    Example:

    >>> run = Run.from_dict({"data": "t.csv", "schema": "s.yaml", "hidden_units": [64, 32]})
    >>> run.hidden_units, run.mixture
    ('64,32', 'mmoe')
    >>> run.to_dict()
    {'data': 't.csv', 'schema': 's.yaml', 'hidden_units': '64,32'}
    """

    data: str
    schema: str | Mapping[str, Any] | None = None
    valid: str | None = None
    mixture: str = "mmoe"
    gate: str | None = None
    num_experts: int | None = None
    num_nonzeros: int | None = None
    entropy_reg: float | None = None
    hidden_units: str | None = None
    tower_units: str = "64"
    dropout: float | None = None
    layer_norm: bool = False
    embedding_dim: int | None = None
    embeddings_regularizer: float | None = None
    kernel_regularizer: float | None = None
    column_dropout: float = 0.0
    interactions: str | None = None
    interactions_stacked: bool = False
    interactions_alone: bool = False
    wide: bool = False
    pepnet: str | None = None
    position: str | None = None
    scenario_towers: bool = False
    task_weight: Mapping[str, float] = field(default_factory=dict)
    weighting: str = "fixed"
    epochs: int | None = None
    batch_size: int | None = None
    patience: int = 3
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    dtype: str = "float32"
    seed: int = 0
    from_model: str | None = None
    grow: bool = False
    new_rows: str = "initializer"
    moments: str = "frozen"
    evict_after: int | None = None
    checkpoints: str | None = None
    checkpoint_steps: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = fields.cleaned(one.name, getattr(self, one.name), one.default is None)
            object.__setattr__(self, one.name, value)
        if self.checkpoints is None and (self.resume or self.checkpoint_steps is not None):
            raise ValueError(
                "A training goes on from the folder of its checkpoints. Received resume="
                f"{self.resume}, checkpoint_steps={self.checkpoint_steps} without `checkpoints`. "
                "Name the folder."
            )
        by_name.check_known("--dtype", self.dtype, by_name.DTYPES)
        by_name.check_known("--weighting", self.weighting, by_name.WEIGHTINGS)
        by_name.optimizer_parts(self.optimizer)  # or its error
        by_name.check_structure(self.mixture, self.gate, self.hidden_units)
        if self.tower_units.strip():
            by_name.units_of(self.tower_units, "--tower-units")
        if self.interactions is not None:
            for name in self.interactions.split(","):
                by_name.check_known("--interactions", name.strip(), by_name.INTERACTIONS)
        elif self.interactions_stacked or self.interactions_alone:
            raise ValueError(
                "How interactions stand is said where there are some. Received "
                f"interactions_stacked={self.interactions_stacked}, interactions_alone="
                f"{self.interactions_alone} without interactions. Name some, such as cross,fm."
            )
        self._check_start()

    def _check_start(self) -> None:
        """Raises ValueError where a run says too much or too little of what it starts from."""
        check_choice("Run", "new_rows", self.new_rows, ("initializer", "unknown"))
        check_choice("Run", "moments", self.moments, ("frozen", "update"))
        given = [one.name for one in dataclasses.fields(self) if self._is_given(one)]
        fixed = [name for name in given if name not in (*_TRAINING, *_GROWTH, "from_model")]
        growing = [name for name in given if name in (*_GROWTH, "grow")]
        if self.from_model is None and (self.schema is None or growing):
            raise ValueError(
                "A run has a schema, or trains on a model that has one, `from_model`. Received "
                f"schema={self.schema!r} and {growing or 'nothing'} without a model. Give "
                "--schema; or --from, a model, whose tables can --grow."
            )
        if self.from_model is not None and fixed:
            raise ValueError(
                "A model that is trained on keeps its schema, layers and optimizer. Received "
                f"from_model={self.from_model!r} with {fixed}. Leave these out, or leave out "
                "--from to train anew."
            )
        if growing and not self.grow:
            raise ValueError(f"Received {growing} without grow. Add --grow.")

    def _is_given(self, one: Any) -> bool:
        return getattr(self, one.name) not in (one.default, {})

    @classmethod
    def from_dict(cls, given: Any) -> Run:
        """The run of a mapping, such as a file holds.

        Raises:
            ValueError: if a key is unknown or one that is needed is missing, or as the class.
        """
        known = [one.name for one in dataclasses.fields(cls)]
        starts = ("schema", "from", "from_model")
        if not isinstance(given, Mapping) or "data" not in given or not {*starts} & {*given}:
            raise ValueError(
                f"A run is a mapping with `data` and one of {list(starts)}. Received {given!r}."
            )
        if {"from", "from_model"} <= {*given}:
            raise ValueError(
                f"`from` and `from_model` are one key. Received {given['from']!r} and "
                f"{given['from_model']!r}. Leave out one."
            )
        # A word of Python, which is no name of a field.
        given = {"from_model" if name == "from" else name: value for name, value in given.items()}
        for name in given:
            if name not in known:
                raise ValueError(
                    f"A run has the keys {known}. Received {name!r}.{did_you_mean(name, known)}"
                )
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Its fields as plain data, but for those at their defaults."""
        found = {}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if self._is_given(one):
                found[one.name] = dict(value) if isinstance(value, Mapping) else value
        return found

    @classmethod
    def load(cls, path: PathLike) -> Run:
        """The run of a `.yaml`, `.yml` or `.json` file; what it says of a search is not read.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds something else, or as `from_dict`.
        """
        return cls.from_dict(load_settings(path)[0])

    def save(self, path: PathLike) -> None:
        """Writes the run to a new `.yaml` or `.yml` file.

        Raises:
            FileExistsError: if something is there.
        """
        with new_file(path) as draft:
            draft.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """`to_dict` as YAML text."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def read_schema(self) -> Schema:
        """The schema, with embeddings of the size that the run says.

        Raises:
            ValueError: if weights are given for tasks that it has not, or a file has no schema, or
                the run trains a model on, which has its own.
        """
        given = self.schema
        if given is None:
            raise ValueError(
                "A run that trains a model on has the model's schema. Received from_model="
                f"{self.from_model!r}. Give a schema, to build and search anew."
            )
        schema = Schema.from_dict(given) if isinstance(given, Mapping) else Schema.load(given)
        for task in self.task_weight:
            if task not in schema.task_names:
                raise ValueError(
                    f"Weights are of the tasks {list(schema.task_names)}. Received a weight of "
                    f"{task!r}.{did_you_mean(task, schema.task_names)}"
                )
        if self.embedding_dim is None:
            return schema
        dim: dict[str, Any] = {"dim": self.embedding_dim}
        columns: list[Any] = [
            dataclasses.replace(one, **dim)
            if hasattr(one, "dim") and one.embeds and not getattr(one, "share", None)
            else one
            for one in schema.columns
        ]
        return dataclasses.replace(schema, columns=columns)

    def _structure(self, entropy_reg: Any) -> Any:
        return by_name.structure_by_name(
            self.mixture,
            self.gate,
            self.num_experts,
            self.num_nonzeros,
            self.hidden_units,
            self.dropout,
            entropy_reg,
            self.layer_norm,
        )

    def check_goes_together(self, schema: Schema) -> None:
        """Raises ValueError where options do not go together; needs Keras, and no rows."""
        from tfmoe.model.inputs import scenario_of
        from tfmoe.model.weighing import check_tasks
        from tfmoe.objectives.weighting.by_name import weighting_of

        asked = self._structure(self.entropy_reg)
        chosen = weighting_of(self.weighting)
        if chosen is not None:
            check_tasks(chosen, schema)
        needs = {
            f"--mixture {self.mixture}": SCENARIO in asked.context_columns.values(),
            "--pepnet": self.pepnet is not None,
            "--scenario-towers": self.scenario_towers,
        }
        for option, given in needs.items():
            if given:
                scenario_of(schema, option)

    def build(
        self, prep: Preprocessor | None = None, kind: type[MultiTaskModel] | None = None
    ) -> MultiTaskModel:
        """The compiled model.

        Args:
            prep: `Preprocessor` that was fitted on `data` under `read_schema()`; None to fit one,
                or to take the one that a training which goes on was begun with.
            kind: class of the model, or None for `MultiTaskModel`.

        Raises:
            ValueError: if options do not go together, or a training that goes on was begun with
                others.
            FileExistsError: if something is in `checkpoints`, and `resume` is false.
        """
        if self.from_model is None:
            # What does not go together is told first.
            self.check_goes_together(self.read_schema())
        if self.valid is not None:
            open_source(self.valid)  # A path without files is told before anything is begun.
        if self.checkpoints is not None:
            begin(self)
        return self.make(prep, kind)

    def make(
        self, prep: Preprocessor | None = None, kind: type[MultiTaskModel] | None = None
    ) -> MultiTaskModel:
        """As `build`, where the folder of checkpoints is begun already."""
        import keras

        import tfmoe
        from tfmoe.model.plan import batch_size_for

        if self.from_model is not None:
            return self._started(self.from_model)
        schema = self.read_schema()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype)
        try:
            prep = prep or fitted(self, schema)
            entropy_reg: Any = self.entropy_reg
            if entropy_reg is None:
                size = self.batch_size or batch_size_for(prep.num_rows)
                # Of a training that goes on those that it was begun with, if now there are more.
                epochs = begun_epochs(self)
                entropy_reg = by_name.decisive(self.gate, prep.num_rows, size, epochs)
            # Here, so that a few lines of Python with the same seed train the same model.
            keras.utils.set_random_seed(self.seed)
            model = (kind or tfmoe.MultiTaskModel)(
                prep,
                self._structure(entropy_reg),
                by_name.units_of(self.tower_units) if self.tower_units.strip() else (),
                self.dropout or 0.0,
                **by_name.conditions(self.pepnet),
                scenario_towers=self.scenario_towers,
                interactions=by_name.interactions(
                    self.interactions, self.interactions_stacked, self.interactions_alone
                ),
                wide=self.wide,
                embeddings_regularizer=self.embeddings_regularizer,
                kernel_regularizer=self.kernel_regularizer,
                column_dropout=self.column_dropout,
                position=self.position,
            )
        finally:
            keras.config.set_dtype_policy(before)
        model.compile(
            by_name.optimizer(self.optimizer, self.learning_rate),
            loss_weights=dict(self.task_weight) or None,
            weighting=self.weighting,
        )
        return model

    def _started(self, path: str) -> MultiTaskModel:
        """The model of a file, grown by the data if that is wanted, and compiled as it was."""
        import keras

        from tfmoe.model.load import load_model

        keras.utils.set_random_seed(self.seed)
        model = load_model(path)
        if self.grow:
            moments: Any = self.moments
            prep = model.training_preprocessor.grow(
                self.data, moments=moments, evict_after=self.evict_after
            )
            new_rows: Any = self.new_rows
            model = model.grow(prep, new_rows=new_rows)
        if not model.compiled:
            model.compile(by_name.optimizer(self.optimizer, self.learning_rate))
        return model

    def fit(
        self,
        model: MultiTaskModel,
        callbacks: Sequence[Any] = (),
        rows: Any = None,
        valid: Any = None,
    ) -> dict[str, list[float]]:
        """Trains a model that `build` made; returns the history.

        Args:
            model: of `build`.
            callbacks: of `fit`.
            rows, valid: datasets in place of the run's `data` and `valid`, or None.
        """
        from tfmoe.model.plan import best_kept

        for _ in model.preprocessor.dataset(self.valid) if self.valid else ():
            pass  # A bad cell is told before an epoch is spent, not after it.
        callbacks = list(callbacks)
        if self.checkpoints is not None:
            from tfmoe.model.checkpoint import Checkpoint

            callbacks.append(Checkpoint(self.checkpoints, self.checkpoint_steps))
        if self.valid and self.epochs:
            # `fit` takes the number as it is; a validation table picks the epoch all the same.
            kept = best_kept(model, self.data, self.batch_size, self.patience, self.epochs)
            callbacks.append(kept)
        return model.fit(
            self.data if rows is None else rows,
            validation_data=self.valid if rows is None else valid,
            epochs=self.epochs,
            batch_size=self.batch_size if rows is None else None,
            patience=self.patience,
            seed=self.seed,
            callbacks=callbacks,
            verbose=0,
        ).history


def load_settings(path: PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of a run, and what it says of a search for one, under `search`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no mapping.
    """
    import yaml

    try:
        # JSON is YAML.
        found = parsed_yaml(read_text(path), path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    search = found.pop("search", None) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(search or {}, dict):
        raise ValueError(
            "A file of a run holds keys with values, and under `search` others. Received "
            f"{path} with {found!r}."
        )
    return found, dict(search or {})
