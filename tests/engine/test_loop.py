import errno
import json
import os
import signal
import sys
import threading
import time
from itertools import chain

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from selfsame import methods
from selfsame.engine.feed import Order, Steps
from selfsame.engine.health import Health
from selfsame.engine.loop import Interrupted, train
from selfsame.engine.state import saved
from selfsame.errors import TrainingStopped, UserError
from selfsame.records import ViewPlan
from selfsame.types import Draws, Learner, Step
from tests.conftest import TinyWords
from tests.engine import room
from tests.methods.room import encoder_for, settings_of


def rows(folder):
    """The log without what depends on the clock."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "items_per_second"} for line in lines]


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert different == []


def stopping(at, number=signal.SIGTERM):
    """Views that ask the process to stop while the batch of step `at` (counted from 0) is made."""
    made = []

    def views(samples, draws):
        if len(made) == at:
            os.kill(os.getpid(), number)
        made.append(1)
        return room.make_views(samples, draws)

    return views


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 12 steps."""
    folder, learner = tmp_path_factory.mktemp("whole"), room.learner()
    assert room.run(folder, learner, room.loop()) == 0
    return folder, learner


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("at", [3, 6])  # where a state is saved anyway, and between two
def test_a_run_that_a_signal_stopped_goes_on_to_the_same_bits_and_the_same_log(tmp_path, whole, workers, at):
    with pytest.raises(Interrupted, match=f"after step {at + 1}") as stop:
        room.run(tmp_path, room.learner(), room.loop(), workers, views=stopping(at))
    assert stop.value.signal_number == signal.SIGTERM
    assert saved(tmp_path / "state")[-1].stem == f"step-{at + 1:09d}"
    again = room.learner(seed=99)  # whatever it starts from, the state decides
    assert room.run(tmp_path, again, room.loop(), workers) == at + 1
    assert_same(again, whole[1])
    assert rows(tmp_path) == rows(whole[0])


def test_a_killed_run_goes_on_from_its_last_state_and_repeats_the_rest_of_the_log(tmp_path, whole):
    class Killed(BaseException):
        pass

    made = []

    def views(samples, draws):
        made.append(1)
        if len(made) == 7:
            raise Killed
        return room.make_views(samples, draws)

    with pytest.raises(Killed):
        room.run(tmp_path, room.learner(), room.loop(), views=views)
    assert rows(tmp_path)[-1]["step"] == 6 and saved(tmp_path / "state")[-1].stem == f"step-{4:09d}"
    again = room.learner()
    assert room.run(tmp_path, again, room.loop()) == 4
    assert_same(again, whole[1])
    assert rows(tmp_path) == rows(whole[0])


def test_a_run_killed_before_its_first_state_begins_anew_with_a_clean_log(tmp_path, whole):
    def views(samples, draws):
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        room.run(tmp_path, room.learner(), room.loop(), views=views)
    assert [row["step"] for row in rows(tmp_path)] == [0]
    again = room.learner()
    assert room.run(tmp_path, again, room.loop()) == 0
    assert_same(again, whole[1])
    assert rows(tmp_path) == rows(whole[0])


def test_the_number_of_workers_changes_nothing(tmp_path, whole):
    other = room.learner()
    room.run(tmp_path, other, room.loop(), workers=2)
    assert_same(other, whole[1])
    assert rows(tmp_path) == rows(whole[0])


def test_every_step_stands_in_the_log_once_and_every_look_at_the_health(whole):
    log = rows(whole[0])
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in log if "verdict" in row] == [0, 4, 8, 12]


def test_a_finished_run_is_extended_from_its_end(tmp_path, whole):
    room.run(tmp_path, room.learner(), room.loop())
    again = room.learner()
    assert room.run(tmp_path, again, room.loop(20)) == 12
    log = rows(tmp_path)
    assert log[: len(rows(whole[0]))] == rows(whole[0])
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 21))
    assert int(again.steps) == 20
    assert room.run(tmp_path, again, room.loop(20)) == 20  # nothing is left to do
    assert rows(tmp_path) == log


