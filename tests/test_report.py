"""Reports of fabricated run folders: numbers against scipy, honest texts, one safe page."""

import base64
import copy
import csv
import io
import json
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from hcdc_jax.errors import UserError
from hcdc_jax.report import answer, assemble, claims, figures, searches, tables
from hcdc_jax.report.assemble import summarise
from hcdc_jax.report.condensed import adjacency
from hcdc_jax.report.results import read
from hcdc_jax.storage import files
from hcdc_jax.training.candidates import WHY_ALL_FAIL

# Standard deviation of the noise that each method adds to the true losses (which spread by about 0.3).
NOISE = {"random": 0.25, "hcdc": 0.03, "real_val": 0.08, "surrogate": 0.4}
FIGURES = {"rank_scatter", "rank_strips", "matching", "time", "adjacency"}


def make_run(folder, *, noise=NOISE, n=80, seeds=(0, 1), truth_seeds=2, full_seconds=1.3, logs=True, name="demo"):
    """A run folder as the pipeline leaves it, with made-up numbers; returns the true losses [truth_seeds, n]."""
    rng = np.random.default_rng(0)
    results = folder / "results"
    results.mkdir(parents=True)
    hparams = rng.uniform(-1, 1, size=(n, 3)).astype(np.float32)
    loss = 0.6 + 0.3 * rng.normal(size=n)
    truth = loss + 0.01 * rng.normal(size=(truth_seeds, n))
    accuracy = 0.85 - 0.1 * truth + 0.01 * rng.normal(size=(truth_seeds, n))
    if truth_seeds:
        files.write_npz(
            results / "truth.npz",
            {
                "hparams": hparams,
                "loss": truth,
                "accuracy": accuracy,
                "test_accuracy": accuracy - 0.01,
                "status": np.ones((truth_seeds, n), bool),
                "seconds": np.float64(full_seconds * n * truth_seeds),
                "compile_seconds": np.float64(4.0),
            },
        )
    for method, spread in noise.items():
        for seed in seeds:
            scores = loss + spread * rng.normal(size=n)
            learned = method.startswith("hcdc")
            arrays = {
                "hparams": hparams,
                "loss": scores,
                "accuracy": 0.8 - 0.1 * scores + 0.02 * rng.normal(size=n),
                "status": np.ones(n, bool),
                "seconds_condense": np.float64(12.0 if learned else 0.4),
                "seconds_rank": np.float64(0.9),
                "seconds_compile": np.float64(3.0),
                "full_trainings_used": np.int64(8 if learned or method == "surrogate" else 0),
                "stored_scalars": np.int64(70_000),
            }
            if learned:
                arrays["matched_hparams"] = rng.uniform(-1, 1, size=(8, 3))
                if logs:
                    arrays |= trace(loss, rng)
                    log_condensation(folder, method, seed, rng)
                    write_adjacency(results / f"{method}_seed{seed}_adjacency.npz", rng)
            files.write_npz(results / f"{method}_seed{seed}.npz", arrays)
    info = {
        "config_hash": "0123abcd",
        "versions": {"hcdc_jax": "0.1.0", "jax": "0.10.2"},
        "device": "TFRT_CPU_0 (2 cores)",
        "space": {"name": "graph_filter", "candidates": n, "hparam_names": ["order_0", "order_1", "order_2"]},
        "data": {"name": name, "nodes": 1797, "edges": 9000, "features": 64, "classes": 10, "homophily": 0.96},
        "full_training_seconds": full_seconds,
    }
    files.write_json(results / "info.json", info)
    order = ", ".join(f'"{method}"' for method in noise)
    files.write_text(folder / "config.toml", f"methods = [{order}]\nseeds = {list(seeds)}\n\n[training]\nsteps = 200\n")
    return truth


def test_nothing_is_claimed_where_nothing_is_known(tmp_path):
    """Every score of hcdc is NaN, or every true one: then no rival is better or worse."""
    n, seeds = 12, (0, 1)
    make_run(tmp_path / "hcdc", n=n, seeds=seeds, logs=False)
    for path in (tmp_path / "hcdc" / "results").glob("hcdc_seed?.npz"):
        edit_npz(path, loss=np.full(n, np.nan), why=np.array("It grew"))
    sentences = claims.reading(numbers(tmp_path / "hcdc"))
    assert sentences[0] == "No ranking by hcdc (seed 0), hcdc (seed 1): It grew."
    assert not [text for text in sentences if "rival" in text.lower() or "left out of the row of hcdc" in text]
    make_run(tmp_path / "truth", n=n, seeds=seeds, logs=False)
    edit_npz(tmp_path / "truth" / "results" / "truth.npz", status=np.zeros((2, n), bool))
    report = numbers(tmp_path / "truth")
    assert claims.reading(report) == [f"Every full training of the truth failed: {WHY_ALL_FAIL}."]
    assert not [cell for row in tables.verdict(report).rows for cell in row[1:5] if cell.best or cell.beats]
    page = assemble(tmp_path / "truth")
    assert page["truth"]["failed"] == n


def trace(loss, rng):
    """Losses on snapshots of S_val that come to rank better and better."""
    steps = np.arange(0, 301, 50)
    noise = 0.5 * np.exp(-steps[:, None] / 40) + 0.03
    return {"trace_steps": steps, "trace_loss": loss + noise * rng.normal(size=(len(steps), len(loss)))}


