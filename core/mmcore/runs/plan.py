"""What a run will be, before it starts: recipe with sources, data counts, parameters, memory, steps, hours.

Nothing is trained and nothing is written but annotation indexes. Problems are listed instead of raised, so that one
missing data set does not hide the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore.base import hub
from mmcore.base.jsonfile import read_json_lines
from mmcore.contract.recipe import Source, Validation
from mmcore.errors import MmcoreError, UsageError
from mmcore.runs.build import adapt, build_datasets, build_model, build_order, data_context, prepare_demo, total_steps
from mmcore.runs.checks import check_metrics, few_steps_a_pass
from mmcore.runs.config import Origins, to_tree
from mmcore.runs.memory import Memory, plan_memory
from mmcore.runs.plugin import OpenedPlugin
from mmcore.runs.probe import Probe
from mmcore.runs.ranks import told_waiting
from mmcore.runs.settings import Request, Settings, active_sources, for_training, settle, validations
from mmcore.train.schedule import beyond_the_end

if TYPE_CHECKING:
    from mmcore.contract.protocols import Datasets


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay, or that are frozen (`lr` None)."""

    modules: tuple[str, ...]
    """Top-level modules they belong to."""
    tensors: int
    parameters: int
    lr: float | None
    weight_decay: float | None


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One data source: its share of the samples and what is there."""

    name: str
    format: str
    annotations: str
    share: float
    """Of all samples drawn, between 0 and 1."""
    records: int | None
    epochs: float | None
    """How often each of its records is seen in the whole run, on average."""
    problem: str | None = None
    changed: bool = False
    """Whether an entry of it is not as the family's recipe has it."""


@dataclass(slots=True)
class Plan:
    """The whole answer of `mmcore plan`."""

    settings: Settings
    origins: Origins
    plugin: str
    steps: int | None
    samples: int | None
    accumulation: int
    processes: int
    sources: list[SourcePlan] = field(default_factory=list)
    validation: list[SourcePlan] = field(default_factory=list)
    groups: list[ParameterGroup] = field(default_factory=list)
    memory: Memory | None = None
    """Of each process."""
    rate: float | None = None
    """Samples per second of all processes together, given or measured; None is unknown."""
    notes: list[str] = field(default_factory=list)
    """What the family decides by looking at the disk, such as whether cached features are used."""
    problems: list[str] = field(default_factory=list)
    """Everything for which `mmcore train` would stop before its first step."""
    probe: Probe | None = None
    """Two steps that were made; None without --probe."""

    @property
    def hours(self) -> float | None:
        """How long all steps take at that rate, without validation."""
        return self.samples / self.rate / 3600 if self.samples and self.rate else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        from dataclasses import asdict

        return {
            "plugin": self.plugin,
            "variant": self.settings.variant,
            "recipe": to_tree(self.settings.stage),
            "origins": self.origins,
            "data_root": self.settings.data,
            "steps": self.steps,
            "samples": self.samples,
            "accumulation": self.accumulation,
            "processes": self.processes,
            "sources": [asdict(source) for source in self.sources],
            "validation": [asdict(source) for source in self.validation],
            "parameters": [asdict(group) for group in self.groups],
            "memory_bytes": asdict(self.memory) | {"peak": self.memory.peak} if self.memory else None,
            "samples_per_s": self.rate,
            "hours": self.hours,
            "probe": asdict(self.probe) if self.probe else None,
            "notes": self.notes,
            "problems": self.problems,
        }


