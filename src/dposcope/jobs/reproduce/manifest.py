"""What a reproduction has left so far: `manifest.json`, one entry per finished step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dposcope.artefacts import FORMAT_VERSION, file_digest, read_json, write_json
from dposcope.errors import DposcopeError

KIND = "dposcope reproduce"


@dataclass
class Manifest:
    """Finished steps by their names within the folder, as `gemma-3-270m/explain-sampled-strict`."""

    path: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """That of a folder; empty where there is none.

        Raises:
            DposcopeError: the file there is not one.
        """
        path = folder / "manifest.json"
        if not path.exists():
            return cls(path)
        found = read_json(path)
        if not isinstance(found, dict) or found.get("kind") != KIND:
            raise DposcopeError(f"{path} is not the manifest of a reproduction; choose another --out")
        return cls(path, dict(found["steps"]))

    def has(self, name: str, key: str, results: Sequence[Path]) -> bool:
        """Whether a step of that key is finished and its results still there."""
        return self.steps.get(name, {}).get("key") == key and all(result.exists() for result in results)

    def enter(self, name: str, key: str, folder: Path, *, root: Path, skip: Sequence[str] = ()) -> None:
        """Record a finished step with the digest of every file that it left, but for scratch and clocks.

        Args:
            name: of the step.
            key: of the step.
            folder: that holds its files.
            root: of the reproduction; files are named from there.
            skip: names of folders below `folder` that are left out.
        """
        files = [
            file
            for file in sorted(folder.rglob("*"))
            if file.is_file()
            and not file.name.startswith(".")
            and not set(file.relative_to(folder).parts[:-1]) & set(skip)
        ]
        artefacts = {str(file.relative_to(root)): file_digest(file) for file in files}
        self.steps[name] = {"key": key, "artefacts": artefacts}
        self.write()

    def drop(self, name: str) -> None:
        """A step is about to be made again: what it left must not be believed meanwhile."""
        if self.steps.pop(name, None) is not None:
            self.write()

    def write(self) -> None:
        """Write it, whole or not at all."""
        write_json(
            self.path,
            {"kind": KIND, "format_version": FORMAT_VERSION, "steps": {k: self.steps[k] for k in sorted(self.steps)}},
        )
