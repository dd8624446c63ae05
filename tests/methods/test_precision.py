"""What mixed precision leaves alone in every method that is found: all that is not a pass of a network is in fp32."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfsame import methods
from tests.methods.networks import around
from tests.methods.room import BUDGET, ITEMS, encoder_for, settings_of, surveyed, views_of

HALF = (torch.bfloat16, torch.float16)
EXACT = {
    *("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"),  # covariances, similarities
    *("_softmax", "_log_softmax", "nll_loss_forward"),  # cross-entropy
    *("exp", "log", "logsumexp", "special_entr", "reciprocal", "div"),  # Sinkhorn, entropies
    *("linalg_vector_norm", "norm", "sqrt", "rsqrt", "pow", "native_layer_norm", "native_batch_norm"),  # norms
    *("sum", "mean", "var", "std", "var_mean"),  # moments
    *("mse_loss", "smooth_l1_loss", "cos", "sin", "tanh"),  # distances
}


class Watch(TorchDispatchMode):
    """Notes the operations of EXACT on numbers of half precision, but for those of networks."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0  # of networks in each other
        self.seen: set[str] = set()
        self.wrong: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not self.depth and name in EXACT:
            self.seen.add(name)
            if any(isinstance(x, Tensor) and x.dtype in HALF for x in tree_leaves((args, kwargs))):
                self.wrong.add(name)
        return func(*args, **(kwargs or {}))

    def let_pass(self, _: Any, call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self.depth -= 1

        return run


def in_fp32(_: Any, call: Any) -> Any:
    """A pass of a network outside of autocast."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return call(*args, **kwargs)

    return run


def enlarged(network: Any, call: Any) -> Any:
    """A pass of an encoder whose vectors are a hundred times as long, in half precision."""

    def run(*args: Any, **kwargs: Any) -> Any:
        made = call(*args, **kwargs)
        if isinstance(made, Tensor) and made.is_floating_point() and hasattr(network, "spec"):
            return 100 * made.half()
        return made

    return run


LONG = BUDGET.changed(steps=10**6)  # as in the papers: what short runs whiten comes out in fp32 by itself
SHORT = {name: settings_of(name) for name in methods.names()}
OTHERS = {f"{name}, long": settings_of(name, LONG) for name in SHORT if settings_of(name, LONG) != SHORT[name]}
CASES = SHORT | OTHERS


@pytest.fixture(params=CASES)
def learner(request):
    torch.manual_seed(0)
    method = CASES[request.param]
    made = method.build(encoder_for(method), ITEMS)
    if made.surveys(0):
        with torch.no_grad():
            made.survey(surveyed(ITEMS))
    return made


def loss_of(learner):
    torch.manual_seed(1)
    views = views_of(learner.method)
    return (learner(views, torch.arange(ITEMS)) if learner.by_item else learner(views)).loss


def test_softmax_norms_and_products_of_a_method_see_no_half_precision(learner):
    watch = Watch()
    with around(learner, watch.let_pass), torch.autocast("cpu", torch.bfloat16), watch:
        loss = loss_of(learner)
    assert loss.dtype == torch.float32
    assert watch.seen  # it does watch
    assert watch.wrong == set()


def test_given_exact_vectors_a_method_makes_the_same_loss_of_them_under_autocast(learner):
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    with around(learner, in_fp32):
        with torch.autocast("cpu", torch.bfloat16):
            under = loss_of(learner)
        learner.load_state_dict(state)  # a queue has moved
        assert_close(under, loss_of(learner), rtol=1e-6, atol=1e-7)


def test_vectors_a_hundred_times_as_long_in_half_precision_overflow_nowhere(learner):
    with around(learner, enlarged), torch.autocast("cpu", torch.float16):
        loss = loss_of(learner)
    assert loss.isfinite() and loss.dtype == torch.float32
