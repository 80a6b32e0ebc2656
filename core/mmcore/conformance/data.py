"""Checks of a stage's data: what the recipe names is there, and a draw decides its sample."""

from mmcore.conformance.compare import equal
from mmcore.conformance.subject import BrokenContractError, Subject, require
from mmcore.errors import some
from mmcore.runs.settings import active_sources


def data_opens(subject: Subject) -> str:
    """The recipe's sources and validation sets are given, have records, and make the same sample of the same draw."""
    from mmcore.contract.protocols import DataSource
    from mmcore.contract.values import Batch

    for split, datasets in (("train", subject.train), ("val", subject.val)):
        for name, source in datasets.sources.items():
            require(isinstance(source, DataSource), f"{split} source {name} is not a DataSource")
            require(source.name == name, f"{split} source {name} calls itself {source.name!r}")
            require(len(source) > 0, f"{split} source {name} has no records")
            require(source.fingerprint == source.fingerprint != "", f"{split} source {name} has no stable fingerprint")
            require(name in datasets.collate, f"{split} source {name} has no collator")
    missing = [name for name in active_sources(subject.settings) if name not in subject.train.sources]
    require(not missing, f"the recipe's sources are not given: {some(missing)}")
    missing = [name for name in subject.stage.validation if name not in subject.val.evaluators]
    require(not missing, f"these validation sets have no evaluator: {some(missing)}")
    again_drawn = subject.draw(0)
    for name, batch in subject.batches.items():
        require(isinstance(batch, Batch), f"the collator of {name} returns {type(batch).__name__}, not a Batch")
        again = again_drawn[name]
        require(
            equal(batch, again), f"one draw of {name} gives two different samples: randomness must come from its seed"
        )
        _picklable(subject.train.sources[name])
    return ", ".join(f"{name} {len(source)}" for name, source in subject.train.sources.items())


def _picklable(source: object) -> None:
    """Sources travel to worker processes; that is Python's own channel between its processes, not a file."""
    from multiprocessing.reduction import ForkingPickler

    try:
        ForkingPickler.dumps(source)
    except Exception as error:
        raise BrokenContractError(f"{type(source).__name__} cannot travel to a worker process: {error}") from error
