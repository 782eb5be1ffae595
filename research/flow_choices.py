"""Settings of flow models: a few at a time, on held-out clips that do not judge.

    python -m research.flow_choices [--clips 6]

Measures the runs that are missing in rows/flow_choices.jsonl, and fills the tables of pages/flow_choices.md. Delete the
rows after a change of the models or the nodes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from research import toy_world
from research.flow_chain import FORMS, FlowChain, Method, measure_methods
from research.flow_models import CHEAP_WAYS, means_table, results_table
from research.page_tables import describe_run
from research.rows_and_jobs import run_study

BASE = Method(steadiness=0.5)
"""The method from which the groups of `CHOICES` differ, a setting or two each."""
CHOICES = {
    "strength and steadiness": tuple(
        replace(BASE, strength=strength, steadiness=steadiness)
        for strength, steadiness in product((0.3, 0.5, 0.7, 0.85, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0))
    ),
    "form": tuple(
        replace(BASE, form=form, steadiness=steadiness) for form, steadiness in product(FORMS, (0.5, 0.75, 1.0))
    ),
    "branch": tuple(
        replace(BASE, branch=branch, ratio=ratio, steadiness=steadiness, steadied=steadied)
        for branch, ratio, (steadiness, steadied) in product(
            ("Wan slices", "Qwen slices", "single frames"), (0.5, 1.0), ((0.0, "branch"), (0.5, "branch"), (0.5, "mix"))
        )
        if ratio < 1 or steadied == "branch"
    ),
    "steps": tuple(replace(BASE, up=up, down=down) for up, down in product((2, 4, 8, 12, 25), repeat=2)),
    "solver": tuple(replace(BASE, solver=solver) for solver in ("ddim", "uni_inv", "fireflow", "fixed_point")),
    "sampler": tuple(
        replace(BASE, sampler=sampler) for sampler in ("euler", "ddim", "dpmpp_2m", "res_multistep", "uni_pc", "heun")
    ),
    "shift": tuple(replace(BASE, shift=shift) for shift in (1.0, 3.0, 5.0, 8.0)),
    "cfg": tuple(replace(BASE, cfg=cfg) for cfg in (1.0, 2.0, 3.5, 6.0)),
    "few steps": tuple(
        replace(BASE, model=model, up=up, down=4) for model, up in product(("wan", "distilled"), (4, 8))
    ),
    "experts": tuple(
        replace(BASE, model=model, strength=strength)
        for model, strength in product(("wan", "low", "experts"), (0.5, 0.7, 0.85, 1.0))
    ),
    "other ways": CHEAP_WAYS,
}
"""Settings that are compared, on frames whose markings are new for each latent."""


def make_jobs(clips: int) -> list[dict]:
    """The first held-out clips of each kind."""
    return [{"clip": clip, "kind": kind, "seed": 0} for clip, kind in product(range(clips), toy_world.CLIP_KINDS)]


def measure(chain: FlowChain, job: dict) -> dict:
    """A row: the figures of all choices on a clip, each once."""
    return measure_methods(chain, job, dict.fromkeys(method for group in CHOICES.values() for method in group))


def render_tables(rows: list[dict]) -> dict[str, str]:
    """The generated blocks of the page."""
    table = results_table(rows)
    clips = len({row["clip"] for row in rows})
    tables = {name: means_table(table, group) for name, group in CHOICES.items()}
    return {"run": describe_run(rows, f"{clips} clips of each kind."), **tables}


if __name__ == "__main__":
    run_study("flow_choices", make_jobs, FlowChain, measure, render_tables, clips=6)