def log_condensation(folder, method, seed, rng):
    for step in range(10, 301, 10):
        record = {"stage": "condense", "method": method, "part": "val", "seed": seed, "step": step}
        record["distance"] = float(0.9 * np.exp(-step / 60) + 0.01 * rng.uniform(1, 2))
        files.append_jsonl(folder / "metrics.jsonl", record)


def write_adjacency(path, rng):
    arrays = {}
    for part, size in (("train", 40), ("val", 80)):
        labels = rng.integers(-1, 7, size=size)
        weights = rng.beta(0.3, 4, size=(size, size)) + 0.5 * (labels[:, None] == labels) * rng.beta(1, 2, (size, size))
        arrays |= {part: np.triu(weights, 1) + np.triu(weights, 1).T, f"{part}_labels": labels}
    files.write_npz(path, arrays)


def edit_npz(path, **changes):
    with np.load(path) as archive:
        files.write_npz(path, {**archive, **changes})


def read_report(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


def numbers(folder):
    """The content of `report.json`, without figures and pages."""
    files.write_json(folder / "report.json", summarise(read(folder)))
    return read_report(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    truth = make_run(folder)
    return folder, truth, assemble(folder)


def test_report_json_has_the_documented_shape(finished):
    folder, _, report = finished
    assert read_report(folder) == report
    assert {
        "config_hash",
        "versions",
        "device",
        "space",
        "truth",
        "methods",
        "break_even_candidates",
        "break_even_halving",
    } <= set(report)
    assert list(report["methods"]) == list(NOISE), "methods stand in the order of the config"
    assert report["space"] | {"candidates": 80} == report["space"]
    assert report["truth"]["seeds"] == 2
    summaries = (
        "spearman_loss",
        "spearman_accuracy",
        "kendall_loss",
        "overlap_top_10",
        "spearman_top_10",
        "regret_test_accuracy",
        "regret_test_accuracy_best_3",
        "regret_test_accuracy_best_5",
        "selected_test_accuracy",
    )
    for entry in report["methods"].values():
        assert entry["seeds"] == [0, 1]
        for name in summaries:
            assert set(entry[name]) == {"mean", "std", "values"}
            assert len(entry[name]["values"]) == 2
        assert {"condense", "rank"} <= set(entry["seconds"])
    assert report["methods"]["hcdc"]["full_trainings_used"] == 8
    assert report["methods"]["hcdc"]["stored_scalars"] == 70_000


def test_numbers_agree_with_scipy_and_hand_computation(finished):
    folder, truth, report = finished
    loss, accuracy = truth.mean(axis=0), np.load(folder / "results/truth.npz")["accuracy"].mean(axis=0)
    test_accuracy = accuracy - 0.01
    agreement = scipy.stats.spearmanr(*truth).statistic
    assert report["truth"]["seed_agreement_spearman"] == pytest.approx(agreement)
    assert report["truth"]["bound_spearman"] == pytest.approx(np.sqrt(2 * agreement / (1 + agreement)))
    reach = scipy.stats.spearmanr(-loss, accuracy).statistic
    assert report["truth"]["spearman_of_loss_with_accuracy"] == pytest.approx(reach)
    lost = 100 * (test_accuracy.max() - test_accuracy[loss.argmin()])
    assert report["truth"]["regret_of_loss"] == pytest.approx(lost)
    for method, entry in report["methods"].items():
        for i, seed in enumerate((0, 1)):
            proxy = np.load(folder / f"results/{method}_seed{seed}.npz")
            rho = scipy.stats.spearmanr(loss, proxy["loss"]).statistic
            assert entry["spearman_loss"]["values"][i] == pytest.approx(rho)
            rho = scipy.stats.spearmanr(accuracy, proxy["accuracy"]).statistic
            assert entry["spearman_accuracy"]["values"][i] == pytest.approx(rho)
            chosen = test_accuracy[np.argmin(proxy["loss"])]
            assert entry["selected_test_accuracy"]["values"][i] == pytest.approx(chosen)
            assert entry["regret_test_accuracy"]["values"][i] == pytest.approx(100 * (test_accuracy.max() - chosen))
            for k in (3, 5):
                few = np.argsort(proxy["loss"])[:k]
                kept = test_accuracy[few[np.argmin(loss[few])]]
                lost = entry[f"regret_test_accuracy_best_{k}"]["values"][i]
                assert lost == pytest.approx(100 * (test_accuracy.max() - kept))
            top = np.argsort(loss)[:8]
            found = np.intersect1d(top, np.argsort(proxy["loss"])[:8])
            assert entry["overlap_top_10"]["values"][i] == pytest.approx(len(found) / 8)
            rho = scipy.stats.spearmanr(loss[top], proxy["loss"][top]).statistic
            assert entry["spearman_top_10"]["values"][i] == pytest.approx(rho)
        low, high = entry["interval"]
        assert low < entry["spearman_loss"]["mean"] < high
    small = 0.9 / 80
    expected = np.ceil((8 * 1.3 + 12.0 + 1.3) / (1.3 - small))
    assert report["break_even_candidates"]["hcdc"] == expected


def halving_cost(number, full_seconds):
    """Successive halving by thirds, trainings resumed: 1/81, 1/27, 1/9, 1/3, 1 of a training of 162 steps."""
    levels = max(level for level in range(5) if 3**level <= number)
    shares = [3.0 ** (level - levels) for level in range(levels + 1)]
    kept = [number // 3**level for level in range(levels + 1)]
    return full_seconds * sum(k * (s - b) for k, s, b in zip(kept, shares, [0, *shares], strict=False))


def test_from_how_many_candidates_on_a_method_is_cheaper_than_either_search(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.1, "random": 0.2, "successive_halving": 0.1}, seeds=(0,), n=30)
    for method in ("hcdc", "successive_halving"):
        changed = {"seconds_condense": np.float64(0), "full_trainings_used": np.float64(2 if method == "hcdc" else 3.7)}
        edit_npz(tmp_path / f"results/{method}_seed0.npz", **changed, seconds_rank=np.float64(30 * 0.02))
    files.write_text(tmp_path / "config.toml", "methods = []\n[training]\nsteps = 162\n")
    report = numbers(tmp_path)
    assert report["break_even_candidates"]["successive_halving"] == 3, "of one and two it trains all in full"
    assert report["break_even_halving"]["successive_halving"] is None, "it is no rival of its own"
    ours = [2 * 1.3 + 0.02 * p + 1.3 for p in range(1, 2001)]
    dearer_than_all = [p for p in range(1, 2001) if ours[p - 1] >= 1.3 * p]
    assert report["break_even_candidates"]["hcdc"] == dearer_than_all[-1] + 1
    dearer_than_halving = [p for p in range(1, 2001) if ours[p - 1] >= halving_cost(p, 1.3)]
    assert report["break_even_halving"]["hcdc"] == dearer_than_halving[-1] + 1
    assert report["break_even_halving"]["hcdc"] > report["break_even_candidates"]["hcdc"]
    shown = {row[0].text: [cell.text for cell in row[-2:]] for row in tables.verdict(report).rows}
    assert shown["successive_halving"] == ["3", tables.MISSING]
    assert shown["hcdc"] == [str(report[key]["hcdc"]) for key in tables.RIVAL_SEARCHES]


def test_what_never_pays_and_what_is_not_known_to_pay(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.1, "random": 0.2}, seeds=(0,), n=30)
    edit_npz(tmp_path / "results/hcdc_seed0.npz", seconds_rank=np.float64(30 * 0.5))
    edit_npz(tmp_path / "results/random_seed0.npz", seconds_rank=np.float64(30 * 1.3))
    report = numbers(tmp_path)
    shown = {row[0].text: [cell.text for cell in row[-2:]] for row in tables.verdict(report).rows}
    # Halving of many takes 1.3 * 0.043 s for each, but who counts no further than 10,000 cannot say never.
    assert shown["hcdc"][1] == "> 10,000"
    assert shown["random"] == ["never", "> 10,000"]
    files.write_text(tmp_path / "config.toml", "methods = []\n")
    old = numbers(tmp_path)
    assert old["break_even_candidates"] == report["break_even_candidates"]
    assert [row[-1].text for row in tables.verdict(old).rows] == [tables.MISSING] * 2, "steps are not known"


def test_a_training_inside_a_reverse_pass_is_counted_once(tmp_path):
    """With full trainings of 1.3 s, 12 s of hypergradients that hold 8 of them are 12 s, not 12 s and 8 trainings."""
    make_run(tmp_path, noise={"hcdc": 0.1}, seeds=(0,), n=30)
    twice = numbers(tmp_path)
    edit_npz(tmp_path / "results/hcdc_seed0.npz", full_trainings_timed=np.float64(8))
    once = numbers(tmp_path)
    assert twice["full_training_seconds"] == pytest.approx(1.3)
    for report, spent in ((twice, 12 + 8 * 1.3), (once, 12.0)):
        assert report["methods"]["hcdc"]["full_trainings_used"] == 8
        p = np.arange(1, 200)
        expected = p[spent + 0.03 * p + 1.3 < 1.3 * p][0]
        assert report["break_even_candidates"]["hcdc"] == expected
        assert tables.total_seconds(report, "hcdc") == pytest.approx(spent + 0.9)


def test_a_search_says_how_far_it_looked():
    result = {
        "candidates": 9, "failed": 0, "selected": None, "successive_halving": None,
        "seconds": {"search": 1.0}, "compile_seconds": {"search": 1.0},
        "break_even_candidates": {"all_in_full": 7, "successive_halving": None},
    }  # fmt: skip
    told = searches.reading(result)[-1]
    assert "in full from 7 candidates on" in told
    assert told.endswith("successive halving on the full data for no number of them up to 10,000.")


def test_a_calibrated_search_says_when_condensed_losses_are_of_no_use():
    ranks = {"values": 0.8, "hcdc line": 0.12, "real_val line": None, "hcdc + values": 0.8}
    weights = {"values": 0.5, "hcdc line": 0.03, "real_val line": 0.01, "hcdc + values": 0.46}
    story = {
        "matched": 8, "asked_for": [9, 11], "given_up": [12], "stopped": "all are done", "ranks": ranks,
        "weights": weights, "condensed_losses_foretell": False,
    }  # fmt: skip
    result = {
        "candidates": 9, "failed": 0, "selected": None, "successive_halving": None, "calibration": story,
        "seconds": {"search": 1.0}, "compile_seconds": {"search": 1.0}, "break_even_candidates": None,
    }  # fmt: skip
    assert searches.reading(result)[1:] == [
        "The search began from 8 full trainings and took 2 full trainings more and 1 that it gave up midway: "
        "all are done.",
        "Condensed losses do not predict full trainings here (leave-one-out rank 0.12 at best): the search relied "
        "on the surrogate, Gaussian processes on the full trainings (96 % of the say).",
    ]
    story["condensed_losses_foretell"] = True
    assert len(searches.reading(result)) == 2


def test_ranking_csv_holds_every_candidate_and_method(finished):
    folder, truth, _ = finished
    rows = list(csv.DictReader(io.StringIO((folder / "ranking.csv").read_text())))
    truth_columns = ["truth_loss", "truth_accuracy", "truth_test_accuracy"]
    assert list(rows[0]) == ["candidate", "order_0", "order_1", "order_2", *truth_columns, *NOISE]
    assert len(rows) == 80
    np.testing.assert_allclose([float(row["truth_loss"]) for row in rows], truth.mean(axis=0), rtol=1e-6)
    seeds = [np.load(folder / f"results/hcdc_seed{seed}.npz")["loss"] for seed in (0, 1)]
    np.testing.assert_allclose([float(row["hcdc"]) for row in rows], np.mean(seeds, axis=0), rtol=1e-6)


def test_the_same_folder_gives_the_same_bytes(finished):
    folder, _, report = finished
    names = ["report.json", "report.html", "ranking.csv", *(f"figures/{name}.png" for name in FIGURES)]
    before = {name: (folder / name).read_bytes() for name in names}
    assert assemble(folder) == report
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert {path.name for path in (folder / "figures").iterdir()} == {f"{name}.png" for name in FIGURES}


class Page(HTMLParser):
    """Checks that tags balance and gathers what the page refers to."""

    void = frozenset({"meta", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.references, self.rows, self.text = [], set(), [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"unclosed {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_page_is_self_contained_and_holds_every_figure(finished):
    folder, _, _ = finished
    page = Page((folder / "report.html").read_text())
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in (folder / "report.html").read_text()
    prefix = "data:image/png;base64,"
    embedded = {base64.b64decode(reference.removeprefix(prefix)) for reference in page.references}
    assert all(reference.startswith(prefix) for reference in page.references)
    assert embedded == {(folder / f"figures/{name}.png").read_bytes() for name in FIGURES}
    for text in ("hcdc run config.toml", "seeds = [0, 1]", "TFRT_CPU_0", "0.10.2", "0123abcd"):
        assert text in page.text


def test_page_shows_the_numbers_of_the_report(finished):
    folder, _, report = finished
    page = Page((folder / "report.html").read_text())
    verdict = {row[0]: row for row in page.rows[1:5]}
    assert list(verdict) == ["hcdc", "real_val", "random", "surrogate"], "best first"
    for method, row in verdict.items():
        rho = report["methods"][method]["spearman_loss"]
        assert row[1] == f"{rho['mean']:.3f} ± {rho['std']:.3f}"


def test_page_begins_with_whether_to_believe_it_what_to_take_and_what_to_type(finished):
    folder, _, report = finished
    text = Page((folder / "report.html").read_text()).text
    rho = report["methods"]["hcdc"]["spearman_loss"]["mean"]
    assert f"This ranking can be trusted: hcdc orders 80 candidates as full trainings do at Spearman {rho:.3f}" in text
    assert text.index("can be trusted") < text.index("order_0 = ") < text.index("hcdc search .") < text.index("Verdict")


@pytest.mark.parametrize(
    ("interval", "words"), [((0.95, 0.99), "can be trusted:"), ((0.8, 0.99), "in part:"), ((0.2, 0.99), "Do not trust")]
)
def test_trust_goes_by_the_lower_end_of_the_interval(interval, words, finished):
    report = copy.deepcopy(finished[2])
    report["methods"]["hcdc"]["interval"] = interval
    assert words in answer.trust(report)[0]


def test_who_ranks_as_well_for_fewer_full_trainings_is_named_at_once(finished):
    report = copy.deepcopy(finished[2])
    report["methods"]["real_val"]["spearman_loss"]["mean"] = 0.999
    assert "For fewer full trainings this does as well here: real_val (0.999)." in answer.trust(report)


def test_where_successive_halving_is_cheaper_the_first_lines_say_so(finished):
    report = copy.deepcopy(finished[2])
    report["break_even_halving"]["hcdc"] = None
    assert answer.trust(report)[-1].startswith("A full training takes 1.3 s here, so successive halving")
    report["break_even_halving"]["hcdc"] = 900
    assert answer.trust(report)[-1] == "It is cheaper than successive halving on the full data from 900 candidates on."


def test_settings_are_those_that_the_losses_read(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.1}, truth_seeds=0, logs=False)
    info = json.loads((tmp_path / "results/info.json").read_text())
    files.write_json(tmp_path / "results/info.json", info | {"settings": {"decay": [0.5] * 80}})
    assemble(tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "\ndecay = 0.5\n" in text
    assert "order_0 = " not in text.split("Settings of the run")[0]
    assert "can be trusted is not known" in text


HOSTILE = '<script>alert("&")</script>'


def test_page_escapes_every_text_from_outside(tmp_path):
    make_run(tmp_path, name=HOSTILE, seeds=(0,), noise={"hcdc": 0.1, "random": 0.2}, logs=False)
    info = json.loads((tmp_path / "results/info.json").read_text())
    info |= {"device": HOSTILE, "config_hash": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    info["space"] = {"name": HOSTILE, "hparam_names": [HOSTILE, "b", "c"]}
    files.write_json(tmp_path / "results/info.json", info)
    files.write_text(tmp_path / "config.toml", f"methods = []\nname = '{HOSTILE}'  # {HOSTILE}\n")
    assemble(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 9


def test_a_rival_that_ranks_better_is_plain_to_see(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.2, "real_val": 0.02, "random": 0.5}, seeds=(0,))
    report = assemble(tmp_path)
    rho = {method: f"{entry['spearman_loss']['mean']:.3f}" for method, entry in report["methods"].items()}
    first = tables.verdict(report).rows[0]
    assert [first[0].text, first[1].text] == ["real_val", rho["real_val"]]
    assert first[1].best
    assert first[1].beats
    expected = f"Rivals that rank better than hcdc ({rho['hcdc']}): real_val {rho['real_val']}."
    assert claims.reading(report)[2].startswith(expected)
    page = (tmp_path / "report.html").read_text()
    assert expected in page
    assert f'<td class="beats"><strong>{rho["real_val"]} ▲</strong></td>' in page


def test_overlapping_intervals_are_not_called_a_win(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.1, "real_val": 0.11}, seeds=(0,), n=30)
    assert "does not settle" in claims.reading(assemble(tmp_path))[2]


def test_a_ranking_of_equals_is_no_merit(tmp_path):
    """Every score ties: regret is then a mean over all candidates, and a report over nothing claims nothing."""
    make_run(tmp_path, noise={"hcdc": 0.1, "random": 0.2, "real_val": 0.1}, seeds=(0,), n=30)
    for method in ("hcdc", "real_val"):
        edit_npz(tmp_path / f"results/{method}_seed0.npz", loss=np.ones(30))
    report = numbers(tmp_path)
    assert report["methods"]["hcdc"]["regret_test_accuracy"]["mean"] is not None
    assert not [claim for claim in claims.reading(report) if "rival" in claim.lower()]
    edit_npz(tmp_path / "results/hcdc_seed0.npz", loss=np.arange(30.0))
    assert "real_val" not in " ".join(claims.reading(numbers(tmp_path))), "a rival without ranks is no rival"


def test_rivals_of_equal_regret_are_named(tmp_path):
    make_run(tmp_path, noise={"hcdc": 0.0, "real_val": 0.0}, seeds=(0,))
    assert claims.reading(numbers(tmp_path))[3].endswith("; as low: real_val.")


def told_of_noise(tmp_path, spread, truth_seeds):
    rng = np.random.default_rng(1)
    make_run(tmp_path, noise={"hcdc": 0.1, "random": 0.2}, seeds=(0,), truth_seeds=truth_seeds, n=1000, logs=False)
    scores = np.load(tmp_path / "results/truth.npz")["loss"].mean(axis=0)
    losses = scores + spread * scores.std() * rng.normal(size=(truth_seeds, 1000))
    edit_npz(tmp_path / "results/truth.npz", loss=losses)
    return losses, scores, numbers(tmp_path)


@pytest.mark.parametrize("truth_seeds", [2, 4])
def test_the_agreement_of_seeds_is_no_ceiling(tmp_path, truth_seeds):
    losses, scores, report = told_of_noise(tmp_path, 0.6, truth_seeds)
    agreement = scipy.stats.spearmanr(losses.T).statistic
    agreement = agreement if truth_seeds == 2 else agreement[np.triu_indices(truth_seeds, 1)].mean()
    perfect = scipy.stats.spearmanr(scores, losses.mean(axis=0)).statistic
    truth = report["truth"]
    assert truth["seed_agreement_spearman"] == pytest.approx(agreement)
    assert truth["seed_agreement_spearman"] + 0.1 < perfect == pytest.approx(truth["bound_spearman"], abs=0.02)
    told = claims.reading(report)[0]
    assert told.startswith(
        f"Two full trainings of every candidate, with different seeds, agree at Spearman {agreement:.3f}; no ranking "
        f"can be expected to agree with the mean of {truth_seeds} at more than {truth['bound_spearman']:.3f}."
    )
    assert f"About {100 - 100 * agreement:.0f} % of the variance of one training's ranks is noise" in told
    assert "ceiling" not in " ".join([*claims.reading(report), claims.legend(report)]).lower()


def test_of_a_steady_truth_no_noise_is_told(tmp_path):
    _, _, report = told_of_noise(tmp_path, 0.1, 2)
    assert "noise" not in claims.reading(report)[0]


def test_agreement_may_be_unknown(tmp_path):
    make_run(tmp_path / "one", seeds=(0,), truth_seeds=1, noise={"hcdc": 0.1}, logs=False)
    assert "one seed" in claims.reading(numbers(tmp_path / "one"))[0]
    make_run(tmp_path / "flat", seeds=(0,), noise={"hcdc": 0.1}, logs=False)
    edit_npz(tmp_path / "flat/results/truth.npz", loss=np.ones((2, 80)))
    assert "one seed" not in claims.reading(numbers(tmp_path / "flat"))[0]


def test_each_of_the_three_regrets_is_marked_for_itself(finished):
    _, _, report = finished
    changed = json.loads(json.dumps(report))
    lost = {
        "hcdc": (4.3, 0.7, 0.0),
        "real_val": (2.0, 0.9, 0.0),
        "random": (9.0, 9.0, 9.0),
        "surrogate": (9.0, 9.0, 9.0),
    }
    for method, points in lost.items():
        for k, mean in zip(tables.FINALISTS, points, strict=True):
            changed["methods"][method][tables.regret_key(k)]["mean"] = mean
    table = tables.verdict(changed)
    place = list(table.headers).index("Regret, best 1 / 3 / 5")
    cells = {row[0].text: row[place] for row in table.rows}
    assert cells["hcdc"].marked() == "4.3 / 0.7 / 0.0"
    assert [part.best for part in cells["hcdc"].parts()] == [False, True, True]
    assert cells["real_val"].marked() == "2.0 ▲ / 0.9 / 0.0"
    shown = {line.split(" | ")[0]: line.split(" | ")[place] for line in tables.to_markdown(table).splitlines()}
    assert shown["| hcdc"] == "4.3 / **0.7** / **0.0**"
    rich = tables.to_rich(table).columns[place]._cells[list(cells).index("hcdc")]
    assert [(rich.plain[span.start : span.end], span.style) for span in rich.spans if span.style] == [
        ("0.7", "bold"), ("0.0", "bold"),
    ]  # fmt: skip


def test_too_few_candidates_for_a_correlation_inside_the_top(tmp_path):
    make_run(tmp_path, seeds=(0,), n=60, noise={"hcdc": 0.1, "random": 0.2}, logs=False)
    report = numbers(tmp_path)
    assert report["methods"]["hcdc"]["spearman_top_10"]["mean"] is None
    assert "Spearman inside" not in tables.verdict(report).headers
    assert "too few for a correlation" in claims.legend(report)


def test_without_truth_the_report_shows_the_ranking_alone(tmp_path):
    make_run(tmp_path, truth_seeds=0, seeds=(0,))
    report = assemble(tmp_path)
    assert report["truth"]["seeds"] == 0
    assert report["truth"]["seed_agreement_spearman"] is report["truth"]["bound_spearman"] is None
    assert report["truth"]["spearman_of_loss_with_accuracy"] is report["truth"]["regret_of_loss"] is None
    assert report["methods"]["hcdc"]["spearman_loss"]["mean"] is None
    page = Page((tmp_path / "report.html").read_text())
    assert "not how good they are" in page.text
    assert "Spearman, losses" not in page.text
    assert claims.reading(report) == []
    best = int(np.argmin(np.load(tmp_path / "results/hcdc_seed0.npz")["loss"]))
    ranked = next(rows for header, rows in zip(page.rows, page.rows[1:], strict=False) if header[0] == "Rank by hcdc")
    assert ranked[:2] == ["1", str(best)]
    assert "truth_loss" not in (tmp_path / "ranking.csv").read_text()
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"matching", "time", "adjacency"}


def test_figures_of_an_earlier_report_do_not_linger(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1})
    assemble(tmp_path)
    (tmp_path / "results/truth.npz").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    assemble(tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"time", "adjacency"}


def test_failed_candidates_are_left_out_counted_and_told(tmp_path):
    truth = make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1, "random": 0.2})
    path = tmp_path / "results/hcdc_seed0.npz"
    loss, status = np.load(path)["loss"], np.ones(80, bool)
    loss[:3], status[5] = [np.nan, np.inf, -np.inf], False
    edit_npz(path, loss=loss, status=status)
    report = assemble(tmp_path)
    entry = report["methods"]["hcdc"]
    assert entry["failed"] == 4
    kept = ~np.isin(np.arange(80), [0, 1, 2, 5])
    rho = scipy.stats.spearmanr(truth.mean(axis=0)[kept], loss[kept]).statistic
    assert entry["spearman_loss"]["mean"] == pytest.approx(rho)
    assert "Failed scores left out of the row of hcdc: 4." in claims.reading(report)


