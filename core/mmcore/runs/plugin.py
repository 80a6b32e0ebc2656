"""The plugin of a run, opened: one family with its extensions, and what they add to the core's lists."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcore import plugins
from mmcore.contract.family import Family
from mmcore.contract.recipe import Stage
from mmcore.errors import PluginError

if TYPE_CHECKING:
    from mmcore.contract.protocols import DataContext, Metric
    from mmcore.data.formats.format import Format
    from mmcore.language.conversation import Template


@dataclass(frozen=True, slots=True)
class OpenedPlugin:
    """The chosen family, its verified hooks, and those of its extensions."""

    plugin: plugins.Plugin
    hooks: plugins.Manager

    @classmethod
    def open(cls, name: str, extensions: Sequence[str] = ()) -> "OpenedPlugin":
        """Load one family and the named extensions.

        Raises:
            PluginError: one of them is missing, broken or incompatible.
        """
        plugin = plugins.load(name)
        return cls(plugin, plugins.manager(plugin, extensions))

    @property
    def family(self) -> Family:
        """Who it is."""
        assert self.plugin.family is not None, "the manager holds families only"
        return self.plugin.family

    def stages(self, variant: str) -> tuple[Stage, ...]:
        return plugins.stages(self.hooks, self.plugin, variant)

    def call(self, hook: str, **arguments: Any) -> Any:
        return plugins.call(self.hooks, self.plugin, hook, **arguments)

    def implements(self, hook: str) -> bool:
        """Whether the family or an extension has something to say."""
        return bool(vars(self.hooks.hook)[hook].get_hookimpls())

    def learns(self) -> tuple[str, ...]:
        """The tasks of annotations that the family learns.

        Raises:
            PluginError: it learns none.
        """
        if not self.family.learns:
            raise PluginError(
                "does not say which tasks it learns, so it cannot be given own data",
                where=f"plugin {self.plugin.label}",
                do="write a --config file with the sources it reads",
            )
        return self.family.learns

    def formats(self) -> "tuple[Format, ...]":
        """The annotation formats that the family and its extensions bring beside the core's."""
        from mmcore.data.formats.format import Format

        found = tuple(one for part in self._joined("annotation_formats", Sequence) for one in part)
        for one in found:
            if not isinstance(one, Format):
                raise self._unfit("annotation_formats", f"gives a {type(one).__name__}, not a Format")
        self._refuse_twice("annotation_formats", [one.name for one in found])
        return found

    def templates(self) -> "dict[str, Template]":
        """The conversation templates that they bring, by name."""
        return self._named("conversation_templates")

    def metrics(self) -> "dict[str, Metric]":
        """The metrics that they bring, by name."""
        return self._named("metrics")

    def write_demo(self, root: Path) -> None:
        """The sample data of --demo: the family's or the core's, and those of the extensions."""
        if not self.plugin.answers("write_demo"):
            from mmcore.data.demo.write import write_demo

            write_demo(root)
        self.call("write_demo", root=root)

    def notes(self, stage: Stage, context: "DataContext") -> list[str]:
        """Lines for `mmcore plan`."""
        return [note for part in self._joined("plan_notes", Sequence, stage=stage, context=context) for note in part]

    def _named(self, hook: str) -> dict[str, Any]:
        parts = self._joined(hook, Mapping)
        self._refuse_twice(hook, [name for part in parts for name in part])
        return {name: value for part in parts for name, value in part.items()}

    def _joined(self, hook: str, kind: type, **arguments: Any) -> list[Any]:
        parts = [part for part in self.call(hook, **arguments) if part is not None]
        for part in parts:
            if not isinstance(part, kind) or isinstance(part, str):
                raise self._unfit(hook, f"gives a {type(part).__name__}, not a {kind.__name__.lower()}")
        return parts

    def _refuse_twice(self, hook: str, names: Iterable[str]) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self._unfit(hook, f"gives {name!r} twice")
            seen.add(name)

    def _unfit(self, hook: str, what: str) -> PluginError:
        owners = [impl.plugin_name for impl in vars(self.hooks.hook)[hook].get_hookimpls()]
        labels = " or ".join(self.hooks.plugins[name].label for name in reversed(owners))
        return PluginError(f"{hook} {what}", where=f"plugin {labels}", do="report this to the plugin's author")
