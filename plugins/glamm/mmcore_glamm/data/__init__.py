"""GLaMM's data: annotations of every published source as conversations; `build` answers `build_datasets`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext, Datasets
    from mmcore.contract.recipe import Stage


def build(stage: "Stage", split: str, context: "DataContext") -> "Datasets":
    """The sources of a stage for one split, "train" or "val"; imports torch only when called.

    Raises:
        DataError: a source cannot be read, or its files are not there.
    """
    from mmcore_glamm.data.assemble import build_train, build_val

    return build_train(stage, context) if split == "train" else build_val(stage, context)
