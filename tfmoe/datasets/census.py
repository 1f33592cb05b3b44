"""Census-Income (KDD): the table on which MMoE was compared with its rivals."""

import numpy as np
import pandas as pd

from tfmoe.datasets import public
from tfmoe.datasets.synthetic import Split
from tfmoe.files import PathLike
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.validation import check_choice, integer

_HOME = "https://archive.ics.uci.edu/dataset/117/census+income+kdd"
_NAME = "census-income-kdd"

# The attributes of census-income.names in their order, "-" and " " as "_", no apostrophe;
# the file has the weight as 25th column and the label as last.
_COLUMNS = (
    "age", "class_of_worker", "detailed_industry_recode", "detailed_occupation_recode",
    "education", "wage_per_hour", "enroll_in_edu_inst_last_wk", "marital_stat",
    "major_industry_code", "major_occupation_code", "race", "hispanic_origin", "sex",
    "member_of_a_labor_union", "reason_for_unemployment", "full_or_part_time_employment_stat",
    "capital_gains", "capital_losses", "dividends_from_stocks", "tax_filer_stat",
    "region_of_previous_residence", "state_of_previous_residence",
    "detailed_household_and_family_stat", "detailed_household_summary_in_household",
    "instance_weight", "migration_code_change_in_msa", "migration_code_change_in_reg",
    "migration_code_move_within_reg", "live_in_this_house_1_year_ago",
    "migration_prev_res_in_sunbelt", "num_persons_worked_for_employer",
    "family_members_under_18", "country_of_birth_father", "country_of_birth_mother",
    "country_of_birth_self", "citizenship", "own_business_or_self_employed",
    "fill_inc_questionnaire_for_veterans_admin", "veterans_benefits", "weeks_worked_in_year",
    "year", "income",
)  # fmt: skip
_AMOUNTS = ("wage_per_hour", "capital_gains", "capital_losses", "dividends_from_stocks")
_NUMBERS = ("age", *_AMOUNTS, "num_persons_worked_for_employer", "weeks_worked_in_year")
_COLLEGE = (
    "Some college but no degree", "Associates degree-occup /vocational",
    "Associates degree-academic program", "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)", "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)  # fmt: skip


def census_income(name_or_path: PathLike = _NAME, main: str = "income", seed: int = 0) -> Split:
    """People of the US census of 1994 and 1995, with two binary tasks.

    The protocol of MMoE: the main task is `income` or `college`, beside it stands
    `never_married`. Neither education nor marital status is an input, nor is the weight
    of a person in the population. The file of 199,523 rows is the training part; that of
    99,762 rows is halved by a random permutation into validation and test part.

    Args:
        name_or_path: path of a folder that holds the files `census-income.data` and
            `census-income.test`, perhaps gzipped; or `"census-income-kdd"`, which is
            looked for in the folder that the environment variable TFMOE_DATA names.
        main: `"income"`, whether it is above 50,000 dollars; or `"college"`, whether the
            person has been to college. The paper has "education is at least college" and
            does not say where that begins: here "some college but no degree" counts.
        seed: int, of the permutation.

    Returns:
        A `Split`. The tables have every column of the files under its name in
        `census-income.names`, in lower case and joined by underscores, and the labels
        `income`, `college` and `never_married` (0 or 1). "?" is None, "Not in universe" is
        a value like others. The schema is that of the two tasks.

    Raises:
        ValueError: if `main` is unknown or the files have other columns.
        FileNotFoundError: if the files are not there.

    Licence CC BY 4.0: Terran Lane and Ronny Kohavi, https://doi.org/10.24432/C5N30T.
    Protocol: Ma et al., 2018, section 6.2, https://doi.org/10.1145/3219819.3220007.
    """
    check_choice("census_income", "main", main, ("income", "college"))
    seed = integer("census_income", "seed", seed, 0)
    train, rest = (_read(name_or_path, ending) for ending in ("data", "test"))
    order = np.random.default_rng(seed).permutation(len(rest))
    halves = np.array_split(order, 2)
    valid, test = (rest.iloc[part].reset_index(drop=True) for part in halves)
    left_out = ("education", "marital_stat", "instance_weight", "income")
    columns = [_column(name) for name in _COLUMNS if name not in left_out]
    return Split(train, valid, test, Schema(columns, [Binary(main), Binary("never_married")]))


def _column(name):
    if name in _NUMBERS:
        return Numeric(name, transform="log" if name in _AMOUNTS else "standardize")
    return Categorical(name, dim=4, dtype="string")


def _read(name_or_path, ending):
    path = public.named("census_income", name_or_path, _NAME, f"census-income.{ending}", _HOME)
    # "NA" is an origin here, not a missing one.
    rows = pd.read_csv(
        path, header=None, skipinitialspace=True, keep_default_na=False, na_values=["?"]
    )
    if rows.shape[1] != len(_COLUMNS):
        raise ValueError(
            f"The files of Census-Income (KDD) have {len(_COLUMNS)} columns. Received "
            f"{path} with {rows.shape[1]}. Get them from {_HOME}."
        )
    rows.columns = _COLUMNS
    texts = [name for name in _COLUMNS if name not in (*_NUMBERS, "instance_weight")]
    for name in texts:
        present = rows[name].notna()
        values = rows[name].astype(str).str.strip()
        rows[name] = values.astype(object).where(present, None)
    rows["income"] = (rows["income"] == "50000+.").astype("int64")
    rows["college"] = rows["education"].isin(_COLLEGE).astype("int64")
    rows["never_married"] = (rows["marital_stat"] == "Never married").astype("int64")
    return rows