def test_a_method_that_failed_everywhere_is_undefined_not_absent(tmp_path):
    make_run(tmp_path, seeds=(0, 1), noise={"hcdc": 0.1, "random": 0.2})
    edit_npz(tmp_path / "results/hcdc_seed1.npz", status=np.zeros(80, bool))
    (tmp_path / "results/random_seed1.npz").unlink()
    report = assemble(tmp_path)
    assert "Only 1 of 2 seeds: random." in claims.reading(report)
    assert report["methods"]["hcdc"]["spearman_loss"]["mean"] is None, "a failed seed does not hide in an average"
    rows = {row[0].text: row[1].text for row in tables.verdict(report).rows}
    assert rows["hcdc"] == tables.MISSING
    assert list(rows) == ["random", "hcdc"]


def test_matched_candidates_among_the_ranked_are_told(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1, "random": 0.2})
    path = tmp_path / "results/hcdc_seed0.npz"
    edit_npz(path, matched_hparams=np.load(path)["hparams"][:5].astype(np.float64))
    report = assemble(tmp_path)
    assert report["methods"]["hcdc"]["matched_among_ranked"] == 5
    assert "Ranked candidates that hcdc was also matched on, so not unseen: 5." in claims.reading(report)


def test_truth_with_a_failed_seed_is_no_truth(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1})
    status = np.ones((2, 80), bool)
    status[1, 7] = False
    edit_npz(tmp_path / "results/truth.npz", status=status)
    report = assemble(tmp_path)
    assert report["truth"]["failed"] == 1
    assert "Candidates left out because a full training failed: 1." in claims.reading(report)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ranking.csv").read_text())))
    assert [i for i, row in enumerate(rows) if row["truth_loss"] == ""] == [7]


