"""Methods that predict words: which are asked for, what is seen in their place, and what the loss is."""

import math

import pytest
import torch
import torch.nn.functional as F

from selfsame.methods.maskedwords import MaskedWords, asked_for
from selfsame.methods.nextword import NextWord
from selfsame.nn.vocabulary import WordHead, counted_mean
from selfsame.records import ViewPlan
from selfsame.types import Hidden
from tests.conftest import TinyWords
from tests.methods.room import texts_for


class Watched(TinyWords):
    """Keeps what it was shown."""

    def word_tokens(self, view: torch.Tensor, hide: Hidden | None = None) -> torch.Tensor:
        self.seen, self.where = view, None if hide is None else hide.where
        return super().word_tokens(view, hide)


def learner(method, encoder=None, seed=0):
    torch.manual_seed(seed)
    return method.build(encoder or Watched())


# Masked words --------------------------------------------------------------------------------------------------------


def test_the_share_of_each_row_is_asked_for_at_least_one_and_never_padding():
    lengths = torch.tensor([128, 40, 3, 1, 0])
    places = torch.arange(128) < lengths[:, None]
    where, counted = asked_for(places, torch.rand(5, 128), 0.15)
    assert counted.sum(1).tolist() == [19, 6, 1, 1, 0]  # 15 % of 128 are 19 (BERT), of 3 at least one
    assert where.shape == (5, 19) and places.gather(1, where)[counted].all()
    assert all(len(set(row.tolist())) == 19 for row in where)


def test_every_word_is_asked_for_as_often():
    places = torch.ones(4000, 20, dtype=torch.bool)
    where, counted = asked_for(places, torch.rand(4000, 20, generator=torch.Generator().manual_seed(0)), 0.3)
    share = torch.zeros(20).scatter_add(0, where[counted], torch.ones(int(counted.sum()))) / 4000
    assert (share - 0.3).abs().max() < 4 * (0.3 * 0.7 / 4000) ** 0.5


def test_four_fifths_are_hidden_a_tenth_is_swapped_and_a_tenth_is_seen():
    encoder = Watched()
    work = learner(MaskedWords(share=0.15), encoder)
    view = torch.randint(1, 20, (6000, 64), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    work([view])
    asked = 6000 * 10
    hidden, swapped = int(encoder.where.sum()), int((encoder.seen != view).sum())
    spread = 4 * math.sqrt(asked * 0.8 * 0.2)
    assert abs(hidden - 0.8 * asked) < spread
    # A random word is the same one once in 19 times.
    assert abs(swapped - 0.1 * asked * 18 / 19) < 4 * math.sqrt(asked * 0.1 * 0.9)
    assert not (encoder.where & (encoder.seen != view)).any()
    assert int(encoder.seen.min()) >= 1 and int(encoder.seen.max()) <= 19


def test_masks_are_new_at_each_step_and_the_same_from_the_same_seed():
    encoder = Watched()
    work, (view,) = learner(MaskedWords(), encoder), texts_for(ViewPlan(full=1))
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        work([view])
        seen.append(encoder.where)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert not (seen[0] & (view == 0)).any()


def test_a_fresh_head_guesses_by_chance():
    for method in (MaskedWords(), NextWord()):
        encoder = TinyWords()
        torch.nn.init.normal_(encoder.body[0].weight, std=0.02)
        loss = float(learner(method, encoder)([texts_for(ViewPlan(full=1), 64)[0]]).loss.detach())
        assert loss == pytest.approx(math.log(20), rel=0.05)


def test_what_is_not_asked_for_counts_nothing():
    values = torch.tensor([[1.0, 2, 9], [3, 9, 9]], requires_grad=True)
    counted = torch.tensor([[True, True, False], [True, False, False]])
    mean = counted_mean(values, counted)
    assert float(mean.detach()) == pytest.approx(2)
    mean.backward()
    assert torch.allclose(values.grad, counted / 3)
    assert float(counted_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool))) == 0


def test_settings_that_cannot_learn_are_cautioned():
    assert "more than 1 together" in MaskedWords(stand_in=0.8, random=0.3).cautions()[0]
    assert "nothing to learn" in MaskedWords(stand_in=0, random=0).cautions()[0]


# The head ------------------------------------------------------------------------------------------------------------


def test_the_head_is_tied_to_the_words():
    torch.manual_seed(0)
    head, words = WordHead(8, 20), torch.randn(20, 8, requires_grad=True)
    tokens = torch.randn(3, 5, 8)
    assert torch.allclose(head(tokens, words), head.transform(tokens) @ words.T)
    assert sum(p.numel() for p in head.parameters()) == 8 * 8 + 8 + 2 * 8 + 20
    head.losses(tokens, words, torch.randint(20, (3, 5)))[0].sum().backward()
    assert (words.grad.abs().sum(1) > 0).all()


def test_losses_in_parts_are_those_of_the_whole(monkeypatch):
    from selfsame.nn import vocabulary

    torch.manual_seed(0)
    head, words = WordHead(8, 20), torch.randn(20, 8, requires_grad=True)
    tokens, goal = torch.randn(7, 5, 8, requires_grad=True), torch.randint(20, (7, 5))

    def run():
        loss, right = head.losses(tokens, words, goal)
        return loss, right, *torch.autograd.grad(loss.sum(), [tokens, words])

    whole = run()
    monkeypatch.setattr(vocabulary, "AT_ONCE", 2 * 5 * 20)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, run(), strict=True))


# Next word -----------------------------------------------------------------------------------------------------------


def test_loss_and_perplexity_equal_known_values():
    class Known(TinyWords):
        def word_tokens(self, view, hide=None):
            return torch.zeros(*view.shape, self.dim)

    class Scores(WordHead):
        def forward(self, tokens, words):
            return torch.tensor([[[2.0, 0, 0], [0, 1, 0]]]).expand(len(tokens), -1, -1)

    work = learner(NextWord(), Known())
    work.head = Scores(8, 3)
    # Words are counted from 0 here, as in the known values; the places of words are given.
    work.encoder.word_places = lambda view: torch.ones_like(view, dtype=torch.bool)
    step = work([torch.tensor([[1, 0, 2]] * 2)])
    assert float(step.loss) == pytest.approx(0.8954948) and float(step.logs["perplexity"]) == pytest.approx(2.4485469)
    assert float(step.loss) / math.log(2) == pytest.approx(1.2919258)  # bits


def test_the_last_word_and_padding_are_not_predicted_from():
    work = learner(NextWord(), TinyWords())
    view = torch.tensor([[3, 4, 5, 0, 0, 0], [7, 8, 9, 10, 11, 12]])
    tokens = work.encoder.word_tokens(view)
    scores = work.head(tokens, work.encoder.word_vectors)
    parts = [F.cross_entropy(scores[0, :2], view[0, 1:3], reduction="sum")]
    parts.append(F.cross_entropy(scores[1, :5], view[1, 1:], reduction="sum"))
    assert torch.allclose(work([view]).loss, sum(parts) / 7)


def test_it_learns_an_order_that_bags_of_words_do_not_have():
    torch.manual_seed(0)
    work = NextWord().build(TinyWords())
    optimizer = torch.optim.AdamW(work.parameters(), lr=0.02)
    start = torch.arange(1, 13)[:, None]
    view = 1 + (start + torch.arange(10)) % 19  # each word is followed by one other
    for _ in range(150):
        optimizer.zero_grad()
        step = work([view])
        step.loss.backward()
        optimizer.step()
    assert float(step.logs["accuracy"]) > 0.9
