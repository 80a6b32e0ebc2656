"""Live networks or a cache of what they say: one decision, made from the recipe, the disk and nothing else.

    live    the networks run in every step
    cache   a complete cache must be there, made by these networks and for this data
    FOLDER  the same, of that folder
    auto    the cache when there is such a one, else live networks; `mmcore plan` says which

Cached and live features are the same numbers, bit for bit, on one kind of machine: both come from the same picture
through the same preparation, networks compute in passes of one length and outside any autocast, so that neither the
batch nor the recipe's precision reaches them, and live ones are rounded to the precision of a cache. A cache from
another kind of machine differs as the networks themselves do there, by the rounding of what they compute in.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmcore.base import hub
from mmcore.contract.protocols import DataContext, DataSource
from mmcore.contract.recipe import Stage
from mmcore.data.cache.features import CacheJob, FeatureCache, Field, Item, fingerprint, unfit
from mmcore.data.images import MAX_PIXELS, read_image
from mmcore.data.index_files import file_sha256
from mmcore.data.patterns import is_pattern, locate_all
from mmcore.data.pictures import Inside
from mmcore.errors import DataError, MissingDataError
from mmcore.vision.extractors import PASS, Extractor, Extractors

MODES = ("auto", "live", "cache")
Rgb = UInt8[np.ndarray, "height width 3"]


class Found(NamedTuple):
    """What one picture brings along for frozen networks; one of the two is empty."""

    images: Mapping[str, Tensor]
    """Name -> the picture as a live network takes it, bytes."""
    features: Mapping[str, Tensor]
    """Name -> what a cache holds, float32."""


class Features(Protocol):
    """What a data source asks about every picture."""

    @property
    def fingerprint(self) -> str:
        """What the answers depend on besides the pictures."""
        ...

    def of(self, rgb: Rgb, path: Path | Inside) -> Found:
        """What one picture brings along.

        Args:
            rgb: the picture as the networks are to see it.
            path: its file, or where it is inside another.

        Raises:
            DataError: a cache has no such picture, or the picture has changed since.
        """
        ...


@dataclass(frozen=True)
class LiveFeatures:
    """Pixels as each network takes them; the model asks the networks. Small enough for data workers."""

    extractors: tuple[Extractor, ...]
    fingerprint: str
    """Of the networks."""

    def of(self, rgb: Rgb, path: Path | Inside) -> Found:
        """The picture prepared for every network."""
        del path
        return Found({extractor.name: extractor.inputs(rgb) for extractor in self.extractors}, {})


@dataclass(frozen=True)
class CachedFeatures:
    """What the networks said of each picture."""

    cache: FeatureCache
    root: Path
    """Data root; images are known by their path below it."""
    names: tuple[str, ...]
    fingerprint: str
    """Of the networks."""

    def of(self, rgb: Rgb, path: Path | Inside) -> Found:
        """The cached features of a picture; raises as `Features.of`."""
        del rgb
        row = self.cache.read(key_of(path, self.root), path)
        return Found({}, {name: torch.from_numpy(row[name]).float() for name in self.names})


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a stage wants to know of its pictures, which networks say it, and what the recipe decides."""

    extractors: tuple[Extractor, ...]
    """Described, not loaded."""
    absent: Mapping[str, str]
    """Those whose files are not on this machine, and what the recipe calls these."""
    shapes: Mapping[str, tuple[int, ...]]
    """What the model takes of each."""
    source: str
    """One of `MODES`, or the folder of a cache."""
    store: str
    """Precision of stored and of live features, fp16 or fp32."""
    home: Path
    """Where caches lie unless named."""
    family: str
    """Whose demand it is; part of a cache's identity."""
    setting: str
    """What the recipe calls `source`, for messages."""
    what: str
    """What the networks are called, for messages: teachers."""
    known: tuple[str, ...] = ("precision",)
    """Facts of a network that are known without its files."""

    def identity(self, cache: Path) -> dict[str, Any]:
        """Everything that decides the features, JSON: networks, hashes of their files, preparation, precision."""
        told: dict[str, Any] = {"family": self.family, "pass": PASS, "store": self.store}
        for extractor in self.extractors:
            there = extractor.name not in self.absent
            files = {path.name: file_sha256(path, cache) for path in extractor.files} if there else {}
            told[extractor.name] = {**extractor.facts, "files": files}
        return json.loads(json.dumps(told))

    def fetched(self, do: str) -> bool:
        """Fetch from the Hub what is not here; False when everything was. The files then say what they are.

        Raises:
            MissingDataError: one is not on the Hub, or the Hub cannot be reached; `do` says what to do.
        """
        for name, file in self.absent.items():
            if not hub.is_hub(file):
                raise MissingDataError(f"the weights of the {self.what} of {name} are not there", where=file, do=do)
            hub.fetch(file, do=do)
        return bool(self.absent)


