"""The command line: `tfmoe demo | schema | train | evaluate | predict | report | ...`.

Help and completion import every command's module, so these import what they need when
they run.
"""

import typer

from tfmoe.cli.commands.demo import demo
from tfmoe.cli.commands.evaluate import evaluate
from tfmoe.cli.commands.export import export
from tfmoe.cli.commands.extract import extract
from tfmoe.cli.commands.importance import importance
from tfmoe.cli.commands.predict import predict
from tfmoe.cli.commands.report import report
from tfmoe.cli.commands.schema import schema
from tfmoe.cli.commands.train import train
from tfmoe.cli.commands.tune import tune

app = typer.Typer(
    help="Multi-task recommender models on mixtures of experts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS = (demo, schema, train, tune, evaluate, importance, predict, export, extract, report)
for command in COMMANDS:
    app.command()(command)

if __name__ == "__main__":
    app()
