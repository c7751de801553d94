"""What share of the machine's limit each stage reaches; the limit is measured in the same run.

    python benchmarks/limit.py [--model gemma-3-270m] [--dtype bfloat16] [--rounds 3] [--only means,decode-32]

The limit is the larger of two times: the stage's multiplications at the machine's matrix rate, and the bytes that it
must read at the machine's memory bandwidth. Both rates are measured before each round, with torch's own product of two
square matrices and its own sum of a long vector. Multiplications and bytes come from the model's shapes alone:

    reading text    2 for each weight of the blocks and token, and 4 for each attention head's number and pair of tokens
    unembedding     2 for each of its weights and token
    decoding        the same for each step; every step reads all weights and the cache once
    a DPO step      3 × reading for the model that learns (backward counts twice), 1 × for the reference; each prompt
                    is read once, and only places before a token of a completion are unembedded

A share of 1 cannot be reached: norms, activations, softmax, sorting, hooks and Python count as nothing. Stages run in
turn, each once before the first round; a number is the median over rounds.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import dposcope as ds
from dposcope.evaluation.perplexity import count_windows, window_losses
from dposcope.neurons.activations import collect_means

WINDOW, WINDOWS = 1024, 4
PROMPT, NEW = 16, 32
"""Tokens of a prompt and of its continuation where decoding is measured."""
PAIRS, SIDE = 8, 64
"""Pairs of a DPO step; tokens of a prompt and of a completion."""


@dataclass(frozen=True)
class Machine:
    """Rates that torch reaches here."""

    products: float
    """Multiply-adds a second, in the type of the weights."""
    bandwidth: float
    """Bytes read a second."""

    def seconds(self, work: "Work") -> float:
        """The least time that the work can take."""
        return max(work.products / self.products, work.bytes / self.bandwidth)


@dataclass(frozen=True)
class Work:
    """What must be computed and read."""

    products: float
    """Multiply-adds."""
    bytes: float = 0.0


@dataclass(frozen=True)
class Shapes:
    """What the counts come from."""

    blocks: int
    """Weights of all projections in the blocks."""
    unembedding: int
    vocabulary: int
    attention: int
    """Heads × numbers of a head, over all blocks."""
    cache: int
    """Numbers that the cache keeps of a token, over all blocks."""
    itemsize: int

    @classmethod
    def of(cls, lm: ds.LanguageModel) -> "Shapes":
        """From the model's own modules and configuration."""
        config = lm.model.config.get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        modules = [module for block in lm.blocks for module in block.modules()]
        return cls(
            blocks=sum(module.weight.numel() for module in modules if isinstance(module, nn.Linear | Conv1D)),
            unembedding=lm.d_model * int(config.vocab_size),
            vocabulary=int(config.vocab_size),
            attention=lm.n_blocks * config.num_attention_heads * head,
            cache=2 * lm.n_blocks * groups * head,
            itemsize=next(lm.model.parameters()).element_size(),
        )

    def reading(self, tokens: int, texts: int = 1) -> Work:
        """Texts of so many tokens each through all blocks, in one pass."""
        pairs = tokens * (tokens + 1) / 2
        return Work(texts * (self.blocks * tokens + 2 * self.attention * pairs), self.blocks * self.itemsize)

    def unembedded(self, tokens: int) -> Work:
        """The logits of so many tokens."""
        return Work(self.unembedding * tokens, self.unembedding * self.itemsize)

    def step(self, batch: int, context: int) -> Work:
        """One more token for each text of a batch."""
        weights, read = self.blocks + self.unembedding, batch * self.cache * context
        products = batch * (weights + 2 * self.attention * context)
        return Work(products, (weights + read) * self.itemsize)


@dataclass(frozen=True)
class Stage:
    """A piece of work with its parts, which come one after the other."""

    name: str
    run: Callable[[], float | None]
    """Does it once; its own clock's seconds, where it has one."""
    parts: list[Work]
    tokens: int

    def least(self, machine: Machine) -> float:
        """The least time for all of it."""
        return sum(machine.seconds(part) for part in self.parts)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of stages, with commas")
    arguments = parser.parse_args()
    lm = ds.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    wanted = arguments.only.split(",") if arguments.only else None
    chosen = [stage for stage in stages(lm, arguments) if wanted is None or stage.name in wanted]
    runs: list[tuple[Machine, dict[str, float]]] = []
    for number in range(arguments.rounds + 1):
        found = measure_machine(lm), {stage.name: timed(stage.run, lm) for stage in chosen}
        if number > 0:  # the first warms up
            runs.append(found)
    print(heading(lm, arguments, [machine for machine, _ in runs]), table(chosen, runs), sep="\n\n")


def heading(lm: ds.LanguageModel, arguments: argparse.Namespace, machines: list[Machine]) -> str:
    """What was measured where."""
    rate = statistics.median(machine.products for machine in machines) / 1e9
    bandwidth = statistics.median(machine.bandwidth for machine in machines) / 1e9
    return (
        f"{arguments.model}, {arguments.dtype}, {lm.device}, {torch.get_num_threads()} threads, medians of "
        f"{len(machines)} rounds; the machine: {rate:.0f} G multiply-adds a second, {bandwidth:.1f} GB a second"
    )


def table(chosen: list[Stage], runs: list[tuple[Machine, dict[str, float]]]) -> str:
    """One line a stage, in Markdown."""
    lines = [
        "| stage | seconds | tokens a second | share of the limit | range |",
        "| --- | --- | --- | --- | --- |",
    ]
    for stage in chosen:
        median = statistics.median(seconds[stage.name] for _, seconds in runs)
        shares = [stage.least(machine) / seconds[stage.name] for machine, seconds in runs]
        lines.append(
            f"| {stage.name} | {median:.3g} | {stage.tokens / median:,.0f} | {statistics.median(shares):.0%} | "
            f"{min(shares):.0%} to {max(shares):.0%} |"
        )
    return "\n".join(lines)


