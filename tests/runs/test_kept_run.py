"""`tfmoe train --checkpoints --resume`, and `tfmoe.Run` with the same."""

import os

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfmoe
from tests.model import kept
from tfmoe.cli.app import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    kept.table(120).to_csv(folder / "rows.csv", index=False)
    kept.schema().save(folder / "schema.yaml")
    return folder


def run_of(folder, **changes):
    given = {
        "data": str(folder / "rows.csv"),
        "schema": str(folder / "schema.yaml"),
        "num_experts": 2,
        "hidden_units": "4",
        "tower_units": "3",
        "batch_size": 30,
        "epochs": 2,
    }
    return tfmoe.Run.from_dict({**given, **changes})


@pytest.mark.filterwarnings("ignore:The model has been trained for")
@pytest.mark.filterwarnings("ignore:`fit` counts scores in bins")
def test_a_run_goes_on_with_what_it_was_begun_with(folder, tmp_path, monkeypatch):
    checkpoints = tmp_path / "checkpoints"
    whole = run_of(folder)
    model = whole.build()
    history = whole.fit(model)
    kept_run = run_of(folder, checkpoints=checkpoints, checkpoint_steps=1)
    with pytest.raises(kept.Broken):
        kept_run.fit(kept_run.build(), [kept.BreaksAt(1, 1)])
    names = sorted(os.listdir(checkpoints))
    assert names[-3:] == ["preprocessor", "run.yaml", "sizes.json"]
    with pytest.raises(FileExistsError, match="by --resume"):
        kept_run.build()
    again = {"checkpoints": checkpoints, "resume": True}
    with pytest.raises(ValueError, match="Received batch_size=20 in place of 30, of "):
        run_of(folder, batch_size=20, **again).build()
    with pytest.raises(ValueError, match="Received seed=1 in place of 'its default'"):
        run_of(folder, seed=1, **again).build()
    assert sorted(os.listdir(checkpoints)) == names
    # The Preprocessor is not fitted again.
    monkeypatch.setattr(tfmoe.Preprocessor, "fit", None)
    resumed = run_of(folder, **again)
    other = resumed.build()
    found = resumed.fit(other)
    assert "Goes on after step 1 of epoch 2" in other.plan
    assert found == history
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:The model has been trained for")
@pytest.mark.filterwarnings("ignore:`fit` counts scores in bins")
def test_a_schema_that_was_edited_is_refused(folder, tmp_path):
    edited = tmp_path / "schema.yaml"
    edited.write_text((folder / "schema.yaml").read_text())
    run = run_of(folder, schema=edited, checkpoints=tmp_path / "checkpoints", epochs=1)
    run.fit(run.build())
    tfmoe.Schema([tfmoe.Numeric("x")], [tfmoe.Binary("click")]).save(tmp_path / "other.yaml")
    os.replace(tmp_path / "other.yaml", edited)
    again = run_of(
        folder, schema=edited, checkpoints=tmp_path / "checkpoints", resume=True, epochs=1
    )
    with pytest.raises(ValueError, match="the schema that it was begun with"):
        again.build()


@pytest.mark.filterwarnings("ignore:The model has been trained for")
@pytest.mark.filterwarnings("ignore:`fit` counts scores in bins")
@pytest.mark.parametrize("name", ["data", "valid"])
def test_a_table_that_has_grown_is_refused(folder, tmp_path, name):
    for one in ("data", "valid"):
        kept.table(60).to_csv(tmp_path / f"{one}.csv", index=False)
    paths = {one: str(tmp_path / f"{one}.csv") for one in ("data", "valid")}
    run = run_of(folder, **paths, checkpoints=tmp_path / "checkpoints", epochs=1)
    run.fit(run.build())
    again = run_of(folder, **paths, checkpoints=tmp_path / "checkpoints", epochs=1, resume=True)
    again.build()
    kept.table(61).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(ValueError, match=rf"Received {name}=.* bytes now and had"):
        again.build()
    # A folder of an earlier version says nothing of it.
    (tmp_path / "checkpoints" / "sizes.json").unlink()
    again.build()


