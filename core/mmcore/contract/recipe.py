"""A recipe is data: every number of one training stage, checked at construction, printable, free of code.

A plugin returns its published stages as `Stage` values; `--config` YAML and `--set key=value` replace single
entries (`mmcore.runs.config`). Nothing here imports torch, so listing recipes is instant.

Patterns (`trainable`, `frozen`, `optim.multipliers`, ...) name parameters by dotted prefix or by shell wildcard:
`backbone` means `backbone` and everything below it, `*.norm.*` is matched against the whole name. A pattern that
matches nothing is an error when the model is built.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmcore.contract.classes import Classes
from mmcore.contract.entry import Recipe as Recipe  # a public name here: every entry's base
from mmcore.contract.mixture import BALANCED, GROUPING, ByKind, Mixture, SourcePerBatch, check_kinds
from mmcore.contract.schedule import Constant as Constant
from mmcore.contract.schedule import Cosine as Cosine
from mmcore.contract.schedule import Every, Schedule
from mmcore.contract.schedule import LinearDecay as LinearDecay
from mmcore.contract.schedule import MultiStep as MultiStep
from mmcore.errors import RecipeError


class AdamW(Recipe):
    """Decoupled weight decay (Loshchilov & Hutter 2019), and which parameters get which rate."""

    lr: float = Field(gt=0)
    """Base learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    multipliers: dict[str, float] = Field(default={})
    """Pattern -> factor on `lr`; every pattern that matches a parameter multiplies."""
    no_decay: tuple[str, ...] = ()
    """Patterns of parameters without weight decay."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """L2 norm of the whole gradient above which it is scaled down; None leaves it."""


class Source(Recipe):
    """One data source of a stage: its share, and what its files are."""

    weight: float = Field(ge=0)
    """Share of the training samples, relative to the other sources; 0 leaves it out."""
    format: str
    """The annotation format, for people: "COCO instances", "LVIS v1", "RefCOCO-COCO", ..."""
    annotations: str | tuple[str, ...] = ()
    """Annotation files below the data root, as the published code reads them."""
    images: str = ""
    """Image folder below the data root."""
    micro_batch: int | None = Field(default=None, gt=0)
    """Samples per micro-batch of this source; None means the stage's `micro_batch`."""
    group: str | None = None
    """Its kind or task, where the mixture groups by one."""
    cost: float = Field(default=1.0, gt=0)
    """What a sample costs in time, relative to the other sources; `data.balance` goes by it."""
    options: dict[str, Any] = Field(default={})
    """What only this source's parser or transform understands; the plugin refuses unknown entries."""
    tasks: tuple[str, ...] = ()
    """What of all that the format can serve is wanted, such as "detect" without "segment"; empty is everything."""
    classes: Classes = Field(default={})
    """Name of a class in the annotations -> what it is called; several may be called alike, "" leaves its objects out,
    `*` stands for all others. A list means these and no others."""
    root: str = ""
    """Folder of an own-data file (--own, --add), instead of the data root; nothing else may set it."""
    class_names: tuple[str, ...] = ()
    """Of own data beside others: the classes of the data set that it belongs to, since those of the others are not
    annotated in its pictures. Set by the tool; empty is the run's."""


