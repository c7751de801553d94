"""Files that outlive a run: written whole or not at all, and never as pickle.

A value is a pair of files, `name.safetensors` for tensors and `name.json` for what
a reader must know about them. The JSON names its tensor file's digest, so a pair
torn by a crash between the two renames is noticed instead of believed.
"""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dposcope.durable import place
from dposcope.errors import DposcopeError
from dposcope.files import check_is_path, check_regular
from dposcope.foreign_text import json_text
from dposcope.reading import AGAIN, parse_json, read_json

FORMAT_VERSION = 1
REMAKE = "delete it and make it again"
"""The mend of a damaged value."""

T = TypeVar("T")

_DIGEST = "digest"

_LIBRARIES = ("dposcope", "torch", "transformers", "numpy", "scikit-learn")


@contextmanager
def write_atomically(path: str | Path) -> Generator[Path]:
    """Yield a temporary path beside `path`; rename it there when the block succeeds.

    A reader sees the old file or the new one, never a part. On any error, a full
    disk among them, the temporary file goes and the old file stays.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise DposcopeError(
            f"cannot write {target}: {error.strerror or error}; free the path or choose another --out"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; an artefact is as readable as any new file.
        temporary.chmod(0o666 & ~current_umask())
        place(temporary, target)
    except OSError as error:
        raise DposcopeError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another --out"
        ) from error
    except SafetensorError as error:
        # safetensors reports a full disk as an error of its own.
        raise DposcopeError(f"cannot write {target}: {error}; free some space or choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_path(path: str | Path) -> None:
    """Refuse what is no path, and one that holds bytes other than UTF-8: the libraries that read tensors and tokenizers
    do.

    Raises:
        DposcopeError: it does, or is none.
    """
    check_is_path(path)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DposcopeError(
            f"the name {path} is not UTF-8, and files of tensors cannot be read there; rename it, or choose another"
        ) from error


def current_umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; half of a surrogate pair, which UTF-8 cannot hold, becomes its escape."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, json_text(value) + "\n")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with a digest of itself, so that a file that holds it cannot be changed unnoticed."""
    return {**value, _DIGEST: _digest_of(value)}


def read_sealed(path: str | Path, kind: type[T], *, mend: str = AGAIN) -> T:
    """Read a JSON file that holds what `sealed` gave.

    Args:
        path: of the file.
        kind: schema of what was sealed.
        mend: what to do about a file that was changed, or that does not fit.

    Raises:
        DposcopeError: it has no digest, or that of something else; or as `read_json`.
    """
    told = read_json(path, dict[str, Any], mend=mend)
    digest = told.pop(_DIGEST, None)
    if digest != _digest_of(told):
        raise DposcopeError(f"{path} is not as it was written; {mend}")
    return parse_json(json.dumps(told), kind, source=str(path), mend=mend)


def _digest_of(value: Mapping[str, Any]) -> str:
    # As JSON gives it back: numbers among the keys have become texts, and sort as such.
    return text_digest(json.dumps(json.loads(json.dumps(value)), sort_keys=True))


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(*parts: str) -> str:
    """A short digest of texts, for cache keys and file names. Parts cannot run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    versions = {"python": platform.python_version()}
    found = {name: _installed(name) for name in _LIBRARIES}
    return versions | {name: number for name, number in found.items() if number is not None}


@cache
def _installed(library: str) -> str | None:
    """Its version; reading the metadata of a package takes two milliseconds, and a run asks some hundred times."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def save_tensors(stem: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `stem.safetensors` and `stem.json`.

    Args:
        stem: path without suffix; a `.safetensors` suffix is accepted and dropped.
        kind: the class that will read it back, such as "Direction".
        tensors: name → tensor, of any device; stored contiguous and on the CPU.
        about: JSON-able facts: model, protocol, seed, settings.

    Raises:
        DposcopeError: a fact is not JSON, or the files cannot be written.
    """
    check_path(stem)
    files = value_files(stem)
    try:
        told: dict[str, Any] = json.loads(json.dumps(dict(about), default=_number, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DposcopeError(
            f"what is told of the {kind} is not JSON ({error}); give texts, numbers, lists and dictionaries of them as "
            "about"
        ) from error
    stored = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    with write_atomically(files.tensors) as temporary:
        save_file(stored, temporary, metadata={"kind": kind})  # a second key would stand in either order
        digest = file_digest(temporary)
    facts = {"format_version": FORMAT_VERSION, "kind": kind, "tensors_sha256": digest, "versions": library_versions()}
    write_json(files.about, sealed({**facts, **told}))


def _number(value: Any) -> Any:
    """A number of numpy or torch as one of Python, of which alone JSON knows."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"it holds a {type(value).__name__}")


@dataclass(frozen=True)
class _Header:
    """What stands in every `name.json`, before the facts of its kind."""

    kind: str
    format_version: int
    tensors_sha256: str


@dataclass(frozen=True)
class NoFacts:
    """A value that is its tensors."""