def stages(lm: ds.LanguageModel, arguments: argparse.Namespace) -> list[Stage]:
    """All of them."""
    shapes = Shapes.of(lm)
    window = min(WINDOW, lm.context_length)
    stream = torch.Generator().manual_seed(0)
    ids = torch.randint(100, min(5000, shapes.vocabulary), (1, window), generator=stream).to(lm.device)
    state = torch.randn(256, lm.d_model, generator=stream).to(lm.device, lm.dtype)
    head = lm.model.get_output_embeddings()
    text = ds.load_neutral(None)
    windows = min(WINDOWS, count_windows(lm, text, window=window, most=WINDOWS))
    prompts = _prompts(lm)

    @torch.inference_mode()
    def read() -> None:
        lm.model.base_model(input_ids=ids, use_cache=False)

    @torch.inference_mode()
    def unembed() -> None:
        head(state)

    def decode(batch: int) -> Stage:
        texts = list(itertools.islice(itertools.cycle(prompts), max(batch, 4) if batch < 32 else batch))
        batches = len(texts) // batch
        steps = [shapes.step(batch, PROMPT + done) for done in range(1, NEW)]
        return Stage(
            f"decode-{batch}",
            lambda: _nothing(ds.generate(lm, texts, new_tokens=NEW, batch_size=batch, stop_at_end=False)),
            batches * [shapes.reading(PROMPT, batch), shapes.unembedded(batch), *steps],
            len(texts) * NEW,
        )

    many = list(itertools.islice(itertools.cycle(prompts), 64))
    decoding = 2 * [shapes.reading(PROMPT, 32), shapes.unembedded(32)]
    decoding += 2 * [shapes.step(32, PROMPT + done) for done in range(1, 20)]
    loss = windows * [shapes.reading(window), shapes.unembedded(window)]
    return [
        Stage("read", read, [shapes.reading(window)], window),
        Stage("unembed", unembed, [shapes.unembedded(256)], 256),
        Stage(
            "log-perplexity",
            lambda: _nothing(window_losses(lm, text, max_windows=windows, window=window)),
            loss,
            windows * window,
        ),
        decode(1),
        decode(32),
        decode(128),
        Stage(
            "means",
            lambda: _nothing(collect_means(lm, many, new_tokens=20, batch_size=32)),
            decoding,
            64 * 20,
        ),
        dpo_step(lm, arguments, shapes),
    ]


def dpo_step(lm: ds.LanguageModel, arguments: argparse.Namespace, shapes: Shapes) -> Stage:
    """All weights in float32, products in bfloat16 where the machine multiplies it: the median of four steps."""
    from dpo import Task, ours
    from dposcope.model.load import native_bfloat16
    from dposcope.training.batches.examples import Example

    draw = torch.randint(
        100, min(5000, shapes.vocabulary), (5 * PAIRS, 3, SIDE), generator=torch.Generator().manual_seed(0)
    )
    examples = [Example(tuple(p), (tuple(c), tuple(r))) for p, c, r in draw.tolist()]

    def run() -> float:
        other = ds.load(arguments.model, dtype="float32", device=arguments.device)
        with tempfile.TemporaryDirectory() as folder:
            task = Task("dposcope", other, examples, PAIRS, 5, native_bfloat16(lm.device), Path(folder))
            marks = ours(task)
        return statistics.median(later - earlier for earlier, later in itertools.pairwise(marks))

    # A prompt with two completions behind it: the second one is read as if it stood behind the prompt, too.
    reading = 2 * shapes.reading(2 * SIDE, PAIRS).products - shapes.reading(SIDE, PAIRS).products
    whole = Work(4 * (reading + shapes.unembedded(2 * PAIRS * SIDE).products), 0.0)
    return Stage("dpo-step", run, [whole], 3 * SIDE * PAIRS)


def measure_machine(lm: ds.LanguageModel) -> Machine:
    """Products of square matrices in the model's type, and the sum of a vector too long for any cache."""
    best = 0.0
    for size in (512, 1024, 2048):
        one = torch.randn(size, size).to(lm.device, lm.dtype)
        other = torch.randn(size, size).to(lm.device, lm.dtype)
        took = min(timed(lambda one=one, other=other: _nothing(one @ other), lm) for _ in range(5))
        best = max(best, size**3 / took)
    long = torch.ones(1 << 27, dtype=torch.float32, device=lm.device)
    took = min(timed(lambda: _nothing(long.sum()), lm) for _ in range(5))
    return Machine(best, long.numel() * long.element_size() / took)


def timed(run: Callable[[], float | None], lm: ds.LanguageModel) -> float:
    """Seconds that it takes, to the end of what a GPU does."""
    _wait(lm)
    start = time.perf_counter()
    own = run()
    _wait(lm)
    return time.perf_counter() - start if own is None else own


def _wait(lm: ds.LanguageModel) -> None:
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)


def _nothing(_value: object) -> None:
    """A stage's result is of no use."""


def _prompts(lm: ds.LanguageModel) -> list[str]:
    """Prompts of 16 tokens: the beginnings of the built-in neutral text's lines."""
    words = ds.load_neutral(None).split()
    return [_cut(lm, " ".join(words[start : start + 40])) for start in range(0, 32 * 40, 40)]


def _cut(lm: ds.LanguageModel, text: str) -> str:
    special = len(lm.tokenizer("")["input_ids"])
    ids = lm.tokenizer(text, add_special_tokens=False)["input_ids"][: PROMPT - special]
    return lm.tokenizer.decode(ids)


if __name__ == "__main__":
    main()
