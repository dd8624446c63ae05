import torch

from selfsame.nn.bank import by_item


def test_rows_of_one_item_become_their_mean_and_others_stay():
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    mean, items = by_item(vectors, torch.tensor([7, 7, 2]))
    assert torch.equal(mean, torch.tensor([[2.0, 1.0], [2.0, 1.0], [5.0, 5.0]])) and items.tolist() == [7, 7, 2]


def test_half_precision_around_it_rounds_nothing():
    vectors = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = by_item(vectors, torch.tensor([0, 1, 2]))
    assert torch.equal(mean, vectors)
