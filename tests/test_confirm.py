"""The confirmatory table: a small row from end to end, and the claim on reports whose answer is known."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import scipy.stats
from runs import assert_same_arrays, process_settings

from hcdc_jax import pipeline
from hcdc_jax.errors import UserError
from hcdc_jax.pipeline.recipes import METHODS

confirm = pytest.importorskip("benchmarks.confirm")  # not in every distribution
confirm_table = pytest.importorskip("benchmarks.confirm_table")

METHODS_OF_TOY = ("hcdc", "random", "value_only", "real_val")
SMALL = (
    "--seeds", "0", "1", "--space.seed", "0", "--space.candidates", "8", "--model.hidden", "8", "--training.steps",
    "40", "--training.proxy_inits", "1", "--hcdc.full_trainings", "3", "--hcdc.steps", "4", "--hcdc.num_hvps", "3",
    "--hcdc.inits", "1", "--truth.seeds", "1",
)  # fmt: skip
TOY = ("--methods", *METHODS_OF_TOY, *SMALL)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(monkeypatch, cache, capsys):
    """Runs the command; gives its exit code and what it printed to standard output and to standard error."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["confirm", *map(str, args)])
        with process_settings(cache):
            try:
                code = confirm.main()
            except SystemExit as left:
                code = left.code
        return code, *capsys.readouterr()

    return run


def arrays(folder, name):
    with np.load(folder / "results" / f"{name}.npz") as archive:
        return dict(archive)


