import json

import pytest
import torch
from safetensors.torch import load_file

import selfsame as ss
from selfsame import methods
from tests.processes import (
    SAVINGS,
    SETTINGS,
    TASKS,
    VARIANTS,
    adapted,
    learned,
    learned_by,
    micro_batched,
    outcomes,
    saved_memory,
)


@pytest.fixture(scope="module")
def folder():
    return outcomes()[0]


@pytest.fixture(scope="module")
def told():
    return outcomes()[1]


@pytest.fixture(scope="module")
def alone(folder):
    return ss.pretrain(folder / "data.npz", out=folder / "alone", **SETTINGS)


def losses(run):
    return [row["loss"] for row in run.log if "loss" in row]


def assert_same_encoder(one, two):
    one, two = (load_file(run.folder / "encoder.safetensors") for run in (one, two))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], rtol=1e-4, atol=5e-5)  # six steps in fp32


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_and_states_of_two_processes_are_those_of_one(told, variant):
    whole = learned(variant, slice(None))
    for part in (one["learned"][variant] for one in told):
        assert part.keys() == whole.keys()
        for key, value in whole.items():  # the loss is computed in fp32
            torch.testing.assert_close(part[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_learns_the_same_with_two_processes_as_with_one(told, name):
    """Queues, centres, assignments and statistics too: whatever stands in its state."""
    whole = learned_by(name, slice(None))
    for part in (one["by method"][name] for one in told):
        assert part.keys() == whole.keys()
        for key, value in whole.items():  # the loss is computed in fp32
            torch.testing.assert_close(
                part[key], value, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize("case", TASKS)
def test_every_task_learns_the_same_with_two_processes_as_with_one(folder, told, case):
    """In float64: in float32 a value that rounding carries over the kink of a ReLU changes gradients by thousandths,
    and AdamW makes whole steps of gradients that are all but 0."""
    whole = adapted(case, folder / "tasks")
    assert sum(key.endswith(".grad") for key in whole) > 20
    for part in (one["by task"][case] for one in told):
        assert part.keys() == whole.keys()
        for key, value in whole.items():  # the loss is computed in fp32
            torch.testing.assert_close(
                part[key], value, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_when_one_of_two_processes_is_killed_the_job_goes_on_by_itself_to_the_same_weights(folder, told):
    assert [one["codes"]["killed"] for one in told] == [0, 0]
    assert "exitcode: -9" in outcomes()[2]
    calm, killed = (ss.Run(folder / name) for name in ("whole", "killed"))
    weights = [(run.folder / "encoder.safetensors").read_bytes() for run in (calm, killed)]
    assert weights[0] == weights[1]
    steps = [[row["step"] for row in run.log if "loss" in row] for run in (calm, killed)]
    assert steps[0] == steps[1]


def test_pretrain_with_two_processes_gives_the_encoder_of_one(folder, told, alone):
    both = ss.Run(folder / "whole")
    assert [one["codes"]["whole"] for one in told] == [0, 0]
    assert losses(both) == pytest.approx(losses(alone), abs=2e-5)
    assert_same_encoder(both, alone)
    x = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(both.encoder(x), alone.encoder(x), rtol=1e-4, atol=1e-5)
    assert not any(type(part).__name__.startswith("Whole") for part in both.encoder.modules())


def test_micro_batches_hold_the_same_rows_for_any_number_of_processes(folder):
    micro = ss.pretrain(folder / "data.npz", out=folder / "micro alone", **SETTINGS, accumulate=2)
    assert losses(ss.Run(folder / "micro")) == pytest.approx(losses(micro), abs=2e-5)
    assert_same_encoder(ss.Run(folder / "micro"), micro)


def test_a_signal_to_one_process_stops_both_and_one_process_can_go_on(folder, told, alone):
    assert [one["codes"]["stopped"] for one in told] == [143, 143]
    assert [path.name for path in sorted((folder / "stopped" / "state").iterdir())][-1] == "step-000000003.pt"
    rest = ss.pretrain(folder / "data.npz", out=folder / "stopped", **SETTINGS)
    assert len(losses(rest)) == len(losses(alone)) == 6
    assert_same_encoder(rest, alone)


@pytest.mark.parametrize("name", SAVINGS)
def test_memory_is_saved_and_states_gradients_and_moments_stay_the_same(told, name):
    whole = saved_memory(name, slice(None))
    assert any("grad" in key for key in whole)
    tolerance = 1e-7 if "adamw" in name else 1e-12
    for part in (one["saved memory"][name] for one in told):
        assert part.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(part[key], value, rtol=tolerance, atol=tolerance, msg=key)


def test_a_divided_recomputed_run_gives_the_encoder_of_one_process(folder, told, alone):
    both = ss.Run(folder / "sharded")
    assert [one["codes"]["sharded"] for one in told] == [0, 0]
    assert losses(both) == pytest.approx(losses(alone), abs=2e-5)
    assert_same_encoder(both, alone)
    lines = {line["name"]: line["value"] for line in both.plan["lines"]}
    assert lines["shard"] == "1/2 of the learner" and lines["activations"] == "of block inputs"
    looks = [[row["health/length"] for row in run.log if "verdict" in row] for run in (both, alone)]
    assert len(looks[0]) > 1 and looks[0] == pytest.approx(looks[1], rel=1e-4)


def test_a_run_goes_on_divided_and_then_in_one_process(folder, told, alone):
    """Two processes stop after 3 steps, two that divide the learner after the next, one goes on to the end."""
    assert [one["codes"]["mixed"] for one in told] == [143, 143]
    states = sorted((folder / "mixed" / "state").iterdir())
    assert states[-1].name == "step-000000004.pt"
    one, two = (
        torch.load(path, weights_only=True)["learner"]
        for path in (states[-1], next((folder / "alone" / "state").iterdir()))
    )
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in two.items()}
    rest = ss.pretrain(folder / "data.npz", out=folder / "mixed", **SETTINGS)
    assert len(losses(rest)) == 6
    assert_same_encoder(rest, alone)


def test_a_method_that_cannot_be_divided_is_refused_in_words(told):
    assert [one["codes"]["adversary"] for one in told] == [2, 2]
    assert "--shard does not work with this method as it is set" in " ".join(outcomes()[2].split())


def test_gradients_of_micro_batches_are_summed_over_the_processes_once(told):
    whole, sums = micro_batched(slice(None))
    assert sums == 0
    for gradients, sums in (one["micro-batched"] for one in told):
        assert sums == 1
        for part, value in zip(gradients, whole, strict=True):
            torch.testing.assert_close(part, value, rtol=1e-4, atol=1e-5)  # fp32 sums in another order


def test_a_loss_that_is_no_number_in_one_process_stops_both(folder, told):
    assert all(one["nan"].startswith("TrainingStopped: diverging found after step 4") for one in told)
    assert [path.suffix for path in sorted((folder / "nan" / "failure").iterdir())] == [".json", ".safetensors"]


def test_what_one_process_could_not_read_reaches_the_first_and_can_stop_both(folder, told):
    assert (folder / "lost" / "found").read_text() == "0: {7: 'cut short'}"
    assert [one["lost"] for one in told] == ["done", "done"]
    assert [one["refused"] for one in told] == ["UserError: too many"] * 2


def test_the_log_is_written_by_the_first_alone_and_holds_each_step_once(folder):
    rows = [json.loads(line) for line in (folder / "lost" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 8, 8]


def test_what_processes_tell_each_other(told):
    for one in told:
        assert one["agreed"] == [1, 0, 5]
        assert one["mean"] == {"loss": 1.5, "other": 2}
        assert one["gathered"] == {0: "by 0", 1: "by 1"}
        assert one["by first"] == "process 0"
        assert one["refusal"] == "process 0 cannot"


def test_two_processes_do_not_warn():
    assert "Warning" not in outcomes()[2]
