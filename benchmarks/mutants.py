"""Faults put into the code one at a time: how many of them do the tests find?

    python benchmarks/mutants.py [--jobs 2] [--only neurons] [--again]

A mutant is a module with one operator, number, comparison or condition changed; the changes are those of cosmic-ray.
It is killed when a test that mirrors the module fails, or when the tests take far longer than before. At every place
of the code that can be changed in one way or several, one change is made, chosen by a digest of its line; a module with
more places than `most` in `mutants.toml` has that many of them tried, chosen in the same way.

A process that has imported torch and transformers forks for every mutant, and the fork imports the package with the
changed module: that takes a second where a new process takes ten. Results are kept in `build/mutants/`, so a stopped
run goes on where it was; `--again` tries again those that lived. Prints a table per module and the mutants that live
and are not listed in `mutants.toml`; exits with 1 where fewer than 85 of 100 are killed.
"""

import argparse
import ast
import contextlib
import difflib
import gc
import importlib.abc
import importlib.util
import json
import os
import pkgutil
import re
import resource
import signal
import sys
import time
import tomllib
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dposcope"
TESTS = ROOT / "tests"
KEPT = ROOT / "build" / "mutants"

FAMILIES = {
    "arithmetic": [
        f"ReplaceBinaryOperator_{one}_{other}"
        for one, others in {
            "Add": ("Sub", "Mul"),
            "Sub": ("Add",),
            "Mul": ("Div", "Add"),
            "Div": ("Mul",),
            "FloorDiv": ("Mul",),
            "Mod": ("Mul",),
            "Pow": ("Mul",),
            "BitAnd": ("BitOr",),
            "BitOr": ("BitAnd",),
        }.items()
        for other in others
    ],
    "comparison": [
        f"ReplaceComparisonOperator_{one}_{other}"
        for one, others in {
            "Eq": ("NotEq",),
            "NotEq": ("Eq",),
            "Lt": ("LtE", "Gt"),
            "LtE": ("Lt", "GtE"),
            "Gt": ("GtE", "Lt"),
            "GtE": ("Gt", "LtE"),
            "Is": ("IsNot",),
            "IsNot": ("Is",),
        }.items()
        for other in others
    ],
    "sign": ["ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert"],
    "condition": ["AddNot", "ReplaceUnaryOperator_Delete_Not", "ReplaceAndWithOr", "ReplaceOrWithAnd"],
    "truth": ["ReplaceTrueWithFalse", "ReplaceFalseWithTrue"],
    "number": ["NumberReplacer"],
    "loop": ["ZeroIterationForLoop", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"],
    "exception": ["ExceptionReplacer"],
}
"""Kind of change → cosmic-ray's operators. Those that hardly any code outlives, such as + to >>, prove nothing."""

Place = tuple[int, int]
"""Line, from 1, and column, in characters."""


@dataclass(frozen=True)
class Mutant:
    """One changed module."""

    module: str
    """Path below the package."""
    line: int
    family: str
    before: str
    """The line as it is."""
    after: str
    source: str
    """Of the whole module."""

    @property
    def key(self) -> str:
        """The same for the same change of the same module."""
        return _digest(f"{self.module}\n{self.source}")


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    key: str
    module: str
    line: int
    before: str
    after: str
    outcome: str
    """`killed`, `slow` (killed, too) or `lives`."""


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


# Mutants


def mutants(module: str, most: int) -> list[Mutant]:
    """The mutants of a module to try, in the order of lines."""
    source = (SOURCE / module).read_text(encoding="utf-8")
    lines = source.splitlines()
    places: dict[tuple[str, Place], list[tuple[str, int]]] = defaultdict(list)
    for family, name, occurrence, place in _changes(source):
        places[family, place].append((name, occurrence))
    ordered = sorted(
        places.items(), key=lambda one: _digest(f"{module}:{one[0][0]}:{lines[one[0][1][0] - 1]}:{one[0][1][1]}")
    )
    chosen: list[Mutant] = []
    for (family, place), changes in ordered:
        if len(chosen) == most:
            break
        name, occurrence = changes[int(_digest(lines[place[0] - 1] + str(place[1])), 16) % len(changes)]
        changed = _changed(source, name, occurrence)
        if changed is not None:
            before, after = _difference(source, changed)
            chosen.append(Mutant(module, place[0], family, before, after, changed))
    return sorted(chosen, key=lambda mutant: mutant.line)


def _changes(source: str) -> Iterator[tuple[str, str, int, Place]]:
    """Family, operator, which of its occurrences, and place of all that can be changed outside type annotations."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    typed, between = _places(source)
    nodes = list(ast_nodes(get_ast(source)))
    for family, names in FAMILIES.items():
        for name in names:
            operator = get_operator(f"core/{name}")()
            positions = (start for node in nodes for start, _ in operator.mutation_positions(node))
            for occurrence, place in enumerate(positions):
                spans = [any(first <= place < last for first, last in some) for some in (typed, between)]
                # A star of a signature or a call is an operator to cosmic-ray, too.
                if not spans[0] and (spans[1] or family != "arithmetic"):
                    yield family, name, occurrence, place


def _changed(source: str, name: str, occurrence: int) -> str | None:
    """The changed source; None where it is no Python."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed = mutate_code(source, get_operator(f"core/{name}")(), occurrence)
    try:
        same = changed is None or ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source))
    except SyntaxError:
        return None
    return None if same else changed


