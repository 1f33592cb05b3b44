"""A made-up shop in many markets, of which those of one region have the same taste."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from tfmoe.datasets.synthetic import Split
from tfmoe.schema.columns import Categorical, Numeric
from tfmoe.schema.schema import Schema
from tfmoe.schema.tasks import Binary
from tfmoe.validation import check_counts

REGIONS = ("north", "east", "south", "west", "alps", "coast", "isles", "plains")
_CUSTOMER = 5  # columns that say something of the customer
_TASTES = 6  # of a customer, which differ by region in what makes them and in what they ask for
_OWN = 0.05  # share of the variance of what a taste asks for that is the market's own
_STRENGTH = 5.0  # standard deviation of the logit that taste makes


class Markets(NamedTuple):
    """A table, and the truth behind it, which no model sees.

    Attributes:
        split: `Split`; each row belongs to the market that its column `market` names.
        regions: tuple of str, of each market in the schema's order.
        probability: `(n,)`, the true probability of `bought` for each row of the test part.
    """

    split: Split
    regions: tuple[str, ...]
    probability: np.ndarray


def synthetic_markets(
    markets_per_region: int = 8,
    num_rows: int = 1500,
    num_test_rows: int = 500,
    num_products: int = 100,
    seed: int = 0,
) -> Markets:
    """A shop's table, made up: who was shown which product in which market, and who bought.

    In each of eight regions a customer's tastes follow from five numbers in another way, and
    another product suits them: a random network `d_r` and product vectors `q`,

        logit = bias + appeal[product] + strength * d_r(customer) . q[product]

    The markets of a region share all but a twentieth of it; regions share the products' vectors
    and nothing else.

    Args:
        markets_per_region: int >= 1.
        num_rows: int >= 1, each market's to train.
        num_test_rows: int >= 2, each market's to test; it has half as many to validate.
        num_products: int >= 1.
        seed: int. The same arguments give the same table.

    Returns:
        `Markets`. Columns: `market`, such as `north_1`; `product` (integers from 1); of the
        customer `age`, `visits` and `basket` (a month, in dollars), `days_away`, `hour`;
        `bought` (0 or 1).

    Raises:
        ValueError: if a number is too small.
    """
    check_counts(
        "synthetic_markets",
        markets_per_region=(markets_per_region, 1),
        num_rows=(num_rows, 1),
        num_test_rows=(num_test_rows, 2),
        num_products=(num_products, 1),
    )
    rng = np.random.default_rng(seed)
    products = rng.normal(size=(num_products, _CUSTOMER))
    appeal = 0.5 * rng.normal(size=num_products)
    sizes = (num_rows, num_test_rows // 2, num_test_rows)
    parts: list[list[pd.DataFrame]] = [[], [], []]
    names, regions = [], []
    for region in REGIONS:
        first = 1.5 * rng.normal(size=(_CUSTOMER + 1, _TASTES))
        second = rng.normal(size=(_TASTES, _CUSTOMER))
        for number in range(1, markets_per_region + 1):
            names.append(f"{region}_{number}")
            regions.append(region)
            own = rng.normal(size=second.shape)
            last = np.sqrt(1 - _OWN) * second + np.sqrt(_OWN) * own
            rows = _rows(names[-1], sum(sizes), products, appeal, (first, last), rng)
            for part, end, size in zip(parts, np.cumsum(sizes), sizes, strict=True):
                part.append(rows.iloc[end - size : end])
    tables = [pd.concat(part, ignore_index=True) for part in parts]
    tables = [table.iloc[rng.permutation(len(table))].reset_index(drop=True) for table in tables]
    probability = tables[2]["probability"].to_numpy()
    train, valid, test = (table.drop(columns="probability") for table in tables)
    schema = Schema(
        [
            Categorical("product", dim=8, dtype="string"),
            Numeric("age"),
            Numeric("visits", transform="log"),
            Numeric("basket", transform="log"),
            Numeric("days_away", transform="log"),
            Numeric("hour"),
        ],
        [Binary(name, source="bought") for name in names],
        task_column="market",
    )
    return Markets(Split(train, valid, test, schema), tuple(regions), probability)


def _rows(market, num, products, appeal, taste, rng):
    """Rows of one market, the true probability among their columns."""
    first, second = taste
    z = rng.normal(size=(num, _CUSTOMER))
    product = rng.integers(len(products), size=num)
    tastes = np.tanh(np.hstack([z, np.ones((num, 1))]) @ first) @ second
    affinity = np.einsum("nd,nd->n", tastes, products[product])
    # Of variance 1 over customers, products and worlds, about.
    affinity /= np.sqrt(0.7 * _TASTES * _CUSTOMER)
    logit = rng.normal(-1.0, 0.3) + appeal[product] + _STRENGTH * affinity
    probability = 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {
            "market": market,
            "product": np.array([f"p{i + 1}" for i in range(len(products))], object)[product],
            "age": np.round(45 + 12 * z[:, 0], 1),
            "visits": np.round(np.exp(2 + 0.7 * z[:, 1]), 1),
            "basket": np.round(np.exp(3.5 + 0.8 * z[:, 2]), 2),
            "days_away": np.round(np.exp(2 + z[:, 3]), 1),
            "hour": np.round(14 + 3 * z[:, 4], 1),
            "bought": (rng.random(num) < probability).astype("int64"),
            "probability": probability,
        }
    )