def test_the_second_ctrl_c_ends_at_once_and_the_first_saves(tmp_path):
    with pytest.raises(Interrupted) as stop:
        room.run(tmp_path, room.learner(), room.loop(), views=stopping(1, signal.SIGINT))
    assert stop.value.signal_number == signal.SIGINT and len(saved(tmp_path / "state")) == 1
    before = signal.getsignal(signal.SIGINT)

    def impatient(samples, draws):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return room.make_views(samples, draws)

    with pytest.raises(KeyboardInterrupt):
        room.run(tmp_path, room.learner(), room.loop(), views=impatient)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_sigterm_to_the_workers_too_does_not_end_the_run_before_it_is_saved(tmp_path):
    """Batch systems and service managers signal all processes of a job at once."""
    import multiprocessing

    made = []

    def views(samples, draws):
        if len(made) == 2:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGTERM)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
        made.append(1)
        return room.make_views(samples, draws)

    with pytest.raises(Interrupted):
        room.run(tmp_path, room.learner(), room.loop(200, save_every=200), workers=2, views=views)
    assert saved(tmp_path / "state")[-1].stem == f"step-{3:09d}"


def test_training_works_outside_the_main_thread_where_signals_cannot_be_caught(tmp_path):
    began = []
    thread = threading.Thread(target=lambda: began.append(room.run(tmp_path, room.learner(), room.loop(2))))
    thread.start()
    thread.join()
    assert began == [0] and len(saved(tmp_path / "state")) == 1


# Items and surveys ---------------------------------------------------------------------------------------------------


class Noting(Learner):
    """Keeps which items it learned from and when it looked at all of them."""

    by_item = True

    def __init__(self, every=1):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = room.Bare()
        self.every, self.looks, self.rows, self.steps_done = every, [], [], 0

    def forward(self, views, items):
        self.rows.append(items.tolist())
        assert len(views[0]) == len(items)
        return Step(torch.stack([self.encoder(view).square().mean() for view in views]).mean())

    def surveys(self, number):
        return number % self.every == 0

    def survey(self, look):
        assert self.training and not torch.is_grad_enabled()
        shown = list(look)
        self.looks.append((self.steps_done, [i for _, which in shown for i in which.tolist()]))
        assert all(len(views) == 1 and len(views[0]) == len(which) for views, which in shown)

    def after_step(self, progress):
        self.steps_done += 1


@pytest.mark.parametrize(
    ("batch", "every", "at"), [(16, 1, [0, 4, 8]), (24, 1, [0, 3, 6, 8, 11]), (16, 2, [0, 8]), (64, 1, [*range(12)])]
)
def test_a_survey_comes_with_the_first_step_that_begins_in_a_pass(tmp_path, batch, every, at):
    """So that all items have been seen in the passes before."""
    learner = Noting(every)
    room.run(tmp_path, learner, room.loop(12, batch=batch))
    assert [step for step, _ in learner.looks] == at
    assert all(sorted(set(items)) == list(range(64)) for _, items in learner.looks)
    for step in at[1:2]:
        assert set(chain(*learner.rows[:step])) == set(range(64))


def test_micro_batches_are_told_their_own_items(tmp_path):
    whole, cut = Noting(), Noting()
    room.run(tmp_path / "whole", whole, room.loop(6))
    room.run(tmp_path / "cut", cut, room.loop(6, accumulate=4))
    assert [len(rows) for rows in cut.rows] == [4] * 24
    assert [*chain(*cut.rows)] == [*chain(*whole.rows)]
    assert whole.rows == [room_items(step) for step in range(6)]


def room_items(step):
    """Places of the items of a step, from the order itself."""
    return Order(64, 0).at(np.arange(16 * step, 16 * (step + 1))).tolist()


def test_what_a_survey_cannot_read_is_told_with_the_rest(tmp_path):
    told = []
    source = room.Pictures(broken=(3, 4, 40))
    room.run(tmp_path, Noting(), room.loop(2), source=source, found=told.append)
    assert told == [{3: "cut short", 4: "cut short", 40: "cut short"}]  # at the first step, of a quarter of the items


def test_a_loop_without_a_survey_is_refused_where_one_is_wanted(tmp_path):
    learner = Noting()
    steps = Steps(room.Pictures(), np.arange(64), room.cut, 16, slice(0, 16), 0, True)
    with pytest.raises(UserError, match=r"test_loop wants to see all items between passes: `train` needs a survey"):
        train(learner, steps, room.make_views, room.loop(), tmp_path, torch.device("cpu"), 0, room.health_of(learner),
              lambda _: None)  # fmt: skip