class Data(Recipe):
    """Where the samples come from and how they are mixed."""

    sources: dict[str, Source]
    mixture: Mixture = Field(default=SourcePerBatch(), discriminator="kind")
    """How the sources are mixed: one choice of several, each with its own entries."""
    balance: int | None = Field(default=None, gt=0)
    """Optimiser steps among which micro-batches change places, so that those of one step, and so its ranks, cost alike;
    with 1 each step keeps its own. None leaves the order of the mixture, as published."""
    bad_samples: Literal["error", "skip", "quarantine"] = "skip"
    """What a sample that cannot be read does: stop the run; be replaced and counted; be replaced, counted, listed and
    never drawn again."""
    max_bad_in_a_row: int = Field(default=100, gt=0)
    max_pixels: int = Field(default=178_956_970, gt=0)
    """Images with more pixels than this are refused before decoding."""
    list: str | None = None
    """A file that lists the sources, in a form that the family reads; they take the place of `sources`, and of this."""
    templates: str | None = None
    """A file that replaces a family's question and answer wording."""
    transform: dict[str, Any] = Field(default={})
    """The image pipeline's numbers; the plugin refuses unknown entries."""

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        grouped = self.mixture.kind in GROUPING
        for name, source in self.sources.items():
            if (source.group is not None) != grouped:
                raise RecipeError(
                    f"source {name!r} has {'no' if grouped else 'a'} group, which data.mixture.kind {self.mixture.kind}"
                    f" {'goes by' if grouped else 'does not look at'}",
                    where=f"data.sources.{name}.group",
                    do="give every source one" if grouped else f"leave it out, or choose one of {', '.join(GROUPING)}",
                )
        if self.balance is not None and self.mixture.kind not in BALANCED:
            raise RecipeError(
                f"data.balance has nothing to do with data.mixture.kind {self.mixture.kind}, whose steps are alike",
                where="data.balance",
                known=BALANCED,
                do="leave it out, or choose one of these kinds",
            )
        if isinstance(self.mixture, ByKind):
            check_kinds(self.mixture, {name: source.group or "" for name, source in self.sources.items()})
        return self


class Lora(Recipe):
    """Low-rank adapters (Hu et al. 2021) on the linear layers that `targets` names; `lora: {}` is a sane start.

    Only adapters train, whatever `trainable` says of what they adapt; another part that it names trains beside them.
    """

    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0)
    """The product counts alpha / rank; None is twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("all-linear",)
    """"all-linear", leaf names such as "q_proj", whole names, or wildcards such as "language.*.q_proj"."""

    @property
    def scale(self) -> float:
        """Factor on the product of both matrices."""
        return 2.0 if self.alpha is None else self.alpha / self.rank


class Init(Recipe):
    """Where the weights start. With several entries each fills what the earlier ones left."""

    stage: str | None = None
    """Name of the stage whose finished run is taken when --init names none."""
    published: str | tuple[str, ...] | dict[str, str] | None = None
    """What the published recipe starts from: a file or a repository on the Hub, or several that each fill a part; by
    the part's name where a user may replace one of them (`model.language=DIR`)."""
    optional: bool = False
    """Whether random weights are an acceptable start (tiny variants)."""

    @property
    def names(self) -> tuple[str, ...]:
        """The published places in order."""
        if isinstance(self.published, dict):
            return tuple(self.published.values())
        return (self.published,) if isinstance(self.published, str) else self.published or ()


class Validation(Recipe):
    """One evaluation during and after training."""

    metrics: tuple[str, ...] = ()
    """What is reported first; the evaluator computes its full protocol in any case."""
    format: str = ""
    """The annotation format, as of a source."""
    annotations: str | tuple[str, ...] = ()
    images: str = ""
    options: dict[str, Any] = Field(default={})
    tasks: tuple[str, ...] = ()
    """As of a source."""
    classes: Classes = Field(default={})
    """As of a source."""
    root: str = ""
    """As of a source."""
    class_names: tuple[str, ...] = ()
    """As of a source."""
    batch_size: int = Field(default=1, ge=1)
    """Records per forward pass. The published protocols of detectors use 1, since more pad images to one size and
    numbers change with padding; language models answer as many as fit, since padding changes nothing."""
    loss_on: int = Field(default=32, ge=0)
    """Records of the set, the first ones, whose training loss is measured beside the metrics, where a stage can be
    trained on such records; 0 measures none."""
    training: bool = True
    """Whether training evaluates it; False leaves it to `mmcore eval`, as benchmarks that take hours."""
    before: bool = False
    """Also evaluate the weights that the run starts from, once, to be shown beside what the run reaches."""


DATA_FIELDS = tuple(name for name in Source.model_fields if name in Validation.model_fields)
"""What a source and a validation set say of their data alike."""


