"""What is true of Exemplar alone."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.exemplar import Exemplar
from selfsame.nn.whiten import Whiten
from selfsame.records import Budget
from tests.methods.room import ITEMS, surveyed


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


def test_short_runs_start_with_the_items_and_spread_their_vectors():
    short, long = (Budget(items=100, batch=20, steps=n, dim=8) for n in (1000, 100_000))
    fitted = Exemplar().fitted(short)
    assert (fitted.start, fitted.output_norm) == ("items", "whiten")
    assert Exemplar().fitted(long) == Exemplar() and Exemplar(start="random").fitted(short).start == "random"


def test_a_class_may_start_with_the_vector_of_its_items(tiny):
    learner = Exemplar(classes=8, start="items", output_norm="plain").build(tiny, ITEMS).train()
    assert [learner.surveys(number) for number in range(3)] == [True, False, False]
    assert not Exemplar().build(tiny, ITEMS).surveys(0)
    learner.survey(surveyed(ITEMS))
    with torch.no_grad():
        found = torch.cat([F.normalize(learner.ending(tiny(view)), dim=1) for (view,), _ in surveyed(ITEMS)])
    expected = torch.cat([F.normalize(found[:4] + found[8:], dim=1), found[4:8]])  # items 8 to 11 are folded
    assert_close(learner.classifier.weight.detach(), expected)
    assert (learner.classifier.bias == 0).all()
    with pytest.raises(UserError, match="say how many there are"):
        Exemplar(start="items").build(tiny)


def test_scores_are_of_spread_vectors(tiny, views):
    learner = Exemplar(output_norm="whiten").build(tiny, items=20)
    with torch.no_grad():
        scores = learner.classifier(Whiten(tiny.dim)(tiny(views[0])))
        assert_close(learner(views[:1], torch.arange(12)).loss, F.cross_entropy(scores, torch.arange(12)))


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
