"""The views that a learner is given, beside those that its method asks for."""

from torch import Tensor

from selfsame.errors import UserError
from selfsame.records import ViewPlan


def as_planned(views: list[Tensor], plan: ViewPlan, method: str, items: Tensor | None = None) -> list[Tensor]:
    """The views [b ...], where there are as many as planned, all of the same b items. Raises UserError else.

    `items`: which item each row is, long [b], of learners that are told.
    """
    asked = {"full": plan.full, "part": plan.part, "plain": plan.plain}
    rows = {len(view) for view in views} | ({len(items)} if items is not None else set())
    if len(views) == sum(asked.values()) and len(rows) == 1:
        return views
    wanted = " and ".join(f"{count} {kind}" for kind, count in asked.items() if count)
    wanted += " view" if sum(asked.values()) == 1 else " views"
    given = ", ".join(str(tuple(view.shape)) for view in views) or "none"
    if items is not None:
        given += f", with {tuple(items.shape)} numbers of items"
    raise UserError(f"{method} needs a list of {wanted} [b ...] of the same items; it was given {given}.")
