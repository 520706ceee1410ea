"""The guard acts on what the probes say: alarms, hysteresis, and where it gives up."""

import logging
from dataclasses import replace

import pytest
import torch
from processes import python
from test_probes_verdict import INPUTS, data

from legolas_metric import CollapseGuard, probe_embeddings
from legolas_metric.probes.verdict import judge


class Steps:
    """A schedule that only remembers its alarms."""

    def __init__(self):
        self.alarms = []

    def advance(self, epoch, *, alarm=None):
        self.alarms.append((epoch, alarm))


def report_of(length: float):
    """Rows whose resultant length is about this."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(500, 16, generator=generator) / 4
    return probe_embeddings(torch.eye(16)[0] * (length**2 / (1 - length**2)) ** 0.5 + spread)


GOOD, EDGE, BAD = report_of(0.5), report_of(0.988), report_of(0.999)


def test_the_edge_is_healthy_by_the_limits_but_not_by_the_stricter_ones():
    assert [report.verdict for report in (GOOD, EDGE, BAD)] == ["healthy", "healthy", "point collapse"]
    assert judge(EDGE, strictness=1.5).fault == "point collapse"


def test_the_guard_steps_a_schedule_back_and_says_why(caplog):
    schedule = Steps()
    guard = CollapseGuard("step_back", schedule=schedule)
    assert guard.check(GOOD, epoch=1) is None
    with caplog.at_level(logging.WARNING):
        action = guard.check(BAD, epoch=2)
    assert (action.epoch, action.act, action.fault) == (2, "step_back", "point collapse")
    assert action.evidence == BAD.evidence
    assert guard.actions == [action]
    (epoch, alarm), *others = schedule.alarms
    assert (epoch, others) == (2, [])
    assert BAD.evidence[0] in alarm
    assert BAD.evidence[0] in caplog.text
    assert BAD.remedy in caplog.text


def test_hysteresis():
    """Two faulty reports in a row raise the alarm; two in a row that pass the stricter limits end it; none between."""
    guard = CollapseGuard("warn", patience=2, recovery=2)
    seen = []
    for epoch, report in enumerate([BAD, GOOD, BAD, BAD, EDGE, GOOD, EDGE, EDGE, GOOD, GOOD, EDGE, EDGE, BAD], 1):
        seen.append((guard.check(report, epoch=epoch) is not None, guard.alarmed))
    acted = [epoch for epoch, (acts, _) in enumerate(seen) if acts]
    alarmed = [epoch for epoch, (_, alarm) in enumerate(seen) if alarm]
    assert acted == [3]
    assert alarmed == [3, 4, 5, 6, 7, 8]


def test_an_alarm_ends_by_its_own_fault(generator):
    """Out of the point, and by the stricter limits still short of dimensions: the point's alarm is over."""
    flat = torch.randn(500, 5, generator=generator) @ torch.randn(5, 16, generator=generator)
    report = probe_embeddings(flat)
    assert report.verdict == "healthy"
    assert judge(report, strictness=1.5).fault == "dimensional collapse"
    guard = CollapseGuard("warn", recovery=1)
    guard.check(BAD, epoch=1)
    assert guard.check(report, epoch=2) is None
    assert not guard.alarmed


def test_an_alarm_lasts_while_its_own_fault_is_near_whatever_else_is_worse(generator):
    good = probe_embeddings(torch.randn(400, 16, generator=generator))
    edge = replace(good, effective_rank=4.5)  # healthy, but for the stricter limits
    masked = replace(edge, resultant_length=0.987)  # by these also near a point, which is looked at first
    assert [judge(r, strictness=1.5).fault for r in (edge, masked)] == ["dimensional collapse", "point collapse"]
    for report in (edge, masked):
        guard = CollapseGuard("warn", recovery=1)
        guard.check(replace(good, effective_rank=3.0), epoch=1)
        assert guard.check(report, epoch=2) is None
        assert guard.alarmed


def test_an_alarm_that_lasts_acts_again_and_gives_up():
    schedule = Steps()
    guard = CollapseGuard("step_back", schedule=schedule, give_up=2)
    acts = [guard.check(BAD, epoch=epoch) for epoch in range(1, 6)]
    assert [action and action.act for action in acts] == ["step_back", "step_back", "stop", None, None]
    assert guard.stopped
    assert len(schedule.alarms) == 2


def test_over_clustered_is_no_alarm_unless_asked_for():
    _, labels = data()
    report = probe_embeddings(data()[0] * 0 + torch.eye(INPUTS)[labels % INPUTS], labels % INPUTS)
    assert report.verdict == "over-clustered"
    assert CollapseGuard().check(report, epoch=1) is None
    assert CollapseGuard("stop", faults=["over-clustered"]).check(report, epoch=1).act == "stop"


def test_a_loss_at_its_plateau_is_an_alarm():
    guard = CollapseGuard(plateau=0.2)
    assert guard.check(GOOD, epoch=1, loss=0.15) is None
    action = guard.check(GOOD, epoch=2, loss=0.2005)
    assert action.fault == "loss plateau"
    assert "0.2005" in action.evidence[0]


def test_a_guard_resumes_where_it_was():
    guard = CollapseGuard("warn", patience=2)
    for epoch, report in enumerate([EDGE, BAD, BAD, GOOD]):
        guard.check(report, epoch=epoch)
    other = CollapseGuard("warn", patience=2)
    other.load_state_dict(guard.state_dict())
    assert other.actions == guard.actions
    assert other.alarmed
    assert other.reference.effective_rank == EDGE.effective_rank
    other.check(GOOD, epoch=4)
    assert not other.alarmed


def test_a_guard_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="needs a schedule to step back"):
        CollapseGuard("step_back")
    with pytest.raises(ValueError, match=r"faults must be one of .*got 'healthy'"):
        CollapseGuard(faults=["healthy"])
    for name in ("patience", "recovery", "margin", "give_up"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            CollapseGuard(**{name: 0})


def test_an_unknown_act_is_refused():
    # In a process of its own: the type checks of the test session would refuse it first.
    code = "from legolas_metric import CollapseGuard\nCollapseGuard('pray')"
    done = python("-c", code)
    assert "ValueError: act must be one of 'warn', 'step_back', 'stop', got 'pray'" in done.stderr
