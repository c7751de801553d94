"""One function for every format; the source decides which."""

from pathlib import Path

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file
from dposcope.shipping.adapters import write_adapters
from dposcope.shipping.checkpoint import fold_checkpoint
from dposcope.shipping.gguf import fold_gguf
from dposcope.shipping.result import Shipped

FORMS = ("checkpoint", "adapters")


def ship(source: str | Path, edit: Edit, out: Path, *, form: str | None = None) -> Shipped:
    """Fold `edit` into a copy of `source`, or write adapters for it.

    Args:
        source: a checkpoint folder, a bundled name, or a `.gguf` file.
        edit: gains, ablations, or both.
        out: the new folder, or the new file of a GGUF.
        form: `checkpoint` or `adapters`, for a folder; None: the format of `source`.

    Raises:
        DposcopeError: see `fold_checkpoint`, `write_adapters`, `fold_gguf`; or `form` does not fit `source`.
    """
    path = expanded(source)
    if form is not None and form not in FORMS:
        raise DposcopeError(
            f"form {form!r} is not one of {', '.join(FORMS)}; leave it out to keep the format of the source"
        )
    if path.suffix == ".gguf" and not path.is_dir():
        if form is not None:
            raise DposcopeError(
                f"a GGUF file cannot become {form}; leave out --form, or give the folder of its checkpoint"
            )
        if out.suffix != ".gguf":
            raise DposcopeError(f"--out {out} is not for a GGUF file; its name must end in .gguf")
        return fold_gguf(path, edit, out)
    return (write_adapters if form == "adapters" else fold_checkpoint)(source, edit, out)


def load_edit(path: str | Path) -> Edit:
    """Load an edit from its file (with or without suffix), from the folder of a run, or from a bundled model.

    Raises:
        DposcopeError: there is none, or it is damaged.
    """
    stem = edit_file(path)
    if not value_files(stem).tensors.exists():
        raise DposcopeError(f"there is no edit at {path}; give edit.safetensors, or the folder of a finished run")
    return Edit.load(stem)
