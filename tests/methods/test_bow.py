"""What is true of bags of words, BoWNet's and OBoW's; the golden values of the bags are in tests/nn/test_words.py."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.bownet import BoWNet
from selfsame.methods.obow import MEMORY, OBoW
from selfsame.nn.whiten import Whiten
from selfsame.nn.words import counted, divergence, local
from selfsame.records import Budget
from tests.conftest import Tiny, TinyTokens
from tests.methods.room import ITEMS, surveyed, views_for

SHORT = Budget(items=9_000, batch=64, steps=600, dim=256)


def bownet(**settings):
    torch.manual_seed(0)
    return BoWNet(**{"words": 5, "sample": 200, **settings}).build(Tiny(), ITEMS)


def obow(**settings):
    torch.manual_seed(0)
    return OBoW(**{"words": 16, "hidden": 16, "part_views": 0, **settings}).build(Tiny(), ITEMS)


def moved(learner):
    with torch.no_grad():
        for p in learner.encoder.parameters():
            p.add_(0.3)
    return learner


# BoWNet --------------------------------------------------------------------------------------------------------------


def test_the_teacher_never_trains():
    learner = bownet().train()
    assert not any(part.training for part in learner.teacher.modules())
    views = views_for(learner.method.plan)
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    learner(views).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in learner.teacher.state_dict().items())


def test_the_target_is_the_histogram_of_the_plain_items_nearest_words():
    learner = bownet()
    learner.survey(surveyed(ITEMS))
    changed, plain = views_for(learner.method.plan)
    with torch.no_grad():
        bags = counted(local(learner.teacher.maps(plain)[-1]), learner.vocabulary, binary=False)
        scores = learner.scale * learner.encoder(changed) @ F.normalize(learner.directions, dim=1).T
        assert_close(learner([changed, plain]).loss, divergence(scores, bags))
        assert torch.equal(learner.bags(plain), bags)
        assert_close(bags.sum(dim=1), torch.ones(ITEMS))


def test_a_round_makes_the_student_the_teacher_with_a_vocabulary_and_a_last_layer_of_its_own():
    learner = bownet(every=2)
    assert [number for number in range(6) if learner.surveys(number)] == [0, 2, 4]
    learner.survey(surveyed(ITEMS))
    first = learner.vocabulary.clone(), learner.directions.detach().clone()
    moved(learner).survey(surveyed(ITEMS))
    mine, theirs = learner.encoder.state_dict(), learner.teacher.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not torch.equal(first[0], learner.vocabulary) and not torch.equal(first[1], learner.directions)
    assert float(learner.scale.detach()) == learner.method.scale and int(learner.rounds) == 2
    assert not any(part.training for part in learner.teacher.modules())


def test_the_vocabulary_is_of_local_features_and_all_of_it_is_in_use():
    learner = bownet(sample=10_000)
    learner.survey(surveyed(ITEMS))
    (plain,) = next(iter(surveyed(ITEMS, batch=ITEMS)))[0]
    with torch.no_grad():
        features = learner.features(plain).flatten(0, 1)
        words = learner.bags(plain)
    assert (words.sum(dim=0) > 0).all()
    assert (learner.vocabulary >= features.min(dim=0).values - 1e-5).all()
    assert (learner.vocabulary <= features.max(dim=0).values + 1e-5).all()


def test_a_binary_target_says_only_whether_a_word_is_there():
    learner = bownet(target="binary")
    learner.survey(surveyed(ITEMS))
    bags = learner.bags(views_for(learner.method.plan)[1])
    for bag in bags:
        here = bag[bag > 0]
        assert_close(here, torch.full_like(here, 1 / len(here)))


def test_lengths_of_the_last_layers_rows_do_not_matter():
    learner, views = bownet(), views_for(BoWNet().plan)
    with torch.no_grad():
        before = learner(views).loss
        learner.directions.mul_(torch.tensor([1.0, 2, 3, 4, 5])[:, None])
        assert_close(learner(views).loss, before)


def test_the_finer_level_has_more_places():
    assert bownet(level=2).features(torch.rand(2, 3, 16, 16)).shape == (2, 49, 8)
    assert bownet(level=1).features(torch.rand(2, 3, 16, 16)).shape == (2, 25, 8)


def test_level_0_is_the_second_where_there_are_two():
    assert bownet(level=0).features(torch.rand(2, 3, 16, 16)).shape == (2, 49, 8)
    assert BoWNet(words=5, level=0).build(TinyTokens(), ITEMS).level == 1


def test_words_of_whitened_features_are_of_features_without_correlation():
    learner = bownet(whitened=True, sample=10_000)
    learner.survey(surveyed(ITEMS))
    changed, plain = views_for(learner.method.plan)
    (every,) = next(iter(surveyed(ITEMS, batch=ITEMS)))[0]
    with torch.no_grad():
        found = (learner.features(every).flatten(0, 1) - learner.mean) @ learner.whitener
        assert torch.corrcoef(found.T).fill_diagonal_(0).abs().max() < 0.3
        assert (found.mean(dim=0).abs() < 0.2).all() and ((found.std(dim=0) - 1).abs() < 0.2).all()
        white = (learner.features(plain) - learner.mean) @ learner.whitener
        bags = counted(white, learner.vocabulary, binary=False)
        assert_close(learner.bags(plain), bags)
        vectors = Whiten(learner.encoder.dim)(learner.encoder(changed))
        scores = learner.scale * vectors @ F.normalize(learner.directions, dim=1).T
        assert_close(learner([changed, plain]).loss, divergence(scores, bags))


def test_rows_of_the_last_layer_are_about_as_long_as_unit_vectors():
    learner = bownet(words=200)
    first = learner.directions.detach().norm(dim=1).mean()
    learner.survey(surveyed(ITEMS))
    for length in (first, learner.directions.detach().norm(dim=1).mean()):
        assert float(length) == pytest.approx(1, abs=0.1)


def test_bownet_is_fitted_and_refused_in_words():
    fitted = BoWNet().fitted(SHORT)
    assert (fitted.words, fitted.every, fitted.level, fitted.whitened) == (128, 10, 0, True)
    assert fitted.misfits(SHORT) == []
    long = BoWNet().fitted(Budget(items=9_000, batch=64, steps=28_000, dim=256))
    assert (long.words, long.every, long.level, long.whitened) == (2250, 67, 1, False)
    assert BoWNet(words=9, sample=5).misfits(SHORT) == [
        "9 words cannot be found in 5 local features: raise --method.sample."
    ]
    with pytest.raises(UserError, match=r"--method\.level 2: the encoder has 1 dense features"):
        BoWNet(level=2).build(TinyTokens(), ITEMS)
    with pytest.raises(UserError, match="how many there are"):
        BoWNet().build(Tiny())
    with pytest.raises(UserError, match="1 full and 1 plain views"):
        bownet()([torch.rand(4, 3, 16, 16)])


# OBoW ----------------------------------------------------------------------------------------------------------------


def test_the_slow_copy_moves_after_the_step_alone():
    learner = moved(obow(momentum=0.9))
    before = [p.clone() for p in learner.target.parameters()]
    learner(views_for(learner.method.plan)).loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.target.parameters(), strict=True))
    learner.after_step(0.0)
    for was, now, online in zip(before, learner.target.parameters(), learner.encoder.parameters(), strict=True):
        assert_close(now, 0.9 * was + 0.1 * online)
    learner.after_step(1.0)
    for now, after in zip([p.clone() for p in learner.target.parameters()], learner.target.parameters(), strict=True):
        assert torch.equal(now, after)


def test_each_item_gives_the_vocabulary_of_each_level_one_word_first_in_first_out():
    learner, views = obow(words=30), views_for(OBoW(part_views=0).plan)
    start = [queue.rows.clone() for queue in learner.vocabularies]
    learner(views)
    for queue, was in zip(learner.vocabularies, start, strict=True):
        assert int(queue.pushed) == ITEMS
        assert torch.equal(queue.rows[ITEMS:], was[ITEMS:]) and not (queue.rows[:ITEMS] == was[:ITEMS]).all(1).any()
    first = learner.vocabularies[0].rows[:ITEMS].clone()
    learner(views)
    assert torch.equal(learner.vocabularies[0].rows[:ITEMS], first)
    learner(views)  # 36 of 30: the oldest six give way
    assert not (learner.vocabularies[0].rows[:6] == first[:6]).all(1).any()
    assert torch.equal(learner.vocabularies[0].rows[6:ITEMS], first[6:])


def test_words_of_this_step_are_not_yet_in_its_targets():
    learner, views = obow(), views_for(OBoW(part_views=0).plan)
    words = [queue() for queue in learner.vocabularies]
    other = obow()
    with torch.no_grad():
        bags = other.bags(views[-1], words)
        mine = learner.bags(views[-1], [word.clone() for word in words])
    assert all(torch.equal(a, b) for a, b in zip(bags, mine, strict=True))
    assert all(bag.shape == (ITEMS, 16) for bag in bags)
    for bag in bags:
        assert_close(bag.sum(dim=1), torch.ones(ITEMS))


def test_the_running_distance_is_the_batchs_until_the_vocabulary_is_full_and_then_moves_slowly():
    learner = obow(words=2 * ITEMS)
    plain = views_for(OBoW(part_views=0).plan)[-1]
    near, far = ([scale * queue() for queue in learner.vocabularies] for scale in (1, 9))
    learner.bags(plain, near)
    of_near = learner.distance.clone()
    learner.bags(plain, far)  # words of one batch were pushed, and half of it are still random
    of_far = learner.distance.clone()
    assert (of_far > 2 * of_near).all() and (of_near > 0).all()
    learner.bags(plain, near)
    assert_close(learner.distance, MEMORY * of_far + (1 - MEMORY) * of_near, rtol=1e-3, atol=1e-5)


def test_sharper_codes_have_fewer_words():
    plain = views_for(OBoW(part_views=0).plan)[-1]
    used = []
    for sharpness in (0.1, 15.0, 1000.0):
        learner = obow(sharpness=sharpness)
        bags = learner.bags(plain, [queue() for queue in learner.vocabularies])
        used.append(float((-(bags[0] * bags[0].clamp(min=1e-12).log()).sum(dim=1)).exp().mean()))
    assert used[0] > used[1] > used[2]
    assert used[0] == pytest.approx(16, rel=0.05)


def test_full_and_small_crops_count_as_two_kinds_and_order_does_not_matter():
    views = views_for(OBoW(part_views=2).plan)
    losses = []
    for order in ([0, 1, 2, 3, 4], [1, 0, 3, 2, 4]):
        learner = obow(part_views=2)
        torch.manual_seed(1)
        losses.append(learner([views[k] for k in order]).loss.detach())
    assert_close(losses[0], losses[1])
    torch.manual_seed(1)
    alone = obow(part_views=0)
    alone.load_state_dict(obow(part_views=2).state_dict())
    torch.manual_seed(1)
    assert alone([views[0], views[1], views[4]]).loss < losses[0]


def test_one_level_is_enough_where_the_encoder_has_no_more():
    learner = OBoW(words=16, hidden=16, part_views=0).build(TinyTokens(), ITEMS)
    assert len(learner.vocabularies) == len(learner.generators) == 1
    assert learner(views_for(learner.method.plan)).loss.isfinite()
    assert len(obow(levels=1).vocabularies) == 1


@pytest.mark.parametrize("whitened", [True, False])
def test_whitened_words_do_not_see_what_all_places_have_in_common(whitened):
    found = []
    for scale, shift in ((1.0, 0.0), (7.0, 3.0)):
        learner = obow(whitened=whitened)
        maps = [scale * one + shift for one in learner.target.net.maps(views_for(OBoW(part_views=0).plan)[-1])]
        learner.target.net.maps = lambda plain, maps=maps: maps
        found.append(learner.bags(torch.zeros(ITEMS, 1), [queue() for queue in learner.vocabularies])[0])
    assert torch.allclose(*found, atol=1e-3) == whitened


def test_whitened_vectors_predict():
    learner = obow(whitened=True, levels=1, kappa=1.0)
    views = views_for(learner.method.plan)
    (words,) = (queue() for queue in learner.vocabularies)
    weights = F.normalize(learner.generators[0](F.normalize(words, dim=1)), dim=1)
    loss = learner(views).loss
    other = obow(whitened=True, levels=1, kappa=1.0)
    (bag,) = other.bags(views[-1], [words])
    by_hand = [divergence(Whiten(8)(other.encoder(view)) @ weights.T, bag) for view in views[:2]]
    assert_close(loss, torch.stack(by_hand).mean(), rtol=1e-3, atol=0)


def test_obow_is_fitted_unless_given():
    fitted = OBoW().fitted(SHORT)
    assert (fitted.words, fitted.hidden, fitted.part_views, fitted.momentum) == (512, 512, 0, 0.895833)
    assert (fitted.kappa, fitted.whitened) == (1, True)
    plain = OBoW(whitened=False).fitted(SHORT)
    assert (plain.kappa, plain.whitened) == (8, False)
    long = Budget(items=1_281_167, batch=256, steps=1_000_000, dim=2048)
    assert OBoW().fitted(long) == OBoW(words=8192, hidden=4096, part_views=5, momentum=0.99)
    assert "never moves" in OBoW(momentum=1.0).cautions()[0]
    with pytest.raises(UserError, match="a list of 2 full and 1 plain views"):
        obow()([torch.rand(4, 3, 16, 16)] * 2)


def test_a_vocabulary_larger_than_the_data_is_refused_with_its_cure():
    budget = Budget(items=300, batch=32, steps=1000, dim=8)
    (text,) = OBoW(words=8192).fitted(budget).misfits(budget)
    assert "8192 words" in text and "lower --method.words to 75" in text
    assert OBoW().fitted(budget).misfits(budget) == []
