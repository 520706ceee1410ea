"""A run's folder: whose it is, and what a run that is taken up again finds there."""

from datetime import date
from pathlib import Path

from legolas_metric.outputs import check_writable
from legolas_metric.runs.run_log import log
from legolas_metric.runs.run_settings import RunSettings
from legolas_metric.training.history import versions

SETTINGS = "settings.toml"
RUNS = Path("runs")


def claim(folder: Path | None, settings: RunSettings, command: str) -> Path:
    """Write the settings into the folder, or find the same ones there: then the run goes on.

    Settings of a run that never came to train, as they were refused by the data, give way to others.

    Returns:
        The folder; a new one, named by the day, where none is given.

    Raises:
        ValueError: another run's folder; the keys that differ are named.
        OSError: a folder that can't be written.
    """
    folder = _folder_of_today() if folder is None else folder
    check_writable(folder)
    path = folder / SETTINGS
    if path.is_file() and next(folder.rglob("history.jsonl"), None) is not None:
        differ = settings.differences(RunSettings.read(path))
        if differ:
            said = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (new, old) in differ.items())
            raise ValueError(f"{folder} holds a run of other settings ({said}): choose another folder with --out")
        held = command_of(folder)
        if held != command:
            raise ValueError(f"{folder} holds a run of `{held}`, not of `{command}`: choose another folder with --out")
    settings.write(path, {"command": command, **versions()})
    return folder


def _folder_of_today() -> Path:
    """`runs/2026-11-30`, and `runs/2026-11-30_2` for a second run of that day: made now, so that no two share it."""
    check_writable(RUNS)
    today = date.today().isoformat()
    number = 1
    while True:
        folder = RUNS / (today if number == 1 else f"{today}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def tell(settings: RunSettings, folder: Path) -> None:
    """Say what a run does, and with what."""
    log.info("Settings, as resolved (%s):\n%s", folder / SETTINGS, settings.toml().rstrip())
    log.info("Versions: %s", ", ".join(f"{name} {number}" for name, number in versions().items()))
    log.info("Interrupted, it goes on by the same command with --out %s.", folder)


def command_of(folder: Path) -> str:
    """The command that made a folder.

    Raises:
        FileNotFoundError: no run in it.
    """
    path = folder / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run: there is no {SETTINGS}")
    first = path.read_text(encoding="utf-8").splitlines()[:1]
    return first[0].removeprefix("# command: ") if first else ""


def settings_of(folder: Path) -> RunSettings:
    """The settings of a run, as resolved.

    Raises:
        FileNotFoundError: no run in the folder.
    """
    command_of(folder)
    return RunSettings.read(folder / SETTINGS)