class Stage(Recipe):
    """One training stage: everything that `mmcore plan` prints and `config.yaml` keeps."""

    number: int = Field(ge=0)
    name: str
    title: str
    """One line for people."""
    origin: str
    """Where the numbers come from: the upstream file, the paper's section, or "assumed"."""
    notes: tuple[str, ...] = ()
    """Where upstream's documents and code differ, and which this recipe follows."""

    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps; exactly one of `steps` and `epochs` is given."""
    epochs: float | None = Field(default=None, gt=0)
    global_batch: int = Field(gt=0)
    """Samples per optimiser step over all processes and accumulation steps."""
    micro_batch: int = Field(gt=0)
    """Samples per forward pass of one process."""

    data: Data
    validation: dict[str, Validation] = Field(default={})
    """By name, as `mmcore eval --on` takes it."""
    eval_every: Every | None = None
    """Optimiser steps between evaluations, or their share of all steps; None evaluates at the end only."""
    best_metric: str | None = None
    """Metric (`<validation set>/<name>`) by which the `best` checkpoint is chosen; larger is better, of losses
    and errors less (`mmcore.base.figures.ERRORS`)."""
    patience: int | None = Field(default=None, gt=0)
    """Evaluations in a row without a better `best_metric` after which the run ends; None goes on to its last step."""

    optim: AdamW
    schedule: Schedule = Field(discriminator="kind")
    normalise: Literal["global", "micro_batch", "process"] = "global"
    """Divide each loss by its count over the whole global batch; or, as published code does, per micro-batch by the
    mean count of the processes (detectors) or by each process's own (language models)."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False

    trainable: tuple[str, ...] = ("*",)
    frozen: tuple[str, ...] = ()
    """Taken away from `trainable`."""
    lora: Lora | None = None
    loss_weights: dict[str, float] = Field(default={})
    max_length: int | None = Field(default=None, gt=0)
    """Longest text sequence, tokens."""
    class_names: tuple[str, ...] = ()
    """Names of the classes that a run with own data learns, of the recipe's sources beside it too; what `predict` looks
    for where no names are given."""
    model: dict[str, Any] = Field(default={})
    """Family settings that differ between stages; the plugin refuses unknown entries."""
    init: Init = Init(optional=True)

    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage when several processes run."""
    offload: bool = False
    """Keep the optimiser state in host memory, with ZeRO 1 to 3; on one process too."""
    checkpoint_every: Every = 1000
    """Optimiser steps, or a share of all."""
    keep_last: int = Field(default=2, gt=0)
    keep_every: Every | None = None
    """Checkpoints whose step is a multiple of this are never deleted."""
    skip_nonfinite: int = Field(default=0, ge=0)
    """How many steps with a non-finite loss or gradient may be skipped before the run stops."""
    loss_spikes: Literal["off", "warn", "stop"] = "warn"
    """What a loss far outside the spread of the last steps does; "stop" comes before its update."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise RecipeError("give exactly one of steps and epochs", where=f"stage {self.number} {self.name}")
        if self.global_batch % self.micro_batch:
            raise RecipeError(
                f"global_batch {self.global_batch} is not a multiple of micro_batch {self.micro_batch}",
                where=f"stage {self.number} {self.name}",
                do="change one of them with --set global_batch=... or --set micro_batch=...",
            )
        if self.patience is not None and (self.best_metric is None or self.eval_every is None):
            lacking = "best_metric" if self.best_metric is None else "eval_every"
            raise RecipeError(
                f"patience waits for a better best_metric, and there is no {lacking}",
                where=f"stage {self.number} {self.name}, patience",
                do=f"--set {lacking}=..., or leave patience out",
            )
        if self.offload and not self.zero:
            raise RecipeError(
                "offload needs ZeRO",
                where=f"stage {self.number} {self.name}, offload",
                do="--set zero=2, or leave offload out",
            )
        return self


def matches(pattern: str, name: str) -> bool:
    """Whether a recipe pattern names this parameter: a dotted prefix, or a shell wildcard over the whole name.

    >>> matches("backbone", "backbone.conv1.weight"), matches("back", "backbone.conv1.weight")
    (True, False)
    >>> matches("*.bias", "backbone.conv1.bias")
    True
    """
    return name == pattern or name.startswith(pattern + ".") or fnmatchcase(name, pattern)


def matches_any(patterns: Iterable[str], name: str) -> bool:
    """Whether at least one of `patterns` names this parameter."""
    return any(matches(pattern, name) for pattern in patterns)
