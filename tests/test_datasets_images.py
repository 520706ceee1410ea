"""Pictures by folder, and by the names that Market-1501 and MSMT17 give them; runs on each source of data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from legolas_metric.datasets import image_folder, market1501, msmt17
from legolas_metric.encoders import Conv4, ResNet1D
from legolas_metric.runs import RunSettings
from legolas_metric.runs.commands import kfold, train
from legolas_metric.runs.run_data import load_data
from legolas_metric.runs.run_parts import build_encoder

Image = pytest.importorskip("PIL.Image")
ECG = Path(__file__).parents[1] / "examples/data/ecgid_dev.npz"


def paint(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_folder_of_classes(tmp_path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    red[:2, :, 2] = 255
    paint(tmp_path / "owl" / "deep" / "1.png", red)
    paint(tmp_path / "emu" / "2.PNG", red[::-1].copy())
    (tmp_path / "emu" / "notes.txt").write_text("no picture")
    paint(tmp_path / "cover.png", red)
    data = image_folder(tmp_path, size=(2, 3))
    assert data.label_names == ("emu", "owl")
    assert [path.name for path in data.paths] == ["2.PNG", "1.png"]
    image, label = data[1]
    assert label == 1
    assert torch.equal(image, torch.tensor([[[1.0] * 3] * 2, [[0.0] * 3] * 2, [[1.0] * 3, [0.0] * 3]]))
    grey = image_folder(tmp_path, size=(4, 6), channels=1)[1][0]
    assert grey.shape == (1, 4, 6)
    assert grey[0, 3, 0].item() == pytest.approx(0.299, abs=0.005)  # of red


def test_names_tell_person_and_camera(tmp_path):
    pixels = np.zeros((8, 4, 3), np.uint8)
    for name in ("0002_c1s1_000451_03", "1500_c6s3_000001_00", "-1_c2s1_000003_01", "0000_c4s6_010101_05"):
        paint(tmp_path / "market" / f"{name}.jpg", pixels)
    persons = market1501(tmp_path / "market")
    assert persons.label_names == ("0000", "0002", "1500")
    named = dict(zip([path.stem[:4] for path in persons.paths], zip(persons.labels.tolist(), persons.cameras.tolist())))
    assert named == {"-1_c": (-1, 2), "0000": (0, 4), "0002": (1, 1), "1500": (2, 6)}
    for name in ("0001/0001_000_01_0303morning_0015_0", "0001/0001_012_14_0302afternoon_1015"):
        paint(tmp_path / "msmt" / f"{name}.jpg", pixels)
    found = msmt17(tmp_path / "msmt")
    assert (found.labels.tolist(), found.cameras.tolist()) == ([0, 0], [1, 14])
    paint(tmp_path / "msmt" / "x.jpg", pixels)
    with pytest.raises(ValueError, match=r"x\.jpg is not named as 0000_000_01_0303morning_0015_0\.jpg is"):
        msmt17(tmp_path / "msmt")
    assert load_data(RunSettings(data=str(tmp_path / "market")))[1].layout == "market1501"


def test_what_is_no_folder_of_pictures_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no folder with pictures"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match="holds no pictures"):
        market1501(tmp_path)
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "1.png").write_text("not a picture")
    with pytest.raises(ValueError, match="is no picture that Pillow can read"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match="channels must be 1"):
        image_folder(tmp_path, channels=4)


def test_sources_become_rows_labels_and_groups(tmp_path):
    data, filled = load_data(RunSettings(data=str(ECG), protocols=("cross-day",)))
    assert (filled.layout, filled.group, data.input_shape) == ("ecg-id", "day", (1, 200))
    assert isinstance(build_encoder(filled, data.input_shape)[1], ResNet1D)
    data, filled = load_data(RunSettings(max_classes=3))
    assert (len(data.labels), filled.group, data.input_shape) == (60, "drawer", (1, 28, 28))
    assert isinstance(build_encoder(filled, data.input_shape)[1], Conv4)
    assert load_data(RunSettings())[1].split_by == "alphabet"
    pictures = np.full((6, 16, 16), 255, np.uint8)
    np.savez(tmp_path / "a.npz", images=pictures, labels=np.arange(6) // 2, camera=np.arange(6) % 2, noise=np.ones(6))
    data, filled = load_data(RunSettings(data=str(tmp_path / "a.npz")))
    assert (filled.group, data.input_shape, list(data.attributes)) == ("camera", (1, 16, 16), ["camera"])
    assert data.dataset.max() == 1.0
    with pytest.raises(ValueError, match="image_size and channels belong to folders of pictures"):
        load_data(RunSettings(data=str(tmp_path / "a.npz"), channels=3))
    with pytest.raises(ValueError, match=r"encoder='mlp' does not take inputs of shape \(1, 16, 16\)"):
        build_encoder(RunSettings(encoder="mlp"), (1, 16, 16))


@pytest.mark.filterwarnings("ignore:an interval over", "ignore:.*few")
def test_a_run_on_persons_across_cameras(tmp_path):
    generator = np.random.default_rng(0)
    for person in range(10):
        colour = generator.integers(0, 255, 3)
        for shot in range(4):
            pixels = np.clip(colour + generator.integers(-9, 9, (32, 16, 3)), 0, 255).astype(np.uint8)
            paint(tmp_path / "train" / f"{person + 1:04}_c{shot % 2 + 1}s1_{shot:06}_01.jpg", pixels)
    settings = RunSettings(
        data=str(tmp_path / "train"),
        image_size=(16, 16),
        width=4,
        mining="hard",
        protocols=("re-identification", "leave-one-out"),
        epochs=1,
        batch_size=16,
        k=2,
        steps_per_epoch=2,
        validation_share=0.4,
        progress=False,
    )
    found = train(settings, tmp_path / "run")
    assert list(found.rankings) == ["re-identification", "leave-one-out"]
    assert found.first.queries == 16
    assert found.kept.label_names[0] == "0001"


@pytest.mark.filterwarnings("ignore:an interval over", "ignore:.*few")
def test_market_1501_is_ranked_by_its_own_query_and_gallery(tmp_path):
    """Its folder as it is handed out, very small, against a loop over queries."""
    generator, root = np.random.default_rng(0), tmp_path / "Market-1501-v15.09.15"

    def shoot(folder: str, person: str, camera: int, shot: int, colour: np.ndarray) -> None:
        pixels = np.clip(colour + generator.integers(-60, 60, (16, 8, 3)), 0, 255).astype(np.uint8)
        paint(root / folder / f"{person}_c{camera}s1_{shot:06}_01.jpg", pixels)

    for person in range(14):
        folder = "bounding_box_train" if person < 8 else "bounding_box_test"
        colour = generator.integers(60, 200, 3)
        for shot in range(4):
            shoot(folder, f"{person + 1:04}", shot % 2 + 1, shot, colour)
        if person >= 8:
            shoot("query", f"{person + 1:04}", 1, 9, colour)
            shoot("bounding_box_test", "-1" if person % 2 else "0000", 3, person, colour)
    settings = RunSettings(
        data=str(root),
        image_size=(16, 16),
        width=4,
        mining="none",
        epochs=1,
        batch_size=8,
        k=2,
        steps_per_epoch=2,
        validation_share=0.4,
        progress=False,
    )
    found = train(settings, tmp_path / "run")
    report = found.rankings["market1501, query in gallery"]
    assert "0014" not in found.kept.label_names  # no person of the test part was trained on
    queries, gallery = (market1501(root / name, size=(16, 16)) for name in ("query", "bounding_box_test"))

    def rows(data):
        with torch.no_grad():
            return torch.nn.functional.normalize(found.encoder.eval()(torch.stack([image for image, _ in data])), dim=1)

    names = [None if n < 0 else gallery.label_names[n] for n in gallery.labels.tolist()]
    right = []
    for query, label, camera in zip(rows(queries), queries.labels.tolist(), queries.cameras.tolist(), strict=True):
        asked = queries.label_names[label]
        seen = [
            (float(query @ row), name == asked)
            for row, name, own in zip(rows(gallery), names, gallery.cameras.tolist(), strict=True)
            if name is not None and not (name == asked and own == camera)
        ]
        right.append(max(seen)[1])
    assert len(right) == report.queries == 6
    assert report.rank[1] == pytest.approx(np.mean(right))
    assert "0000" in names
    assert None in names
    assert report.baseline is not None
    assert "trained, market1501, query in gallery" in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(ValueError, match="query and gallery are ranked by `train`"):
        kfold(settings, tmp_path / "folds")
    with pytest.raises(ValueError, match="query and gallery belong to pictures of persons"):
        load_data(RunSettings(query="a", gallery="b"))