@dataclass(frozen=True)
class Choice:
    """Where this stage's features come from."""

    demand: Demand
    identity: Mapping[str, Any]
    cache: FeatureCache | None
    why: str
    """One line for people."""

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the features."""
        return fingerprint(self.identity)[:16]

    def live(self) -> LiveFeatures:
        """Pictures prepared for the networks."""
        return LiveFeatures(self.demand.extractors, self.fingerprint)

    def features(self, root: Path) -> LiveFeatures | CachedFeatures:
        """What a source of training data asks about its pictures."""
        if self.cache is None:
            return self.live()
        return CachedFeatures(self.cache, root, tuple(self.demand.shapes), self.fingerprint)

    def load(self) -> Extractors:
        """The networks themselves; each is loaded when it is first asked."""
        return Extractors(self.demand.extractors, store=self.demand.store)

    def notes(self, noun: str) -> tuple[str, ...]:
        """Where the features of a run will come from, and why, for `mmcore plan`; `noun` is what they are called."""
        notes = (f"{noun} of {', '.join(self.demand.shapes)}: {self.why}",)
        if not self.demand.absent or self.cache is not None:
            return notes
        files = ", ".join(self.demand.absent.values())
        return (*notes, f"{self.demand.what}s not on this machine, fetched at the start: {files}")


def chosen_once_fetched(demand: Callable[[], Demand], stage: Stage, context: DataContext, do: str) -> Choice:
    """As `choose`, once every network is on this machine; those that are not yet are fetched from the Hub.

    Args:
        demand: described anew after fetching, when the files say what they are.
        stage: names the data.
        context: of the run.
        do: what to do where one cannot be fetched.

    Raises:
        MissingDataError: one is not on the Hub, or the Hub cannot be reached.
    """
    wanted = demand()
    return choose(demand() if wanted.fetched(do) else wanted, stage, context)


def choose(demand: Demand, stage: Stage, context: DataContext) -> Choice:
    """Cache or live networks for the training data of a stage; asks only this machine's disk.

    Raises:
        MissingDataError: the recipe wants a cache that is not there.
    """
    identity, what = demand.identity(context.cache), f"{demand.what}s"
    if demand.source == "live":
        return Choice(demand, identity, None, f"live {what}, as {demand.setting} says")
    given = None if demand.source in MODES else context.root / Path(demand.source).expanduser()
    folders = [given] if given else sorted(path.parent for path in demand.home.glob("*/cache.json"))
    refused = []
    for folder in folders:
        if problem := misfit(folder, identity, demand, covers(stage, context)):
            refused.append(f"{folder}: {problem}")
            continue
        cache = FeatureCache(folder)
        # Its identity is complete, also where the networks' files are not.
        return Choice(demand, cache.identity, cache, f"cached in {folder}, {len(cache):,} images, {demand.store}")
    if demand.source != "auto":
        raise MissingDataError(
            f"there is no complete cache of these {what} for this data",
            where=f"{demand.setting}={demand.source}",
            known=refused or None,
            do=f"make it with `mmcore data cache` and the same options, or use --set {demand.setting}=live",
        )
    return Choice(demand, identity, None, "; ".join([f"live {what}: no complete cache fits", *refused[:2]]))


def misfit(folder: Path, identity: Mapping[str, Any], demand: Demand, wanted: Mapping[str, str]) -> str | None:
    """Why a cache cannot serve, in a few words; None when it can.

    A network whose files are not on this machine, and with them its sizes, is taken to be the one of its kind that made
    the cache, if shape and precision are right.
    """
    try:
        if different := [entry for entry in unfit(folder, identity) if not _unknowable(entry, demand)]:
            return "made by something else: " + "; ".join(different[:2])
        cache = FeatureCache(folder)
    except DataError as error:
        return error.what
    for name, shape in demand.shapes.items():
        if cache.fields[name].shape != shape:
            return f"{name} is {cache.fields[name].shape} instead of {shape}"
    have = cache.covers
    missing = [name for name, print_ in wanted.items() if print_ not in have.values()]
    return f"not complete for {', '.join(missing)}" if missing else None


def _unknowable(entry: str, demand: Demand) -> bool:
    """Whether a difference concerns what only a network's absent files could tell."""
    name, _, fact = entry.partition(":")[0].partition(".")
    return name in demand.absent and fact not in demand.known


