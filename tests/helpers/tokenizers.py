"""Tiny tokenizers of every kind in use: they cut a text into words first or not at all, and mark spaces differently."""

from collections.abc import Callable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from helpers.families import CIVIL, RUDE, TEXTS, bos_tokenizer, gpt2_like_tokenizer

_CORPUS = [*TEXTS, *RUDE, *CIVIL, "aaaa aaaaaaaa", "....", "ten times ten is a hundred\n\nand so on\n"] * 3
_LETTERS = [*"abcdefghijklmnopqrstuvwxyz.,?!0123456789\n"]


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def _marked(prepended: bool) -> Tokenizer:
    """Merges over the whole text, as in Gemma (spaces are marked) and Llama 2 (and one mark is put before)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>", fuse_unk=True))
    marks = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *marks] if prepended else marks)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=200,
            special_tokens=["<unk>", "<bos>", "<eos>"],
            initial_alphabet=[*_LETTERS, "▁"],
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return tokenizer


def gemma_like() -> PreTrainedTokenizerFast:
    return _fast(_marked(False), unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def llama2_like() -> PreTrainedTokenizerFast:
    tokenizer = _marked(True)
    # What is decoded loses the space that was put before it.
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return _fast(tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def unigram() -> PreTrainedTokenizerFast:
    """As in T5: the likeliest division of each word; a token ends every text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _fast(tokenizer, unk_token="<unk>", eos_token="</s>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As in BERT: spaces and control characters give no token, and an unknown word gives one, however long."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return _fast(tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", bos_token="[CLS]")


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte pairs": gpt2_like_tokenizer,
    "byte pairs with a beginning": bos_tokenizer,
    "marked spaces, as in Gemma": gemma_like,
    "marked spaces, as in Llama 2": llama2_like,
    "unigram, as in T5": unigram,
    "word pieces, as in BERT": word_pieces,
}
