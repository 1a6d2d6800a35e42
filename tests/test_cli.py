"""The command as a user meets it: what a finished run leaves and what every subcommand prints."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from runs import SMALL, finished_run, graph_arrays, write_config
from runs import hcdc as command
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import hcdc_jax as hc
from hcdc_jax import cli, pipeline, terminal
from hcdc_jax.cli import commands
from hcdc_jax.cli.parser import SHELLS
from hcdc_jax.errors import DivergedError
from hcdc_jax.pipeline.setup import TRUTH, key_for
from hcdc_jax.report import tables
from hcdc_jax.report.tables import Cell, Table
from hcdc_jax.search import full_trainings

METHODS = ["random", "hcdc", "real_val"]


def test_what_diverged_altogether_is_no_mistake_of_the_command_line(monkeypatch, capsys):
    def all_diverged(args, overrides):
        raise DivergedError("all 2 trainings diverged; lower training.learning_rate")

    monkeypatch.setattr(commands, "list_names", all_diverged)
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == "hcdc: all 2 trainings diverged; lower training.learning_rate\n"


@pytest.fixture
def finished(tmp_path_factory):
    return finished_run(tmp_path_factory)


@pytest.fixture
def hcdc(capsys):
    """Runs the command, which must succeed; returns what it printed to standard output."""

    def run(*args) -> str:
        with jax.numpy_rank_promotion("allow"):  # as in a process of its own
            assert cli.main([str(arg) for arg in args]) == 0
        return capsys.readouterr().out

    return run


class TestFinishedRun:
    def test_files(self, finished):
        assert {path.name for path in finished.iterdir()} == {
            "config.toml", "card.json", "condensed.npz", "condensed", "ranking.csv", "report.json", "report.html",
            "figures", "metrics.jsonl", "checkpoints", "results",
        }  # fmt: skip
        assert {path.name for path in (finished / "condensed").iterdir()} == {"random_seed0.npz", "hcdc_seed0.npz"}
        assert not [path for path in finished.rglob("*") if path.name.endswith(".tmp")]

    def test_configuration_is_resolved(self, finished):
        config = tomllib.loads((finished / "config.toml").read_text())
        assert config["training"]["steps"] == 20
        assert config["training"]["optimizer"] == "adam"
        assert config["data"]["path"] == str(finished.parent / "graph.npz")

    def test_report(self, finished):
        report = json.loads((finished / "report.json").read_text())
        assert list(report["methods"]) == METHODS
        assert report["space"]["candidates"] == 12
        assert report["truth"]["seeds"] == 1
        assert report["methods"]["hcdc"]["full_trainings_used"] == 3
        assert report["methods"]["hcdc"]["matched_among_ranked"] == 0
        for entry in report["methods"].values():
            assert entry["failed"] == 0
            assert -1 <= entry["spearman_loss"]["mean"] <= 1

    def test_ranking(self, finished):
        rows = list(csv.DictReader((finished / "ranking.csv").read_text().splitlines()))
        assert len(rows) == 12
        assert list(rows[0]) == [
            "candidate", "L^0", "L^1", "L^2", "truth_loss", "truth_accuracy", "truth_test_accuracy", *METHODS
        ]  # fmt: skip

    def test_held_out_curve(self, finished):
        """The last snapshot is S_val itself, so ranks on it are the ranking."""
        with np.load(finished / "results" / "hcdc_seed0.npz") as result:
            assert result["trace_steps"].tolist() == list(range(13))
            assert result["trace_loss"].shape == (13, 12)
            np.testing.assert_allclose(result["trace_loss"][-1], result["loss"], rtol=1e-4)
            assert np.abs(result["trace_loss"][0] - result["loss"]).max() > 1e-3

    def test_what_was_printed(self, finished):
        out, err = ((finished.parent / name).read_text() for name in ("stdout", "stderr"))
        for text in (
            "Spearman,",
            "real_val",
            "Pays from",
            "Bold: best of its column.",
            f"Report: {finished / 'report.html'}",
        ):
            assert text in out
        assert err.splitlines()[0] == ("graph: 200 nodes, 808 edges, 8 features, 3 classes; condensed to 20 + 40 nodes")
        assert "full trainings, seed 0: 0/3\n" in err
        assert "full trainings, seed 0: 3/3, " in err
        assert "\x1b" not in out + err, "no bars and colours off a terminal"


def test_the_same_folder_again_changes_nothing(finished, tmp_path, hcdc):
    copy = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.npz")}
    hcdc("run", copy)
    hcdc("condense", copy, "--resume")
    hcdc("rank", copy)
    hcdc("truth", copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.npz")} == before
    hcdc("report", copy)
    for name in ("report.json", "report.html", "ranking.csv", "figures/matching.png"):
        assert (copy / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_folder_is_named_after_the_config(finished, tmp_path, monkeypatch, hcdc):
    config = write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "small")
    text = (finished / "config.toml").read_text()
    (tmp_path / "runs" / "small" / "config.toml").write_text(text.replace(str(finished.parent), str(tmp_path)))
    assert "runs/small/report.html" in hcdc("report", config)
    assert "Done: runs/small" in hcdc("rank", "small.toml")


def test_a_relative_path_of_the_data_is_that_of_the_working_folder(tmp_path, monkeypatch, capsys):
    write_config(tmp_path)
    (tmp_path / "short.toml").write_text(f"{SMALL}[data]\npath = 'graph.npz'\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["rank", "short.toml", "--out", "none"]) == 2
    monkeypatch.setattr(hc.pipeline, "condense", lambda run: None)
    monkeypatch.setattr(hc.pipeline, "rank", lambda run: None)
    assert cli.main(["condense", "short.toml", "--out", "run"]) == 0
    monkeypatch.chdir("/")
    assert cli.main(["rank", str(tmp_path / "run")]) == 0
    capsys.readouterr()


class TestSearch:
    @pytest.fixture
    def copy(self, finished, tmp_path):
        return shutil.copytree(finished, tmp_path / "run")

    def test_lists_the_best_first(self, copy, hcdc):
        out = hcdc("search", copy, "--num", "30", "--top", "3", "--method", "random")
        assert "Best of 30 candidates" in out
        assert "30 candidates in " in out
        assert "0 failed" in out
        rows = list(csv.DictReader((copy / "search.csv").read_text().splitlines()))
        losses = [float(row["loss"]) for row in rows]
        assert len(rows) == 30
        assert losses == sorted(losses)
        assert list(rows[0]) == ["L^0", "L^1", "L^2", "loss", "accuracy"]
        assert f"{losses[2]:.4f}" in out

    def test_seed_decides_the_draw(self, copy, hcdc):
        texts = []
        for seed in (0, 0, 1):
            hcdc("search", copy, "--num", "30", "--top", "0", "--seed", seed, "--method", "random")
            texts.append((copy / "search.csv").read_text())
        assert texts[0] == texts[1] != texts[2]

    def test_finalists_are_trained_in_full(self, copy, hcdc):
        hcdc("search", copy, "--num", "30", "--top", "3", "--method", "random")
        result = json.loads((copy / "search_random.json").read_text())
        setup = hc.pipeline.prepare(hc.pipeline.folder.config_of(copy))
        hparams = [list(row["hparams"].values()) for row in result["finalists"]]
        order = np.argsort(result["history"]["loss"], kind="stable")[:3]
        np.testing.assert_allclose(hparams, np.array(result["history"]["hparams"])[order])
        with np.load(copy / "results" / "truth.npz") as truth:
            best = truth["test_accuracy"][0].max()
        alone = hc.evaluate(
            key_for(TRUTH, 0), setup.problem, np.array(hparams, np.float32), setup.train, setup.test,
            training=setup.training, chunk_size=1,
        )  # fmt: skip
        accuracies = np.asarray(alone.accuracy).tolist()
        np.testing.assert_allclose([row["test_accuracy"] for row in result["finalists"]], accuracies, atol=1e-6)
        chosen = int(np.argmin([row["val_loss"] for row in result["finalists"]]))
        assert result["selected"]["hparams"] == result["finalists"][chosen]["hparams"]
        assert result["selected"]["regret_test_accuracy"] == pytest.approx(100 * (best - accuracies[chosen]), abs=1e-3)
        assert result["full_trainings"] == {"condense": 3, "retrain": 3}
        assert result["artefact"] == {"method": "hcdc", "seed": 0}

    def test_a_calibrated_search_asks_for_trainings_one_by_one_and_goes_on_from_what_it_has(self, copy, hcdc):
        out = hcdc("search", copy, "--num", "30", "--top", "2")  # what it does where it is not told how
        result = json.loads((copy / "search_calibrated.json").read_text())
        assert result["candidates"] == 33, "the matched candidates are among them"
        asked = result["calibration"]["asked_for"]
        assert result["full_trainings"] == {"condense": 3, "retrain": len(asked)}
        assert 2 <= len(asked) <= 3, "the best of the first three is trained once more for its network"
        out = " ".join(out.split())  # lines are as long as a terminal is wide
        assert f"The search began from 3 full trainings and took {len(asked)} full trainings more: " in out
        foretold = result["calibration"]["condensed_losses_foretell"]
        ranks = {name: rank for name, rank in result["calibration"]["ranks"].items() if name.endswith(" line")}
        assert len(ranks) == 3
        assert foretold == (max(-1.0 if rank is None else rank for rank in ranks.values()) >= 0.3)
        assert foretold != ("Condensed losses do not predict full trainings here" in out)
        assert len(set(asked)) == len(asked)
        assert sum(result["calibration"]["weights"].values()) == pytest.approx(1)
        losses = [row["val_loss"] for row in result["finalists"]]
        assert losses == sorted(losses)
        assert result["selected"]["val_loss"] == losses[0]
        hparams = np.float32([list(row["hparams"].values()) for row in result["finalists"]])
        places = result["best"][: len(asked)]
        np.testing.assert_allclose(hparams, np.array(result["history"]["hparams"])[places])
        setup = hc.pipeline.prepare(hc.pipeline.folder.config_of(copy))
        alone = hc.evaluate(
            key_for(TRUTH, 0), setup.problem, hparams, setup.train, setup.test, training=setup.training, chunk_size=1
        )
        np.testing.assert_allclose([row["test_accuracy"] for row in result["finalists"]], alone.accuracy, atol=1e-6)
        kept = {path: path.stat().st_mtime_ns for path in (copy / "checkpoints" / "searched").glob("*.npz")}
        assert len(kept) == len(asked)
        hcdc("search", copy, "--num", "30", "--method", "calibrated", "--top", "3")
        longer = json.loads((copy / "search_calibrated.json").read_text())
        assert longer["calibration"]["asked_for"][:2] == asked[:2]
        assert all(path.stat().st_mtime_ns == at for path, at in kept.items()), "nothing is trained twice"
        # As if it had been killed in the second training.
        (copy / "search_calibrated.json").unlink()
        max(kept, key=lambda path: kept[path]).unlink()
        hcdc("search", copy, "--num", "30", "--top", "2")
        again = json.loads((copy / "search_calibrated.json").read_text())
        assert {name: again[name] for name in ("history", "selected", "calibration", "full_trainings")} == {
            name: result[name] for name in ("history", "selected", "calibration", "full_trainings")
        }

    def test_where_nothing_was_matched_the_default_says_what_it_does_instead(self, copy, capsys):
        shutil.rmtree(copy / "checkpoints" / "targets_seed0")
        assert cli.main(["search", str(copy), "--num", "5"]) == 0
        why = "this run has matched nothing that it could begin from (--method calibrated makes 3 full trainings first)"
        assert f"random search in place of a calibrated one: {why}" in capsys.readouterr().err
        result = json.loads((copy / "search_random.json").read_text())
        assert result["not_calibrated"] == why
        assert result["full_trainings"] == {"condense": 3, "retrain": 1}

    def test_no_finalists(self, copy, hcdc):
        out = hcdc("search", copy, "--num", "20", "--top", "0", "--artefact", "random_seed0", "--method", "grid")
        result = json.loads((copy / "search_grid.json").read_text())
        assert result["artefact"] == {"method": "random", "seed": 0}
        assert result["candidates"] == 18  # 3 x 3 x 2
        assert result["selected"] is None
        assert result["full_trainings"] == {"condense": 0, "retrain": 0}
        assert "Best of 18 candidates on random_seed0" in out

    def test_beside_its_rival_as_a_process(self, finished, copy):
        args = ["--method", "hypergradient", "--num", "24", "--top", "2", "--halving"]
        process = command("search", copy, *args, cache=finished.parent / "cache")
        out, err = process.communicate()
        assert process.returncode == 0, err
        result = json.loads((copy / "search_hypergradient.json").read_text())
        assert len(result["history"]["loss"]) == result["candidates"] == 24
        assert result["full_trainings"]["successive_halving"] == pytest.approx(full_trainings(24, 20))
        for name in ("search", "retrain", "successive_halving"):
            assert result["seconds"][name] > 0
        assert result["successive_halving"]["test_accuracy"] <= 1
        for text in ("hypergradient search on the condensed data: 24/24", "successive halving on the full data: "):
            assert text in err
        for text in ("Selected from the best 2", "Successive halving of 24 candidates", "search_hypergradient.json"):
            assert text in out

    def test_a_run_without_truth_has_no_regret(self, copy, hcdc):
        (copy / "results" / "truth.npz").unlink()
        assert "the truth's candidates" not in hcdc("search", copy, "--num", "5", "--method", "random")
        result = json.loads((copy / "search_random.json").read_text())
        assert result["truth"] is None
        assert result["selected"]["regret_test_accuracy"] is None
        assert 0 <= result["selected"]["test_accuracy"] <= 1

    def test_an_optuna_study_is_kept(self, copy, hcdc, capsys):
        pytest.importorskip("optuna")
        url = f"sqlite:///{copy / 'study.db'}"
        for _ in range(2):
            assert "Best of 6 candidates" in hcdc("search", copy, "--num", "6", "--method", "optuna", "--storage", url)
        import optuna

        study = optuna.load_study(study_name="hcdc", storage=url)
        assert len(study.get_trials()) == 12
        card = json.loads((copy / "card.json").read_text())["artefacts"]
        sources = {
            "data set": card["hcdc_seed0"]["source"]["checksum"],
            "artefact": card["hcdc_seed0"]["sha256"],
            "configuration": card["hcdc_seed0"]["config_hash"],
        }
        assert study.user_attrs["hcdc_sources"] == sources
        assert cli.main(["search", str(copy), "--method", "optuna", "--storage", url, "--artefact", "random"]) == 2
        refused = "the Optuna study 'hcdc' searches on another artefact; name another study (--study NAME)"
        assert capsys.readouterr().err.splitlines()[-1] == f"hcdc: {refused}"
        args = ["--artefact", "random", "--study", "another"]
        hcdc("search", copy, "--num", "6", "--method", "optuna", "--storage", url, *args)
        assert len(study.get_trials()) == 12


class TestSearchMistakes:
    @pytest.fixture
    def copy(self, finished, tmp_path):
        return shutil.copytree(finished, tmp_path / "run")

    @pytest.fixture
    def mistake(self, copy, capsys):
        """The one line of a search that must fail and leave the folder as it was."""

        def run(*args) -> str:
            before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
            assert cli.main(["search", str(copy), *map(str, args)]) == 2
            assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
            out, err = capsys.readouterr()
            assert out == ""
            return err.splitlines()[-1].removeprefix("hcdc: ")

        return run

    def test_no_such_artefact(self, mistake):
        assert mistake("--artefact", "gcond").endswith(
            "holds no artefact of method 'gcond'; it holds random_seed0, hcdc_seed0"
        )
        assert "no artefact of method 'hcdc' with seed 7" in mistake("--artefact", "hcdc_seed7")

    def test_storage_without_optuna(self, mistake):
        assert mistake("--storage", "sqlite://") == (
            "a storage keeps Optuna's study, but the search is 'calibrated'; choose method 'optuna'"
        )

    def test_without_optuna(self, mistake, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        assert mistake("--method", "optuna").startswith("Optuna is not installed; install it with: pip install")

    def test_a_study_of_another_space(self, mistake, tmp_path):
        optuna = pytest.importorskip("optuna")
        url = f"sqlite:///{tmp_path / 'study.db'}"
        study = optuna.create_study(storage=url, study_name="theirs")
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        line = mistake("--method", "optuna", "--storage", url, "--study", "theirs")
        assert line == (
            "the Optuna study 'theirs' searches another space (x) or other ranges than graph_filter (L^0, L^1, L^2); "
            "name another study (--study NAME)"
        )
        assert len(study.get_trials()) == 1

    def test_changed_data(self, finished, copy, mistake, tmp_path):
        np.savez(tmp_path / "graph.npz", **graph_arrays(seed=1))
        for name in ("config.toml", "card.json"):
            text = (copy / name).read_text()
            (copy / name).write_text(text.replace(str(finished.parent), str(tmp_path)))
        config = tomllib.loads((copy / "config.toml").read_text())
        config_hash = hc.config.config_hash(hc.config.load(copy / "config.toml"))
        assert config["data"]["path"]
        card = json.loads((copy / "card.json").read_text())
        for entry in card["artefacts"].values():
            entry["config_hash"] = config_hash
        (copy / "card.json").write_text(json.dumps(card))
        assert mistake() == f"the data set graph has changed since {copy} was condensed; condense it anew"


class TestInfo:
    def test_of_a_run(self, finished, hcdc):
        out = hcdc("info", finished)
        assert tomllib.loads(out[: out.index("random_seed0")])["training"]["steps"] == 20
        assert "hcdc_seed0: " in out
        assert out.count("condensed from graph; intact") == 2
        assert "Report: " in out

    def test_settings_that_have_their_defaults_are_told_if_asked_for(self, finished, hcdc):
        short, long = hcdc("info", finished), hcdc("info", finished, "--all")
        assert "label_noise" not in short
        assert tomllib.loads(long[: long.index("random_seed0")])["data"]["label_noise"] == 0.0

    def test_of_what_was_passed_on(self, finished, tmp_path, hcdc):
        for name in ("card.json", "condensed.npz"):
            shutil.copy(finished / name, tmp_path / name)
        out = hcdc("info", tmp_path)
        assert out.startswith("hcdc_seed0: ")
        assert "random" not in out

    def test_of_a_run_that_has_just_begun(self, finished, tmp_path, hcdc):
        shutil.copy(finished / "config.toml", tmp_path)
        assert f"Nothing is condensed yet: hcdc condense {tmp_path}" in hcdc("info", tmp_path)


class TestExport:
    def test_npz(self, finished, tmp_path, hcdc):
        assert hcdc("export", finished, "--out", tmp_path / "x.npz") == f"Exported: {tmp_path / 'x.npz'}\n"
        with np.load(tmp_path / "x.npz") as found, np.load(finished / "condensed.npz") as expected:
            assert sorted(found) == sorted(expected)
            for name in expected:
                np.testing.assert_array_equal(found[name], expected[name])

    def test_of_another_method(self, finished, tmp_path, hcdc):
        hcdc("export", finished, "--method", "random", "--seed", "0", "--out", tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as found, np.load(finished / "condensed" / "random_seed0.npz") as expected:
            np.testing.assert_array_equal(found["val/inputs/nodes"], expected["val/inputs/nodes"])


def test_scikit_learn_searches_on_the_condensed_data(finished):
    """`GridSearchCV` fits on S_train and scores on S_val, as a loop over the grid does."""
    condensed = hc.load_condensed(finished)
    inputs, labels, split = condensed.as_sklearn()
    strengths = [0.01, 1.0, 100.0]
    found = GridSearchCV(LogisticRegression(), {"C": strengths}, cv=split, refit=False).fit(inputs, labels)
    (x, y), (val_x, val_y) = (
        (np.asarray(part.inputs.nodes)[: len(part.labels)][used], np.asarray(part.labels)[used])
        for part in (condensed.train, condensed.val)
        for used in [np.asarray(part.weights) > 0]
    )
    scores = [LogisticRegression(C=strength).fit(x, y).score(val_x, val_y) for strength in strengths]
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], scores)


def test_condensed_data_is_what_evaluate_takes(finished):
    """From Python, a user ranks on the artefact what the command ranked."""
    condensed = hc.load_condensed(finished)
    setup = hc.pipeline.prepare(hc.pipeline.folder.config_of(finished))
    assert setup.candidates.shape == (12, 3)
    assert condensed.train.labels.shape == (20,)
    assert condensed.val.labels.shape == (40,)


class TestListings:
    def test_names(self, hcdc):
        out = hcdc("list")
        for name in ("digits_graph", "cora", "hcdc", "gcond_x", "real_val", "graph_filter", "weighted_cosine"):
            assert f"  {name}" in out

    def test_options(self, hcdc):
        out = hcdc("options")
        for name in ("--training.learning_rate", "--hcdc.num_hvps", "--seeds"):
            assert name in out
        of_truth = hcdc("options", "truth")
        assert "--truth.seeds" in of_truth
        assert "--training.learning_rate" not in of_truth
        assert cli.main(["options", "trut"]) == 2

    def test_completion_knows_commands_settings_and_configurations(self, hcdc):
        for shell in SHELLS:
            script = hcdc("completion", shell)
            for word in ("search", "training.steps", "digits_graph", "halving"):
                assert word in script, shell
        compile_bash = subprocess.run(["bash", "-n"], input=hcdc("completion", "bash"), text=True, check=False)
        assert compile_bash.returncode == 0

    def test_what_is_wrong_whatever_the_target_holds_is_told_before_jax_is_imported(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "hcdc_jax.cli.commands", None)  # importing it would raise
        for args, told in (
            (["run", "digits_graf"], "did you mean 'digits_graph'"),
            (["search", "digits_graph", "--training.stepz", "3"], "unknown key 'training.stepz'"),
        ):
            assert cli.main(args) == 2
            assert told in capsys.readouterr().err

    def test_help(self, hcdc, capsys):
        assert "COMMAND" in hcdc()
        for args in (["--help"], ["run", "--help"], ["--version"]):
            with pytest.raises(SystemExit) as exit_code:
                cli.main(args)
            assert exit_code.value.code == 0
        assert f"hcdc {hc.__version__}" in capsys.readouterr().out


class TestTerminal:
    def test_lines_are_few_and_tell_the_time_that_is_left(self):
        said, now = [], [100.0]
        lines = terminal.Lines(said.append, pause=10.0, clock=lambda: now[0])
        lines.start("truth", 100, 20)
        for done in range(21, 101):
            now[0] += 3.0
            lines.update(done)
        assert said[:2] == ["truth: 20/100", "truth: 24/100, 12 s, about 4 min left"]
        assert said[-1] == "truth: 100/100, 4 min"
        assert len(said) == 21

    def test_the_first_step_compiles_and_does_not_count(self):
        said, now = [], [0.0]
        lines = terminal.Lines(said.append, pause=0.0, clock=lambda: now[0])
        lines.start("x", 5, 2)
        for done, seconds in ((3, 100.0), (4, 1.0), (5, 1.0)):
            now[0] += seconds
            lines.update(done)
        assert said == ["x: 2/5", "x: 3/5, 100 s", "x: 4/5, 101 s, about 1.0 s left", "x: 5/5, 102 s"]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "0.0 s"), (9.4, "9.4 s"), (119, "119 s"), (120, "2 min"), (9e3, "2 h"), (2e5, "2 d")],
    )
    def test_durations(self, seconds, text):
        assert terminal.duration(seconds) == text

    def test_a_narrow_terminal_gets_fewer_columns(self):
        table = Table(["Method", "Rank", "Long interval"], [[Cell("hcdc"), Cell("0.9"), Cell("0.123 to 0.456")]])
        assert terminal.fitted(table, 40, ("Long interval", "Rank")) == table
        narrow = terminal.fitted(table, 25, ("Long interval", "Rank"))
        assert list(narrow.headers) == ["Method", "Rank"]
        assert [cell.text for cell in narrow.rows[0]] == ["hcdc", "0.9"]
        assert list(terminal.fitted(table, 3, ("Long interval", "Rank")).headers) == ["Method"]

    @pytest.mark.parametrize("width", [80, 100, 120, 160, 200])
    def test_the_verdict_breaks_no_cell(self, width, finished):
        """At 80 columns ranks, regrets and from when on a method pays are still there."""
        report = json.loads((finished / "report.json").read_text())
        report["methods"] |= {"successive_halving": report["methods"]["real_val"]}
        table = terminal.fitted(tables.verdict(report), width, commands._EXPENDABLE)
        console = Console(width=width, file=io.StringIO())
        console.print(tables.to_rich(table))
        lines = console.file.getvalue().splitlines()
        assert len(lines[-1]) <= width
        for row in table.rows:
            assert any(all(cell.marked() in line for cell in row) for line in lines), row[0].text
        kept = ("Spearman, losses", "Regret, best 1 / 3 / 5", "Pays from (all in full)", "Pays from (halving)")
        assert set(kept) <= set(table.headers)


def test_what_does_not_fit_into_memory_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def condense(run):
        jax.block_until_ready(jnp.ones((2**44,)))

    monkeypatch.setattr(pipeline, "condense", condense)
    assert cli.main(["condense", str(write_config(tmp_path)), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory (7.04e+04 GB at once): lower condense.classes_at_once" in said
    assert "with --resume goes on from here" in said


def test_other_errors_of_the_device_are_bugs(tmp_path, monkeypatch):
    def condense(run):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(pipeline, "condense", condense)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        cli.main(["condense", str(write_config(tmp_path)), "--out", str(tmp_path / "run")])
