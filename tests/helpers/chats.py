"""Chat templates of every manner, and tiny models whose tokenizers have them."""

import copy
from dataclasses import replace

from dposcope.model.language_model import LanguageModel

PLAIN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""As of Qwen and SmolLM: no begin-of-text token."""
BEGINS = "{{ bos_token }}" + PLAIN
"""As of Llama and Gemma: the template writes the begin-of-text token itself."""
ENDS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""As of Qwen, Gemma and Llama 3: a token ends each message."""
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + BEGINS
"""As of Gemma 2."""
LEAVES_OUT = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
"""Takes a system prompt without a word, and loses it."""
FAILS = "{{ messages[7]['content'] + 1 }}"
BROKEN = "{% for %}"


def with_template(lm: LanguageModel, template: str) -> LanguageModel:
    """The same model with a tokenizer of its own that has a template."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = template
    return replace(lm, tokenizer=tokenizer)
