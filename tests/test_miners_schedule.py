"""Stages by epoch, steps back on alarms, and what is remembered."""

import logging
import math

import numpy as np
import pytest
from pytorch_metric_learning.miners import BatchHardMiner

from legolas_metric import FullHardMiner, HardMiner, MiningSchedule, MultiSimilarityMiner, RandomMiner, SemiHardMiner
from legolas_metric.interop.pml import as_miner
from legolas_metric.miners.schedule import Plateau, StageChange

STAGES = (RandomMiner, SemiHardMiner, HardMiner, FullHardMiner)


def make(hold=1):
    return MiningSchedule(list(zip((0, 3, 8, 12), (kind() for kind in STAGES))), hold=hold)


def stages_over(schedule, epochs, alarms=None):
    out = []
    for epoch in epochs:
        schedule.advance(epoch, alarm=(alarms or {}).get(epoch))
        out.append(schedule.stage)
    return out


def test_stages_start_at_their_epochs():
    schedule = make()
    assert stages_over(schedule, range(14)) == [0] * 3 + [1] * 5 + [2] * 4 + [3] * 2
    assert isinstance(schedule.miner, FullHardMiner)
    assert [change.reason for change in schedule.changes] == [f"epoch {epoch} reached" for epoch in (3, 8, 12)]


def test_skipped_epochs_enter_the_last_stage_that_is_due():
    schedule = make()
    assert isinstance(schedule.advance(9), HardMiner)
    assert schedule.changes == [StageChange(9, 0, 2, "epoch 8 reached")]


def test_an_alarm_steps_back_and_delays_what_follows():
    schedule = make(hold=2)
    got = stages_over(schedule, range(18), alarms={9: "mean cosine 0.99"})
    assert got == [0] * 3 + [1] * 5 + [2] + [1] * 2 + [2] * 4 + [3] * 3
    assert schedule.changes[2:4] == [
        StageChange(9, 2, 1, "mean cosine 0.99"),
        StageChange(11, 1, 2, "epoch 8 reached, delayed by 3"),
    ]


def test_an_alarm_in_the_first_stage_is_recorded():
    schedule = make()
    assert isinstance(schedule.advance(1, alarm="collapse"), RandomMiner)
    assert schedule.changes == [StageChange(1, 0, 0, "collapse")]
    assert schedule.advance(3) is schedule.miner
    assert schedule.stage == 1


def test_repeated_alarms_keep_stepping_back():
    schedule = make()
    stages_over(schedule, range(13))
    assert stages_over(schedule, [13, 14, 15], alarms={13: "a", 14: "b"}) == [2, 1, 2]


def test_every_change_is_logged_with_its_reason(caplog):
    caplog.set_level(logging.INFO, logger="legolas_metric")
    stages_over(make(), range(5), alarms={4: "effective rank 1.3"})
    assert [record.getMessage().split(": ", 1)[0] for record in caplog.records] == ["epoch 3", "epoch 4"]
    assert "stage 1 -> 0" in caplog.text
    assert "effective rank 1.3" in caplog.text


def test_resuming_from_the_state_goes_on_alike():
    alarms = {9: "collapse"}
    whole, first = make(), make()
    expected = stages_over(whole, range(20), alarms)
    start = stages_over(first, range(10), alarms)
    first.stages[1][1].calls = 5
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert start + stages_over(resumed, range(10, 20)) == expected
    assert resumed.changes == whole.changes
    assert resumed.stages[1][1].calls == 5


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "the first stage must start at epoch 0, got stages at"),
        ([(1, RandomMiner())], r"the first stage must start at epoch 0, got stages at \[1\]"),
        ([(0, RandomMiner()), (0, HardMiner())], r"stages must start at ascending epochs, got \[0, 0\]"),
    ],
)
def test_bad_stages_are_refused(stages, message):
    with pytest.raises(ValueError, match=message):
        MiningSchedule(stages)


def test_bad_hold_and_state_are_refused():
    with pytest.raises(ValueError, match="hold must be at least 1, got 0"):
        make(hold=0)
    with pytest.raises(ValueError, match="the state has 4 stages, this schedule 1"):
        MiningSchedule([(0, RandomMiner())]).load_state_dict(make().state_dict())


def test_a_plateau_starts_the_next_stage():
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(2, min_delta=0.01), SemiHardMiner()), (9, HardMiner())])
    values = [0.1, 0.2, 0.205, 0.209, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    stages = []
    for epoch, value in enumerate(values):
        schedule.advance(epoch, value=value)
        stages.append(schedule.stage)
    assert stages == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert schedule.changes[0] == StageChange(3, 0, 1, "no value above 0.2 for 2 epochs")
    with pytest.raises(ValueError, match=r"stage 1 waits for a plateau: pass advance\(epoch, value=\.\.\.\)"):
        MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())]).advance(0)


