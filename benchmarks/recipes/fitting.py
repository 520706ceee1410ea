"""One trial: train, judge, and the line that says all about it."""

import math
import platform
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.recipes.arenas import Arena, arena
from benchmarks.recipes.feeds import Batches
from benchmarks.recipes.objectives import objective, proxies_at_own_rate
from benchmarks.recipes.persons import COHORT, by_person, error_rates
from benchmarks.recipes.trial import Recipe, Trial
from legolas_metric import ScoreNorm, __version__, evaluate_ranking, probe_embeddings

EMBED = 256  # rows of a forward pass
SEEN_SHARE = 3  # every third training class is ranked, to see whether training is saturated


def run(trial: Trial, recipe: Recipe, data: Path) -> dict[str, Any]:
    """Train and judge one trial: a line of the file of results."""
    stage = arena(trial, recipe, data)
    encoder, took = fit(trial, recipe, stage)
    return {
        **trial.plain(),
        "side": recipe.side,
        **judge(encoder, stage),
        **took,
        "settings": asdict(recipe),
        "batch_size": 4 * trial.p,
        "train_classes": int(stage.labels.max()) + 1,
        "bfloat16": stage.bfloat16,
        "threads": torch.get_num_threads(),
        "versions": {"legolas_metric": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "processor": platform.processor() or platform.machine(),
        "ended": datetime.now().isoformat(timespec="seconds"),
    }


def fit(trial: Trial, recipe: Recipe, stage: Arena) -> tuple[nn.Module, dict[str, Any]]:
    """Train an encoder; also what that took."""
    torch.manual_seed(trial.seed)
    encoder, width = stage.encoder(trial.head)
    began, wall = time.process_time(), time.time()
    loss, proxies = objective(recipe, trial.value, int(stage.labels.max()) + 1, width)
    groups = proxies_at_own_rate(encoder, proxies, trial.rate)
    optimizer = torch.optim.AdamW(groups, fused=True)
    rise = min(1.0, max(0.1, 2 / trial.steps))
    rates = [float(group["lr"]) for group in groups]  # pyright: ignore[reportArgumentType]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=trial.steps, pct_start=rise)
    averaged = _averaged(encoder, trial.steps) if recipe.ema else None
    judged = encoder if averaged is None else averaged
    batches = Batches(recipe, trial, stage, lambda rows: embed(judged, stage, stage.inputs[rows], stage.bfloat16))
    draws = torch.Generator().manual_seed(trial.seed)
    values = []
    for step, rows in enumerate(batches):
        inputs = stage.augment(stage.inputs[rows], draws)
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.bfloat16):
            embeddings = encoder(inputs).float()
        value = loss(embeddings, stage.labels[rows], step / trial.steps)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        cycle.step()
        if averaged is not None:
            averaged.update_parameters(encoder)
        values.append(value.item())
    took = {
        "cpu_s": round(time.process_time() - began, 2),
        "mining_cpu_s": round(batches.mining_s, 4),
        "wall_s": round(time.time() - wall, 2),
        "last_loss": math.fsum(values[-20:]) / len(values[-20:]),
    }
    return judged, took | ({"near_share": batches.looks} if batches.looks else {})


def judge(encoder: nn.Module, stage: Arena) -> dict[str, Any]:
    """Measures on unseen classes, and Rank@1 on some of the training classes."""
    rows = embed(encoder, stage, stage.unseen_inputs, bfloat16=False)
    values: dict[str, Any] = {}
    for name, protocol in stage.questions.items():
        groups = stage.unseen_groups if name in stage.grouped else None
        report = evaluate_ranking(rows, stage.unseen_labels, groups=groups, protocol=protocol)
        values[name or "rank1"] = report.rank[1]
        if not name:
            values["map_at_r"] = report.map_at_r
    probe = probe_embeddings(rows, stage.unseen_labels)
    seen = stage.labels % SEEN_SHARE == 0
    own = evaluate_ranking(embed(encoder, stage, stage.inputs[seen], bfloat16=False), stage.labels[seen])
    values |= {"effective_rank": probe.effective_rank, "verdict": str(probe.verdict)}
    values |= {"mean_cosine": probe.mean_cosine}
    values |= {"train_rank1": own.rank[1], "train_map_at_r": own.map_at_r}
    return values if stage.unseen_days is None else values | _of_persons(encoder, stage, rows)


def _of_persons(encoder: nn.Module, stage: Arena, rows: Tensor) -> dict[str, Any]:
    """Shares by person, and error rates; the training persons are the cohort of AS-norm."""
    assert stage.unseen_groups is not None
    assert stage.unseen_days is not None
    norm = ScoreNorm(embed(encoder, stage, stage.inputs, bfloat16=False), top=COHORT)
    sessions = {"other recording": stage.unseen_groups, "other day": stage.unseen_days}
    shares = by_person(rows, stage.unseen_labels, sessions, norm)
    return {"persons": shares, **error_rates(rows, stage.unseen_labels, stage.unseen_groups, norm)}


@torch.no_grad()
def embed(encoder: nn.Module, stage: Arena, inputs: Tensor, bfloat16: bool) -> Tensor:
    """Embeddings of plain inputs, float32 [n, d]."""
    encoder.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        rows = torch.cat([encoder(stage.plain(part)).float() for part in inputs.split(EMBED)])
    encoder.train()
    return rows


def _averaged(encoder: nn.Module, steps: int) -> AveragedModel:
    """Weights and statistics averaged over about a twentieth of the run."""
    decay = 1 - min(1.0, 20 / steps)
    return AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
