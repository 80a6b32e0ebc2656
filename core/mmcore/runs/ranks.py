"""What `mmcore plan` says of ranks that wait for one another because sources differ in cost."""

from typing import TYPE_CHECKING

from mmcore.contract.mixture import BALANCED
from mmcore.runs.build import build_order, costs
from mmcore.runs.settings import Settings

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets, Order

LOOKED_AT = 128
"""Steps, from the first, whose ranks are compared."""

WINDOW = 16
"""Steps of the window that is proposed."""


def told_waiting(settings: Settings, datasets: "Datasets", order: "Order", ranks: int) -> str | None:
    """How long the ranks of a step wait for the dearest, with `data.balance` and without; None where none can.

    Args:
        settings: of the run.
        datasets: for training.
        order: as it will be drawn.
        ranks: processes that share a step.
    """
    from mmcore.data.order.balanced import waiting

    data, cost = settings.stage.data, costs(settings)
    if ranks < 2 or len(cost) < 2 or data.mixture.kind not in BALANCED:
        return None
    if len(set(cost.values())) < 2:
        if data.balance is None:
            return (
                "data.balance is off, which leaves the order as published: a rank that draws a cheap source waits for "
                "one that draws a dear one; say which are dearer (data.sources.NAME.cost=5) to see how long"
            )
        return "data.balance changes nothing: all sources cost alike; say which are dearer, data.sources.NAME.cost=5"
    per_step = settings.stage.global_batch // settings.stage.micro_batch

    def measured(window: int | None) -> str:
        changed = settings.replace(stage=settings.stage.replace(data=data.replace(balance=window)))
        made = order if window == data.balance else build_order(changed, datasets)
        slower = waiting(made, cost, per_step=per_step, ranks=ranks, steps=LOOKED_AT)
        return f"{100 * (slower - 1):.0f} %"

    told = f"the dearest of {ranks} ranks takes {measured(data.balance)} longer than their mean, by data.sources.*.cost"
    if data.balance is None:
        return (
            f"{told}; data.balance is off, which leaves the order as published; data.balance={WINDOW} would make it "
            f"{measured(WINDOW)}"
        )
    return f"{told}; without data.balance={data.balance} it would be {measured(None)}"