def test_logs_of_killed_and_resumed_runs_are_read(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1}, logs=False)
    step = {"stage": "condense", "method": "hcdc", "part": "val", "seed": 0}
    lines = [
        step | {"step": 10, "distance": 1.0},
        step | {"step": 20, "distance": 0.9},
        step | {"step": 20, "distance": 7.0, "part": "train"},
        {"stage": "rank", "method": "hcdc", "seed": 0},
        step | {"step": 20, "distance": 0.8},
    ]
    log = "".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "cond'
    files.write_text(tmp_path / "metrics.jsonl", log)
    [curve] = read(tmp_path).curves["hcdc"]
    assert curve.steps.tolist() == [10, 20]
    assert curve.distance.tolist() == [1.0, 0.8]
    assert curve.held_out.size == 0
    assemble(tmp_path)


def test_held_out_ranks_are_those_of_snapshots_on_unseen_candidates(tmp_path):
    truth = make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1}).mean(axis=0)
    path = tmp_path / "results/hcdc_seed0.npz"
    with np.load(path) as archive:
        hparams, losses = archive["hparams"], archive["trace_loss"]
    losses[3, 5] = np.inf
    edit_npz(path, matched_hparams=hparams[:2], trace_loss=losses)
    [curve] = read(tmp_path).curves["hcdc"]
    assert curve.held_out_steps.tolist() == list(range(0, 301, 50))
    for place, loss in enumerate(losses):
        kept = np.isfinite(loss) & (np.arange(80) >= 2)
        assert curve.held_out[place] == pytest.approx(scipy.stats.spearmanr(truth[kept], loss[kept]).statistic)
    (tmp_path / "results/truth.npz").unlink()
    assert read(tmp_path).curves["hcdc"][0].held_out.size == 0


