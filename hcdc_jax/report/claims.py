"""What a report says in sentences, and where it is weak: from `report.json`, for the terminal and HTML alike."""

from __future__ import annotations

from collections.abc import Sequence

from hcdc_jax.metrics import LEAST_INSIDE
from hcdc_jax.report.tables import BEATS, Report, best_first, count, has_truth, knows_inside, lead
from hcdc_jax.training.candidates import WHY_ALL_FAIL

LOW_AGREEMENT = 0.8
"""Below it more than a fifth of the variance of one training's ranks is noise, which is worth a warning."""


def reading(report: Report) -> list[str]:
    """What the verdict says and where it is weak, in sentences that claim nothing beyond its numbers."""
    failures = _failures(report)
    if not has_truth(report):
        return failures
    if report["truth"]["failed"] == report["space"]["candidates"]:
        return [f"Every full training of the truth failed: {WHY_ALL_FAIL}.", *failures]
    claims = [*failures, _agreement(report), _reach_of_losses(report), _ranking(report), _regret(report)]
    return [claim for claim in claims if claim] + _caveats(report)


def marks(report: Report) -> str:
    """What the marks of the verdict mean."""
    main = lead(report)
    rivalry = f" {BEATS}: better than {main}." if main and has_truth(report) else ""
    return f"Bold: best of its column.{rivalry}"


def legend(report: Report) -> str:
    """What the columns and marks of the verdict mean."""
    inside = (
        "Spearman inside: correlation of losses among that best tenth. "
        if knows_inside(report)
        else f"The best tenth holds fewer than {LEAST_INSIDE} candidates, too few for a correlation inside it. "
    )
    quality = (
        "Mean over seeds ± standard deviation; the interval is a 95 % bootstrap interval of the mean Spearman "
        "correlation of losses, over candidates and seeds. Overlap: share of the truth's best tenth by loss that the "
        f"method has in its best tenth. {inside}Regret: points of test accuracy below the best candidate, if the 1, 3 "
        "or 5 candidates of lowest loss by the method are trained on the full data and the one of lowest real "
        "validation loss is kept; means. "
    )
    cost = (
        "Seconds: full trainings, condensing and ranking, without compilation. Pays from: from how many candidates on "
        "the method, with one final full training where it has none yet, is cheaper than training all of them on the "
        "full data, and than successive halving of as many on the full data. "
    )
    return (quality if has_truth(report) else "") + cost + marks(report)


def _failures(report: Report) -> list[str]:
    """Of which methods every candidate failed, and why; those that fail for one reason share a sentence."""
    by_reason: dict[str, list[str]] = {}
    for method, entry in report["methods"].items():
        for seed, why in entry.get("failed_seeds", {}).items():
            by_reason.setdefault(why or f"every candidate failed: {WHY_ALL_FAIL}", []).append(f"{method} (seed {seed})")
    return [f"No ranking by {', '.join(methods)}: {why}." for why, methods in by_reason.items()]


def _agreement(report: Report) -> str:
    truth = report["truth"]
    seeds, agreement, bound = truth["seeds"], truth["seed_agreement_spearman"], truth["bound_spearman"]
    if seeds == 1:
        return "The truth has one seed, so how far it agrees with itself is not known."
    if agreement is None or bound is None:
        return "How far the seeds of the truth agree is not known: too few candidates have different losses."
    text = f"Two full trainings of every candidate, with different seeds, agree at Spearman {agreement:.3f}"
    limit = f"{bound:.3f}"
    if limit != "1.000":
        text += f"; no ranking can be expected to agree with the mean of {seeds} at more than {limit}"
    text += "."
    if agreement < LOW_AGREEMENT:
        noise = [f"{100 * share:.0f} %" for share in (1 - max(agreement, 0.0), 1 - bound**2)]
        text += (
            f" About {noise[0]} of the variance of one training's ranks is noise, {noise[1]} of that of the mean: "
            "small differences between methods say little. More seeds of the truth, longer trainings or candidates "
            "that differ more help."
        )
    return text


