"""Search over settings with Optuna, in a study on disk that goes on where it was interrupted."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legolas_metric.checks import check_whole
from legolas_metric.outputs import check_writable
from legolas_metric.runs.run_log import log, run_log
from legolas_metric.runs.run_settings import RunSettings, merged_values

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers between two bounds; whole ones where both bounds are.

    Example:
        >>> from legolas_metric.runs.search import Range
        >>> Range(low=1e-4, high=1e-2, log=True).log
        True
    """

    low: float | int
    high: float | int
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low}")


Space = Mapping[str, Range | list[Any]]


def read_space(path: str | os.PathLike[str]) -> dict[str, Range | list[Any]]:
    """A space of a TOML file: `lr = {low = 1e-4, high = 1e-2, log = true}`, `loss = ["supcon", "triplet"]`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no TOML, or an entry that is neither a list nor a range.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of a search space")
    try:
        held = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    space: dict[str, Range | list[Any]] = {}
    for key, value in held.items():
        if isinstance(value, list) and value:
            space[key] = value
        elif isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "log"}:
            space[key] = Range(**value)
        else:
            raise ValueError(f"{path}: {key} must be a list of values, or {{low = .., high = .., log = ..}}: {value}")
    return space


def search_settings(settings: RunSettings, space: Space, *, trials: int, folder: Path) -> "optuna.Study":
    """Train with settings drawn from a space, and keep the best value of `settings.monitor` of each trial.

    The study lies in `study.db`, each trial's run in `trial_{n}`. Called again it goes on until there are `trials` that
    have ended, whatever was killed meanwhile.

    Args:
        settings: what all trials share, the direction (`mode`) too.
        space: key -> values to choose from, or a `Range`.
        trials: in all.
        folder: of the study.

    Raises:
        ModuleNotFoundError: Optuna is missing.
        ValueError: an unknown key, or values that the settings refuse.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("searching needs Optuna: pip install 'legolas-metric[tune]'") from error
    from legolas_metric.runs.commands import train

    check_whole("trials", trials, 1)
    check_writable(folder)
    for key, choices in space.items():  # refused before the first trial
        ends = choices if isinstance(choices, list) else (choices.low, choices.high)
        for value in ends:
            RunSettings.of(merged_values(settings.plain(), {key: value}))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{folder / 'study.db'}"
    way = "maximize" if settings.mode == "max" else "minimize"
    study = optuna.create_study(study_name="legolas-metric", storage=storage, direction=way, load_if_exists=True)
    # Another seed for each call: the same one would draw the same settings again.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))

    def objective(trial: "optuna.Trial") -> float:
        drawn = {key: _drawn(trial, key, choices) for key, choices in space.items()}
        try:
            chosen = RunSettings.of(merged_values(settings.plain(), drawn))
        except (TypeError, ValueError) as error:  # each value is right, together they contradict each other
            raise optuna.TrialPruned(str(error)) from error
        return train(chosen, folder / f"trial_{trial.number}").kept.value

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while (left := trials - len(study.get_trials(states=ended))) > 0:
        study.optimize(objective, n_trials=min(left, 1))
    if study.get_trials(states=ended[:1]):
        best = folder / "best.toml"
        chosen = RunSettings.of(merged_values(settings.plain(), study.best_params))
        chosen.write(best, {settings.monitor: str(study.best_value)})
        with run_log(folder):  # those of the trials have ended
            log.info("Best of %d trials: %s with %s", trials, study.best_value, study.best_params)
            log.info("Wrote %s.", best)
    return study


def _drawn(trial: "optuna.Trial", key: str, choices: "Range | list[Any]") -> Any:
    if isinstance(choices, list):
        return trial.suggest_categorical(key, choices)
    if isinstance(choices.low, int) and isinstance(choices.high, int):
        return trial.suggest_int(key, choices.low, choices.high, log=choices.log)
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)
