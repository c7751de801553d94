"""Comparing a tuned model with its base: which properties must be equal, and how different vocabularies are handled.

Both models read ids of the base's tokenizer, and are asked as the base is, so that everything is measured on the same
tokens. The tuned model may
write tokens that the base does not have (chat markers, for example); its own tokenizer decodes them.
"""

from dataclasses import dataclass, replace

from dposcope.errors import DposcopeError, plural
from dposcope.model.checks.given import check_lm
from dposcope.model.checks.identity import deciding_settings
from dposcope.model.language_model import LanguageModel
from dposcope.model.quiet import without_progress_bars

_RENAMED = 0.01
"""Share of a vocabulary that tuning may rename: reserved tokens become chat markers."""


def check_models(base: LanguageModel, tuned: LanguageModel) -> None:
    """Refuse models whose neurons cannot be compared one by one.

    Raises:
        DposcopeError: they differ in architecture, sizes or tokenizer.
    """
    check_lm(base, "base")
    check_lm(tuned, "tuned")
    _check_sizes(base, tuned)
    _vocabulary(base, tuned)


def _check_sizes(base: LanguageModel, tuned: LanguageModel) -> None:
    sizes = {
        "architecture": [_family(lm) for lm in (base, tuned)],
        "number of blocks": [lm.n_blocks for lm in (base, tuned)],
        "residual width": [lm.d_model for lm in (base, tuned)],
        "neurons per block": [lm.d_mlp for lm in (base, tuned)],
        "widths of blocks": [lm.columns.widths for lm in (base, tuned)],
    }
    for what, (one, other) in sizes.items():
        if one != other:
            raise DposcopeError(
                f"{base.name} and {tuned.name} differ in {what} ({one} and {other}); "
                "give a base model and one that was tuned from it"
            )


def settings_that_differ(base: LanguageModel, tuned: LanguageModel) -> set[str]:
    """Settings of two configs that decide what the same weights compute, where they differ."""
    one, two = (lm.model.config.get_text_config() for lm in (base, tuned))
    mine, its = deciding_settings(one), two.to_dict()
    rope = mine.get("rope_parameters") or {}
    each = [one for one in rope.values() if isinstance(one, dict)] or [rope]  # some have one for each kind of attention
    if all(one.get("rope_type") == "default" for one in each):
        mine.pop("max_position_embeddings", None)  # a longer context alone
    return {name for name, value in mine.items() if value != its.get(name)}


def comparable(base: LanguageModel, tuned: LanguageModel) -> LanguageModel:
    """`tuned` with the tokenizer of `base`, and asked like it; embedding rows that belong to no token are removed.

    Training frameworks round the size of a vocabulary up. The added rows are not tokens. After removal the model cannot
    generate them, and they take no probability from the others.

    Args:
        base: the model before tuning.
        tuned: the model after tuning; its embedding may be cut in place.

    Raises:
        DposcopeError: see `check_models`; or the base's tokenizer makes tokens that the tuned model does not have.
    """
    _check_sizes(base, tuned)
    vocabulary = _vocabulary(base, tuned)
    notes = list(tuned.notes)
    have, rows = embedding_rows(base), embedding_rows(tuned)
    needed = min(have, 1 + max(base.tokenizer.get_vocab().values()))
    if rows < needed:
        raise DposcopeError(
            f"{tuned.name} has {rows:,} tokens, and the tokenizer of {base.name} makes {needed:,}; give a model that "
            "was tuned from this base with its vocabulary kept or extended"
        )
    kept = max(have, vocabulary.size) if vocabulary.added else have
    if rows > kept:
        notes.append(f"{plural(rows - kept, 'row')} of its embedding that stand for no token left out")
        with without_progress_bars():
            tuned.model.resize_token_embeddings(kept, mean_resizing=False)
    if not vocabulary.added and not vocabulary.renamed:
        return replace(tuned, tokenizer=base.tokenizer, asking=base.asking, notes=tuple(notes))
    if vocabulary.added:
        notes.append(
            f"{plural(vocabulary.added, 'token')} that {base.name} lacks: both models read by the base's tokenizer, "
            "the tuned one may write its own tokens"
        )
    if vocabulary.renamed:
        notes.append(f"{plural(vocabulary.renamed, 'token')} under another name than in {base.name}")
    return replace(tuned, tokenizer=base.tokenizer, asking=base.asking, writer=tuned.tokenizer, notes=tuple(notes))


@dataclass(frozen=True)
class _Vocabulary:
    """How the tuned model's tokens differ from the base's."""

    size: int
    """One more than the largest id of the tuned model's tokenizer."""
    added: int
    """Tokens that the tuned model can write and the base's tokenizer does not have."""
    renamed: int


def _vocabulary(base: LanguageModel, tuned: LanguageModel) -> _Vocabulary:
    """Compare two tokenizers by id. Only the tokens of plain text must be equal."""
    before = base.tokenizer.get_vocab()
    spelling = tuned.writer or tuned.tokenizer
    if spelling is base.tokenizer:
        return _Vocabulary(1 + max(before.values()), 0, 0)
    after = spelling.get_vocab()
    named = {number: token for token, number in after.items()}
    special = base.special_ids
    renamed = gone = 0
    for token, number in before.items():
        now = named.get(number)
        if now == token:
            continue
        if now is not None and token not in after and now not in before:
            renamed += 1
        elif number not in special or token in after:
            gone += 1
    if gone or renamed > max(_RENAMED * len(before), len(special)):
        raise DposcopeError(
            f"{tuned.name} has another tokenizer than {base.name} ({plural(gone + renamed, 'token')} of "
            f"{len(before):,} differ), so the two models read the same text as different tokens; "
            "give a base model and one that was tuned from it"
        )
    added = sum(number < embedding_rows(tuned) for number in named.keys() - set(before.values()))
    return _Vocabulary(1 + max(named), added, renamed)


def embedding_rows(lm: LanguageModel) -> int:
    """Rows of the embedding, including those that belong to no token."""
    return int(lm.model.get_input_embeddings().get_parameter("weight").shape[0])


def _family(lm: LanguageModel) -> str:
    # A text-only checkpoint of a vision model is the same network.
    return str(lm.model.config.model_type).removesuffix("_text")
