# SPDX-License-Identifier: Apache-2.0
"""How the benchmarks measure: sides against bases in interleaved rounds of fresh processes.

Only ratios count. Each round starts every side of every case in its own new process, all on the same core if they use
one thread, the next round in the opposite order on the next core; a ratio is formed within a round and the table shows
the median of those ratios with the smallest and the largest. A figure is always a time, so a ratio above 1 means
"faster than the base". Wall clock and CPU time stand beside each other: where they disagree the machine was busy.

A benchmark is a script that calls `main` with its cases. The same script run with ``--side`` is one side: it measures
and prints its figures as one line of JSON. This file knows nothing of what is measured; read `bench_hop.py` next.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

#: What one side measured: name of the figure → seconds (or a plain number for the figures that no ratio is formed of).
Figures = dict[str, float]

#: A side that has not answered after this many seconds is ended and shown as failed.
SIDE_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do the work of a case. `requires` is the optional distribution it imports, by its import name.

    `is_pinned` sides run on one core; a side with threads of its own must not be.
    """

    name: str
    is_pinned: bool = True
    requires: str | None = None

    @property
    def is_installed(self) -> bool:
        return self.requires is None or importlib.util.find_spec(self.requires) is not None


@dataclass(frozen=True, slots=True)
class Target:
    """What a side should reach: a ratio to `base`, or at most that many seconds when there is no base."""

    figure: str
    base: str | None
    must: float
    aim: float
    side: str = "compysition"


@dataclass(frozen=True, slots=True)
class Case:
    """One table: its sides, the figures they measure (name → heading) and the sides that count as 1.

    `words` turns the figures of one sample of one side into a remark for its line in the table.
    """

    name: str
    title: str
    sides: tuple[Side, ...]
    figures: Mapping[str, str]
    bases: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    words: Callable[[Figures], str] | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """Speed in terms of a base: the median over the rounds, and the spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


@dataclass(slots=True)
class Result:
    """All samples of one case: one mapping from side to figures per round, and what went wrong by side."""

    case: Case
    rounds: list[dict[str, Figures]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def samples(self, side: str, figure: str) -> list[float]:
        return [sides[side][figure] for sides in self.rounds if figure in sides.get(side, {})]

    def ratio(self, side: str, base: str, figure: str) -> Ratio | None:
        """Median and spread of base time / side time over the rounds in which both were measured."""
        ratios = [
            sides[base][figure] / sides[side][figure]
            for sides in self.rounds
            if sides.get(base, {}).get(figure) and sides.get(side, {}).get(figure)
        ]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def parser(description: str, cases: Sequence[Case]) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description.splitlines()[0])
    options.add_argument("--case", action="append", choices=[case.name for case in cases], help="only this case")
    options.add_argument("--sides", type=lambda text: text.split("+"), help="only these sides: NAME+NAME")
    options.add_argument("--rounds", type=int, help="this many rounds, without the limit of time")
    options.add_argument("--quick", action="store_true", help="fewer and shorter rounds, for a first impression")
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options.add_argument("--side", help="measure one side in this process and print its figures as JSON")
    options.add_argument("--core", type=int, help=argparse.SUPPRESS)
    return options


def only_case(options: argparse.Namespace) -> str:
    """The case that one side is to be measured in."""
    if not options.case or len(options.case) != 1:
        raise SystemExit("--side wants one --case")
    return str(options.case[0])


def cores() -> list[int]:
    """The cores this process may use; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def pin(core: int | None) -> None:
    """Keep this process, its threads and children on one core."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


def report_side(figures: Mapping[str, float]) -> None:
    """Hand the figures of one side to the process that compares."""
    print(json.dumps(dict(figures)))


def compare(
    cases: Sequence[Case], options: argparse.Namespace, *, rounds: int, limit_s: float, packages: Sequence[str]
) -> int:
    """Run all rounds and print the tables (or JSON); the exit code is 1 only if a side failed.

    Args:
        cases: What to compare; `options.case` selects among them.
        options: Parsed by `parser`.
        rounds: How many rounds, unless the user says how many.
        limit_s: No round begins that would probably end later than this, except the first.
        packages: Distributions whose version belongs to the heading.
    """
    chosen = [case for case in cases if not options.case or case.name in options.case]
    if options.sides:
        chosen = [
            replace(case, sides=tuple(side for side in case.sides if side.name in options.sides)) for case in chosen
        ]
    heading = machine(packages)
    results = [Result(case) for case in chosen]
    began = time.monotonic()
    wanted = options.rounds or (min(rounds, 3) if options.quick else rounds)
    done = 0
    while done < wanted:
        round_began = time.monotonic()
        for result in results:
            run_round(result, done, quick=options.quick)
        done += 1
        now = time.monotonic()
        print(f"round {done} of {wanted}: {now - round_began:.1f} s", file=sys.stderr)
        if options.rounds is None and now - began + (now - round_began) > limit_s:
            break
    heading["rounds"] = str(done)
    heading["load at the end"] = load()
    if options.json:
        print(json.dumps({**heading, "cases": [as_json(result) for result in results]}, indent=2, ensure_ascii=False))
    else:
        print_heading(heading)
        for result in results:
            print_table(result)
    return 1 if any(result.failures for result in results) else 0


def run_round(result: Result, number: int, *, quick: bool) -> None:
    """Measure every side of a case once, one after the other."""
    sides = [side for side in result.case.sides if side.is_installed]
    available = cores()
    core = available[number % len(available)] if available else None
    measured: dict[str, Figures] = {}
    for side in sides if number % 2 == 0 else reversed(sides):
        answer = run_side(result.case, side, core if side.is_pinned else None, quick=quick)
        if isinstance(answer, str):
            result.failures[side.name] = answer
        else:
            measured[side.name] = answer
    result.rounds.append(measured)


def run_side(case: Case, side: Side, core: int | None, *, quick: bool) -> Figures | str:
    """Figures of one side, measured in a process of its own; a text says what went wrong."""
    command = [sys.executable, sys.argv[0], "--case", case.name, "--side", side.name]
    command += ["--core", str(core)] if core is not None else []
    command += ["--quick"] if quick else []
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SIDE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {SIDE_TIMEOUT_S:.0f} s"
    try:
        figures = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}, no output"])[-1]
    return {name: float(value) for name, value in figures.items()}


# ---- what is printed ------------------------------------------------------------------------------------------------


def machine(packages: Sequence[str]) -> dict[str, str]:
    """Machine, versions, command and date: what a figure is worth nothing without."""
    versions = [f"{platform.python_implementation()} {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": shlex.join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": f"{processor()}, {len(cores()) or os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": ", ".join(versions),
        "load at the start": load(),
    }


def processor() -> str:
    """The processor's name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> str:
    """Load average over one minute: what else went on."""
    return f"{os.getloadavg()[0]:.2f}"


