import gzip
import os

import numpy as np
import pandas as pd
import pytest

from tfmoe.data.preprocessor import Preprocessor
from tfmoe.datasets.census import census_income

LINE = (
    "{age}, Private, 4, 34, {education}, 0, Not in universe, {marital}, Construction, Sales, "
    "White, {origin}, Male, No, Not in universe, Full-time schedules, 0, 0, 0, Single, South, ?, "
    "Householder, Householder, 1053.55, ?, ?, ?, Not in universe under 1 year old, ?, 1, "
    "Not in universe, ?, Cuba, Cuba, Foreign born- Not a citizen of U S , 0, Not in universe, 2, "
    "52, 94, {income}.\n"
)


def write(folder, num_train=4, num_test=10, zipped=False):
    """Files like the official ones; the age is the number of the line."""
    educations = ["Some college but no degree", "High school graduate"]
    maritals = ["Never married", "Divorced", "Divorced"]
    for ending, num in (("data", num_train), ("test", num_test)):
        text = "".join(
            LINE.format(
                age=i,
                education=educations[i % 2],
                marital=maritals[i % 3],
                origin="NA" if i == 0 else "All other",
                income="50000+" if i == 1 else "- 50000",
            )
            for i in range(num)
        )
        path = folder / f"census-income.{ending}"
        if zipped:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_columns_and_labels(tmp_path, zipped):
    split = census_income(write(tmp_path, zipped=zipped))
    rows = split.train
    assert rows["age"].tolist() == [0, 1, 2, 3]
    assert rows["income"].tolist() == [0, 1, 0, 0]
    assert rows["college"].tolist() == [1, 0, 1, 0]
    assert rows["never_married"].tolist() == [1, 0, 0, 1]
    # Of neighbours in the file, so that no name can have slipped.
    first = rows.iloc[0]
    assert first["class_of_worker"] == "Private"
    assert first["detailed_industry_recode"] == "4"
    assert first["hispanic_origin"] == "NA"
    assert first["tax_filer_stat"] == "Single"
    assert first["instance_weight"] == 1053.55
    assert first["migration_code_change_in_msa"] is None
    assert first["country_of_birth_father"] is None
    assert first["country_of_birth_self"] == "Cuba"
    assert first["citizenship"] == "Foreign born- Not a citizen of U S"
    assert first["weeks_worked_in_year"] == 52
    assert first["year"] == "94"


def test_the_test_file_is_halved_at_random(tmp_path):
    write(tmp_path, num_test=11)
    splits = [census_income(tmp_path, seed=seed) for seed in (0, 0, 1)]
    ages = [(split.valid["age"].tolist(), split.test["age"].tolist()) for split in splits]
    assert [len(part) for part in ages[0]] == [6, 5]
    assert sorted([*ages[0][0], *ages[0][1]]) == list(range(11))
    assert ages[0] == ages[1] != ages[2]
    assert ages[0][0] != sorted(ages[0][0])


@pytest.mark.parametrize("main", ["income", "college"])
def test_schema_is_the_protocols(tmp_path, main):
    split = census_income(write(tmp_path), main=main)
    assert split.schema.task_names == (main, "never_married")
    names = {column.name for column in split.schema.columns}
    assert len(names) == 38
    assert not names & {"education", "marital_stat", "instance_weight", "income", "college"}
    features, labels, _ = Preprocessor(split.schema).fit(split.train, False).arrays(split.test)
    assert set(features) == names
    assert set(labels) == {main, "never_married"}


def test_named_data_are_looked_for_in_tfmoe_data(tmp_path, monkeypatch):
    (tmp_path / "census-income-kdd").mkdir()
    write(tmp_path / "census-income-kdd")
    monkeypatch.setenv("TFMOE_DATA", str(tmp_path))
    assert len(census_income().train) == 4
    monkeypatch.delenv("TFMOE_DATA")
    with pytest.raises(FileNotFoundError, match=r"(?s)census-income.data.*TFMOE_DATA=None. Get"):
        census_income()


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="Received main='marital'"):
        census_income(tmp_path, main="marital")
    for ending in ("data", "test"):
        (tmp_path / f"census-income.{ending}").write_text("1, 2\n")
    with pytest.raises(ValueError, match=r"have 42 columns. Received .* with 2"):
        census_income(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif("TFMOE_DATA" not in os.environ, reason="TFMOE_DATA names no folder.")
def test_published_counts():
    """Those of census-income.names."""
    split = census_income()
    assert [len(part) for part in (split.train, split.valid, split.test)] == [
        199_523,
        49_881,
        49_881,
    ]
    rest = pd.concat([split.valid, split.test])
    np.testing.assert_allclose(rest["income"].mean(), 0.062, atol=5e-4)
    names = ["age", "detailed_occupation_recode", "education", "hispanic_origin"]
    names += ["dividends_from_stocks", "tax_filer_stat", "detailed_household_and_family_stat"]
    names += ["weeks_worked_in_year", "year"]
    assert split.train[names].nunique().tolist() == [91, 47, 17, 10, 1478, 6, 38, 53, 2]