def test_damaged_files_are_named(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1}, logs=False)
    path = tmp_path / "results/hcdc_seed0.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"hcdc_seed0\.npz is damaged"):
        assemble(tmp_path)
    (tmp_path / "results/info.json").write_text("{")
    with pytest.raises(UserError, match=r"(info\.json|hcdc_seed0\.npz) is damaged"):
        assemble(tmp_path)


def test_mistakes_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"info\.json"):
        assemble(tmp_path)
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1, "random": 0.2}, logs=False)
    hparams = np.load(tmp_path / "results/random_seed0.npz")["hparams"]
    edit_npz(tmp_path / "results/random_seed0.npz", hparams=hparams[::-1])
    with pytest.raises(UserError, match=r"random_seed0\.npz ranks other candidates") as error:
        assemble(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "results/random_seed0.npz").unlink()
    files.write_npz(tmp_path / "results/hcdc_seed0.npz", {"hparams": hparams})
    with pytest.raises(UserError, match="'loss'"):
        assemble(tmp_path)
    (tmp_path / "results/hcdc_seed0.npz").unlink()
    with pytest.raises(UserError, match="no ranking"):
        assemble(tmp_path)


def test_scores_and_costs_may_be_unknown(tmp_path):
    make_run(tmp_path, seeds=(0,), noise={"hcdc": 0.1, "random": 0.2}, logs=False)
    info = json.loads((tmp_path / "results/info.json").read_text())
    del info["full_training_seconds"], info["data"], info["space"]["hparam_names"]
    files.write_json(tmp_path / "results/info.json", info)
    with np.load(tmp_path / "results/random_seed0.npz") as archive:
        bare = {"hparams": archive["hparams"], "loss": archive["loss"]}
    files.write_npz(tmp_path / "results/random_seed0.npz", bare)
    report = assemble(tmp_path)
    assert report["break_even_candidates"] == report["break_even_halving"] == {"hcdc": None, "random": None}
    assert report["methods"]["random"]["spearman_accuracy"]["mean"] is None
    for table, columns in ((tables.costs(report), (1, 2, 3, 4, 5)), (tables.verdict(report), (3, 8, 9, 10, 11))):
        row = next(row for row in table.rows if row[0].text == "random")
        assert all(row[column].text == tables.MISSING for column in columns)
    assert "hparam_0" in (tmp_path / "ranking.csv").read_text()