def cells(page, method):
    """The cells of a method's line in the last table of the page."""
    (line,) = [line for line in page.splitlines() if line.replace("*", "").startswith(f"| `{method}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_made_in_pieces_and_its_table_says_what_scipy_says(command, cache, tmp_path):
    out, row = tmp_path / "confirm", tmp_path / "confirm" / "digits_graph"
    code, printed, _ = command("digits_graph", "--table", "--out", out, *TOY)
    assert code == 0
    assert "Not finished: digits_graph." in printed

    kept = 0
    for _ in range(3):
        code, printed, _ = command("digits_graph", "--out", out, "--minutes", 0, *TOY)
        assert code == confirm.TIME_IS_UP
        assert printed.endswith("time is up; the same command goes on from here\n")
        before, kept = kept, len(list(row.rglob("*.npz")))
        assert kept > before, "every call gets on"
    assert not (row / "report.json").exists()
    code, printed, err = command("digits_graph", "--out", out, *TOY)
    assert code == 0, err
    assert printed.splitlines()[-1] == f"{row}: finished"
    (piece,) = confirm.pieces_of(["digits_graph"], [], TOY, tmp_path / "at_once")
    with process_settings(cache):
        pipeline.run(piece.config, piece.folder)
    assert_same_arrays(row, piece.folder)

    before = (row / "report.json").stat().st_mtime_ns
    assert command("digits_graph", "--out", out, *TOY)[0] == 0
    assert (row / "report.json").stat().st_mtime_ns == before, "what is finished is not made again"

    code, page, _ = command("digits_graph", "--table", "--out", out, *TOY)
    assert code == 0
    assert page == (out / "confirm.md").read_text()
    truth = arrays(row, "truth")["loss"].mean(0)
    rho = {
        method: [scipy.stats.spearmanr(truth, arrays(row, f"{method}_seed{seed}")["loss"]).statistic for seed in (0, 1)]
        for method in METHODS_OF_TOY
    }
    for method, found in rho.items():
        mean, difference, interval, verdict = cells(page, method)[1:5]
        assert mean == f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}"
        if method != "hcdc":
            expected = scipy.stats.ttest_rel(rho["hcdc"], found).confidence_interval()
            assert difference == f"{np.mean(np.subtract(rho['hcdc'], found)):+.3f}"
            assert interval == f"{expected.low:+.3f} to {expected.high:+.3f}"
            where = "above" if expected.low > 0 else "below" if expected.high < 0 else "level"
            assert verdict == where + (", not counted" if method == "value_only" else "")
    assert "This is not the confirmatory table: it was made with `--methods hcdc random" in page
    assert "Nothing is confirmed" in page


def test_one_more_method_has_a_folder_of_its_own(command, tmp_path):
    few = ("--methods", "hcdc", "random", *SMALL)
    assert command("digits_graph", "--with", "real_val", "--out", tmp_path, *few)[0] == 0
    page = command("digits_graph", "--with", "real_val", "--with", "herding", "--table", "--out", tmp_path, *few)[1]
    assert "Not finished: digits_graph+herding." in page
    assert cells(page, "real_val")[4] in ("above", "level", "below")
    assert "| `random` |" in page


def test_mistakes_are_told_in_one_line(command, tmp_path, capsys):
    code, _, err = command("cora_9", "--out", tmp_path)
    assert code == 2
    assert err.splitlines()[-1].startswith("confirm: error: no such row: cora_9; known are cora_0.9, cora_1.8, ")
    code, _, err = command("digits_graph", "--out", tmp_path, "--methods", "random", "real_val")
    assert (code, err) == (2, "confirm: --methods of digits_graph must name hcdc, which leads the row, and a rival\n")
    code, _, err = command("digits_graph", "--out", tmp_path, "--hcdc.stepz", "3")
    assert code == 2
    assert len(err.splitlines()) == 1
    (tmp_path / "digits_graph").mkdir()
    (tmp_path / "digits_graph" / "mine.txt").write_text("mine")
    code, printed, err = command("digits_graph", "--out", tmp_path, *TOY)
    assert code == 2
    assert err.startswith("confirm: digits_graph: ")
    assert "is not empty and no run folder" in err
    assert "finished" not in printed


def test_a_folder_of_other_seeds_is_not_taken_for_the_row(tmp_path):
    (piece,) = confirm.pieces_of(["digits_graph"], [], [], tmp_path)
    other = dataclasses.replace(piece.config, seeds=(0, 1, 2, 3, 4))
    piece.folder.mkdir()
    (piece.folder / "config.toml").write_text(confirm.configs.dumps(other))
    (piece.folder / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a run of another configuration \(seeds is"):
        confirm.report_of(piece)


def test_rows_are_those_that_were_named_beforehand(tmp_path):
    pieces = {piece.row: piece.config for piece in confirm.pieces_of(confirm.ROWS, [], [], tmp_path)}
    assert len(pieces) == confirm.CLAIM.of == 10
    assert {config.space.seed for config in pieces.values()} == {10}
    for name, config in pieces.items():
        assert config.seeds == ((10, 11, 12) if name == "cifar10_convnet" else (10, 11, 12, 13, 14))
        images = config.space.name == "regularisation"
        assert confirm.ROWS[name].lead == ("hcdc_surrogate" if images else "hcdc")
        assert config.labels.teachers == (1 if images else 0)
        assert ("train_loss_hard" in config.methods) == images
        pipeline.driver.check_config(config)
    assert [pieces[name].data.name for name in ("fashion_mlp", "cifar10_mlp")] == ["fashion_mnist", "cifar10"]
    assert pieces["cifar10_mlp"].model.name == "mlp"
    assert pieces["cifar10_convnet"].model.name == "convnet"
    beside = {"hcdc", "hcdc_surrogate", "value_only"}
    for row in confirm.ROWS.values():
        assert set(row.methods) & confirm.CLAIM.beside == beside
    assert {"gcond", "gcond_x", "hcdc_shared", "hcdc_shifted"} <= confirm.CLAIM.beside <= METHODS.keys()


def made_up(name, **values):
    """A finished row whose methods have the given Spearman correlations, led by hcdc."""
    methods = {
        method: {
            "seeds": list(range(len(found))),
            "spearman_loss": {"mean": None if None in found else float(np.mean(found)), "std": 0.01, "values": found},
            "regret_test_accuracy": {"mean": 1.0, "std": 0.5, "values": []},
            "full_trainings_used": 8,
        }
        for method, found in values.items()
    }
    report = {
        "truth": dict.fromkeys(("seed_ceiling_spearman", "seed_agreement_spearman", "bound_spearman"), 0.99),
        "methods": methods,
        "break_even_candidates": dict.fromkeys(methods),
    }
    return confirm_table.Finished(name, "hcdc", json.loads(json.dumps(report)))


LEAD, LEVEL = [0.90, 0.92, 0.94], [0.89, 0.93, 0.94]
UNDER, OVER = [0.80, 0.81, 0.83], [0.93, 0.95, 0.98]


def page_of(rivals, of=4, rows=2, missing=(), changed=()):
    """The page of rows with one rival each."""
    claim = confirm_table.Claim(rows=rows, of=of, below=0.01, beside=frozenset(["value_only"]))
    finished = [made_up(f"row{i}", hcdc=LEAD, rival=rival, value_only=OVER) for i, rival in enumerate(rivals)]
    return confirm_table.page(finished, claim, missing=missing, changed=changed)


def test_the_claim_holds_where_enough_rows_are_above_and_none_is_below():
    page = page_of([UNDER, UNDER, LEVEL, LEVEL])
    assert "on 2 of 4 rows: row0, row1; claimed are 2 of 4." in page
    assert "**The claim holds.**" in page
    assert "below, not counted" in page, "value_only stands beside"


@pytest.mark.parametrize("rivals", [[UNDER, LEVEL, LEVEL, LEVEL], [UNDER, UNDER, UNDER, OVER]])
def test_the_claim_fails_where_too_few_are_above_or_one_is_below(rivals):
    assert "**The claim does not hold.**" in page_of(rivals)


def test_a_rival_without_a_number_wins_no_row_and_is_told():
    page = page_of([UNDER, UNDER, [0.8, None, 0.81], LEVEL], rows=3)
    assert "on 2 of 4 rows" in page
    assert "The lowest mean difference to a counted rival is undefined (`rival` on row2)" in page
    assert "**The claim does not hold.**" in page
    assert "0 / 0 / 0, 1 undefined" in page


@pytest.mark.parametrize(
    "other",
    [{"missing": ["row4"]}, {"changed": ["--hcdc.steps", "50"]}, {"of": 5}],
    ids=lambda other: next(iter(other)),
)
def test_a_part_or_another_table_confirms_nothing(other):
    page = page_of([UNDER, UNDER, LEVEL, LEVEL], **other)
    assert "The claim" not in page
    assert "Nothing is confirmed" in page
