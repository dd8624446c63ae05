import copy

import pytest
import torch
from torch import Tensor, nn, tensor

from selfsame.downstream.finetune import Classifier, Finetune, _schedule, finetune, predict
from selfsame.errors import TrainingStopped, UserError
from selfsame.types import Encoder


class Small(Encoder):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = 8
        self.spec = {}
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, view: Tensor) -> Tensor:
        return self.layers(view)


def encoder(seed: int = 0, dropout: float = 0.0) -> Small:
    torch.manual_seed(seed)
    return Small(dropout)


def items(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Class = whether the signs of the first two numbers agree, which no linear head on the input can tell."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def batch_at(step: int) -> tuple[Tensor, Tensor]:
    return items(step, 32)


FAST = Finetune(epochs=6, batch=32, lr_head=0.03, lr_encoder=0.03)
VALIDATION = [items(1000, 64), items(1001, 64)]


def test_fine_tuning_learns_what_the_frozen_encoder_cannot_say():
    found = finetune(encoder(), 2, batch_at, 30, VALIDATION, FAST)
    x, labels = items(2000, 500)
    assert (predict(found.classifier, x.split(100)).argmax(dim=1) == labels).float().mean() > 0.85


def test_the_encoder_passed_in_is_not_touched():
    given = encoder().eval().requires_grad_(False)
    before = copy.deepcopy(given.state_dict())
    found = finetune(given, 2, batch_at, 5, VALIDATION, FAST)
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())
    assert not given.training and not any(weight.requires_grad for weight in given.parameters())
    assert not torch.equal(found.classifier.encoder.layers[0].weight, given.layers[0].weight)


def test_the_best_epoch_on_validation_is_the_one_returned():
    found = finetune(encoder(), 2, batch_at, 5, VALIDATION, FAST.changed(lr_head=0.3, lr_encoder=0.3))
    x, labels = (torch.cat(part) for part in zip(*VALIDATION, strict=True))
    right = (predict(found.classifier, [x]).argmax(dim=1) == labels).double().mean().item()
    assert len(found.history) == FAST.epochs
    assert right == pytest.approx(max(found.history)) == pytest.approx(found.accuracy)
    assert found.history[found.epoch - 1] == found.accuracy


def test_a_seed_fixes_the_result_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, two, other = (
        finetune(encoder(dropout=0.3), 2, batch_at, 5, VALIDATION, FAST, seed=seed).classifier.head.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)
    torch.manual_seed(0)
    encoder(dropout=0.3)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    encoder(dropout=0.3)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize(("batch", "scratch", "moves"), [(15, False, False), (16, False, True), (15, True, True)])
def test_batch_norm_keeps_its_statistics_in_small_batches_unless_from_scratch(batch, scratch, moves):
    given = encoder()
    settings = Finetune(epochs=1, batch=batch)
    found = finetune(given, 2, lambda step: items(step, batch), 3, VALIDATION, settings, scratch=scratch)
    norm = found.classifier.encoder.layers[1]
    assert torch.equal(norm.running_mean, given.layers[1].running_mean) != moves


@pytest.mark.parametrize(("scratch", "share"), [(False, 0.1), (True, 1.0)])
def test_the_encoder_learns_slower_than_the_head_unless_from_scratch(scratch, share):
    # Adam's first step moves a weight by its learning rate, so one step shows the rates.
    given = encoder()
    settings = Finetune(epochs=1, batch=32, lr_head=1e-3, lr_encoder=1e-4, weight_decay=0, warmup=0)
    found = finetune(given, 2, batch_at, 1, VALIDATION, settings, scratch=scratch)
    moved = (found.classifier.encoder.layers[0].weight - given.layers[0].weight).abs().max().item()
    assert moved == pytest.approx(1e-3 * share, rel=0.02)


def test_the_rate_climbs_then_falls_to_nothing():
    rates = [_schedule(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) == 10 and max(rates) == 1
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.1 and rates[-1] < 1e-3


def test_predict_is_in_eval_mode_in_order_and_puts_the_mode_back():
    classifier = Classifier(encoder(dropout=0.5), 3).train()
    x, _ = items(0, 10)
    logits = predict(classifier, x.split(3))
    assert classifier.training and classifier.encoder.layers[1].num_batches_tracked == 0
    torch.testing.assert_close(logits, classifier.eval()(x).detach())


def test_bfloat16_gives_nearly_the_same_logits_and_learns():
    classifier = Classifier(encoder(), 3)
    x, _ = items(0, 10)
    logits = predict(classifier, [x], bf16=True)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, predict(classifier, [x]), atol=0.05, rtol=0.05)
    found = finetune(encoder(), 2, batch_at, 20, VALIDATION, FAST.changed(bf16=True))
    assert found.accuracy > 0.75


def test_a_loss_that_is_no_number_stops_the_training():
    with pytest.raises(TrainingStopped, match="lr_encoder"):
        finetune(encoder(), 2, lambda step: (tensor([[float("nan")] * 4] * 32), items(0, 32)[1]), 2, VALIDATION, FAST)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="validation part is empty"):
        finetune(encoder(), 2, batch_at, 1, [], FAST)
    with pytest.raises(UserError, match="two or more classes"):
        finetune(encoder(), 1, batch_at, 1, VALIDATION, FAST)
    with pytest.raises(UserError, match="no items"):
        predict(Classifier(encoder(), 2), [])


def test_an_epoch_is_the_whole_batches_of_the_items_and_at_least_one():
    assert [FAST.epoch_steps(n) for n in (10, 32, 100)] == [1, 1, 3]