def test_figures_say_why_they_are_missing_and_leave_the_style_alone():
    before = dict(matplotlib.rcParams)
    proxies = {"hcdc": np.array([[1.0, 2.0, np.nan, 4.0]])}
    for drawing in (
        figures.rank_scatter(None, proxies),
        figures.rank_strips(None, proxies),
        figures.matching({}),
        figures.time_bars({"hcdc": {"ranking": np.nan}}, 10.0, {}),
        figures.time_bars({"hcdc": {"ranking": 1.0}}, None, {}),
        adjacency(None),
    ):
        assert isinstance(drawing, str)
        assert drawing.endswith(".")
    bars = figures.time_bars({"hcdc": {"ranking": 1.0}, "random": {"ranking": np.nan}}, 100.0, {"hcdc": "9 / 12"})
    assert not isinstance(bars, str)
    texts = [text.get_text() for text in bars.axes[0].texts]
    assert texts == ["1.0 s, pays from: 9 / 12", "not recorded", "100 s, 100 times the longest method: bar cut"]
    assert not isinstance(figures.rank_strips(np.array([1.0, np.nan, 3.0, 4.0]), proxies), str)
    assert dict(matplotlib.rcParams) == before


def test_tables_for_terminal_and_markdown(finished):
    _, _, report = finished
    table = tables.verdict(report)
    console = Console(width=200, file=io.StringIO())
    console.print(tables.to_rich(table, "RankResult"))
    shown = console.file.getvalue()
    rho = f"{report['methods']['hcdc']['spearman_loss']['mean']:.3f}"
    assert rho in shown
    lines = tables.to_markdown(table).splitlines()
    assert len(lines) == 2 + len(NOISE)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| hcdc | **{rho} ± ")
    hostile = tables.Table(["a|b"], [[tables.Cell("c|d", best=True)]])
    assert tables.to_markdown(hostile).splitlines()[2] == "| **c\\|d** |"


