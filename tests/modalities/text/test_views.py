"""Views of texts: what each step does, and that a batch may be divided in any way."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities import text
from selfsame.modalities.text.distort import NEAR, joined, misspelt, view_of, words_of
from selfsame.modalities.text.recipes import View, recipes
from selfsame.records import ViewPlan
from selfsame.types import Draws

PLAN = ViewPlan(full=2, part=1, plain=1)
WORDS = [f"w{k}" for k in range(20)]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_words_stand_between_blanks_and_signs_by_themselves():
    assert words_of("The wave, and 3 gulls!") == ["The", "wave,", "and", "3", "gulls!"]
    assert words_of("海の波 and ไทย") == ["海", "の", "波", "and", "ไ", "ท", "ย"]
    assert joined(["海", "の", "波", "and", "gull"]) == "海の波 and gull"


@given(st.text(max_size=60))
def test_words_hold_all_that_is_not_blank(given_text):
    assert "".join(words_of(given_text)) == "".join(given_text.split())


@given(
    st.integers(1, 30),
    st.floats(0.05, 1),
    st.floats(0.05, 1),
    st.integers(0, 2**32),
)
def test_a_span_is_one_piece_of_its_share(total, one, other, seed):
    low, high = sorted((one, other))
    words = [str(k) for k in range(total)]
    found = view_of(words, View(span=(low, high)), rng(seed))
    assert max(1, round(low * total)) <= len(found) <= max(1, round(high * total))
    first = int(found[0])
    assert found == words[first : first + len(found)]


def test_spans_begin_everywhere():
    starts = {view_of(WORDS, View(span=(0.5, 0.5)), rng(seed))[0] for seed in range(300)}
    assert starts == set(WORDS[:11])


def test_words_are_left_out_at_their_rate_and_one_always_stays():
    lengths = [len(view_of(WORDS, View(span=(1, 1), drop=0.25), rng(seed))) for seed in range(2000)]
    assert abs(np.mean(lengths) - 15) < 3 * (20 * 0.25 * 0.75 / 2000) ** 0.5
    assert all(len(view_of(WORDS, View(drop=1.0), rng(seed))) == 1 for seed in range(20))


def test_shuffled_words_stay_near_their_place():
    moved = [view_of(WORDS, View(span=(1, 1), shuffle=1.0, reach=3), rng(seed)) for seed in range(200)]
    steps = np.array([[abs(k - WORDS.index(word)) for k, word in enumerate(words)] for words in moved])
    assert all(sorted(words) == sorted(WORDS) for words in moved)
    assert steps.max() == 3 and steps.mean() > 0.5
    half = [view_of(WORDS, View(span=(1, 1), shuffle=0.5), rng(seed)) == WORDS for seed in range(400)]
    assert abs(np.mean(half) - 0.5) < 0.1


def test_a_slip_is_one_key_of_four_kinds():
    kinds = {misspelt("harbour", rng(seed)) for seed in range(500)}
    lost = {"harbour"[:k] + "harbour"[k + 1 :] for k in range(7)}
    twice = {"harbour"[:k] + sign + "harbour"[k:] for k, sign in enumerate("harbour")}
    swapped = {"harbour"[:k] + "harbour"[k + 1] + "harbour"[k] + "harbour"[k + 2 :] for k in range(6)}
    near = {"harbour"[:k] + key + "harbour"[k + 1 :] for k, sign in enumerate("harbour") for key in NEAR[sign]}
    assert kinds <= lost | twice | swapped | near
    assert all(kinds & some for some in (lost, twice, swapped, near))
    assert misspelt("a", rng()) == "a" and misspelt("123", rng()) == "123"
    assert all(misspelt("HARBOUR", rng(seed)).isupper() for seed in range(50))


def test_keys_are_beside_each_other_both_ways():
    assert set(NEAR) == set("abcdefghijklmnopqrstuvwxyz") and NEAR["g"] == "bfhtvy"
    assert all(key in NEAR[other] for key in NEAR for other in NEAR[key])


def test_switching_a_step_off_leaves_the_others_as_they_were():
    both = view_of(WORDS, View(drop=0.3, shuffle=1.0), rng(4))
    drop = view_of(WORDS, View(drop=0.3), rng(4))
    assert sorted(both) == sorted(drop) and drop == sorted(drop, key=WORDS.index)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_gives_views_of_its_sizes(source, stats, name):
    views = text.recipe(name, 16, stats)
    assert text.Views.model_validate(views.model_dump()) == views
    made = text.sample(source, [0, 5, 9], PLAN, views, Draws(0, 0, 3))
    assert [tuple(view.shape) for view in made] == [(3, 16), (3, 16), (3, 8), (3, 16)]
    for view in made:
        assert view.dtype == torch.int32 and (view[:, 0] != 0).all() and int(view.max()) < stats.vocabulary
        real = (view != 0).sum(1)
        assert all((row[n:] == 0).all() and (row[:n] != 0).all() for row, n in zip(view, real, strict=True))
    plain = [source.codec.text_of(row.tolist()) for row in made[3]]
    assert plain == [source.codec.text_of(source.codec.ids(source.read(i), 16)) for i in (0, 5, 9)]


def test_simcse_gives_two_equal_views_and_auto_does_not(source, stats):
    for name, equal in (("simcse", True), ("auto", False)):
        one, two = text.sample(source, range(8), ViewPlan(full=2), text.recipe(name, 24, stats), Draws(0, 0, 8))
        assert torch.equal(one, two) is equal


def test_the_same_items_get_the_same_views_however_the_batch_is_divided(source, stats):
    views = text.recipe("auto", 16, stats).changed(one={"typo": 0.3, "shuffle": 0.5, "drop": 0.2})
    items = list(range(10, 22))
    whole = text.sample(source, items, PLAN, views, Draws(3, 7, 12))
    for rows in (slice(0, 5), slice(5, 12), slice(1, 12, 2)):
        part = text.sample(source, items[rows], PLAN, views, Draws(3, 7, 12, rows))
        assert all(torch.equal(a[rows], b) for a, b in zip(whole, part, strict=True))
    assert not torch.equal(whole[0], text.sample(source, items, PLAN, views, Draws(3, 8, 12))[0])
    made = text.make_views(whole, PLAN, views, stats, Draws(3, 7, 12, stream=1))
    assert all(torch.equal(a, b) for a, b in zip(whole, made, strict=True))


def test_views_of_a_long_text_have_a_stretch_in_common(lines):
    path = lines(" ".join(f"w{k}" for k in range(5000)) + "\nshort one here\n")
    source = text.open_source(path)
    stats, _ = text.measure(source)
    source.fit(stats)
    views = text.recipe("span", 64, stats)
    firsts = set()
    for seed in range(20):
        one, two = text.sample(source, [0], ViewPlan(full=2), views, Draws(seed, 0, 1))
        one, two = (set(source.codec.text_of(view[0].tolist()).split()[:-1]) for view in (one, two))
        firsts.add(min(int(word[1:]) for word in one))
        assert len(one | two) <= 64
    assert len(firsts) > 10 and max(firsts) > 1000  # stretches lie all over the text


def test_an_unreadable_item_says_so_or_is_replaced(lines):
    source = text.open_source(lines(b"first text\n\xff\xff\nthird text\n"))
    stats, _ = text.measure(source)
    source.fit(stats)
    with pytest.raises(UnreadableItem, match=r"no UTF-8"):
        text.sample(source, [0, 1], ViewPlan(full=1), text.recipe("auto", 8, stats), Draws(0, 0, 2))
    from selfsame.engine.feed import Patient

    patient = Patient(source, np.arange(3))
    (made,) = text.sample(patient, [0, 1, 2], ViewPlan(full=0, plain=1), text.recipe("auto", 8, stats), Draws(0, 0, 3))
    assert list(patient.skipped) == [1] and source.codec.text_of(made[1].tolist()) in ("first text", "third text")


def test_wrong_recipes_and_sizes_are_refused(source, stats):
    with pytest.raises(UserError, match=r"unknown recipe of views 'typo'. Did you mean 'typos'"):
        text.recipe("typo", 16, stats)
    views = text.recipe("auto", 8, stats).changed(part_size=9)
    with pytest.raises(UserError, match=r"part views of 9 tokens are longer than the full views of 8"):
        text.sample(source, [0], PLAN, views, Draws(0, 0, 1))
    with pytest.raises(ValueError, match=r"0.9 to 0.1 is empty"):
        View(span=(0.9, 0.1))


def test_a_contact_sheet_is_plain_text_and_pictures_are_cards(source, stats):
    views = text.recipe("weak", 16, stats)
    made = text.sample(source, [0, 1], ViewPlan(full=2), views, Draws(0, 0, 2))
    sheet = text.contact_sheet(source, [0, 1], [[view[k] for view in made] for k in range(2)], ["a", "b"])
    assert isinstance(sheet, str) and "view 2" in sheet and "tokens)" in sheet and "[PAD]" not in sheet
    assert source.read(0)[:20] in sheet
    card = text.picture(source, 0, 128)
    assert card.size == (128, 128) and len(card.getcolors(4096)) > 3
    assert "<" not in text.fragment(source, 0).removeprefix('<p class="text">').removesuffix("</p>")


def test_a_fragment_takes_nothing_for_markup(lines):
    source = text.open_source(lines("<script>alert('x')</script> & more\n" + "long " * 500 + "\n"))
    assert text.fragment(source, 0) == (
        '<p class="text">&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more</p>'
    )
    assert len(text.fragment(source, 1)) < 700


def test_raw_vectors_are_fitted_on_the_first_part(source, stats, lines):
    one, two = text.raw_vectors([(source, range(40)), (source, range(40, 64))], stats)
    assert one.shape[1] == two.shape[1] and (len(one), len(two)) == (40, 24) and one.dtype == torch.float32
    (alone,) = text.raw_vectors([(source, range(40))], stats)
    assert torch.allclose(alone, one, atol=1e-5)
    assert torch.allclose(one.norm(dim=1), torch.ones(40), atol=1e-4)
    kinds = torch.arange(40) % 2
    likeness = one @ one.T - 2 * torch.eye(40)
    assert (kinds[likeness.argmax(1)] == kinds).float().mean() > 0.9  # the sea is like the sea