def _places(source: str) -> tuple[list[tuple[Place, Place]], list[tuple[Place, Place]]]:
    """Spans of type annotations, which nothing runs; and of what stands between two operands."""
    lines = source.splitlines()

    def place(line: int | None, column: int | None) -> Place:
        assert line is not None
        return line, len(lines[line - 1].encode()[:column].decode())

    typed, between = [], []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp):
            left, right = node.left, node.right
            between.append((place(left.end_lineno, left.end_col_offset), place(right.lineno, right.col_offset)))
        for name in ("annotation", "returns"):
            one = getattr(node, name, None)
            if isinstance(one, ast.expr):
                typed.append((place(one.lineno, one.col_offset), place(one.end_lineno, one.end_col_offset)))
    return typed, between


def _difference(source: str, changed: str) -> tuple[str, str]:
    lines = [line for line in difflib.ndiff(source.splitlines(), changed.splitlines()) if line[:2] in ("- ", "+ ")]
    sides = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    before, after = sides
    return before, after


# Trying


class _Changed(importlib.abc.MetaPathFinder, SourceFileLoader):
    """Imports one module of the package from a changed source; nothing is written over the file."""

    def __init__(self, mutant: Mutant) -> None:
        parts = ("dposcope", *Path(mutant.module).with_suffix("").parts)
        super().__init__(".".join(parts), str(SOURCE / mutant.module))
        self.source = mutant.source

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> Any:
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def get_data(self, path: Any) -> bytes:
        return self.source.encode() if str(path) == self.path else super().get_data(path)

    def get_code(self, _fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


def warm_up() -> None:
    """Import all that forks would import again."""
    sys.path[:0] = [str(TESTS), str(ROOT)]
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(KEPT / "compiled")
    import hypothesis
    import matplotlib.figure
    import pytest  # noqa: F401
    import torch

    import dposcope
    from dposcope.model.generate import generate

    torch.set_num_threads(1)
    for room in ("neurons", "interventions", "evaluation", "training", "directions", "model", "data"):
        for one in pkgutil.walk_packages([str(SOURCE / room)], f"dposcope.{room}."):
            importlib.import_module(one.name)
    from helpers.families import FAMILIES as MODELS
    from helpers.families import tiny

    for family in MODELS:
        generate(tiny(family), ["a"], new_tokens=2)
    del dposcope, hypothesis, matplotlib
    for name in [name for name in sys.modules if name.partition(".")[0] in ("dposcope", "helpers")]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def start(mutant: Mutant | None, tests: Sequence[str], *, slot: int, seconds: float) -> int:
    """A fork that runs tests on a mutant, or on the code as it is, for so many seconds of computing; its process id."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        with Path("/proc/self/statm").open() as memory:
            pages = int(memory.read().split()[0])
        limit = pages * resource.getpagesize() + 3 * 1024**3
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
        log = os.open(KEPT / f"log-{slot}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if mutant is not None:
            sys.meta_path.insert(0, _Changed(mutant))
        import pytest
        import torch

        torch.set_num_threads(1)
        os.chdir(ROOT)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", f"--basetemp={KEPT / f'tmp-{slot}'}"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins that `warm_up` imported
        code = int(pytest.main([*options, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, deadline: float) -> tuple[int, float] | None:
    """Exit code (negative: the signal) and seconds of computing of a child; None while it runs."""
    found, status, used = os.wait4(child, os.WNOHANG)
    if not found and time.monotonic() > deadline:
        os.kill(child, signal.SIGKILL)
        found, status, used = os.wait4(child, 0)
    if not found:
        return None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # what a test may have started
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def try_all(queue: Sequence[Mutant], tests: Sequence[str], *, jobs: int) -> Iterator[tuple[Mutant, str]]:
    """Each mutant of a module with its outcome, as they end.

    Raises:
        SystemExit: the tests fail on the code as it is.
    """
    child = start(None, tests, slot=0, seconds=600)
    while (done := ended(child, time.monotonic() + 600)) is None:
        time.sleep(0.05)
    if done[0]:
        raise SystemExit(f"tests fail without any change: {' '.join(tests)}\n{(KEPT / 'log-0').read_text()[-2000:]}")
    seconds = 3 * done[1] + 10
    waiting = list(reversed(queue))
    running: dict[int, tuple[Mutant, int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            slot = next(slot for slot in range(jobs) if slot not in running)
            mutant = waiting.pop()
            running[slot] = (
                mutant,
                start(mutant, tests, slot=slot, seconds=seconds),
                time.monotonic() + 8 * seconds,
            )
        time.sleep(0.02)
        for slot, (mutant, child, deadline) in list(running.items()):
            done = ended(child, deadline)
            if done is not None:
                del running[slot]
                outcome = "lives" if done[0] == 0 else "slow" if done[0] in (-9, -24) else "killed"
                yield mutant, outcome


# What is tried, kept and told


@dataclass(frozen=True)
class Plan:
    """`mutants.toml`."""

    modules: list[str]
    most: int
    also: dict[str, list[str]]
    """Module → tests beside the one that mirrors it."""
    always: list[str]
    """Tests of all modules, which run last."""
    equivalent: list[dict[str, str]]
    """Mutants that do what the code does, or that no test should pin down: the changed line, or a pattern within it
    that holds for all modules; and why."""

    @classmethod
    def read(cls) -> "Plan":
        plan = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text(encoding="utf-8"))
        modules = [
            path.relative_to(SOURCE).as_posix()
            for pattern in plan["modules"]
            for path in sorted(SOURCE.glob(pattern))
            if path.name != "__init__.py"
        ]
        return cls(modules, plan["most"], plan["also"], plan["always"], plan["equivalent"])

    def tests(self, module: str) -> list[str]:
        """Those that a module's mutants must fail."""
        mirror = TESTS / Path(module).with_name(f"test_{Path(module).name}")
        mirrors = [mirror.relative_to(ROOT).as_posix()] if mirror.exists() else []
        return mirrors + self.also.get(module, []) + self.always

    def listed(self, result: Result) -> bool:
        """Whether a mutant is among those that may live."""
        return any(
            re.search(one["pattern"], result.after)
            if "pattern" in one
            else (one["module"], one["line"]) == (result.module, result.after)
            for one in self.equivalent
        )


def kept() -> dict[str, Result]:
    """Key → result of earlier runs; the last one counts."""
    file = KEPT / "results.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {one["key"]: Result(**one) for one in map(json.loads, lines)}


def table(results: Sequence[Result], plan: Plan) -> str:
    """Rows: modules; the last: all."""
    rows = ["| module | tried | killed | live, listed | live | killed of those not listed |", "| --- |" + " --- |" * 5]
    by_module: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_module[result.module].append(result)
    for module, some in [*by_module.items(), ("all", list(results))]:
        living = [one for one in some if one.outcome == "lives"]
        listed = sum(plan.listed(one) for one in living)
        killed = len(some) - len(living)
        rows.append(
            f"| {module} | {len(some)} | {killed} | {listed} | {len(living) - listed} | "
            f"{killed / max(len(some) - listed, 1):.1%} |"
        )
    return "\n".join(rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="modules whose path begins so, such as neurons or training/loss.py")
    parser.add_argument("--again", action="store_true", help="try again those that lived")
    parser.add_argument("--table", action="store_true", help="try none; tell what is known")
    chosen = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    plan, known = Plan.read(), kept()
    tried: list[Result] = []
    warm = False
    for module in plan.modules:
        if not module.startswith(chosen.only):
            continue
        of_module = mutants(module, plan.most)
        open_ones = [
            one for one in of_module if one.key not in known or (chosen.again and known[one.key].outcome == "lives")
        ]
        if open_ones and not chosen.table:
            if not warm:
                warm_up()
                warm = True
            with (KEPT / "results.jsonl").open("a", encoding="utf-8") as file:
                for mutant, outcome in try_all(open_ones, plan.tests(module), jobs=chosen.jobs):
                    result = Result(mutant.key, module, mutant.line, mutant.before, mutant.after, outcome)
                    known[mutant.key] = result
                    file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
                    file.flush()
        of_known = [known[one.key] for one in of_module if one.key in known]
        tried += of_known
        lives = sum(one.outcome == "lives" for one in of_known)
        print(f"{module}: {len(of_known)} tried, {lives} live", file=sys.stderr, flush=True)
    print(table(tried, plan))
    living = [one for one in tried if one.outcome == "lives" and not plan.listed(one)]
    for one in living:
        print(f"\n{one.module}:{one.line}\n  - {one.before}\n  + {one.after}")
    counted = sum(not (one.outcome == "lives" and plan.listed(one)) for one in tried)
    sys.exit(1 if counted and 1 - len(living) / counted < 0.85 else 0)


if __name__ == "__main__":
    main()
