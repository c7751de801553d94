"""Upload a shipped folder to the Hugging Face hub: only what a model is made of, and only to a place that was named."""

import re
import shlex
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dposcope.errors import DposcopeError, first_line
from dposcope.files import expanded
from dposcope.model.adapter import CONFIG, WEIGHTS
from dposcope.model.bundled import BUNDLED
from dposcope.model.checks.hub import hub_id
from dposcope.model.checks.own_files import own_files
from dposcope.model.quantised.loading import is_stored_quantised
from dposcope.protocols import Quantise
from dposcope.shipping.adapters import KINDS
from dposcope.shipping.metadata import licence_in, with_fields
from dposcope.shipping.model_card import EDIT
from dposcope.shipping.stored import weight_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_PLACE: Final = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_CARD: Final = "README.md"
_BESIDE: Final = (
    *(f"{EDIT}.safetensors", f"{EDIT}.json", "tradeoff.png"),
    *(f"{kind}/{name}" for kind in KINDS for name in (CONFIG, WEIGHTS)),
)
"""What dposcope itself puts beside a model, and adapters."""


@dataclass(frozen=True)
class Pushed:
    """A folder on the hub."""

    url: str
    public: bool
    licence: str | None
    """None where none is known, so that its owner has to name one."""


def check_push(
    place: str | None, *, public: bool = False, model: str | None = None, quantise: Quantise | None = None
) -> None:
    """Refuse a place that nothing can be uploaded to, or a run that leaves nothing to upload, before it and not after.

    Args:
        place: `OWNER/NAME`; None: nothing is to be uploaded.
        public: whether everyone may read it.
        model: that an edit is made for; None: a checkpoint is there, or is written whatever the model.
        quantise: what loading quantises the model to.

    Raises:
        DposcopeError: it is no place of the hub, there is no token, or `public` is for nothing; or the model is
            quantised, so that no checkpoint will be written.
    """
    if place is None:
        if public:
            raise DposcopeError("--public is for --push OWNER/NAME; give that, or leave --public out")
        return
    if not _PLACE.fullmatch(place):
        raise DposcopeError(f"--push {place} is not a place of the Hugging Face hub; give OWNER/NAME")
    _token()
    if model is not None and (quantise is not None or is_stored_quantised(model)):
        raise DposcopeError(
            "--push uploads a checkpoint, and none is written of a quantised model; leave it out, and afterwards push "
            "the unquantised model with the edit: dposcope fold MODEL --edit OUT --out FOLDER --push OWNER/NAME"
        )


def upload(folder: Path, place: str, *, base: str, public: bool = False, again: bool = True) -> Pushed:
    """Upload a folder as a model: private unless `public`.

    Args:
        folder: a checkpoint or adapters, with its model card. On the hub the card has the base's licence, if it is
            known; the folder stays as it is.
        place: `OWNER/NAME`; it is made where it is not there.
        base: the model that was edited or tuned, as it was named.
        public: whether everyone may read it.
        again: whether the command that made the folder takes it as it is when it is given again.

    Raises:
        DposcopeError: there is no token, the hub refuses or does not answer, or a place that is there is public and
            `public` was not given; or a file with weights is missing, or a link that leads out of the folder.
    """
    from huggingface_hub import HfApi

    check_push(place)
    files = _of_a_model(folder)
    api = HfApi(token=_token())
    licence = _licence(api, base)
    card = (folder / _CARD).read_text(encoding="utf-8")
    if licence is not None:
        card = with_fields(card, {"license": licence})
    try:
        api.create_repo(place, repo_type="model", private=not public, exist_ok=True)
        if not public and not api.model_info(place).private:
            mend = "give --public to upload there, or another OWNER/NAME"
            raise DposcopeError(f"{place} is public; {mend if again else _by_hand(folder, 'OWNER/NAME', public)}")
        # The run keeps its own card as it was: a changed file would be made again.
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo=_CARD, repo_id=place, repo_type="model")
        patterns = [escape(name) for name in files]
        api.upload_folder(repo_id=place, repo_type="model", folder_path=str(folder), allow_patterns=patterns)
    except DposcopeError:
        raise
    except Exception as error:  # of the hub's library, or of the one below it
        mend = f"{folder} is whole, and the same command uploads it" if again else _by_hand(folder, place, public)
        raise DposcopeError(f"cannot upload to {place}: {first_line(error)}; {mend}") from error
    return Pushed(f"{api.endpoint}/{place}", public, licence)


def _by_hand(folder: Path, place: str, public: bool) -> str:
    words = ["hf", "upload", place, str(folder), ".", *(() if public else ("--private",))]
    return f"{folder} is whole, and this uploads it: {shlex.join(words)}"


def _of_a_model(folder: Path) -> list[str]:
    """What goes up, by its path in the folder. Whatever else lies there stays: prompts, texts and records of runs are
    nobody's."""
    weights = weight_files(folder) if (folder / "config.json").is_file() else []
    beside = [path for path in (folder / name for name in _BESIDE) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in (*own_files(folder).side, *weights, *beside)]


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise DposcopeError(
            "--push needs a token of the Hugging Face hub that may write; log in with: hf auth login, or set HF_TOKEN"
        )
    return token


def _licence(api: "HfApi", base: str) -> str | None:
    """Of the base, by a bundled model, by the card in its folder, or by its card on the hub."""
    if base in BUNDLED:
        return BUNDLED[base].licence_id
    path = expanded(base)
    if path.exists():
        card = path / "README.md"
        # A stranger wrote it, perhaps in another encoding; the name of a licence is ASCII.
        return licence_in(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    try:
        card_data: Any = api.model_info(hub_id(base)).card_data
    except Exception:  # it is told as unknown
        return None
    return None if card_data is None else card_data.get("license")
