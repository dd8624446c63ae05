"""What is true of Exemplar alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.exemplar import Exemplar


def test_scores_of_zero_cost_the_log_of_the_classes(tiny, views):
    learner = Exemplar(classes=7).build(tiny, items=30)
    nn.init.zeros_(learner.classifier.weight)
    nn.init.zeros_(learner.classifier.bias)
    assert float(learner(views[:1], torch.arange(12)).loss.detach()) == pytest.approx(math.log(7), abs=1e-6)


def test_the_class_is_the_item(tiny, views):
    learner = Exemplar().build(tiny, items=20)
    assert learner.classifier.out_features == 20  # no more than there are items
    items = torch.tensor([3, 19, 0, 7, 7, 1, 2, 4, 5, 6, 8, 9])
    with torch.no_grad():
        expected = F.cross_entropy(learner.classifier(learner.encoder(views[0])), items)
        assert_close(learner(views[:1], items).loss, expected)


def test_items_beyond_the_classes_are_folded_onto_them(tiny, views):
    learner = Exemplar(classes=5).build(tiny, items=1000)
    assert learner.classifier.out_features == 5
    with torch.no_grad():
        far = learner(views[:1], torch.arange(12) + 985).loss
        assert_close(far, learner(views[:1], torch.arange(12) % 5).loss)


def test_accuracy_counts_the_items_that_were_named(tiny, views):
    learner = Exemplar().build(tiny, items=12)
    nn.init.zeros_(learner.classifier.weight)
    with torch.no_grad():
        learner.classifier.bias.copy_(torch.eye(12)[4])
    items = torch.tensor([4] * 3 + [0] * 9)
    assert float(learner(views[:1], items).logs["accuracy"]) == pytest.approx(0.25)


def test_it_asks_for_one_view_and_is_told_which_items_they_are(tiny, views):
    method = Exemplar()
    assert (method.plan.full, method.plan.part, method.plan.plain) == (1, 0, 0)
    learner = method.build(tiny, items=12)
    assert learner.by_item
    for wrong in ((views, torch.arange(12)), (views[:1], torch.arange(5))):
        with pytest.raises(UserError, match="1 full view "):
            learner(*wrong)
