"""Every component that the loaded plugins offer, by kind and name, and who it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from rewardft.errors import PluginError, did_you_mean
from rewardft.plugins.component_index import owner_of
from rewardft.plugins.entries import KINDS, SINGULAR, Entry, registered
from rewardft.plugins.manager import Plugins


@dataclass
class Catalog:
    """Components by kind and folded name. Names are case-insensitive."""

    entries: dict[str, dict[str, Entry]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    plugins: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Entry]:
        """The components of a kind, sorted by name."""
        return sorted(self.entries[kind].values(), key=lambda entry: entry.name)

    def get(self, kind: str, name: str) -> Entry:
        """The component of that name; raises `PluginError` with suggestions when there is none."""
        found = self.entries[kind].get(name.casefold())
        if found is None:
            raise PluginError(self._missing(kind, name))
        return found

    def _missing(self, kind: str, name: str) -> str:
        known = self.of_kind(kind)
        text = f"there is no {SINGULAR[kind]} {name!r}."
        text += (
            did_you_mean(name, (e.name for e in known))
            if known
            else f" The loaded plugins offer no {kind}."
        )
        others = [other for other in KINDS if name.casefold() in self.entries[other]]
        if others:
            text += f" {name!r} is a {SINGULAR[others[0]]}."
        # The likeliest cause of a missing name: its plugin is installed and not listed.
        owner = owner_of(kind, name, self.plugins)
        if owner is not None:
            text += f" The installed plugin {owner!r} has it: add {owner} to `plugins:`."
        return text


def build_catalog(plugins: Plugins) -> Catalog:
    """Ask every plugin for its components.

    Raises `PluginError` when two plugins register the same name.
    """
    catalog = Catalog(plugins=tuple(p.name for p in plugins.loaded))
    for entry in registered(plugins):
        catalog.entries[entry.kind][entry.name.casefold()] = entry
    return catalog