class Tensors(dict[str, Tensor]):
    """The tensors of a value, by name."""

    def __init__(self, file: Path, named: Mapping[str, Tensor]) -> None:
        """`file` holds them."""
        super().__init__(named)
        self._file = file

    def __missing__(self, name: str) -> Tensor:
        """Refused in one line.

        Raises:
            DposcopeError: always.
        """
        raise DposcopeError(f"{self._file} has no tensor {name!r}; {REMAKE}")


@dataclass(frozen=True, eq=False)
class Saved(Generic[T]):
    """What `save_tensors` wrote."""

    tensors: Tensors
    facts: T


def load_tensors(stem: str | Path, kind: str, facts: type[T]) -> Saved[T]:
    """Read what `save_tensors` wrote.

    Args:
        stem: see `save_tensors`.
        kind: see `save_tensors`.
        facts: schema of what was saved as `about`.

    Raises:
        DposcopeError: a file is missing or damaged, of another kind or a newer format.
    """
    check_path(stem)
    files = value_files(stem)
    tensor_file, about_file = files.tensors, files.about
    about = read_json(about_file, _Header, mend=f"name a file written as {kind}")
    if about.kind != kind:
        raise DposcopeError(f"{about_file} holds {about.kind!r}, not {kind!r}; name a file written as {kind}")
    if about.format_version > FORMAT_VERSION:
        raise DposcopeError(
            f"{about_file} has format {about.format_version}; this version reads {FORMAT_VERSION}: upgrade dposcope"
        )
    told = read_sealed(about_file, facts, mend=REMAKE)
    try:
        check_regular(tensor_file)
        if file_digest(tensor_file) != about.tensors_sha256:
            raise DposcopeError(
                f"{tensor_file} and {about_file} do not belong together; delete both and make them again"
            )
        # A mapped file need not be aligned as computed tensors are, and kernels round by alignment.
        tensors = Tensors(tensor_file, {name: tensor.clone() for name, tensor in load_file(tensor_file).items()})
    except OSError as error:
        raise DposcopeError(f"cannot read {tensor_file}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DposcopeError(f"{tensor_file} is damaged ({error}); delete it and make it again") from error
    return Saved(tensors, told)


def tensor_fingerprint(named: Mapping[str, Tensor]) -> str:
    """A digest of named tensors that one pass at memory speed computes.

    Takes each tensor's name, shape, dtype and the sum of its bits, each times an odd weight of its
    place, exact modulo 2^64; so a changed value changes it, and so do two that change places.
    """
    digest, weights = hashlib.sha256(), torch.empty(0, dtype=torch.long)
    # 8-byte numbers in halves: signs are the top bit, and of 64-bit sums an even number of them would vanish.
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
    for name in sorted(named):  # one at a time: a mapping may read them from files
        tensor = named[name]
        flat = tensor.detach().reshape(-1)
        bits = flat.view(views[flat.element_size()])
        total, at_once = 0, _IN_CACHE if bits.device.type == "cpu" else _AT_ONCE
        if len(weights) < min(len(bits), at_once) or weights.device != bits.device:
            weights = torch.arange(min(len(bits), at_once), device=bits.device) * _SPREAD + 1
        for start in range(0, len(bits), at_once):
            part = bits[start : start + at_once].long()
            # A modular int64 sum does not depend on the order of addition, so not on device or threads.
            total += start * _SPREAD * int(part.sum()) + int(part.mul_(weights[: len(part)]).sum())
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|{total % 2**64}|".encode())
    return digest.hexdigest()[:32]


_AT_ONCE = 1 << 22
"""Numbers at a time on a GPU."""
_IN_CACHE = 1 << 17
"""The same on a processor, whose cache holds so many."""
_SPREAD = 2 * 0x1E3779B97F4A7C15  # even, so that weights are odd and no bit of a value can vanish


@dataclass(frozen=True)
class ValueFiles:
    """The two files of a saved value."""

    tensors: Path
    about: Path

    @property
    def both(self) -> list[Path]:
        """For stages, which need both."""
        return [self.tensors, self.about]


def check_facts(about: object) -> None:
    """Refuse what is no dictionary where facts about a value belong.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(about, Mapping):
        raise DposcopeError(f"about is a {type(about).__name__}; give a dictionary of facts, such as {{'seed': 0}}")


def value_digest(stem: str | Path) -> str:
    """A digest of both files of a saved value: what later stages depend on."""
    files = value_files(stem)
    return text_digest(file_digest(files.tensors), file_digest(files.about))


def value_files(stem: str | Path) -> ValueFiles:
    """Where `save_tensors` puts a value; a suffix .safetensors or .json of `stem` is dropped, any other stays.

    Raises:
        DposcopeError: the stem is a folder without a name, such as "." or "/".
    """
    path = Path(stem)
    if not path.name:
        raise DposcopeError(f"{str(stem)!r} names no file; give one, such as runs/probe/direction")
    base = path.with_suffix("") if path.suffix in {".safetensors", ".json"} else path
    return ValueFiles(base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json"))
