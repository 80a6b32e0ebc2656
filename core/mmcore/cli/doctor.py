"""`mmcore doctor`: what this machine and installation offer, and what to do about what is missing."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement

from mmcore.version import DISTRIBUTION

GIB = 2**30
MIN_FREE_GIB = 5.0
"""Below this a few checkpoints of a published model no longer fit."""
MIN_SHARED_GIB = 1.0
"""Data workers pass batches through /dev/shm; containers often give it 64 MiB."""
VARIABLES = (
    "MMCORE_DATA",
    "MMCORE_CACHE",
    "MMCORE_TRACE",
    "MMCORE_DEBUG",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "TORCH_HOME",
    "DS_BUILD_OPS",
    "NO_COLOR",
)


@dataclass(slots=True)
class Report:
    """Facts by section, and the problems found on the way."""

    facts: dict[str, dict[str, Any]] = field(default_factory=lambda: {})
    problems: list[dict[str, str]] = field(default_factory=lambda: [])

    def problem(self, what: str, do: str) -> None:
        self.problems.append({"problem": what, "do": do})


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and the installation; exit code 1 when something stands in the way of a run."""
    report = examine()
    if as_json:
        click.echo(json.dumps({**report.facts, "problems": report.problems, "ok": not report.problems}, indent=2))
    else:
        _print(report)
    ctx.exit(1 if report.problems else 0)


def examine() -> Report:
    """Look at versions, devices, plugins, disk, shared memory and the environment."""
    report = Report()
    for section in (_versions, _devices, _plugins, _space, _environment):
        section(report)
    return report


def _versions(report: Report) -> None:
    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        report.problem(f"Python {facts['python']} is not supported", "use Python 3.11, 3.12 or 3.13")
    try:
        needed = [Requirement(text) for text in requires(DISTRIBUTION) or []]
        facts["mmcore"] = version(DISTRIBUTION)
    except PackageNotFoundError:
        needed = []
        report.problem("mmcore is imported from a folder and not installed", "pip install -e . in its checkout")
    stranger = _version_of("mmcore")
    if stranger is not None:
        report.problem(
            f"another package of the name mmcore ({stranger}) is installed and may lie over this one",
            f"pip uninstall mmcore, then install {DISTRIBUTION} again",
        )
    facts["extras"] = _extras(needed)
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            facts[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            report.problem(f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(facts[requirement.name], prereleases=True):
            report.problem(
                f"{requirement.name} {facts[requirement.name]} is not {requirement.specifier}",
                f"pip install '{requirement}'",
            )
    report.facts["versions"] = facts


def _extras(requirements: list[Requirement]) -> dict[str, str]:
    """What only some runs need, by extra: "there", or what is missing and how to get it."""
    wanted = ("app", "captions", "lmdb", "video", "convnext")  # those of users; the others are of developers
    found: dict[str, str] = {}
    for extra in wanted:
        of_it = [one for one in requirements if one.marker is not None and one.marker.evaluate({"extra": extra})]
        of_it = [one for one in of_it if not one.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
        missing = [one.name for one in of_it if _version_of(one.name) is None]
        remedy = f"without {' and '.join(missing)}: pip install '{DISTRIBUTION}[{extra}]'"
        found[extra] = remedy if missing else "there"
    return found


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices(report: Report) -> None:
    facts: dict[str, Any] = {
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    }
    memory = _memory_gib()
    if memory is not None:
        facts["memory_gib"] = round(memory, 1)
    facts["gpus"] = []
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        report.problem(f"torch cannot be imported: {error}", "pip install --force-reinstall torch torchvision")
        report.facts["devices"] = facts
        return
    facts["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            facts["gpus"].append({"name": properties.name, "memory_gib": round(properties.total_memory / GIB, 1)})
    elif _has_nvidia_driver():
        report.problem(
            "there is an NVIDIA GPU, but torch cannot use it",
            f"the driver must support CUDA {torch.version.cuda}: update it, or install a torch built for it",
        )
    try:
        import torchvision.ops

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        report.problem(f"torchvision does not fit torch: {error}", "pip install --force-reinstall torch torchvision")
    report.facts["devices"] = facts


def _has_nvidia_driver() -> bool:
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def _memory_gib() -> float | None:
    """What this process may use: the machine's memory, or its container's limit where that is less."""
    sizes: list[float] = []
    try:
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        sizes += [int(limit) / GIB] if limit.isdigit() else []
    except (OSError, ValueError, AttributeError):
        pass
    return min(sizes) if sizes else None


def _plugins(report: Report) -> None:
    from mmcore.plugins.survey import survey

    facts: dict[str, Any] = {}
    for plugin in survey():
        package = f"{plugin['distribution']} {plugin['version']}"
        facts[plugin["name"]] = {"package": package, "problem": plugin["problem"]}
        if plugin["problem"]:
            report.problem(f"plugin {plugin['name']} ({package}): {plugin['problem']}", plugin["remedy"])
    report.facts["plugins"] = facts


def _space(report: Report) -> None:
    from mmcore.runs.settings import cache_folder

    facts: dict[str, Any] = {}
    for name, folder in (("runs", Path.cwd()), ("cache", cache_folder())):
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free / GIB
        facts[name] = {"folder": str(folder), "free_gib": round(free, 1)}
        if free < MIN_FREE_GIB:
            report.problem(
                f"only {free:.1f} GiB are free in {place}", "free space, or choose another --out or MMCORE_CACHE"
            )
        if not os.access(place, os.W_OK):
            report.problem(f"{place} cannot be written", "choose another --out, or set MMCORE_CACHE")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        facts["shared_memory"] = {"folder": str(shared), "free_gib": round(free, 1)}
        if free < MIN_SHARED_GIB:
            report.problem(
                f"only {free:.2f} GiB of shared memory are free; data workers may be killed",
                "start the container with --shm-size=8g, or train with --workers 0",
            )
    report.facts["space"] = facts


def _environment(report: Report) -> None:
    facts: dict[str, Any] = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    data = facts.get("MMCORE_DATA")
    if data is not None and not Path(data).expanduser().is_dir():
        report.problem(f"MMCORE_DATA names no folder: {data}", "correct it, or give --data")
    threads = facts.get("OMP_NUM_THREADS")
    if threads is not None and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", threads):
        report.problem(f"OMP_NUM_THREADS is {threads!r}, not a number of threads", "unset OMP_NUM_THREADS")
    if "WORLD_SIZE" in facts and "RANK" not in facts:
        report.problem("WORLD_SIZE is set but RANK is not: left over from a launcher?", "unset WORLD_SIZE")
    report.facts["environment"] = facts


def _print(report: Report) -> None:
    for section, facts in report.facts.items():
        click.echo(click.style(section, bold=True))
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            click.echo(f"  {name.ljust(width)}  {_plain(value)}")
        if not facts:
            click.echo("  nothing set" if section == "environment" else "  none")
    click.echo()
    for entry in report.problems:
        click.echo(f"{click.style('problem:', fg='red')} {entry['problem']}\n  do:    {entry['do']}")
    click.echo("no problems found" if not report.problems else f"{len(report.problems)} problems")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {entry}" for key, entry in value.items() if entry is not None)
    if isinstance(value, list):
        return "; ".join(_plain(entry) for entry in value) or "none"
    return "none" if value is None else str(value)
