"""Settings: from Python, TOML and the command line, and every mistake named by its key."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from legolas_metric.runs import RunSettings, run_folder
from legolas_metric.runs.run_folder import claim, command_of, settings_of
from legolas_metric.runs.run_settings import PARTS
from legolas_metric.runs.search import Range, read_space


def test_three_ways_give_the_same_settings(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('epochs = 5\nlr = 1\nprotocols = ["cross-day", "leave-one-out"]\nimage_size = [8, 4]\n')
    python = RunSettings(epochs=5, lr=1.0, protocols=("cross-day", "leave-one-out"), image_size=(8, 4), data='é"\n')
    read = RunSettings.read(path, ['data="é\\"\\n"'])
    line = RunSettings.read(
        None, ["epochs=5", "lr=1", 'protocols=["cross-day","leave-one-out"]', "image_size=[8,4]", 'data="é\\"\\n"']
    )
    assert python == read == line
    assert isinstance(read.lr, float)
    assert RunSettings.read(None, ["data=some/folder"]).data == "some/folder"  # a bare text
    python.write(path, {"seed": "0"})
    assert RunSettings.read(path) == python
    assert path.read_text().startswith("# seed: 0\n")


WRONG = [
    ({"epoch": 3}, "unknown key 'epoch' in the settings: did you mean 'epochs'?"),
    ({"zzz": 3}, "unknown key 'zzz' in the settings: known are data"),
    ({"epochs": 0}, "epochs must be at least 1"),
    ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
    ({"epochs": True}, "epochs must be a whole number, got True"),
    ({"lr": "fast"}, "lr must be a number, got 'fast'"),
    ({"lr": 0}, "lr must"),
    ({"lr": float("nan")}, "lr must"),
    ({"weight_decay": -1}, "weight_decay must"),
    ({"progress": 1}, "progress must be true or false, got 1"),
    ({"validation_share": 1.0}, "validation_share must lie in"),
    ({"test_share": -0.1}, "test_share must lie in"),
    ({"loss": "softmax"}, "loss must be"),
    ({"loggers": ["wandb"]}, "loggers must be"),
    ({"loggers": ["mlflow", "mlflow"]}, "loggers names one twice"),
    ({"protocols": []}, "protocols must be one or several"),
    ({"image_size": [8]}, "image_size must have 2 entries"),
    ({"image_size": [8, 0]}, "image_size must be at least 1"),
    ({"channels": 2}, "channels must be 1 or 3"),
    ({"k": 64, "batch_size": 64}, "batch_size=64 and k=64 leave fewer than 2 classes"),
    ({"temperature": 0.1, "loss": "triplet"}, "temperature belongs to loss='supcon'"),
    ({"margin": 0.1, "mining": "hard"}, "margin belongs to loss='triplet'"),
    ({"epochs": 3, "mining": "schedule"}, "mining='schedule' has four stages, got epochs=3"),
    ({"recipe": "magic"}, "recipe must be"),
    ({"recipe": "near", "loss": "triplet"}, "recipe='near' sets loss itself, got 'triplet': leave loss out"),
    ({"recipe": "near", "mining": "hard"}, "recipe='near' sets mining itself"),
    ({"recipe": "auto", "temperature": 0.1}, "recipe='auto' sets temperature itself"),
    ({"layout": "folder"}, "layout='folder' contradicts data='omniglot'"),
    ({"data": ""}, "data is empty"),
    ({"query": "q"}, "gallery is missing: the official split needs both"),
    ({"loss": "focal", "mining": "schedule"}, "mining='schedule' contradicts loss='focal', which sees no triplets"),
    ({"augment": "some"}, "augment must be"),
    ({"r_peaks": "guessed"}, "r_peaks must be"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named_by_its_key(values, said, tmp_path):
    with pytest.raises((TypeError, ValueError)) as refused:
        RunSettings.of(values)
    assert str(refused.value).startswith(said)


def test_a_file_that_is_wrong_is_named(tmp_path):
    path = tmp_path / "s.toml"
    with pytest.raises(FileNotFoundError, match="no such file of settings"):
        RunSettings.read(path)
    path.write_text("epochs = \n")
    with pytest.raises(ValueError, match="is no TOML"):
        RunSettings.read(path)
    path.write_text("epoch = 3\n")
    with pytest.raises(ValueError, match=r"s\.toml: unknown key 'epoch'"):
        RunSettings.read(path)
    with pytest.raises(ValueError, match="expected KEY=VALUE, such as epochs=3, got 'epochs'"):
        RunSettings.of({}, ["epochs"])


def test_a_folder_belongs_to_one_run(tmp_path):
    claim(tmp_path / "run", RunSettings(epochs=7), "train")  # never came to train
    claim(tmp_path / "run", RunSettings(), "train")
    (tmp_path / "run" / "history.jsonl").write_text("")
    claim(tmp_path / "run", RunSettings(progress=False, threads=1), "train")  # what changes no result is free
    assert (command_of(tmp_path / "run"), settings_of(tmp_path / "run").progress) == ("train", False)
    with pytest.raises(ValueError, match=r"epochs was 8 and is 9.*choose another folder with --out"):
        claim(tmp_path / "run", RunSettings(epochs=9), "train")
    with pytest.raises(ValueError, match="holds a run of `train`, not of `kfold`"):
        claim(tmp_path / "run", RunSettings(), "kfold")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        settings_of(tmp_path)


def test_a_run_without_a_folder_gets_a_new_one_of_its_day(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "date", SimpleNamespace(today=lambda: date(2026, 11, 30)))
    given = [str(claim(None, RunSettings(epochs=epochs), "train")) for epochs in (3, 4, 5)]
    assert [Path(name).name for name in given] == ["2026-11-30", "2026-11-30_2", "2026-11-30_3"]
    assert [settings_of(Path(name)).epochs for name in given] == [3, 4, 5]
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    Path("runs").write_text("a file")
    with pytest.raises(OSError, match=r"cannot write to runs: File exists\. Choose another output folder"):
        claim(None, RunSettings(), "train")


def test_a_space_is_read_and_refused(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('lr = {low = 1e-4, high = 1e-2, log = true}\nloss = ["supcon", "triplet"]\n')
    assert read_space(path) == {"lr": Range(low=1e-4, high=1e-2, log=True), "loss": ["supcon", "triplet"]}
    for text, said in (("lr = 3", "lr must be a list"), ("lr = {low = 2, high = 1}", "low must be below high")):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read_space(path)


def test_recipes_of_settings_are_those_that_there_are():
    from typing import get_args

    from legolas_metric.recipes import Name
    from legolas_metric.runs.run_settings import RecipeName

    assert set(get_args(RecipeName)) == {"auto", *get_args(Name)}
    assert RunSettings(recipe="near", epochs=2).recipe == "near"  # four stages are the schedule's


def test_the_data_choose_a_recipe_unless_one_of_its_parts_is_given():
    assert RunSettings().plain().items() >= {"recipe": "auto"}.items()
    assert not RunSettings().plain().keys() & set(PARTS)
    parts = {"loss": "supcon", "mining": "schedule"}
    for given, wanted in (
        ({"loss": "triplet"}, {"loss": "triplet"}),
        ({"mining": "hard"}, {"mining": "hard"}),
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"loss": "focal"}, {"loss": "focal", "mining": "none"}),
    ):
        found = RunSettings.of(given).plain()
        assert "recipe" not in found
        assert {name: found[name] for name in found.keys() & set(PARTS)} == parts | wanted
        assert RunSettings.of(RunSettings.of(given).plain()) == RunSettings.of(given)


def test_a_changed_part_takes_the_place_of_the_default_recipe_and_of_no_other(tmp_path):
    path = tmp_path / "run.toml"
    RunSettings(epochs=5).write(path, {})
    assert RunSettings.read(path).recipe == "auto"
    changed = RunSettings.read(path, ["loss=triplet", "margin=0.3"])
    assert (changed.recipe, changed.loss, changed.margin, changed.epochs) == (None, "triplet", 0.3, 5)
    assert RunSettings.read(path, ["recipe=near"]).recipe == "near"
    RunSettings(recipe="near").write(path, {})
    with pytest.raises(ValueError, match="recipe='near' sets loss itself"):
        RunSettings.read(path, ["loss=triplet"])