def views_as_planned(method, plan, make_views=room.make_views):
    """The two crops of the room as the views of a plan: part views too, and words where the method reads words."""

    def views(samples, draws):
        one, two = make_views(samples, draws)
        if "words" in method.needs:
            one, two = (1 + (25 * x[:, 0, 0].abs()).long() % (TinyWords.vocabulary - 1) for x in (one, two))
        full, part = [one, two][: plan.full], [two[..., k : k + 8, :8] for k in range(plan.part)]
        return full + part + [one] * plan.plain

    return views


def begins_pass(name):
    """Whether it looks at all items where a pass begins."""
    return sys.modules[methods.load(name).__module__].Learner.surveys is not Learner.surveys


@pytest.mark.parametrize(
    ("name", "at"),  # within a pass, and for those that survey also exactly where one ends
    [(name, 5) for name in methods.names()] + [(name, 3) for name in methods.names() if begins_pass(name)],
)
def test_every_method_that_was_stopped_goes_on_to_the_same_bits(tmp_path, name, at):
    """Queues, banks, centres, assignments: whatever a method keeps from step to step is in its state."""

    def made(seed):
        torch.manual_seed(seed)
        own = {"every": 1} if "every" in methods.load(name).model_fields else {}
        method = settings_of(name, **own)
        return method.build(encoder_for(method), 64)

    def trained(folder, learner, workers=0, **changes):
        views = views_as_planned(learner.method, learner.method.plan, **changes)
        look = views_as_planned(learner.method, ViewPlan())
        held_out = room.cut(room.Pictures(), list(range(64, 80)), Draws(9, 0, 16))
        health = Health(learner.encoder, lambda: look(held_out, Draws(9, 0, 16, stream=1)))
        return room.run(tmp_path / folder, learner, room.loop(8), workers, views=views, health=health)

    whole, again = made(0), made(99)
    trained("whole", whole)
    with pytest.raises(Interrupted, match=f"after step {at + 1}"):
        trained("parts", made(0), make_views=stopping(at))
    assert trained("parts", again, workers=int(at == 3)) == at + 1  # processes may change
    assert_same(again, whole)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


# Accumulation --------------------------------------------------------------------------------------------------------


def test_micro_batches_make_one_step_of_the_optimiser_and_one_of_the_target(tmp_path):
    learner = room.learner()
    room.run(tmp_path, learner, room.loop(6, accumulate=4))
    assert int(learner.steps) == 6
    state = torch.load(saved(tmp_path / "state")[-1], weights_only=True)
    assert {int(moments["step"]) for moments in state["optimizer"]["state"].values()} == {6}


def test_micro_batches_give_the_gradient_of_the_whole_batch_where_no_norm_looks_at_the_batch(tmp_path):
    """The mean over micro-batches of a mean over rows is the mean over all rows, as they are of one size; and each
    row keeps its own random numbers however the batch is cut."""
    weights = []
    for accumulate in (1, 4):
        learner = room.learner(encoder=room.Bare, norm="group")
        plan = room.loop(3, accumulate=accumulate, warmup=0, optimizer="sgd", lr=0.05)
        room.run(tmp_path / str(accumulate), learner, plan)
        weights.append(torch.cat([p.flatten() for p in learner.parameters()]))
    start = torch.cat([p.flatten() for p in room.learner(encoder=room.Bare, norm="group").parameters()])
    moved = (weights[0] - start).norm()
    assert moved > 0.01
    assert (weights[0] - weights[1]).norm() < 1e-3 * moved


# Writing beside the training ------------------------------------------------------------------------------------------


def test_steps_go_on_while_a_state_is_written_and_it_keeps_what_was_saved(tmp_path, monkeypatch):
    room.run(tmp_path / "calm", room.learner(), room.loop(6, save_every=2, keep_states=9))
    seen, write, met = [], torch.save, []
    later = threading.Event()

    def views(samples, draws):
        seen.append(1)
        if len(seen) == 4:
            later.set()
        return room.make_views(samples, draws)

    def slow(content, file):
        met.append(content["step"] > 2 or later.wait(60))  # the first state is written when step 4 is at work
        write(content, file)

    monkeypatch.setattr(torch, "save", slow)
    room.run(tmp_path / "slow", room.learner(), room.loop(6, save_every=2, keep_states=9), views=views)
    assert met == [True] * 3
    for name in (f"step-{step:09d}.pt" for step in (2, 4, 6)):
        one, two = (torch.load(tmp_path / way / "state" / name)["learner"] for way in ("calm", "slow"))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_state_that_cannot_be_written_ends_the_run_within_the_next_steps(tmp_path, monkeypatch):
    seen = []

    def full(content, file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def views(samples, draws):
        seen.append(1)
        time.sleep(0.05)  # so that the writing has failed before the next save is due
        return room.make_views(samples, draws)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="the disk is full"):
        room.run(tmp_path, room.learner(), room.loop(40, save_every=4), views=views)
    assert len(seen) < 8
    assert list((tmp_path / "state").iterdir()) == []


