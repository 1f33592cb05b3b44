"""What the commands print: lines, tables, and errors without a traceback."""

import functools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from tfmoe.cli.quiet import end_filter

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@functools.cache
def console() -> "Console":
    """The one console of all commands, which follows `sys.stdout`."""
    from rich.console import Console

    return Console()


@functools.cache
def errors() -> "Console":
    """The console of errors and warnings, which follows `sys.stderr`."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: object) -> None:
    """Prints one line as it is: a path may have brackets, and is not to be broken."""
    console().print(str(text), markup=False, emoji=False, soft_wrap=True)


def warn(text: object) -> None:
    """Prints sentences in yellow."""
    errors().print(
        str(text), style="yellow", markup=False, emoji=False, highlight=False, soft_wrap=True
    )


def show(table: "Table") -> None:
    """Prints a table between blank lines."""
    console().print()
    console().print(table)
    console().print()


@contextmanager
def errors_shown() -> Iterator[None]:
    """Shows what is wrong with the user's input without a traceback, and exits with 1.

    Other errors are faults of ours, and keep their traceback. Warnings are shown as sentences.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        message = _of_the_user(error)
        if message is None:
            raise
        from rich.text import Text

        errors().print(Text.assemble(("Error:", "bold red"), " ", message), soft_wrap=True)
        raise typer.Exit(1) from error
    finally:
        end_filter()  # what follows, a traceback too, goes straight to stderr


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    warn(message)


def _of_the_user(error: Exception) -> str | None:
    if isinstance(
        error, ValueError | TypeError | OSError | ImportError | RuntimeError | ArithmeticError
    ):
        return str(error)
    # TensorFlow makes an error of its own of one that came up while reading rows.
    names = r"ValueError|TypeError|OSError|\w+NotFoundError"
    own = re.search(rf"(?:{names}): (.+?)\n", str(error))
    return None if own is None else own[1]