def _ranking(report: Report) -> str:
    main, mine, rivals = _against_rivals(report, "spearman_loss", 3)
    if mine is None or not rivals:
        return ""
    first = max(rivals, key=lambda method: rivals[method])
    better = [f"{method} {rho:.3f}" for method, rho in rivals.items() if rho > mine]
    if better:
        text = f"Rivals that rank better than {main} ({mine:.3f}): {', '.join(better)}."
    elif rivals[first] == mine:
        text = f"{main} and {first} share the highest Spearman correlation of losses among rivals, {mine:.3f}."
    else:
        text = f"No rival ranks better than {main}, Spearman {mine:.3f}; next is {first} with {rivals[first]:.3f}."
    if _overlap(report["methods"][main]["interval"], report["methods"][first]["interval"]):
        text += f" The intervals of {main} and {first} overlap: this run does not settle which of the two ranks better."
    return text


def _regret(report: Report) -> str:
    main, mine, rivals = _against_rivals(report, "regret_test_accuracy", 2)
    if mine is None or not rivals:
        return ""
    better = [f"{method} {points:.2f}" for method, points in rivals.items() if points < mine]
    if better:
        return f"Rivals with lower regret than {main} ({mine:.2f} points): {', '.join(better)}."
    as_low = [method for method, points in rivals.items() if points == mine]
    if as_low:
        return (
            f"No rival has lower regret than {main} ({mine:.2f} points of test accuracy); as low: {', '.join(as_low)}."
        )
    return f"No rival has lower regret than {main} ({mine:.2f} points of test accuracy)."


def _reach_of_losses(report: Report) -> str:
    truth = report["truth"]
    rho, lost = truth["spearman_of_loss_with_accuracy"], truth["regret_of_loss"]
    if rho is None or lost is None:
        return ""
    return (
        f"Losses are not accuracies: the truth's own losses rank its accuracies at {rho:.3f}, and its candidate of the "
        f"lowest loss is {lost:.2f} points of test accuracy below the best."
    )


def _caveats(report: Report) -> list[str]:
    entries = report["methods"].items()
    seeds = {seed for _, entry in entries for seed in entry["seeds"]}
    ran = {method: len(entry["seeds"]) for method, entry in entries}
    out = [f"Only {n} of {len(seeds)} seeds: {method}." for method, n in ran.items() if n < len(seeds)]
    flaws = report["space"].get("dcbench_compat")
    if flaws:
        out.append(f"Networks on condensed data are trained with flaws of DC-BENCH's harness: {', '.join(flaws)}.")
    if len(seeds) == 1:
        out.append("One seed: the intervals know nothing of the spread between seeds.")
    if report["truth"]["failed"]:
        out.append(f"Candidates left out because a full training failed: {count(report['truth']['failed'])}.")
    for method, entry in entries:
        if entry["failed"] > len(entry.get("failed_seeds", ())) * report["space"]["candidates"]:
            out.append(f"Failed scores left out of the row of {method}: {count(entry['failed'])}.")
        if entry["matched_among_ranked"]:
            shared = count(entry["matched_among_ranked"])
            out.append(f"Ranked candidates that {method} was also matched on, so not unseen: {shared}.")
    return out


def _against_rivals(report: Report, key: str, digits: int) -> tuple[str, float | None, dict[str, float]]:
    """hcdc, its rounded mean and those of the rivals; variants of hcdc are not rivals.

    Methods whose ranks are undefined are left out: a mean over all candidates, which they tie, is no merit.
    """
    main = lead(report) or ""
    ranked = [method for method in best_first(report) if report["methods"][method]["spearman_loss"]["mean"] is not None]
    means = {method: report["methods"][method][key]["mean"] for method in ranked}
    rounded = {method: round(mean, digits) for method, mean in means.items() if mean is not None}
    return main, rounded.get(main), {m: mean for m, mean in rounded.items() if not m.startswith("hcdc")}


def _overlap(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    if a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return False
    return a[0] <= b[1] and b[0] <= a[1]
