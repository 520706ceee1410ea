"""In a real notebook kernel, with the progress bars that are the default there."""

import json

import nbformat
import pytest

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

CELL = """
import lightning as L, logging, torch, warnings
warnings.simplefilter("error", RuntimeWarning)
from tqdm import TqdmWarning
warnings.simplefilter("error", TqdmWarning)
from legolas_metric import HardMiner, SupConLoss
from legolas_metric.training import GlobalMining, MetricLearner, MiningLoop, ValidationMonitor
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
x, y = torch.randn(64, 8), torch.arange(64) // 4
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
for bar in (RichProgressBar(), TQDMProgressBar()):
    mining = GlobalMining(x, y, schedule=HardMiner(), batch_size=16, every_steps=2)
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                        callbacks=[bar, mining, ValidationMonitor(x, y)], enable_model_summary=False)
    trainer.fit(MetricLearner(torch.nn.Linear(8, 4), SupConLoss()), mining.loader())
    print(f"{len(mining.rounds)} rounds")
"""
PLAIN = """
loop, net = MiningLoop(x, y, miner=HardMiner(), batch_size=16), torch.nn.Linear(8, 4)
print(f"{len(list(loop.epoch(net)))} batches; {loop.last.summary()}")
"""


WAITING = {"timeout": 600, "startup_timeout": 600}  # seconds, of a machine that does much else


def test_a_notebook_trains_with_one_bar_a_place(tmp_path, monkeypatch):
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # not at home, where nothing may be written
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell(PLAIN)])
    client = nbclient.NotebookClient(notebook, **WAITING, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    trained, plain = (json.dumps(cell.outputs) for cell in notebook.cells)
    assert trained.count("4 rounds") == 2
    assert "Recursion" not in trained
    assert "encode" not in trained  # Lightning's bar has the place
    assert "4 batches" in plain
    assert "encode" in plain
