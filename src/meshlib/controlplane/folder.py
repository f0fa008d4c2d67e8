"""The YAML and JSON files of a folder, and what keeps a file from being read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshlib.controlplane.faults import ERROR, WARNING, Fault
from meshlib.errors import ConfigError

SUFFIXES = (".yaml", ".yml", ".json")

NO_FILES = Fault(WARNING, f"there is no {', '.join(f'*{suffix}' for suffix in SUFFIXES)} in the folder", ".")

_SWAPS = 5  # how often a reading is begun anew because links were swapped meanwhile


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: name relative to the folder, with ``/`` -> content.
        faults: an ERROR for what should have been read and could not be; its ``file`` may also
            name a folder, ``.`` being the whole.
    """

    files: Mapping[str, bytes]
    faults: tuple[Fault, ...] = ()

    def unread(self, name: str) -> bool:
        """Tell whether an ERROR covers the file of that name: nobody knows what it holds now."""
        return any(
            fault.severity is ERROR and (fault.file in (".", name) or name.startswith(f"{fault.file}/"))
            for fault in self.faults
        )


def read_folder(folder: Path) -> Listing:
    """Read ``*.yaml``, ``*.yml`` and ``*.json`` in ``folder`` and the folders in it.

    Names that begin with a dot are skipped: they belong to editors, to git, and to the way
    Kubernetes swaps the files of a ConfigMap (whose visible links are followed). A symbolic
    link that leads out of the folder is refused, and so is whatever is not a regular file.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """
    if not folder.exists():
        raise ConfigError(f"there is no folder {folder}: create it and put Istio and Kubernetes YAML in it")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: name the folder that holds the YAML files")
    reading = _read(folder)
    for _ in range(_SWAPS):
        if not reading.swapped():
            break
        reading = _read(folder)
    return Listing(reading.files, tuple(reading.faults))


def _read(folder: Path) -> _Reading:
    reading = _Reading(os.path.realpath(folder))
    try:
        reading.folder(reading.root, "")
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be read: {error.strerror}") from error
    return reading


@dataclass(slots=True)
class _Reading:
    root: str
    links: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)

    def swapped(self) -> bool:
        """Tell whether a link leads elsewhere than when it was followed: some files are then old, some new."""
        return any(os.path.realpath(link) != path for link, path in self.links.items())

    def folder(self, path: str, prefix: str) -> None:
        if path in self.visited:
            return  # a link within the folder leads back
        self.visited.add(path)
        with os.scandir(path) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        for entry in found:
            try:
                self._entry(entry, prefix + entry.name)
            except FileNotFoundError:
                if entry.is_symlink() and entry.name.endswith(SUFFIXES):
                    self.faults.append(Fault(WARNING, "is a symbolic link to nothing", prefix + entry.name))
            except OSError as error:
                self.faults.append(Fault(ERROR, f"cannot be read: {error.strerror}", prefix + entry.name))

    def _entry(self, entry: os.DirEntry[str], name: str) -> None:
        path = os.path.realpath(entry.path)
        wanted = name.endswith(SUFFIXES)
        if entry.is_symlink():
            self.links[entry.path] = path
        # Asked of every entry: one listed as a file may have become a link meanwhile.
        if os.path.commonpath((path, self.root)) != self.root:
            if wanted or os.path.isdir(path):
                message = f"is a symbolic link out of the folder, to {path}, and is not followed: use a copy"
                self.faults.append(Fault(ERROR, message, name))
            return
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            self.folder(path, f"{name}/")
        elif wanted and not stat.S_ISREG(mode):
            self.faults.append(Fault(ERROR, "is not a regular file, and is not read", name))
        elif wanted:
            with open(path, "rb", opener=_without_following) as file:
                self.files[name] = file.read()


def _without_following(path: str, flags: int) -> int:
    """Open a resolved path; a link that takes its place in between is an error (ELOOP)."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
