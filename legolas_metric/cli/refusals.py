"""How a command ends: whatever it refuses is one line on stderr and status 2."""

import os
import sys
import warnings
from typing import NoReturn, cast

import typer

from legolas_metric.tables import visible

BAD_INPUT = (ValueError, TypeError, OSError, ModuleNotFoundError)
# What commands that train import by themselves; all else that is optional names its extra where it is missing.
_OF_TRAINING = ("lightning", "torchmetrics")
# Typer has Click's errors from Click or, in newer releases, within itself; this name leads to both.
_BAD_USAGE = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


def run(app: typer.Typer) -> NoReturn:
    """Run the commands and exit: bad usage or input is one line on stderr, and no arguments at all ask for help."""
    arguments = None if sys.argv[1:] else ["--help"]
    warnings.showwarning = lambda message, *_, **__: complain(str(message))
    try:
        status = app(arguments, prog_name="legolas-metric", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough: `| head` is no error, and the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except typer.Abort:
        raise SystemExit(130) from None
    except _BAD_USAGE as error:
        where = "" if error.ctx is None else f" (see {error.ctx.command_path} --help)"
        complain(error.format_message().replace("Value error, ", "").removesuffix(".") + where)
        raise SystemExit(2) from None
    except BAD_INPUT as error:
        lacks = error.name if isinstance(error, ModuleNotFoundError) else None
        complain(f"this needs {lacks}: pip install 'legolas-metric[train,report]'" if lacks in _OF_TRAINING else error)
        raise SystemExit(2) from None
    raise SystemExit(status or 0)


def complain(error: Exception | str) -> None:
    """One line on stderr; what controls a terminal, as a file's name may, is shown as its escape."""
    print(f"legolas-metric: {visible(' '.join(str(error).split()))}", file=sys.stderr)
