"""A plan for people: recipe, data, parameters, memory, steps and hours as tables."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmcore.runs.config import to_tree
from mmcore.runs.memory import Memory
from mmcore.runs.plan import Plan, SourcePlan
from mmcore.runs.probe import Probe

GIB = 2**30


def render(plan: Plan) -> None:
    """Print a plan."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width to wrap at
        console.width = 160
    stage = plan.settings.stage
    console.print(f"[bold]{plan.plugin}[/], stage {stage.number} {stage.name}: {stage.title}")
    console.print(f"variant {plan.settings.variant}, numbers from: {stage.origin}")
    for note in stage.notes:
        console.print(f"  note: {note}")
    console.print("\n[bold]recipe[/]  (* changed for this run)")
    for key, value in _flat(to_tree(stage.replace(notes=()))):
        if key.startswith(("data.sources.", "validation", "title", "origin", "number", "name", "notes")):
            continue
        mark = plan.origins.get(key)
        said = f"  {'*' if mark else ' '} {key} = {escape(str(value))}"
        console.print(said + (f"   [dim]{escape(mark)}[/]" if mark else ""))
    console.print()
    console.print(f"data root {plan.settings.data}")
    console.print(_data_table(plan))
    for key, source in plan.origins.items():
        if key.startswith(("data.sources.", "validation")):
            console.print(f"  * {key}   [dim]{escape(source)}[/]")
    if plan.groups:
        console.print(_parameter_table(plan))
    if plan.memory is not None:
        console.print(_memory_table(plan.memory))
        console.print(plan.memory.note, markup=False)
    if plan.probe is not None:
        console.print(_probed(plan.probe), markup=False)
    console.print(_duration(plan))
    for note in plan.notes:
        console.print(note, markup=False)
    for problem in plan.problems:
        console.print(f"\n[bold]problem:[/] {escape(problem)}")
    if plan.problems:
        console.print("\n`mmcore train` would stop for " + ("this" if len(plan.problems) == 1 else "these"))


def _data_table(plan: Plan) -> Table:
    table = Table("source", "share", "records", "passes", "format", "annotations", title="data", title_justify="left")
    for source in plan.sources:
        passes = "-" if source.epochs is None else f"{source.epochs:.2f}"
        name = _marked(source)
        table.add_row(name, f"{source.share:.1%}", _records(source), passes, source.format, source.annotations)
    for source in plan.validation:
        told = escape(source.problem or source.annotations)
        table.add_row(_marked(source), "val", _records(source), "", source.format, told)
    return table


def _marked(source: SourcePlan) -> str:
    """Its name, with the star of what was changed for this run."""
    return f"* {source.name}" if source.changed else source.name


def _records(source: SourcePlan) -> str:
    return "-" if source.records is None else f"{source.records:,}"


def _parameter_table(plan: Plan) -> Table:
    table = Table("parameters", "tensors", "modules", "lr", "weight decay", title="parameters", title_justify="left")
    for group in plan.groups:
        table.add_row(
            f"{group.parameters:,}",
            f"{group.tensors:,}",
            ", ".join(group.modules),
            "frozen" if group.lr is None else f"{group.lr:g}",
            "" if group.weight_decay is None else f"{group.weight_decay:g}",
        )
    return table


def _memory_table(memory: Memory) -> Table:
    table = Table("memory of each process", "GiB", title="memory", title_justify="left")
    table.add_row("weights", f"{memory.weights / GIB:.3g}")
    table.add_row("optimiser", f"{memory.optimiser / GIB:.3g}")
    if memory.step is None:
        table.add_row("gradients", f"{memory.gradients / GIB:.3g}")
    else:
        table.add_row("activations and gradients at their most", f"{memory.step / GIB:.3g}")
        for name, size in memory.by_module.items():
            table.add_row(f"  kept by {name}", f"{size / GIB:.3g}")
    table.add_row(
        "together" if memory.step is not None else "together, without activations", f"{memory.peak / GIB:.3g}"
    )
    return table


def _probed(probe: Probe) -> str:
    """What two steps on this machine took."""
    of = "the device" if probe.device != "cpu" else "the whole process"
    return (
        f"probe on {probe.device}, one process: a step takes {probe.step_s:.2f} s"
        f" ({probe.samples_per_s:.2f} samples/s), peak memory of {of} {probe.peak_bytes / GIB:.3g} GiB"
    )


def _duration(plan: Plan) -> str:
    stage = plan.settings.stage
    steps = "unknown until the data is opened" if plan.steps is None else f"{plan.steps:,}"
    samples = "" if plan.samples is None else f", {plan.samples:,} samples"
    layout = f"{stage.micro_batch} x {plan.processes} processes x {plan.accumulation} accumulated"
    if plan.rate is None:
        hours = "hours: unknown; give --rate with samples per second, or a run folder that measured it"
    else:
        hours = f"hours: {'unknown' if plan.hours is None else f'{plan.hours:.1f}'} at {plan.rate:g} samples/s"
    return f"steps: {steps}{samples}; each {stage.global_batch} = {layout}\n{hours}"


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