def test_what_reads_as_a_tie_is_a_tie(finished):
    _, _, report = finished
    tied = json.loads(json.dumps(report))
    for method, rho in {"hcdc": 0.9301, "real_val": 0.9304, "random": 0.5, "surrogate": 0.4}.items():
        tied["methods"][method]["spearman_loss"]["mean"] = rho
    cells = {row[0].text: row[1] for row in tables.verdict(tied).rows}
    assert cells["hcdc"].best
    assert cells["real_val"].best
    assert not cells["real_val"].beats
    assert "share the highest" in claims.reading(tied)[2]


def test_fig_2_has_the_methods_of_the_paper_first_with_its_numbers(tmp_path, monkeypatch):
    table1 = pytest.importorskip("benchmarks.table1")  # not in every distribution
    make_run(tmp_path)
    monkeypatch.setitem(table1.PAPER, "demo", {"dm": (-0.1, 92.2), "hcdc": (0.74, 92.9), "random": (-0.12, 91.3)})
    strips = table1.strips("demo", tmp_path).axes
    labels = ["the full data", "hcdc (paper 0.74)", "random (paper -0.12)", "real_val", "surrogate"]
    assert [axes.get_ylabel() for axes in strips] == labels
    ours = read(tmp_path)
    expected = np.mean([scipy.stats.spearmanr(ours.truth.loss, r.loss).statistic for r in ours.results["hcdc"]])
    assert f"{expected:.3f}" in strips[1].texts[0].get_text()


