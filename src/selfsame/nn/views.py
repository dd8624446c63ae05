"""The views that a learner is given, beside those that its method asks for."""

from torch import Tensor

from selfsame.errors import UserError
from selfsame.records import ViewPlan


def as_planned(views: list[Tensor], plan: ViewPlan, method: str) -> list[Tensor]:
    """The views [b ...], where there are as many as planned, all of the same b items. Raises UserError else."""
    asked = {"full": plan.full, "part": plan.part, "plain": plan.plain}
    if len(views) == sum(asked.values()) and len({len(view) for view in views}) == 1:
        return views
    wanted = " and ".join(f"{count} {kind}" for kind, count in asked.items() if count)
    given = ", ".join(str(tuple(view.shape)) for view in views) or "none"
    raise UserError(f"{method} needs a list of {wanted} views [b ...] of the same items; it was given {given}.")
