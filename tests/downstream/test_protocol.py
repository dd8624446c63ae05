import io
import math
from collections import Counter

import pytest
import torch
from rich.console import Console
from torch import Tensor, tensor

from selfsame.downstream.knn import knn_accuracy
from selfsame.downstream.linear import linear_accuracy
from selfsame.downstream.protocol import Row, beats, measure, table
from selfsame.downstream.split import budget
from selfsame.errors import UserError


def labelled(n: int, seed: int, noise: float) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    return torch.eye(3)[labels] + noise * torch.randn(n, 3, generator=g), labels


TRAIN, TRAIN_LABELS = labelled(240, 0, 0.5)
TEST, TEST_LABELS = labelled(90, 1, 0.5)


def weak(seed: int) -> tuple[Tensor, Tensor]:
    return TRAIN + 3 * labelled(240, 10 + seed, 1)[0], TEST + 3 * labelled(90, 20 + seed, 1)[0]


def row(features: str, mean: float, protocol: str = "linear", labels: str = "all", std: float = 0, seeds: int = 3):
    return Row(features=features, protocol=protocol, labels=labels, mean=mean, std=std, seeds=seeds)


def test_rows_are_what_the_protocols_say_seed_by_seed():
    calls: Counter[str] = Counter()

    def counted(kind: str):
        def vectors(seed: int) -> tuple[Tensor, Tensor]:
            calls[kind] += 1
            return weak(seed) if kind == "random" else (TRAIN, TEST)

        return vectors

    rows = measure(
        {kind: counted(kind) for kind in ("encoder", "random")},
        TRAIN_LABELS,
        TEST_LABELS,
        budgets=("all", "10/class"),
    )
    found = {(one.features, one.protocol, one.labels): one for one in rows}
    assert len(found) == len(rows) == 8
    assert calls == {"encoder": 1, "random": 3}  # an encoder is not run again for the same vectors

    expected = [knn_accuracy(weak(seed)[0], TRAIN_LABELS, weak(seed)[1], TEST_LABELS) for seed in range(3)]
    one = found["random", "knn", "all"]
    assert one.mean == pytest.approx(sum(expected) / 3) and one.seeds == 3
    assert one.std == pytest.approx(tensor(expected).double().std().item(), abs=1e-6)

    expected = []
    for seed in range(3):
        use = budget(TRAIN_LABELS, "10/class", seed)
        expected.append(linear_accuracy(TRAIN[use], TRAIN_LABELS[use], TEST, TEST_LABELS, seed))
    assert found["encoder", "linear", "10/class"].mean == pytest.approx(sum(expected) / 3)


def test_a_run_that_cannot_differ_is_counted_once():
    rows = measure({"encoder": lambda seed: (TRAIN, TEST)}, TRAIN_LABELS, TEST_LABELS, ("knn",), ("all", "10%"))
    assert [(one.labels, one.seeds) for one in rows] == [("all", 1), ("10%", 3)]
    assert rows[0].std == 0


def test_rows_have_the_promised_keys():
    (one,) = measure({"raw": lambda seed: (TRAIN, TEST)}, TRAIN_LABELS, TEST_LABELS, ("knn",))
    assert set(one.model_dump()) == {"features", "protocol", "labels", "mean", "std", "seeds"}


def test_classes_without_train_items_are_mentioned(capsys):
    use = TRAIN_LABELS < 2
    (one,) = measure({"encoder": lambda seed: (TRAIN[use], TEST)}, TRAIN_LABELS[use], TEST_LABELS, ("knn",))
    assert "30 of 90 test items" in capsys.readouterr().err
    assert one.mean <= 2 / 3


def test_a_clear_difference_is_a_win_and_an_unclear_one_is_not():
    rows = [row("raw", 0.69), row("encoder", 0.7), row("random", 0.4), row("supervised", 0.9, "finetune")]
    verdicts = {one.against: one for one in beats(rows, test_items=1000)}
    assert set(verdicts) == {"random", "raw"}  # fine-tuning is another protocol
    assert verdicts["random"].wins and "beats random" in str(verdicts["random"])
    assert not verdicts["raw"].wins and "cannot be told from raw" in str(verdicts["raw"])
    worse = beats([row("encoder", 0.4), row("raw", 0.7)], test_items=1000)[0]
    assert not worse.wins and "WORSE than raw (70.0%): -30.0 points" in str(worse)


def test_the_margin_is_two_standard_errors_of_seeds_and_test_set():
    (one,) = beats([row("encoder", 0.8, std=0.03), row("raw", 0.5, std=0.0, seeds=1)], test_items=100)
    assert one.margin == pytest.approx(2 * math.sqrt(0.03**2 / 3 + 0.8 * 0.2 / 100 + 0.5 * 0.5 / 100))


def test_the_margin_covers_chance():
    # Two features of equal worth: a win must be rare (one-sided 2 standard errors: 2.3 % of the time).
    g = torch.Generator().manual_seed(0)
    right = (torch.rand(2, 1000, 200, generator=g) < 0.7).double().mean(dim=2)
    wins = sum(beats([row("encoder", a, seeds=1), row("raw", b, seeds=1)], 200)[0].wins for a, b in right.T.tolist())
    assert 5 <= wins <= 45


def test_the_table_shows_the_encoder_before_its_baselines():
    rows = [row("raw", 0.123), row("encoder", 0.456, std=0.01), row("encoder", 0.789, "knn", seeds=1), row("random", 0)]
    screen = io.StringIO()
    Console(file=screen, width=100).print(table(rows))
    text = screen.getvalue()
    places = [text.index(figure) for figure in ("78.9", "45.6", " 0.0", "12.3")]
    assert places == sorted(places)
    assert "1.0" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocols": ("kn",)}, "Did you mean 'knn'"),
        ({"features": {"encoded": weak}}, "unknown features"),
        ({"budgets": ("5",)}, "cannot be read"),
        ({"seeds": ()}, "no seeds"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_computed(change, says):
    def never(seed: int) -> tuple[Tensor, Tensor]:
        raise AssertionError

    given = {"features": {"encoder": never}, "train_labels": TRAIN_LABELS, "test_labels": TEST_LABELS}
    with pytest.raises(UserError, match=says):
        measure(**(given | change))