def test_the_table_of_the_paper_has_the_best_candidates_and_both_prices(finished):
    table2 = pytest.importorskip("benchmarks.table2")  # not in every distribution
    _, _, report = finished
    title, _, header, _, *rows, _ = table2.lines("cora_0.9", report)
    agreement, bound = (report["truth"][key] for key in ("seed_agreement_spearman", "bound_spearman"))
    assert title == f"**cora_0.9**, two full trainings agree at {agreement:.3f}, which bounds rankings at {bound:.3f}"
    names = header.strip("| ").split(" | ")
    cells = {row.split("`")[1]: dict(zip(names, row.removeprefix("| ").split(" | "), strict=True)) for row in rows}
    assert list(cells) == tables.best_first(report)
    hcdc = report["methods"]["hcdc"]
    assert cells["hcdc"]["overlap, top 10 %"].startswith(f"{hcdc['overlap_top_10']['mean']:.2f} ± ")
    regrets = [f"{hcdc[tables.regret_key(k)]['mean']:.1f}" for k in (1, 3, 5)]
    assert cells["hcdc"]["regret, best 1 / 3 / 5"] == " / ".join(regrets)
    assert cells["hcdc"]["pays from (all in full)"] == str(report["break_even_candidates"]["hcdc"])
    assert cells["hcdc"]["pays from (halving)"].rstrip(" |") == str(report["break_even_halving"]["hcdc"])


def test_trainings_with_flaws_are_told(tmp_path):
    make_run(tmp_path, noise={"random": 0.1})
    run = read(tmp_path)
    run.info["space"]["dcbench_compat"] = ["softmax", "unshuffled"]
    files.write_json(tmp_path / "report.json", summarise(run))
    told = claims.reading(json.loads((tmp_path / "report.json").read_text()))
    assert "Networks on condensed data are trained with flaws of DC-BENCH's harness: softmax, unshuffled." in told