def print_heading(heading: Mapping[str, str]) -> None:
    """One line per fact."""
    width = max(map(len, heading))
    for name, text in heading.items():
        print(f"{name:<{width}}  {text}")


def print_table(result: Result) -> None:
    """One line per figure and side: the time itself, then the speed in terms of each base."""
    case = result.case
    print(f"\n{case.name}: {case.title}")
    width = max(len(side.name) for side in case.sides)
    headings = "".join(f"  {'speed, ' + base + ' = 1':<24}" for base in case.bases)
    for figure, title in case.figures.items():
        print(f"  {title:<{width + 12}}{headings}".rstrip())
        for side in case.sides:
            print(f"    {side.name:<{width}}  {line(result, side, figure)}".rstrip())
    for text in verdicts(result):
        print(f"  {text}")


def line(result: Result, side: Side, figure: str) -> str:
    """The time of one side and its ratios, or why there is none."""
    if not side.is_installed:
        return "not installed"
    samples = result.samples(side.name, figure)
    if not samples:
        return f"failed: {result.failures.get(side.name, 'nothing measured')}"
    parts = [f"{duration(statistics.median(samples)):>9}"]
    for base in result.case.bases:
        ratio = result.ratio(side.name, base, figure)
        parts.append(f"{'1' if side.name == base else ratio or '-'!s:<24}")
    words = result.case.words
    if words is not None:
        parts.append("; ".join(sorted({words(sides[side.name]) for sides in result.rounds if side.name in sides})))
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Three digits with the unit that fits."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.3g} s"


def verdicts(result: Result) -> Iterator[str]:
    """One line per target: what was measured, what was wanted."""
    for target in result.case.targets:
        measured, reached = measured_target(result, target)
        if measured is None:
            yield f"target: {target.figure} of {target.side} or its base was not measured"
            continue
        of = f"of {target.base}" if target.base else "at most"
        wanted = f"must {amount(target, target.must)}, aim {amount(target, target.aim)}"
        yield f"target: {target.figure} {amount(target, measured)} {of} ({wanted}): {reached}"


def measured_target(result: Result, target: Target) -> tuple[float | None, str]:
    """The figure that a target is about, and which of its two marks it reached."""
    if target.base is None:
        samples = result.samples(target.side, target.figure)
        measured = statistics.median(samples) if samples else None
        sign = -1.0
    else:
        ratio = result.ratio(target.side, target.base, target.figure)
        measured = ratio.median if ratio else None
        sign = 1.0
    if measured is None:
        return None, "not measured"
    if measured * sign >= target.aim * sign:
        return measured, "aim reached"
    return measured, "must reached" if measured * sign >= target.must * sign else "MISSED"


def amount(target: Target, value: float) -> str:
    """A ratio, or seconds for a target without base."""
    return f"{value:.2f}" if target.base else duration(value)


def as_json(result: Result) -> dict[str, object]:
    """The same as the table, and every sample."""
    case = result.case
    sides: dict[str, object] = {}
    for side in case.sides:
        if not side.is_installed:
            sides[side.name] = "not installed"
            continue
        ratios: dict[str, dict[str, list[float]]] = {}
        for figure in case.figures:
            found = {base: result.ratio(side.name, base, figure) for base in case.bases}
            ratios[figure] = {base: [r.median, r.low, r.high] for base, r in found.items() if r}
        sides[side.name] = {
            "median_s": {
                figure: statistics.median(samples)
                for figure in case.figures
                if (samples := result.samples(side.name, figure))
            },
            "speed_median_min_max": ratios,
            "rounds": [sides_of_round.get(side.name) for sides_of_round in result.rounds],
            "failure": result.failures.get(side.name),
        }
    return {"name": case.name, "title": case.title, "sides": sides, "targets": list(verdicts(result))}