def test_a_slip_of_the_pen_keeps_nothing(folder, tmp_path, monkeypatch):
    """What ended before its first step was kept begins anew, with what it is told now."""
    place = {"checkpoints": tmp_path / "checkpoints"}
    for name in ("data", "valid"):
        with pytest.raises(FileNotFoundError):
            run_of(folder, **{name: str(folder / "vaild.csv")}, **place).build()
    assert not (tmp_path / "checkpoints").exists()
    run_of(folder, **place).build()
    with pytest.raises(FileExistsError, match="by --resume"):
        run_of(folder, tower_units="2", **place).build()
    again = run_of(folder, tower_units="2", resume=True, **place)
    # Of the same rows and schema the Preprocessor is not fitted again.
    with monkeypatch.context() as patch:
        patch.setattr(tfmoe.Preprocessor, "fit", None)
        again.build()
    assert tfmoe.Run.load(tmp_path / "checkpoints" / "run.yaml").tower_units == "2"
    kept.table(60).to_csv(tmp_path / "other.csv", index=False)
    other = run_of(folder, data=str(tmp_path / "other.csv"), resume=True, **place)
    assert other.build().training_preprocessor.num_rows == 60


@pytest.mark.filterwarnings("ignore:The model has been trained for")
@pytest.mark.filterwarnings("ignore:`fit` counts scores in bins")
def test_a_gate_decides_when_it_was_to_though_epochs_are_more(folder, tmp_path):
    gated = {"gate": "dselect-k", "checkpoints": tmp_path / "checkpoints"}
    first = run_of(folder, epochs=2, **gated)
    before = first.build()
    first.fit(before)
    more = run_of(folder, epochs=3, resume=True, **gated)
    model = more.build()
    steps = [m.structure.gates[0].get_config()["entropy_reg"]["config"] for m in (before, model)]
    assert steps[0] == steps[1]
    assert len(more.fit(model)["loss"]) == 3


@pytest.mark.parametrize("epochs", [8, None])
def test_no_epoch_is_kept_in_which_a_gate_had_not_decided(folder, monkeypatch, epochs):
    """Whether the number of epochs is given or follows from validation rows."""
    rows = str(folder / "rows.csv")
    run = run_of(folder, gate="dselect-k", valid=rows, epochs=epochs)
    model, seen = run.build(), []

    def fit(self, *arguments, **options):
        seen.extend(options["callbacks"])
        raise kept.Broken

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(kept.Broken):
        run.fit(model)
    (stopping,) = [one for one in seen if isinstance(one, keras.callbacks.EarlyStopping)]
    assert stopping.start_from_epoch == 1  # it rises over two epochs
    assert stopping.restore_best_weights


@pytest.mark.parametrize("changes", [{"resume": True}, {"checkpoint_steps": 5}])
def test_without_a_folder_nothing_goes_on(folder, changes):
    with pytest.raises(ValueError, match=r"without `checkpoints`\. Name the folder"):
        run_of(folder, **changes)


def test_a_search_has_a_folder_of_its_own(folder, tmp_path):
    with pytest.raises(ValueError, match="A search goes on from its own folder"):
        tfmoe.tune(run_of(folder, checkpoints="c").to_dict(), folder=tmp_path, trials=1)


@pytest.mark.slow
def test_the_command_line_says_where_it_goes_on(folder, tmp_path):
    command = ["train", folder / "rows.csv", "--schema", folder / "schema.yaml"]
    command += ["--num-experts", 2, "--hidden-units", 4, "--epochs", 1, "--batch-size", 60]
    command += ["--checkpoints", tmp_path / "checkpoints"]

    def said(*more):
        done = CliRunner().invoke(app, [str(one) for one in (*command, *more)])
        return done.exit_code, " ".join(done.output.split())

    code, text = said("--resume", "--out", tmp_path / "a.keras")
    assert code == 0, text
    assert "the training begins with its first step" in text
    code, text = said("--out", tmp_path / "b.keras")
    assert code == 1
    assert "which is not empty. Go on with what is there by --resume" in text
    code, text = said("--resume", "--learning-rate", 0.1, "--out", tmp_path / "b.keras")
    assert code == 1
    assert "learning_rate=0.1 in place of 'its default'" in text
    code, text = said("--resume", "--out", tmp_path / "b.keras")
    assert code == 0, text
    assert "The training has ended already" in text
    one, two = (keras.saving.load_model(tmp_path / name) for name in ("a.keras", "b.keras"))
    for ours, theirs in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
