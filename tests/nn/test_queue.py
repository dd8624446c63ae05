import torch

from selfsame.nn.queue import Queue


def rows(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)[:, None].expand(-1, 2)


def test_the_oldest_go_first_and_the_pointer_wraps():
    """Fact sheet B1: length 4, batches of 2."""
    queue = Queue(4, 2)
    start = queue()
    queue.push(rows(0.0, 0.1))
    assert torch.equal(queue(), torch.cat([rows(0.0, 0.1), start[2:]])) and int(queue.place) == 2
    queue.push(rows(1.0, 1.1))
    assert torch.equal(queue(), rows(0.0, 0.1, 1.0, 1.1)) and int(queue.place) == 0
    queue.push(rows(2.0, 2.1))
    assert torch.equal(queue(), rows(2.0, 2.1, 1.0, 1.1)) and int(queue.place) == 2


def test_it_starts_with_unit_vectors_and_knows_when_it_is_full():
    queue = Queue(5, 3)
    assert torch.allclose(queue().norm(dim=1), torch.ones(5)) and not queue.full
    queue.push(torch.ones(4, 3))
    assert not queue.full
    queue.push(torch.ones(4, 3))
    assert queue.full and torch.equal(queue(), torch.ones(5, 3))


def test_more_than_it_holds_leaves_the_last():
    queue = Queue(2, 2)
    queue.push(rows(1.0, 2.0, 3.0))
    assert sorted(queue()[:, 0].tolist()) == [2.0, 3.0]


def test_what_was_read_stays_when_it_moves_on():
    queue = Queue(2, 2)
    weight = torch.ones(2, requires_grad=True)
    loss = (queue() @ weight).square().sum()
    queue.push(torch.ones(2, 2))
    loss.backward()  # would raise if the queue were changed in place under it
    assert weight.grad is not None
