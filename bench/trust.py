"""What a reader should know before believing a result; printed at the end of a run and in the report."""

from __future__ import annotations

from bench.native import reference_figures
from bench.results import Records
from bench.stats import CONFIDENCE, DRIFT_FACTOR, MIN_PROCESSES, RESAMPLES, drift_marks


def drift_sentence(records: Records) -> str:
    """Say in how many of a suite's rounds the native reference moved too far."""
    marks = drift_marks([reference_figures(reference.figures) for reference in records.references])
    return (
        f"{records.suite}: in {sum(marks)} of {len(marks)} rounds the native reference was more than a factor of "
        f"{DRIFT_FACTOR} away from its median."
    )


def caveats(records: Records) -> list[str]:
    """Return the sentences that hold for a suite's records, the specific ones first."""
    machine = records.session.get("machine", {})
    cpus = records.session.get("cpus")
    said = [
        f"One machine ({machine.get('cpu_model_name', 'CPU unknown')}, {cpus} CPUs usable, {machine.get('platform', '?')}); "
        "another one may rank the modes differently.",
        f"Intervals are percentile bootstraps over whole processes ({RESAMPLES:,} resamples, {100 * CONFIDENCE:.0f} %), "
        f"given from {MIN_PROCESSES} processes per mode up; with so few they are somewhat too narrow.",
        "Modes were visited in turns (A B B A), each visit a new process, so a slow drift of the machine hits them alike; a "
        "fast one is only visible in the native reference. No round was left out.",
        "Rates are closed loop: clients wait for their reply, so latency under overload is not shown.",
    ]
    if cpus is not None and int(cpus) < 3:
        said.insert(1, (
            f"With {cpus} CPUs for the core and all workers, two workers seldom run at the same moment, so "
            "lock contention hardly shows in 'listener'; the suite 'calls' measures it without a core."
        ))  # fmt: skip
    if records.session.get("quick"):
        said.append("This is the quick plan: it shows the direction at one point per question, not the whole picture.")
    return said