def make_plan(
    request: Request, *, processes: int = 1, build: bool = True, rate: float | None = None, probe: bool = False
) -> Plan:
    """Resolve a request and look at everything it needs.

    Args:
        request: as for training.
        processes: how many will train, for accumulation and memory.
        rate: samples per second of all processes together, for the hours.
        build: whether to build the model and open the data; False needs neither torch nor data.
        probe: make two steps, where nothing is in the way of them.

    Raises:
        UsageError: the request itself is wrong; problems with data or weights are listed in the plan instead.
    """
    family, settings, origins = settle(request)
    stage = settings.stage
    per_pass = stage.micro_batch * processes
    plan = Plan(
        settings=settings,
        origins=origins,
        plugin=family.plugin.label,
        steps=stage.steps,
        samples=stage.steps * stage.global_batch if stage.steps else None,
        accumulation=max(1, stage.global_batch // per_pass),
        processes=processes,
    )
    if stage.global_batch % per_pass:
        plan.problems.append(
            f"global_batch {stage.global_batch} is not a multiple of micro_batch {stage.micro_batch}"
            f" x {processes} processes"
        )
    if build:
        plan.rate = rate
        with hub.unasked():
            datasets = _look(family, settings, plan)
        if probe and datasets is not None and not plan.problems:
            _probe(family, settings, datasets, plan)
    else:
        plan.sources = list(_describe_sources(settings, {}, plan))
    return plan


def _look(family: OpenedPlugin, settings: Settings, plan: Plan) -> "Datasets | None":
    """Data on this disk and the model's shapes; the Hub is not asked. Returns the data, if all of it is there."""
    prepare_demo(family, settings)
    counts, datasets = _count_records(family, settings, plan)
    if settings.stage.steps is not None or counts.keys() == active_sources(settings).keys():
        plan.steps = total_steps(settings, sum(counts.values()))
        plan.samples = plan.steps * settings.stage.global_batch
        plan.notes += beyond_the_end(settings.stage, plan.steps)
    if counts.keys() == active_sources(settings).keys():
        plan.notes += few_steps_a_pass(settings.stage, sum(counts.values()))
    plan.sources = list(_describe_sources(settings, counts, plan))
    plan.validation = _describe_validation(family, settings, plan)
    for look in (_describe_model, _describe_start, _describe_order):
        try:
            look(family, settings, datasets, plan)
        except MmcoreError as error:
            plan.problems.append(str(error))
    _take_notes(family, settings, plan)
    return datasets


def _describe_start(family: OpenedPlugin, settings: Settings, datasets: "Datasets | None", plan: Plan) -> None:
    """Where the weights start, and whether they are there; what is on the Hub is not asked for."""
    from mmcore.runs.initialise import chosen_starts, place_of_start

    del family, datasets
    for start, _ in chosen_starts(settings.stage, settings.init, Path(settings.data)):
        if place_of_start(start) is None:
            plan.notes.append(f"weights: {start} is fetched from the Hub when training starts")


def _describe_order(family: OpenedPlugin, settings: Settings, datasets: "Datasets | None", plan: Plan) -> None:
    """Whether there is something to draw from, the mixture knows what it goes by, and ranks wait for one another."""
    del family
    if datasets is not None:
        order = build_order(settings, datasets)
        if _divides(plan) and (note := told_waiting(settings, datasets, order, plan.processes)):
            plan.notes.append(note)


def _divides(plan: Plan) -> bool:
    return plan.settings.stage.global_batch % (plan.settings.stage.micro_batch * plan.processes) == 0


def _probe(family: OpenedPlugin, settings: Settings, datasets: "Datasets", plan: Plan) -> None:
    """Two steps, and what follows from them for the whole run."""
    from mmcore.runs.probe import probe

    try:
        plan.probe = probe(family, settings, datasets)
    except MmcoreError as error:
        plan.problems.append(str(error))
        return
    plan.rate = plan.probe.samples_per_s * plan.processes


def _count_records(family: OpenedPlugin, settings: Settings, plan: Plan) -> "tuple[dict[str, int], Datasets | None]":
    """Records by source, and the data; where a source has a problem each is opened alone, so that it hides no other."""
    from mmcore.data.records import told_left_out  # with torch, which a plan of the recipe alone can do without

    try:
        whole = build_datasets(family, settings, "train")
        told = (told_left_out(name, whole.sources[name]) for name in active_sources(settings))
        plan.notes += [line for line in told if line]
        return {name: len(whole.sources[name]) for name in active_sources(settings)}, whole
    except MmcoreError:
        counts: dict[str, int] = {}
    for name in active_sources(settings):
        try:
            counts[name] = len(build_datasets(family, settings.replace(only=(name,)), "train").sources[name])
        except hub.NotFetchedError as error:
            plan.notes.append(f"records of {name} are unknown: {error.where} is {error.what}")
        except MmcoreError as error:
            plan.problems.append(f"{name}: {error}")
    return counts, None


def _describe_sources(settings: Settings, counts: dict[str, int], plan: Plan) -> Iterator[SourcePlan]:
    sources = active_sources(settings)
    whole = sum(source.weight for source in sources.values())
    for name, source in sources.items():
        share = source.weight / whole
        records = counts.get(name)
        epochs = plan.samples * share / records if plan.samples and records else None
        files = _files(source)
        changed = _is_changed(plan.origins, f"data.sources.{name}")
        yield SourcePlan(name, source.format, files, share, records, epochs, changed=changed)


def _is_changed(origins: Origins, key: str) -> bool:
    return any(one == key or one.startswith(f"{key}.") for one in origins)


def _files(entry: Source | Validation) -> str:
    return entry.annotations if isinstance(entry.annotations, str) else ", ".join(entry.annotations)


def _describe_validation(family: OpenedPlugin, settings: Settings, plan: Plan) -> list[SourcePlan]:
    """Each validation set, and whether its metrics exist; opened together, or one by one where one has a problem."""
    from mmcore.contract.protocols import Datasets
    from mmcore.runs.validation_loss import learnable_sets

    try:
        settings = for_training(settings)
    except MmcoreError as error:
        plan.problems.append(str(error))
    entries = validations(settings)
    evaluators: dict[str, Any] = {}
    found: dict[str, int | str] = {}
    try:
        answers = build_datasets(family, settings, "val") if entries else Datasets({}, {})
        found = {name: len(source) for name, source in answers.sources.items() if name in entries}
        evaluators |= {name: evaluator for name, evaluator in answers.evaluators.items() if name in entries}
    except MmcoreError:
        for name, entry in entries.items():
            alone = settings.replace(stage=settings.stage.replace(validation={name: entry}))
            try:
                answers = build_datasets(family, alone, "val")
                found[name], evaluators[name] = len(answers.sources[name]), answers.evaluators[name]
            except MmcoreError as error:
                found[name] = error.what
                plan.problems.append(f"{name}: {error}")
            except KeyError:
                continue
    try:
        with_loss = learnable_sets(family, settings, list(evaluators))
        note = check_metrics(settings.stage, Datasets({}, {}, evaluators), settings.only, with_loss)
        plan.notes += [note] if note and settings.only else []
    except MmcoreError as error:
        plan.problems.append(str(error))
    unused = "not evaluated with these --sources" if settings.only else "no plugin gives this set"
    return [_validation(name, entry, found.get(name, unused), plan.origins) for name, entry in entries.items()]


def _validation(name: str, entry: Validation, found: int | str, origins: Origins) -> SourcePlan:
    """A validation set with its records, or with what is wrong with it."""
    records, problem = (found, None) if isinstance(found, int) else (None, found)
    changed = _is_changed(origins, f"validation.{name}")
    return SourcePlan(name, entry.format, _files(entry), 0.0, records, None, problem, changed)


def _take_notes(family: OpenedPlugin, settings: Settings, plan: Plan) -> None:
    if not family.implements("plan_notes"):
        return
    try:
        plan.notes += family.notes(settings.stage, data_context(settings))
    except MmcoreError as error:
        plan.problems.append(str(error))


def _describe_model(family: OpenedPlugin, settings: Settings, datasets: "Datasets | None", plan: Plan) -> None:
    """Parameter groups and memory, from a skeleton."""
    from mmcore.train.optim import freeze, parameter_groups
    from mmcore.weights.skeleton import skeleton

    with skeleton():
        model = build_model(family, settings)
        adapt(model, settings)
    freeze(model, settings.stage)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, settings.stage):
        members = list(group["params"])
        plan.groups.append(
            ParameterGroup(
                modules=tuple(dict.fromkeys(names[id(p)].split(".")[0] for p in members)),
                tensors=len(members),
                parameters=sum(p.numel() for p in members),
                lr=float(group["lr"]),
                weight_decay=float(group["weight_decay"]),
            )
        )
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        modules = tuple(dict.fromkeys(name.split(".")[0] for name, _ in frozen))
        plan.groups.append(ParameterGroup(modules, len(frozen), sum(p.numel() for _, p in frozen), None, None))
    plan.memory = plan_memory(model, family, settings, datasets, plan.processes)


def read_rate(text: str) -> float:
    """Samples per second from a number, or the median of what a run logged.

    Raises:
        UsageError: it is neither a number above 0 nor a run that has logged steps.
    """
    from statistics import median

    log = Path(text).expanduser() / "metrics.jsonl"
    try:
        if not log.is_file():
            rate = float(text)
        else:
            entries = [entry["timing"] for entry in read_json_lines(log, {"timing": dict})]
            # The first logged step waits for data and warms up.
            rate = float(median([entry["samples_per_s"] for entry in entries if "samples_per_s" in entry][1:]))
    except (ValueError, TypeError):  # median's, of nothing, is one too
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UsageError(
            f"no rate: {text!r}",
            where="--rate",
            do="give samples per second, or the folder of a run that has logged steps",
        )
    return rate
