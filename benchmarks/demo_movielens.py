"""What `tfmoe demo --data ml-1m` trains, three models, beside what a table of averages reaches."""

from tfmoe.cli import demo
from tfmoe.datasets.movielens import SPLIT, floors, movielens
from tfmoe.datasets.synthetic import synthetic_ratings


def run(quick):
    """Trains and measures; a row for each floor and each model, on the test part."""
    if quick:
        split, settings = synthetic_ratings(num_rows=3000), demo.Settings(4, 512, 1)
    else:
        split, settings = movielens("ml-1m"), demo.MOVIELENS
    found = floors(split)
    rows = [
        {"name": "constant", "rating_mse": found["rating_mse_constant"], "watch_auc": 0.5},
        {
            "name": "popularity; user and item means",
            "rating_mse": found["rating_mse_bias"],
            "watch_auc": found["watch_auc"],
            "watch_log_loss": found["watch_log_loss"],
        },
    ]
    mixtures = demo.mixtures(settings.units)
    if quick:
        mixtures = dict(list(mixtures.items())[-1:])
    for trained in demo.run(split, mixtures, settings.epochs, settings.batch_size):
        row, use = trained.row, trained.use
        rows.append(
            {
                "name": row["model"],
                "rating_mse": row["rating_rmse"] ** 2,
                "watch_auc": row["watch_auc"],
                "watch_log_loss": row["watch_log_loss"],
                "experts_used": "" if use is None else ", ".join(f"{n:.1f}" for n in use.num_used),
                "parameters": row["parameters"],
                "epochs": row["epochs"],
                "rows_per_s": row["rows_per_s"],
            }
        )
    return rows if quick else [{**row, "split": SPLIT} for row in rows]


def headline(rows):
    """The last model's scores."""
    return f"watch_auc={rows[-1]['watch_auc']:.4f} rating_mse={rows[-1]['rating_mse']:.4f}"