def test_after_an_alarm_a_plateau_is_waited_for_anew():
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())], hold=3)
    for epoch in range(3):
        schedule.advance(epoch, value=0.5)
    assert schedule.stage == 1
    assert isinstance(schedule.advance(3, alarm="collapse"), RandomMiner)
    stages = []
    for epoch in range(4, 9):
        schedule.advance(epoch, value=0.4)
        stages.append(schedule.stage)
    assert stages == [0, 0, 0, 1, 1]


def test_a_margin_is_scheduled_as_stages_by_epoch_and_by_plateau(caplog):
    caplog.set_level(logging.INFO, logger="legolas_metric")
    margins = [(0, 0.4), (2, 0.3), (Plateau(1), 0.2)]
    schedule = MiningSchedule([(start, SemiHardMiner(margin=margin)) for start, margin in margins])
    values = [0.1, 0.1, 0.5, 0.6, 0.6, 0.6]
    used = [schedule.advance(epoch, value=value).strategy.margin for epoch, value in enumerate(values)]
    assert used == [0.4, 0.4, 0.3, 0.3, 0.2, 0.2]
    assert schedule.advance(6, alarm="collapse").strategy.margin == 0.3
    reasons = ["epoch 2 reached", "no value above 0.6 for 1 epochs", "collapse"]
    assert [change.reason for change in schedule.changes] == reasons
    for record, margin, reason in zip(caplog.records, (0.3, 0.2, 0.3), reasons, strict=True):
        assert f"margin={margin}" in record.getMessage()
        assert record.getMessage().endswith(reason)


def test_bad_plateaus_are_refused():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        Plateau(0)
    with pytest.raises(ValueError, match="min_delta must be a finite number, at least 0, got -1"):
        Plateau(1, min_delta=-1.0)


def test_an_alarm_in_the_first_stage_delays_nothing():
    schedule = MiningSchedule(list(zip((0, 1, 3), (kind() for kind in STAGES))), hold=3)
    assert stages_over(schedule, range(5), {0: "early"}) == [0, 1, 1, 2, 2]


def test_an_alarm_in_a_plateau_stage_delays_the_epochs_that_follow():
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner()), (5, FullHardMiner())], hold=3)
    for epoch in range(5):
        schedule.advance(epoch, value=0.5)
    schedule.advance(4, value=0.5, alarm="collapse")  # entered at 1, held until 7: six epochs late
    stages = []
    for epoch in range(5, 12):
        schedule.advance(epoch, value=0.5)
        stages.append(schedule.stage)
    assert stages == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([(0, RandomMiner()), ("5", HardMiner())], "a stage starts at an epoch or with a Plateau, got '5'"),
        ([(0, RandomMiner()), (2.5, HardMiner())], "a stage starts at an epoch or with a Plateau, got 2.5"),
        ([(False, RandomMiner())], "a stage starts at an epoch or with a Plateau, got False"),
        ([(0, "hard")], "a stage is a miner of triplets such as HardMiner"),
        ([(0, RandomMiner()), (1, HardMiner)], "a stage is a miner of triplets such as HardMiner"),
        ([(0, MultiSimilarityMiner())], "a stage is a miner of triplets such as HardMiner"),
        ([(0, BatchHardMiner())], "as_miner takes those of PML"),
        ([(0, as_miner(HardMiner()))], "as_miner takes those of PML"),
    ],
)
def test_what_is_no_stage_is_refused(stages, message):
    with pytest.raises(TypeError, match=message):
        MiningSchedule.__init__.__wrapped__(MiningSchedule.__new__(MiningSchedule), stages)


def test_epochs_may_be_numpy_integers():
    stages = [(0, RandomMiner()), (np.int64(5), HardMiner()), (np.int64(3), HardMiner())]
    with pytest.raises(ValueError, match="ascending"):
        MiningSchedule.__init__.__wrapped__(MiningSchedule.__new__(MiningSchedule), stages)


def test_stages_of_users_and_of_pml_are_welcome():
    class Own:
        def mine(self, bank, anchors=None):
            return HardMiner().mine(bank)

        def __call__(self, embeddings, labels, ref_emb=None, ref_labels=None):
            return HardMiner()(embeddings, labels)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    class Kept(HardMiner):
        pass

    schedule = MiningSchedule([(0, Own()), (1, Kept()), (2, as_miner(BatchHardMiner()))])
    assert [type(schedule.advance(epoch)).__name__ for epoch in range(3)] == ["Own", "Kept", "PmlMiner"]


def test_no_epoch_counts_before_the_first_value():
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(1), HardMiner())])
    values = [-math.inf, -math.inf, 0.1, 0.2, 0.2]
    assert [type(schedule.advance(epoch, value=value)).__name__ for epoch, value in enumerate(values)] == [
        *["RandomMiner"] * 4,
        "HardMiner",
    ]


def test_a_value_that_is_not_a_number_is_refused():
    schedule = MiningSchedule([(0, RandomMiner()), (Plateau(2), HardMiner())])
    with pytest.raises(ValueError, match="the value that stage 1 waits for is NaN"):
        schedule.advance(0, value=float("nan"))
