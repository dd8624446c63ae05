import pytest
import torch

from selfsame.nn.moments import off_diagonal, wide


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_rest_of_a_matrix_is_all_but_its_diagonal(d):
    m = torch.arange(float(d * d)).reshape(d, d).requires_grad_()
    rest = off_diagonal(m)
    assert sorted(rest.flatten().tolist()) == sorted(set(range(d * d)) - set(range(0, d * d, d + 1)))
    rest.sum().backward()
    assert torch.equal(m.grad, 1 - torch.eye(d))


def test_sums_are_taken_in_float32_at_least():
    for given in (torch.bfloat16, torch.float16, torch.float32):
        assert wide(torch.zeros(1, dtype=given)).dtype == torch.float32
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
