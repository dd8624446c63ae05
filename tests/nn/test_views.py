import pytest
import torch

from selfsame.errors import UserError
from selfsame.nn.views import as_planned
from selfsame.records import ViewPlan

FULL, PART = torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 4, 4)


def test_views_as_planned_come_back():
    views = [FULL, FULL, PART]
    assert as_planned(views, ViewPlan(full=2, part=1), "M") is views


@pytest.mark.parametrize("views", [[], [FULL], [FULL, FULL, FULL, PART], [FULL, FULL[:3], PART]])
def test_others_are_refused_with_what_was_given(views):
    shapes = ", ".join(str(tuple(view.shape)) for view in views) or "none"
    with pytest.raises(UserError) as told:
        as_planned(views, ViewPlan(full=2, part=1), "M")
    assert (
        str(told.value)
        == f"M needs a list of 2 full and 1 part views [b ...] of the same items; it was given {shapes}."
    )
