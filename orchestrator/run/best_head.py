"""Best head of the rung ``head``, handed up: trials with ``start: best_head`` begin with it."""

from __future__ import annotations

import math
from dataclasses import replace

from orchestrator.errors import NoFeasibleTrial
from orchestrator.records.folder import RunFolder
from orchestrator.records.types import BestHead, TrialRecord
from orchestrator.results.judge import Judge
from orchestrator.results.rungs import choose_across_rungs
from orchestrator.results.shipped import shipped_file
from orchestrator.run.prepare import Prepared
from orchestrator.spec.schema import SweepSpec
from selmix.baselines.task import head_of
from selmix.run.start_model import Base
from selmix.statistics.selection import SelectionRule
from selmix.weights import load_weights, save_weights, state_digest


def hand_up(spec: SweepSpec, folder: RunFolder, prepared: Prepared) -> Prepared:
    """Start models with the best head of each objective, once the rung ``head`` is climbed.

    The best is the row with the highest cross-fitted score, or score on select where one lacks it. A row that was
    fitted on select is none: select, which judges every round of a run, would have made its start. Where no head meets
    the bounds it is the one that misses them by least. What is chosen is kept, and stays chosen at a resume.

    Args:
        spec: specification of the sweep.
        folder: of the sweep.
        prepared: what all runs share.
    Raises:
        NoFeasibleTrial: no row of the rung has finished.
    """
    bases = {}
    for objective, base in prepared.bases.items():
        if not folder.store.current(folder.best_head(objective)).is_file():
            _choose(spec, folder, objective, base, prepared)
        found = folder.store.current(folder.best_head(objective))
        bases[objective] = replace(base, best_head=load_weights(found))
    return replace(prepared, bases=bases)


def _choose(spec: SweepSpec, folder: RunFolder, objective: str, base: Base, prepared: Prepared) -> None:
    judge = Judge(folder, spec, objective)
    able = [each for each in judge.candidates(None, ["head"]) if not fitted_on_select(each.records[0])]
    if able:
        _, (choice,) = choose_across_rungs(able, 0.0, bool(judge.bounds))
        (records,) = (each.records for each in able if each.row == choice.best)
    else:
        records = [_nearest(judge, prepared.rules[objective])]
    shipped = shipped_file(records, judge.predictions, judge.rule, judge.context)
    record = shipped.record
    state = load_weights(folder.store.current(folder.weights_path(record.trial_id, shipped.file)))
    head = head_of(state, base, prepared.data)
    seed = record.seeds[shipped.file] if record.seeds else record.seed
    # The weights are written last: a record without them is made again.
    folder.save(
        folder.best_head_record(objective), BestHead(record.name, seed, record.config, state_digest(head))
    )
    save_weights(folder.best_head(objective), head)
    folder.store.publish(folder.best_head(objective))


def _nearest(judge: Judge, rule: SelectionRule) -> TrialRecord:
    """Where no head meets the bounds of the search, the one that misses them by least: fine-tuning may meet them."""

    def rank(record: TrialRecord) -> tuple[float, float]:
        values = {key: figure.value for key, figure in record.select.items()}
        return -rule.violation(values), record.score if record.score is not None else -math.inf

    heads = [
        record
        for record in judge.folder.load_baselines(judge.objective)
        if record.rung == "head" and record.state == "FINISHED" and not fitted_on_select(record)
        if judge.why_not_shipped(record) is None
    ]
    if not heads:
        raise NoFeasibleTrial(
            f"{judge.objective}: start best_head needs a row of the rung head that was not fitted on select, got none "
            "that finished; see their logs, and launch the sweep under a new name with start: balanced_head"
        )
    return max(heads, key=rank)


def fitted_on_select(record: TrialRecord) -> bool:
    """True for a row whose model has seen the labels of select, and is judged there out of fold."""
    return record.note.get("judged") == "out of fold"


def best_head_digest(folder: RunFolder, objective: str) -> str:
    """Digest of the best head, for the identity of the trials that start from it."""
    found = folder.load_best_head(objective)
    if found is None:
        raise ValueError(f"{objective}: the best head must have been chosen before a trial starts from it")
    return found.digest
