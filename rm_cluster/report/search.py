"""What a search shows: the summary on the terminal, and its page."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rm_cluster.report import search_figures as figures
from rm_cluster.report.heat_maps import choice_heat_map
from rm_cluster.report.page import Page, Section, write_page
from rm_cluster.report.table import Table
from rm_cluster.report.wording import interval
from rm_cluster.search_result import SearchResult
from rm_cluster.store import Folder

_TOLD = {
    "plain_best_of_n": "plain Best-of-N",
    "best": "best of the search",
    "exact_optimum": "exact optimum",
}
_JUDGED = {
    "gold [gold]": "{what} [95 % interval]",
    "gain [gain]": "gain [95 % interval]",
    "win_rate [win_rate]": "win rate [95 % interval]",
}
_HACKING = {
    "model": "reward model",
    "peak [peak]": "best n [95 % interval]",
    "turned_fraction": "draws that turn",
    "gold [gold]": "{what} there",
    "drop [drop]": "drop to the last n",
    "last_n": "last n",
    "spearman [spearman]": "Spearman with {what}, per pool",
    "n_spearman": "pools",
    "n": "n",
}


def terminal_summary(result: SearchResult) -> str:
    """What the search found beside plain Best-of-N, then where each reward model is hacked."""
    what = _what(result)
    found = _found(result)
    lines = found[["", "choice"]].copy()
    lines["dev value"] = _intervals(found, "value")
    for name, title in (("gold", f"test {what}"), ("gain", "gain"), ("win_rate", "win rate")):
        lines[title] = _intervals(found, name)
    hacked = _named(result.hacking)
    table = hacked[["model"]].rename(columns={"model": "reward model"})
    if "peak" in hacked:
        table["best n"] = [
            f"{a} [{b}, {c}]"
            for a, b, c in zip(hacked["peak"], hacked["peak_low"], hacked["peak_high"], strict=True)
        ]
        table[f"{what} there"] = _intervals(hacked, "gold")
        table["drop to the last n"] = _intervals(hacked, "drop")
    table["Spearman"] = _intervals(hacked, "spearman")
    run = result.run
    counts = (
        f"{run['n_prompts']} prompts ({run['n_dev']} choose, {run['n_test']} judge), "
        f"{run['n_trials']} trials ({run['n_trials_from_storage']} of an earlier run), "
        f"{run['seconds_of_trials']:.1f} s [95 % intervals over prompts]"
    )
    blocks = [
        _stamp(result),
        counts,
        lines.to_string(index=False),
        _regret(result),
        f"Plain best-of-n on the test prompts, by {what}:",
        table.to_string(index=False),
        f"Saved in {result.config.output_dir}",
    ]
    return "\n".join(filter(None, blocks))


def write_report(result: SearchResult, folder: Folder) -> None:
    """Write `report.html` and `figures/*.svg`."""
    write_page(search_page(result), folder)


def search_page(result: SearchResult) -> Page:
    """Compose what a search has to show."""
    what = _what(result)
    curves, betas = _named(result.curves), _named(result.beta_curves)
    choices = _named(result.choices)
    curves = curves.assign(name=[_rule_name(*row) for row in zip(
        curves["rule"], curves["beta"], strict=True)])  # fmt: skip
    sections = [
        _found_section(result, what),
        _hacking_section(result, curves, what),
        Section("Proxy reward", figure=figures.proxy_curves(curves)),
    ]
    if len(betas):
        figure = figures.beta_curves(betas, choices, what)
        sections.append(Section("How much regularization", figure=figure))
    sections += [
        _choices_section(choices, what),
        *_cost_sections(result, what),
        *_importance_section(result),
        _trials_section(result, what),
    ]
    return Page(
        "Best-of-N under regularization",
        sections,
        result.config.to_yaml(),
        result.run,
        _stamp(result),
    )


def _found_section(result: SearchResult, what: str) -> Section:
    columns = {"": "", "choice": "choice", "value [value]": "value on development prompts"}
    columns |= {key: title.format(what=what) for key, title in _JUDGED.items()} | {"n_test": "n"}
    text = (
        f"Beta, rule, n and reward model were chosen by {_criterion(result)} on "
        f"{result.run['n_dev']} development prompts; {what}, and gain and win rate over plain "
        f"Best-of-N (prompt by prompt, equal ones half), are those of {result.run['n_test']} other "
        f"prompts. {_regret(result)}"
    )
    table = Table.of(_found(result), columns, "best.json")
    return Section("What the search found", text, table=table)


def _hacking_section(result: SearchResult, curves: pd.DataFrame, what: str) -> Section:
    hacked = _named(result.hacking)
    columns = {key: title.format(what=what) for key, title in _HACKING.items()}
    known = {key: title for key, title in columns.items() if key.split(" [")[0] in hacked}
    text = (
        "best n: where the expectation is largest; draws that turn: the share of bootstrap draws "
        "over prompts in which it falls before the last n, evidence of hacking only near 1. The "
        "regularized lines have the beta that the development prompts chose for all candidates."
    )
    table = Table.of(hacked, known, "hacking.csv")
    return Section("Where reward models are hacked", text, figures.n_curves(curves, what), table)


def _choices_section(choices: pd.DataFrame, what: str) -> Section:
    columns = {"model": "reward model", "rule": "rule", "n": "candidates"}
    columns |= {"beta [beta]": "beta chosen [95 % interval]"}
    columns |= {key: title.format(what=what) for key, title in _JUDGED.items()}
    columns |= {"changed": "picks changed", "n_test": "n"}
    text = (
        "Each rule with the beta that the development prompts chose (all beta >= 0 for rules that "
        "are linear in beta, a grid for the others), on the test prompts. Gain and win rate are "
        "over plain Best-of-N by the same reward model."
    )
    figure = choice_heat_map(choices, f"{what} of the pick on the test prompts")
    return Section("Reward model by rule", text, figure, Table.of(choices, columns, "choices.csv"))


def _cost_sections(result: SearchResult, what: str) -> list[Section]:
    whole = _complete(result)
    sections = []
    for cost in ("tokens", "kl"):
        if whole[cost].isna().any() or not len(whole):
            continue
        members = result.best.get("pareto_front") if cost in result.config.objectives else None
        figure = figures.front(whole, cost, members or _front(whole, cost), what)
        sections.append(Section(f"Value against {cost}", figure=figure))
    return sections


def _importance_section(result: SearchResult) -> list[Section]:
    if not len(result.importances):
        return []
    columns = {"parameter": "parameter", "importance [ci]": "importance [95 % interval]", "n": "n"}
    table = Table.of(result.importances, columns, "importances.csv")
    return [Section("Importances", "", figures.importance(result.importances), table)]


def _trials_section(result: SearchResult, what: str) -> Section:
    columns = {"trial": "trial", "state": "state", "name": "choice", "value": "value (dev)"}
    columns |= {"num_prompts": "n (dev)", "tokens": "tokens", "kl": "-log pi"}
    columns |= {key: title.format(what=what) for key, title in _JUDGED.items()} | {"n_test": "n"}
    trials = result.trials.assign(name=_trial_names(result.trials))
    trials = trials.sort_values("value", ascending=False, kind="stable")
    return Section("All trials", table=Table.of(trials, columns, "trials.csv"))


def _found(result: SearchResult) -> pd.DataFrame:
    """Best, plain and exact, a row each."""
    lines = []
    for key, title in _TOLD.items():
        told = result.best[key]
        dev = {"value": told["dev"]["value"], "value_low": told["dev"]["ci_low"]}
        line: dict[str, Any] = {"": title, "choice": told["label"], **dev}
        lines.append({**line, "value_high": told["dev"]["ci_high"], **told["test"]})
    return pd.DataFrame(lines).astype({"n_test": int})


def _regret(result: SearchResult) -> str:
    dev, test = result.best["regret"], result.best["regret_on_test"]
    return (
        f"Regret against the exact optimum of {result.best['exact_optimum']['num_compared']} "
        f"deterministic combinations over all beta >= 0: "
        f"{interval(dev['value'], dev['ci_low'], dev['ci_high'])} on the development prompts, "
        f"{interval(test['value'], test['ci_low'], test['ci_high'])} on the test prompts."
    )


def _complete(result: SearchResult) -> pd.DataFrame:
    whole = result.trials[result.trials["state"] == "complete"]
    return whole.assign(name=_trial_names(whole))


def _front(trials: pd.DataFrame, cost: str) -> list[int]:
    """The trials that none beats: as cheap, and better."""
    ordered = trials.sort_values([cost, "value"], ascending=[True, False], kind="stable")
    best = ordered["value"].cummax().shift(fill_value=float("-inf"))
    return [int(trial) for trial in ordered["trial"][ordered["value"] > best]]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Add `model`: the reward model, or the ensemble and its rule."""
    if not len(table):
        return table
    names = table["reward_model"].fillna("-")
    return table.assign(model=names.where(table["ensemble"].isna(), "all: " + table["ensemble"]))


def _trial_names(trials: pd.DataFrame) -> list[str]:
    names = []
    for line in _named(trials).to_dict("records"):
        parts = [line["rule"], line["model"], f"n = {line['n']:.0f}"]
        parts += [f"beta = {line['beta']:.3g}"] if pd.notna(line["beta"]) else []
        parts += ["z-scores"] if line["normalize"] == "pool" else []
        names.append(", ".join(part for part in parts if part != "-"))
    return names


def _rule_name(rule: str, beta: float) -> str:
    return rule if pd.isna(beta) else f"{rule}, beta = {beta:.3g}"


def _intervals(table: pd.DataFrame, name: str) -> list[str]:
    ends = table[[name, f"{name}_low", f"{name}_high"]]
    return [interval(*row) for row in ends.itertuples(index=False)]


def _what(result: SearchResult) -> str:
    judged_by = str(result.best["judged_by"])
    return "gold" if judged_by == "labels" else judged_by


def _criterion(result: SearchResult) -> str:
    criterion = str(result.best["criterion"])
    return "gold values" if criterion == "gold" else f"{criterion}, without gold"


def _stamp(result: SearchResult) -> str:
    limit = result.config.limit
    return f"PARTIAL: only the first {limit} prompts" if result.run["partial"] else ""
