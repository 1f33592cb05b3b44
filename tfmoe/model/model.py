"""The whole model: encoder, structure, towers, and losses and metrics that follow from tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import keras

from tfmoe import keras_private
from tfmoe.compute import nested
from tfmoe.compute.registered import registered
from tfmoe.compute.replicas import wait_for_replicas
from tfmoe.compute.types import Initializer, Tensor
from tfmoe.data.preprocessor import Preprocessor
from tfmoe.data.read.source import Rows
from tfmoe.features.column_dropout import column_dropout_of
from tfmoe.features.encoder import Encoder
from tfmoe.features.epnet import EPNet
from tfmoe.features.interactions.interactions import Interactions, interactions_of
from tfmoe.features.wide import Wide
from tfmoe.files import check_new, replaced
from tfmoe.heads.extended import towers_of
from tfmoe.heads.outputs import Outputs, ScoreOutputs, moments_of, start_at_means
from tfmoe.heads.ppnet import PPNet
from tfmoe.heads.towers import Towers
from tfmoe.heads.values import imputed_tasks
from tfmoe.model.add_task import check_routing, copy_extended, places
from tfmoe.model.assets import check_goes_with, check_holds_a_model, check_sizes
from tfmoe.model.blueprint import Blueprint, recipe_of
from tfmoe.model.conditions import conditions_of, num_scenarios
from tfmoe.model.finite import check_weights
from tfmoe.model.forward import ForwardOutput, Stages, is_in_step
from tfmoe.model.frozen import freeze_places, frozen_places
from tfmoe.model.grow import Transfer, config_of, plan
from tfmoe.model.inputs import (
    symbols,
)
from tfmoe.model.parts import regularize, regularizers_config, regularizers_of
from tfmoe.model.position import position_tower_of, served_schema
from tfmoe.model.training import Trainable
from tfmoe.model.untracked import Untracked
from tfmoe.remote import address
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Task
from tfmoe.structures.base import Structure, structure_of
from tfmoe.validation import check_bool, integer


@registered
class MultiTaskModel(Trainable):
    r"""A multi-task model over a table: columns in, one prediction a task out.

        features -> Encoder -> structure -> Towers -> {task: prediction}

    It is a Functional Keras model; its inputs are named by column and its outputs by
    task. A missing label (NaN, no such column, outside the task's `where`) adds nothing
    to loss, gradients or metrics.

    With a `task_column` in the schema each row belongs to one task: only that task's gate,
    experts and tower are computed for it, and the one output is `score`. Losses and
    metrics are still by task.

    Args:
        preprocessor: fitted `Preprocessor`; or a `Schema` of which every column can be
            used unfitted (hashed ids, numbers as they are).
        mixture: a `Structure` such as `SharedBottom`, `OMoE`, `MMoE` or `ModSquad`; or any
            Keras layer `(b, f) -> (b, t, u)` with a constructor argument `num_tasks` and a
            call argument `return_aux` (and `task`, for rows of one task each), which then
            supports neither `extract` nor `add_task` nor a context. It is a recipe: the
            model's own copy, with `num_tasks` filled in, is `model.mixture`. It keeps its own
            dtype policy; a warning says where that is not the model's.
        tower_units: sequence of int >= 1, hidden units of every task's tower; `()` for
            none.
        tower_dropout: float in [0, 1), of the towers' hidden layers, in training.
        input_gate: `EPNet`, a recipe, or None. It stands before the structure and weighs its
            inputs by the scenario, `Schema(scenario=...)`; for structures of flat inputs.
        tower_gate: `PPNet`, a recipe, or None. It weighs the units of the towers' hidden layers
            by the columns that it names. Both together are PEPNet.
        interactions: layers between encoder and structure in which columns meet, or `Interactions`
            of such, see there; for structures of flat inputs. None for none.
        wide: bool; whether every value of every column has a weight of each task's beside the
            network, the first-order term of wide-and-deep models and DeepFM. All start at 0.
        scenario_towers: bool; whether towers have factors of every scenario's own, see
            `ScenarioTowers`.
        embeddings_initializer: Keras initializer of the embedding tables, each drawn alone; None
            for normal numbers of a deviation of 1e-4, so that what is seldom seen begins near
            nothing.
        embeddings_regularizer: float >= 0, or None; the factor of an L2 loss of the embeddings
            that a batch looks up, see `Encoder`. A column's own `regularizer` comes before.
        kernel_regularizer: Keras regularizer, its name, a float for the factor of an L2 loss, or
            None; of what is called a kernel in the structure's experts and in the towers, unless
            it has a regularizer. Or a dict of such for some of `"experts"`, `"towers"` and
            `"gates"`, which else have none; interactions have none of it.
        column_dropout: float in [0, 1), the rate at which what a column gives of a row is 0 in
            training, the rest being scaled by `1 / (1 - rate)`; in front of `interactions` and
            structure. Of a structure that reads tokens it is a column's token, or those of a
            sequence together.
        position: name of a column of the schema, `Categorical` or `Numeric` in buckets, that says
            where in a list a row was shown, or None. What was clicked depends on it, and not what
            is to be clicked: it is no input of the structure, of predictions, of evaluation or
            of the served model, whose rows need not have it, and `schema` and `preprocessor` of
            the model are without it. In training a number for each position and task is added to
            the logits of binary tasks, see `tfmoe.heads.position.PositionTower`. Models that
            `extract` and `add_task` make have it too, if a task of theirs is binary.
        rows_multiple: int >= 1; every embedding table is filled up with rows that no id reads to a
            multiple of it, as it must be to be parted among devices; see
            `tfmoe.distribution.ModelParallel`. It changes no prediction.
        name, dtype, trainable: as for any Keras model.

    Call arguments:
        inputs: dict by column, as `Preprocessor.dataset` and `arrays` make it.
        training: bool.

    Returns:
        Dict by task: float32 `(b,)`, a probability for a binary task and a number for a
        regression; `(b, c)` probabilities for a multiclass task. A binary task that is `given`
        another has `<task>_given_<other>` beside its own, which is of both. With a task column
        `{"score"}`, with as many classes as the task with most of them has.

    Raises:
        ValueError: if the preprocessor is not fitted but must be, or an argument is of
            the wrong kind.
    """

    def __init__(
        self,
        preprocessor: Preprocessor | Schema,
        mixture: Structure | keras.layers.Layer,
        tower_units: Sequence[int] = (64,),
        tower_dropout: float = 0.0,
        input_gate: EPNet | None = None,
        tower_gate: PPNet | None = None,
        scenario_towers: bool = False,
        interactions: Interactions | Sequence[keras.layers.Layer] | None = None,
        wide: bool = False,
        *,
        embeddings_initializer: Initializer | None = None,
        embeddings_regularizer: float | None = None,
        kernel_regularizer: str
        | float
        | keras.regularizers.Regularizer
        | Mapping[str, Any]
        | None = None,
        column_dropout: float = 0.0,
        position: str | None = None,
        rows_multiple: int = 1,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
        trainable: bool = True,
    ) -> None:
        blueprint = Blueprint.of(preprocessor)
        whole, num_added = blueprint.schema, blueprint.num_added
        schema = served_schema(whole, position)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        original, config = recipe_of(mixture, policy)
        # Layers are named so that no column's input can have the same name.
        known: dict[str, Any] = {"num_tasks": len(schema.tasks)}
        if "num_scenarios" in config["config"]:
            known["num_scenarios"] = num_scenarios(
                schema, blueprint.table_sizes, config["class_name"]
            )
        mixture = nested.filled(config, "MultiTaskModel", name="tfmoe_mixture", **known)
        structure = structure_of(mixture)
        encoder = Encoder(
            schema,
            blueprint.table_sizes,
            embeddings_initializer,
            tokens=structure.token_dim if structure.input_kind == "tokens" else None,
            copies=len(structure.encodings) if structure.input_kind == "copies" else None,
            embeddings_regularizer=embeddings_regularizer,
            lengths=blueprint.lengths,
            rows_multiple=integer("MultiTaskModel", "rows_multiple", rows_multiple, 1),
            dtype=policy,
            name="tfmoe_encoder",
        )
        dropout = column_dropout_of(column_dropout, encoder, blueprint.lengths, policy)
        between = interactions_of(interactions, encoder.sizes, structure, policy)
        first_order = None
        check_bool("MultiTaskModel", "wide", wide)
        if wide and num_added:
            raise ValueError(
                "add_task takes models whose logits are their towers' alone. Received one with "
                "wide=True. Train it anew with the task among the others."
            )
        if wide:
            widths = [task.num_logits for task in schema.tasks]
            first_order = Wide(
                schema, encoder.table_sizes, widths, rows_multiple, dtype=policy, name="tfmoe_wide"
            )
        scenarios = None
        if scenario_towers:
            scenarios = num_scenarios(schema, blueprint.table_sizes, "scenario_towers")
        towers = towers_of(
            schema.tasks,
            num_added,
            num_scenarios=scenarios,
            hidden_units=tower_units,
            dropout=tower_dropout,
            dtype=policy,
            name="tfmoe_towers",
        )
        conditions = conditions_of(
            schema, structure, input_gate, tower_gate, tower_units, num_added, policy
        )
        kind: type[Outputs | ScoreOutputs] = ScoreOutputs if schema.task_column else Outputs
        moments = moments_of(schema.tasks, blueprint.label_moments)
        head = kind(schema.tasks, moments, dtype="float32", name="tfmoe_outputs")
        imputation = None
        if imputed := imputed_tasks(schema.tasks):
            ones = (1,) * len(imputed)
            imputation = Towers(
                ones, tower_units, dropout=tower_dropout, dtype=policy, name="tfmoe_imputation"
            )
        tower = position_tower_of(whole, position, blueprint.table_sizes, num_added)
        stages = Stages(
            schema,
            encoder,
            structure,
            towers,
            head,
            conditions.input_gate,
            conditions.tower_gate,
            imputation,
            between,
            first_order,
            dropout,
            tower,
            position,
        )
        inputs = symbols(schema, blueprint.lengths)
        made = stages.forward(inputs, return_aux=False).predictions
        outputs = {name: made[name] for name in schema.served_names}
        structure.adopt(original)
        super().__init__(
            inputs=inputs, outputs=outputs, name=name, dtype=dtype, trainable=trainable
        )
        # Keras's model of a graph leaves its `dtype` out, and `compile` then scales no loss.
        self.dtype_policy = policy
        self.encoder, self.mixture, self.towers, self.head = encoder, mixture, towers, head
        self.input_gate, self.tower_gate = conditions.input_gate, conditions.tower_gate
        self.imputation, self.interactions, self.wide = imputation, between, first_order
        self.column_dropout, self.position, self.position_tower = dropout, position, tower
        keras_private.track_layers(self, (imputation, tower))
        self.scenario_towers = bool(scenario_towers)
        self.schema = schema
        self._whole = Untracked((whole, dict(blueprint.table_sizes)))
        self.tower_units = tuple(tower_units)
        self.tower_dropout = tower_dropout
        self.lengths = dict(blueprint.lengths)
        self._mixture_config = config
        self._conditions = Untracked(conditions)
        self._num_added = num_added
        self._stages = Untracked(stages)
        self._fitted = Untracked(blueprint.preprocessor)
        self._objectives = Untracked(None)
        self._guard = Untracked(None)
        self.kernel_regularizer = regularizers_of(kernel_regularizer)
        regularize(self, self.kernel_regularizer)
        if num_added:
            encoder.trainable = False
            structure.freeze()
            for layer in (self.input_gate, self.imputation, self.interactions):
                if layer is not None:
                    layer.trainable = False
        elif blueprint.preprocessor is not None:
            means = blueprint.preprocessor.label_means
            start_at_means(self.towers, schema.tasks, means, moments)
            encoder.start_at(blueprint.preprocessor.fits)

    @property
    def structure(self) -> Structure:
        """`model.mixture` as a `Structure`, which a plain layer is not by itself."""
        return self._stages.value.structure

    @property
    def preprocessor(self) -> Preprocessor:
        """The fitted Preprocessor, which travels with the model; without the `position`."""
        whole = self.training_preprocessor
        return whole if self.position is None else whole.without(self.position)

    @property
    def training_preprocessor(self) -> Preprocessor:
        """The one that the model was made with, which encodes a `position` too, for `fit`."""
        if self._fitted.value is None:
            raise ValueError(
                "This model was made from a config alone and has no vocabularies. Load "
                "it with keras.saving.load_model, or build it from a Preprocessor."
            )
        return self._fitted.value

    def add_task(
        self,
        task: Task,
        like: str | Sequence[str] | None = None,
        routing: Literal["own", "mix"] = "own",
        rows: Rows | None = None,
        mean: float | None = None,
        std: float | None = None,
    ) -> MultiTaskModel:
        """A new model with one more task, to be fitted on few rows of it.

        What was trained (experts, embeddings, gates and towers) is copied and frozen, and the
        old tasks' predictions are the same to the bit, also after further training. Only the
        new task's tower and its part of the gate are trained, as variables of their own, and with
        a `position` the new task's numbers of it; `training_preprocessor` encodes that. This model
        stays as it is.

        Args:
            task: `Task` such as `Binary`. The new model's `preprocessor` encodes its rows.
            like: sequence of names of related tasks that were trained together, or one name,
                or None for all. The new task starts from the mean of their gates, and with the
                tower of the first if that is of its kind. Where tasks have experts of their
                own, name one: the mean of several may select experts that none of them uses.
            routing: which part of the gate is trained: `"own"`, the new task's embedding if the
                gate has a `TaskRouter`, else the weights of its scores; `"mix"`, the weights of
                a convex combination of the related tasks (of their embeddings with a
                `TaskRouter`, else of their scores), the fewest parameters.
            rows: rows with the new task's labels, as for `Preprocessor.fit`. A `Regression` needs
                them for the mean and standard deviation that its labels are standardised by.
            mean, std: float, these two numbers themselves.

        Returns:
            `MultiTaskModel`, not compiled.

        Raises:
            ValueError: if the structure takes no further task, as `ModSquad` and plain layers,
                an argument is out of range, or a regression has neither `rows` nor `mean`.
        """
        related = places(self.schema, like, self._num_added)
        check_routing(routing)
        preprocessor = self.training_preprocessor.add_task(task, rows, mean, std)
        blueprint: Any = Blueprint.of(preprocessor, self._num_added + 1)
        model = MultiTaskModel(
            blueprint,
            self.structure.extended(related, routing),
            **self.around,
            position=self.position,
        )
        copy_extended(self, model, related)
        return model

    def grow(
        self,
        preprocessor: Preprocessor,
        *,
        new_rows: Literal["initializer", "unknown"] = "initializer",
        renamed: Mapping[str, str] | None = None,
    ) -> MultiTaskModel:
        """A new model for what `Preprocessor.grow` has made of this one's, to be trained on.

        Tables get rows for the new ids, and so do the first-order term, the position's numbers, the
        factors of scenarios and the optimizer's state of each; all else is copied, the optimizer's
        step and random states too. Before it is trained, the new model predicts the same as this
        one, to the bit, for rows of values that this one knows. This model stays as it is.

        New rows start as the tables do, or as the row of the unknown value, which new values were
        served by so far: then predictions stay the same for them too. Rows whose value was evicted
        for another start likewise. States of the optimizer for such rows are those that it starts
        with; vectors of a `Pretrained` are those that came.

        Of `STAR` and `scenario_towers`, whose products are cut by how many scenarios there are,
        predictions are the same up to rounding. So they are where columns came with
        `Preprocessor.grow(schema=...)`: these are further inputs of the first layers, by rows of
        zeros. A structure that reads tokens cannot have further columns, nor what is made for those
        before: interactions, `EPNet`, `PPNet`. Tasks come by `add_task`.

        Args:
            preprocessor: `Preprocessor`, what `model.training_preprocessor.grow(...)` returned, in
                one step or several. Numbers that were counted on (`moments="update"`) are encoded
                anew; the units of labels stay those of this model.
            new_rows: `"initializer"` or `"unknown"`; see above. The row of the unknown value is
                trained where rows had unknown values, or the column an `unknown_rate`.
            renamed: as it was given to `Preprocessor.grow`.

        Returns:
            `MultiTaskModel`, compiled if this one is.

        Raises:
            ValueError: if the Preprocessor is not grown of this model's, a column cannot be added,
                or the optimizer keeps a state of another shape than its variable.

        Example:

        >>> import pandas as pd
        >>> rows = pd.DataFrame({"city": ["Rome", "Oslo", "Rome"], "click": [0, 1, 0]})
        >>> schema = tfmoe.Schema([tfmoe.Categorical("city")], [tfmoe.Binary("click")])
        >>> prep = tfmoe.Preprocessor(schema).fit(rows)
        >>> model = tfmoe.MultiTaskModel(prep, tfmoe.SharedBottom(hidden_units=(8,)))
        >>> later = prep.grow(rows.assign(city="Bonn"))
        >>> model.grow(later).encoder.table_sizes
        {'city': 6}
        """
        before = self.training_preprocessor
        how = plan(before, preprocessor, new_rows, renamed)
        model = type(self).from_config(config_of(self, preprocessor, how.names))
        model._adopt(preprocessor)
        transfer = Transfer(self, model, how)
        transfer.copy_weights()
        if self.compiled:
            model.compile_from_config(self.get_compile_config())
            transfer.copy_training()
        return model

    @property
    def around(self) -> dict[str, Any]:
        """The arguments of its constructor beside preprocessor and mixture, for a model like it."""
        conditions = self._conditions.value
        return {
            "tower_units": self.tower_units,
            "tower_dropout": self.tower_dropout,
            "input_gate": conditions.input_recipe,
            "tower_gate": conditions.tower_recipe,
            "scenario_towers": self.scenario_towers,
            "interactions": None if self.interactions is None else self.interactions.recipe,
            "wide": self.wide is not None,
            **self._embedded,
            "dtype": self.encoder.dtype_policy,
        }

    @property
    def _embedded(self) -> dict[str, Any]:
        """How tables are made, and the arguments that keep it from overfitting, as plain data."""
        multiple = self.encoder.rows_multiple
        return {
            "embeddings_initializer": keras.initializers.serialize(
                self.encoder.embeddings_initializer
            ),
            "embeddings_regularizer": self.encoder.embeddings_regularizer,
            "kernel_regularizer": regularizers_config(self.kernel_regularizer),
            "column_dropout": self.column_dropout.rate if self.column_dropout else 0.0,
            **({} if multiple == 1 else {"rows_multiple": multiple}),
        }

    @property
    def added_tasks(self) -> tuple[str, ...]:
        """Names of the tasks that `add_task` has added, in their order."""
        return self.schema.task_names[len(self.schema.tasks) - self._num_added :]

    def forward_pass(
        self, features: dict[str, Tensor], training: bool | None = False
    ) -> ForwardOutput:
        """A forward pass with all that losses and reports need: predictions, logits, gate outputs.

        Args:
            features: dict by column, as `Preprocessor.arrays` makes it.
            training: bool, or None to leave it to Keras.
        """
        return self._stages.value.forward(features, training=training)

    def keep_recipe(self, config: dict[str, Any]) -> None:
        """Sets the recipe of the structure that is saved, to what `Structure.select` returned."""
        self._mixture_config = config

    def encode(self, features: dict[str, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """The structure's inputs, of features: a vector a row, or tokens and their mask."""
        return self._stages.value.inputs_of(features)

    def call(
        self, inputs: dict[str, Tensor], training: bool | None = None, mask: Any = None
    ) -> Any:
        if is_in_step(self):
            wait_for_replicas()
            return self.forward_pass(inputs, training=training)
        return super().call(inputs, training=training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "trainable": self.trainable,
            # Keras's Functional models drop theirs.
            "dtype": keras.dtype_policies.serialize(self.encoder.dtype_policy),
            "schema": self._whole.value[0].to_dict(),
            "table_sizes": self._whole.value[1],
            "lengths": self.lengths,
            "label_moments": {name: list(pair) for name, pair in self.head.moments.items()},
            "mixture": self._mixture_config,
            "tower_units": list(self.tower_units),
            "tower_dropout": self.tower_dropout,
            "input_gate": self._conditions.value.input_recipe,
            "tower_gate": self._conditions.value.tower_recipe,
            "scenario_towers": self.scenario_towers,
            "interactions": None if self.interactions is None else self.interactions.recipe,
            "wide": self.wide is not None,
            **self._embedded,
            "position": self.position,
            "num_added": self._num_added,
            "frozen": frozen_places(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        blueprint: Any = Blueprint(
            Schema.from_dict(config.pop("schema")),
            config.pop("table_sizes"),
            config.pop("lengths"),
            # Files of earlier versions have none: their labels are in their own units.
            config.pop("label_moments", {}),
            config.pop("num_added", 0),
        )
        check_sizes(blueprint.schema, blueprint.table_sizes, blueprint.lengths)
        frozen = config.pop("frozen", None)
        model = cls(blueprint, **config)
        freeze_places(model, frozen)
        return model

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """As in Keras, but the file appears whole or not at all.

        It is written beside its place, and takes the place of an older one when it is complete.
        `filepath` may be an URL, as `s3://bucket/model.keras`: see the guide to remote data. What
        begins with `hf://` is left to Keras.

        Raises:
            FileExistsError: with `overwrite=False`, if something is there; or if a folder is, in
                which something else lies than a model.
            FloatingPointError: if a weight is not finite.
        """
        if str(filepath).startswith("hf://"):
            super().save(filepath, overwrite, zipped=zipped, **kwargs)
            return
        check_holds_a_model(filepath)
        with _draft_of(filepath, overwrite) as draft:
            super().save(draft, zipped=zipped, **kwargs)

    def save_weights(
        self, filepath: Any, overwrite: bool = True, max_shard_size: float | None = None
    ) -> None:
        """As in Keras, but the file appears whole or not at all, unless there are several."""
        if max_shard_size is not None:
            super().save_weights(filepath, overwrite, max_shard_size)
            return
        with _draft_of(filepath, overwrite) as draft:
            super().save_weights(draft)

    def load_weights(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As in Keras, of the path that `save_weights` was given."""
        super().load_weights(address(filepath), *args, **kwargs)

    def save_assets(self, path: str) -> None:
        """Called by Keras in saving: what was fitted and counted goes into the `.keras` file.

        Raises:
            FloatingPointError: if a weight is not finite.
        """
        check_weights(self, "saved")
        self.training_preprocessor.save(path)

    def load_assets(self, path: str) -> None:
        """Called by Keras in loading.

        Raises:
            ValueError: if the vocabularies are not those that the model was made with.
        """
        preprocessor = Preprocessor.load(path)
        schema, table_sizes = self._whole.value
        check_goes_with(preprocessor, schema, table_sizes, dict(self.lengths))
        self._adopt(preprocessor)

    def _adopt(self, preprocessor: Preprocessor) -> None:
        """Takes a Preprocessor of the columns and tables that the model was made for."""
        # What was trained counts, also where an earlier version standardised nothing.
        known = moments_of(self.schema.tasks, dict.fromkeys(self.schema.task_names, (0.0, 1.0)))
        self._fitted.value = preprocessor.with_label_moments({**known, **self.head.moments})


def _draft_of(path: Any, overwrite: bool) -> contextlib.AbstractContextManager[Any]:
    """Where to write what is to appear at a path, or at an URL."""
    if not overwrite:
        check_new(path)
    return replaced(path)