def covers(stage: Stage, context: DataContext) -> dict[str, str]:
    """Source -> fingerprint of its files, which name the pictures."""
    result = {}
    for name, source in stage.data.sources.items():
        if source.weight <= 0 or (context.only is not None and name not in context.only):
            continue
        files = (source.annotations,) if isinstance(source.annotations, str) else source.annotations
        root = Path(source.root or context.root)
        hashes = [_file_print(path, context.cache) for file in files for path in _meant(root, file)]
        content = json.dumps([hashes, source.format, source.images, sorted(source.options.items())], default=str)
        result[name] = hashlib.sha256(content.encode()).hexdigest()
    return result


def _meant(root: Path, file: str) -> list[Path]:
    """The files that an entry names, where it is a pattern."""
    if is_pattern(file) and not (root / file).exists():
        return locate_all(root, file, "a cache")[1]
    return [root / file]


def _file_print(path: Path, cache: Path) -> str:
    return file_sha256(path, cache) if path.is_file() else "absent"


def key_of(path: Path | Inside, root: Path) -> str:
    """A picture's name in a cache: its path below the data root, or as it is when it lies elsewhere."""
    path = path.place if isinstance(path, Inside) else path
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def cache_job(
    choice: Choice, stage: Stage, context: DataContext, sources: Callable[[], Mapping[str, DataSource]]
) -> CacheJob:
    """What `mmcore data cache` computes: what every network says of every picture of the training data.

    Args:
        choice: of a demand for live networks that are all here.
        stage: names the data.
        context: of the run.
        sources: of the training data; those with `features` have their `pictures()` looked at.
    """

    def items() -> Iterator[Item]:
        for source in sources().values():
            if getattr(source, "features", None) is not None:
                yield from (Item(key_of(path, context.root), path) for path in source.pictures())  # type: ignore[attr-defined]

    demand = choice.demand
    return CacheJob(
        folder=demand.home / f"{context.variant}-{choice.fingerprint}",
        fields={extractor.name: Field(tuple(extractor.shape), demand.store) for extractor in demand.extractors},
        identity=choice.identity,
        covers=covers(stage, context),
        items=items,
        read=_Prepare(choice.live(), stage.data.max_pixels),
        make=lambda device: _Making(choice.load().load(device)),
    )


@dataclass(frozen=True)
class _Prepare:
    """An image's inputs; runs in worker processes."""

    live: LiveFeatures
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path | Inside) -> Mapping[str, Tensor]:
        content = path.held() if isinstance(path, Inside) else path
        return self.live.of(read_image(content, max_pixels=self.max_pixels), path).images


@dataclass(frozen=True)
class _Making:
    """Inputs to features in the stored precision."""

    extractors: Extractors

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.extractors.stored(name, pixels) for name, pixels in inputs.items()}