# Stopping for a reason -----------------------------------------------------------------------------------------------


def broken_from(step):
    def views(samples, draws):
        made = room.make_views(samples, draws)
        broken_from.count += 1
        return [view * float("nan") for view in made] if broken_from.count > step else made

    broken_from.count = 0
    return views


def test_a_loss_that_is_no_number_stops_the_run_at_once_and_keeps_the_step(tmp_path):
    with pytest.raises(TrainingStopped, match=r"diverging found after step 6.*Likely cause.*Cure") as stop:
        room.run(tmp_path, room.learner(), room.loop(), views=broken_from(5))
    assert "\n" not in str(stop.value)
    assert [path.stem for path in saved(tmp_path / "state")] == [f"step-{4:09d}"]
    views = load_file(tmp_path / "failure" / "step-000000006.safetensors")
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "view_0": (16, 3, 16, 16),
        "view_1": (16, 3, 16, 16),
    }
    story = json.loads((tmp_path / "failure" / "step-000000006.json").read_text())
    assert story["verdict"] == "diverging" and story["loop"]["batch"] == 16
    assert len(story["items"]) == 16 and all(name.startswith("picture ") for name in story["items"])


def test_the_kept_views_are_those_the_step_saw_over_all_its_micro_batches(tmp_path):
    seen = []

    def views(samples, draws):
        made = room.make_views(samples, draws)
        seen.append(made[0])
        return [view * float("nan") for view in made] if len(seen) in (3, 4) else made

    with pytest.raises(TrainingStopped):
        room.run(tmp_path, room.learner(), room.loop(accumulate=2), views=views)
    kept = load_file(tmp_path / "failure" / "step-000000002.safetensors")["view_0"]
    assert torch.equal(kept, torch.cat(seen[2:4]))  # made again without the fault of this test


def test_weights_that_are_no_numbers_are_never_saved_though_the_loss_still_is_one(tmp_path):
    learner = room.learner()
    learner.encoder.body[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingStopped, match="diverging found after step 1"):
        room.run(tmp_path, learner, room.loop(save_every=1))
    assert saved(tmp_path / "state") == []


def test_a_collapse_stops_the_run_within_the_patience_and_says_the_cure(tmp_path):
    learner = room.learner(predictor=False, momentum=0.0, schedule="constant")
    with pytest.raises(TrainingStopped, match=r"full collapse found after step 60.*keep the predictor"):
        room.run(tmp_path, learner, room.loop(400, lr=0.05, health_every=30, save_every=40))
    assert [row["verdict"] for row in rows(tmp_path) if "verdict" in row] == [
        "too early to tell",
        "full collapse",
        "full collapse",
    ]
    assert (tmp_path / "failure" / "step-000000060.json").exists()
    assert saved(tmp_path / "state")[-1].stem == f"step-{40:09d}"


def test_what_the_workers_cannot_read_is_told_once_and_its_place_is_taken(tmp_path):
    told = {}

    def found(new):
        assert not told.keys() & new.keys()
        told.update(new)

    room.run(tmp_path, room.learner(), room.loop(6), source=room.Pictures(broken=(3, 4, 40)), found=found)
    assert told == {3: "cut short", 4: "cut short", 40: "cut short"}


def test_a_refusal_of_the_unreadable_ends_the_run_in_its_own_words(tmp_path):
    def found(_):
        raise UserError("too many")

    with pytest.raises(UserError, match=r"^too many$"):
        room.run(tmp_path, room.learner(), room.loop(), source=room.Pictures(broken=tuple(range(9))), found=found)


def test_what_a_worker_cannot_mend_arrives_as_one_line(tmp_path):
    broken = room.Pictures(broken=tuple(range(80)))
    health = room.health_of(learner := room.learner())
    with pytest.raises(UserError) as error:
        room.run(tmp_path, learner, room.loop(), workers=1, source=broken, health=health)
    assert str(error.value) == "none of 64 items can be read; the first: cut short"
