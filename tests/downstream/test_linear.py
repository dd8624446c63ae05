import time

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, tensor

from selfsame.downstream import linear
from selfsame.downstream.linear import fit_linear, linear_accuracy
from selfsame.errors import UserError


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = tensor(x).float()[order], tensor(y)[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def blobs(n: int, d: int, k: int = 3, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    return torch.eye(k, d)[labels] * 3 + noise * torch.randn(n, d, generator=g), labels


def test_digits_are_read_as_well_as_by_scikit_learn(digits):
    train, labels, test, truth = digits
    probe = fit_linear(train, labels)
    std = train.std(dim=0, correction=0).clamp(min=1e-3)
    reference = LogisticRegression(C=1 / (probe.strength * len(train)), max_iter=5000)
    reference.fit(((train - train.mean(dim=0)) / std).numpy(), labels.numpy())
    theirs = reference.score(((test - train.mean(dim=0)) / std).numpy(), truth.numpy())
    ours = linear_accuracy(train, labels, test, truth)
    assert ours > 0.95 and ours == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize(("n", "d"), [(120, 6), (30, 80)])  # tall, and wider than long
def test_the_optimum_is_scikit_learns(n, d):
    x, labels = blobs(n, d)
    x = x * torch.logspace(-3, 3, d) + 5  # columns of very different size
    probe = fit_linear(x, labels)
    standard = ((x - x.mean(dim=0)) / x.std(dim=0, correction=0)).double()
    reference = LogisticRegression(C=1 / (probe.strength * n), tol=1e-8, max_iter=10_000)
    reference.fit(standard.numpy(), labels.numpy())
    ours = probe.scores(x).softmax(dim=1)
    torch.testing.assert_close(ours, tensor(reference.predict_proba(standard.numpy())), atol=2e-3, rtol=0)


def test_the_probe_is_blind_to_shifts_and_scales_of_columns():
    x, labels = blobs(200, 5)
    scale, shift = torch.logspace(-2, 2, 5), torch.arange(5.0)
    one, two = fit_linear(x, labels), fit_linear(x * scale + shift, labels)
    assert one.strength == two.strength
    torch.testing.assert_close(one.scores(x), two.scores(x * scale + shift), atol=1e-2, rtol=1e-2)


def test_strength_is_chosen_to_suit_the_noise():
    clean, labels = blobs(300, 40, noise=0.1)
    noisy, _ = blobs(300, 40, noise=6.0)
    assert fit_linear(noisy, labels).strength > fit_linear(clean, labels).strength


def test_the_strengths_are_eight_of_a_mean_loss():
    assert pytest.approx((10, 1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)) == linear.STRENGTHS


@pytest.mark.parametrize(("items", "splits"), [(1999, 5), (2000, 1)])
def test_below_two_thousand_items_the_strength_is_the_best_over_five_splits(items, splits, monkeypatch):
    taken, split = [], linear.stratified_split

    def watched(targets, share, seed):
        taken.append(seed)
        return split(targets, share, seed)

    monkeypatch.setattr(linear, "stratified_split", watched)
    fit_linear(*blobs(items, 5))
    assert len(set(taken)) == len(taken) == splits


def test_strength_is_the_best_on_held_out_train_items(monkeypatch):
    x, labels = blobs(100, 30, noise=3.0)
    probe = fit_linear(x, labels)
    for other in linear.STRENGTHS:
        monkeypatch.setattr(linear, "STRENGTHS", (other,))
        assert fit_linear(x, labels).validation <= probe.validation + 1e-9


def test_a_seed_fixes_the_answer_bit_for_bit():
    x, labels = blobs(200, 20, noise=3.0)
    one, two = fit_linear(x, labels, seed=3), fit_linear(x, labels, seed=3)
    assert torch.equal(one.weight, two.weight) and one.strength == two.strength


def test_labels_need_not_be_consecutive_and_unseen_classes_count_as_wrong():
    x, labels = blobs(90, 4, noise=0.1)
    names = tensor([2, 5, 9])[labels]
    assert linear_accuracy(x, names, x, names) == 1.0
    assert linear_accuracy(x, names, x, torch.where(names == 9, 4, names)) == pytest.approx(2 / 3)


def test_one_item_a_class_is_enough():
    x, labels = blobs(300, 3, noise=0.2)
    assert linear_accuracy(x[:3], labels[:3], x, labels) > 0.95


def test_vectors_that_are_all_alike_give_the_commonest_class():
    labels = tensor([0, 1, 1, 1, 0, 1])
    assert linear_accuracy(torch.ones(6, 4), labels, torch.ones(6, 4), labels) == pytest.approx(4 / 6)


def test_one_class_is_refused():
    with pytest.raises(UserError, match="one class"):
        fit_linear(torch.randn(5, 2), torch.zeros(5).long())


def test_vectors_that_are_not_numbers_are_refused():
    x, labels = blobs(30, 4)
    x[3, 1] = float("nan")
    with pytest.raises(UserError, match="1 of 30 train vectors hold NaN"):
        fit_linear(x, labels)


def test_ten_thousand_vectors_take_seconds():
    x, labels = blobs(10_000, 128, k=10, noise=2.0)
    start = time.process_time()
    fit_linear(x, labels)
    assert time.process_time() - start < 60  # about 4 on one core; the bound forgives a crowded machine


def test_a_probe_for_unheard_speakers_is_chosen_by_speakers() -> None:
    """What tells the speakers' classes apart is mostly the speaker's own: only a strong probe holds on to the rest."""
    generator = torch.Generator().manual_seed(0)
    speakers, new = 3, 30
    n = 40 * speakers
    speaker, labels = torch.arange(n) % speakers, torch.arange(n) // speakers % 4
    shared, own = torch.randn(4, 20, generator=generator), torch.randn(speakers, 4, 20, generator=generator)
    x = torch.cat([0.7 * shared[labels], 2 * own[speaker, labels]], dim=1)
    x = x + 0.3 * torch.randn(n, 40, generator=generator)
    others = torch.randn(new, 4, 20, generator=generator)
    truth, who = torch.arange(4 * new) % 4, torch.arange(4 * new) // 4
    test = torch.cat([0.7 * shared[truth], 2 * others[who, truth]], dim=1)
    test = test + 0.3 * torch.randn(len(test), 40, generator=generator)
    plain, grouped = fit_linear(x, labels), fit_linear(x, labels, groups=speaker + 2)
    assert grouped.strength > plain.strength and grouped.validation < plain.validation
    assert linear_accuracy(x, labels, test, truth, groups=speaker) > linear_accuracy(x, labels, test, truth)


def test_one_group_is_none() -> None:
    x, labels = blobs(60, 5)
    one, two = fit_linear(x, labels), fit_linear(x, labels, groups=torch.zeros(60).long())
    assert torch.equal(one.weight, two.weight)


def test_many_groups_are_whole_on_either_side() -> None:
    groups = torch.arange(70) % 14
    parts = linear._parts(torch.arange(70) % 2, 0, groups)
    assert len(parts) == linear.REPEATS
    assert torch.cat([held for _, held in parts]).sort().values.tolist() == list(range(70))
    for fit, held in parts:
        assert not set(groups[fit].tolist()) & set(groups[held].tolist()) and len(fit) + len(held) == 70
