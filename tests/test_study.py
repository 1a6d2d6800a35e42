"""Studies: an own network, space and data go through all stages, are resumed, and are refused in one line."""

from __future__ import annotations

import contextlib
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hcdc_jax as hc
from hcdc_jax import cli
from hcdc_jax import config as configs
from hcdc_jax.cli.resolver import begun
from hcdc_jax.config import Config
from hcdc_jax.progress import silent
from hcdc_jax.training.storable import as_dictionary, storable

SPACE = hc.spaces.box("small", {"decay": (1e-4, 1e-1, "log"), "gain": (0.5, 2.0)})
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 5))


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    return CENTRES[labels] + rng.normal(size=(count, 5)), labels


def init(key):
    first, second = jax.random.split(key)
    return [0.3 * jax.random.normal(first, (5, 8)), (0.3 * jax.random.normal(second, (8, 3)),)]


def apply(params, inputs, h):
    return jnp.tanh(h["gain"] * inputs @ params[0]) @ params[1][0]


PROBLEM = hc.make_problem(init, apply, space=SPACE, weight_decay="decay")
SMALL = {
    "condense": {"examples": 12, "val_factor": 1.0},
    "hcdc": {"full_trainings": 4, "oversampling": 1, "steps": 6, "inits": 1},
    "space": {"candidates": 6},
    "training": {"proxy_inits": 1},
}


@contextlib.contextmanager
def quiet():
    yield silent()


def study_in(folder, **changes) -> hc.Study:
    given = {
        "train": examples(60, 1), "val": examples(40, 2), "test": examples(30, 3), "training": hc.Training(steps=12),
        "folder": folder, "settings": SMALL, "progress": quiet, "name": "small",
    }  # fmt: skip
    return hc.Study(PROBLEM, SPACE, **(given | changes))


def error_of(call) -> str:
    with pytest.raises(hc.UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study that was condensed."""
    study = study_in(tmp_path_factory.mktemp("study") / "run")
    study.condense(examples=9)
    return study


def test_condensed_data_have_the_sizes_that_were_asked_for(done):
    condensed = done.condensed()
    assert condensed.train.inputs.shape == (9, 5)
    assert np.bincount(np.asarray(condensed.train.labels)).tolist() == [3, 3, 3]
    assert condensed.card["method"] == "hcdc"
    assert "Array" not in repr(condensed)


def test_a_ranking_is_that_of_evaluate_on_the_condensed_data(done):
    ranking = done.rank(5, seed=3)
    condensed = done.condensed()
    key = jax.random.fold_in(hc.pipeline.setup.key_for(hc.pipeline.setup.RANK, 0), 0)
    scores = hc.evaluate(
        key, PROBLEM, jnp.asarray(ranking.hparams), condensed.train, condensed.val, training=hc.Training(steps=12)
    )
    np.testing.assert_allclose(ranking.scores.loss, scores.loss, rtol=1e-5)
    best = ranking.best()[0]
    place = int(np.argmin(ranking.scores.loss))
    assert best["gain"] == pytest.approx(float(ranking.hparams[place, 1]))
    assert best["decay"] == pytest.approx(float(np.exp(ranking.hparams[place, 0])), rel=1e-5)


def test_a_ranking_warms_optuna_up(done):
    optuna = pytest.importorskip("optuna")
    ranking = done.rank(5, seed=3)
    study = ranking.to_optuna()
    assert len(study.trials) == 5
    assert study.best_value == pytest.approx(float(np.min(ranking.scores.loss)))
    assert study.best_params == pytest.approx(ranking.best()[0])
    # An objective with the bounds of the space takes it up.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    asked = {"decay": (1e-4, 1e-1, True), "gain": (0.5, 2.0, False)}
    study.optimize(lambda t: sum(t.suggest_float(k, a, b, log=log) for k, (a, b, log) in asked.items()), n_trials=1)
    assert len(study.trials) == 6


def test_given_candidates_are_ranked_and_those_of_another_width_refused(done):
    given = SPACE.sample(jax.random.key(5), 3)
    np.testing.assert_array_equal(done.rank(candidates=given).hparams, given)
    assert error_of(lambda: done.rank(candidates=np.zeros((3, 4)))) == (
        "the space 'small' has 2 hyperparameters (log_decay, gain), got 4; give candidates of shape [n, 2]"
    )
    assert "0 rows; give at least one" in error_of(lambda: done.rank(candidates=np.zeros((0, 2))))
    assert "at least one" in error_of(lambda: done.rank(0))


def test_search_truth_and_report_go_on_in_the_folder(done):
    found = done.search(8, method="random", top=2)
    assert found["selected"]["settings"].keys() == {"decay", "gain"}
    done.truth()
    report = done.report()
    assert set(report["methods"]) == {"hcdc"}
    assert (done.path / "report.html").is_file()


def test_a_study_that_is_made_again_goes_on(done, monkeypatch):
    again = study_in(done.path)
    monkeypatch.setattr(hc.pipeline.hcdc.targets, "_one", None)  # no full training is made again
    condensed = again.condense(examples=9)
    np.testing.assert_array_equal(condensed.val.inputs, done.condensed().val.inputs)


def test_another_study_in_the_folder_is_refused(done):
    other = hc.make_problem(init, lambda params, inputs, h: 2 * apply(params, inputs, h), space=SPACE)
    changed = [
        (study_in(done.path, training=hc.Training(steps=13)), "training.steps is 12 there, 13 here"),
        (study_in(done.path, train=examples(60, 9)), "data set small has changed"),
        (hc.Study(other, SPACE, **{k: getattr(done, k) for k in _OTHERS}), "losses of the study have changed"),
    ]
    for study, message in changed:
        assert message in error_of(lambda study=study: study.condense(examples=9))
    assert "condense.examples is 9 there, 10 here" in error_of(lambda: done.condense(examples=10))


_OTHERS = ("train", "val", "test", "training", "folder", "settings", "progress", "name")


def test_nothing_is_ranked_before_it_is_condensed(tmp_path):
    assert "call study.condense() or study.run() first" in error_of(study_in(tmp_path / "new").rank)


def test_numbers_are_ranked_by_losses_alone_and_inputs_may_be_trees(tmp_path):
    def numbers(count, seed):
        inputs, _ = examples(count, seed)
        return (inputs[:, :2], {"rest": inputs[:, 2:]}), inputs.sum(1)

    def apply_tree(params, inputs, h):
        x = jnp.concatenate([inputs[0], inputs[1]["rest"]], -1)
        return apply(params, x, h)[:, 0]

    problem = hc.make_problem(init, apply_tree, space=SPACE, weight_decay="decay", loss="squared")
    study = hc.Study(
        problem, SPACE, train=numbers(60, 1), val=numbers(40, 2), training=hc.Training(steps=12), progress=quiet,
        folder=tmp_path / "run", settings=SMALL,
    )  # fmt: skip
    report = study.run(["random", "hcdc", "real_val"])
    entry = report["methods"]["hcdc"]
    assert entry["spearman_loss"]["mean"] is not None
    assert entry["spearman_accuracy"]["mean"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "accuracies" not in page.split("</table>")[0]
    assert report["data"]["test"] == 12  # a fifth of the training examples, drawn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (np.zeros((5, 5)), np.zeros(4, int))}, "one leading axis of examples"),
        ({"train": (np.full((5, 5), np.nan), np.zeros(5, int))}, "NaN or infinite"),
        ({"train": np.zeros((5, 5))}, "(inputs, labels)"),
        (
            {"train": hc.Batch(np.zeros((5, 5)), np.zeros(4, int), np.ones(5))},
            "the train part has 4 labels, 5 weights, 5",
        ),
        ({"val": hc.Batch(np.full((5, 5), np.nan), np.zeros(5, int), np.ones(5))}, "the val part: inputs hold NaN"),
        ({"val": hc.Batch(np.zeros((5, 5)), np.zeros(5, int), np.zeros(5))}, "the val part: weights must be"),
        ({"train": (examples(60, 1)[0], examples(60, 1)[1] - 1)}, "the train part: class numbers start at 0, found -1"),
        ({"val": (np.zeros((5, 4)), np.zeros(5, int))}, "not like the training part"),
        ({"settings": {"hcdc": {"stepps": 3}}}, "unknown key 'hcdc.stepps'"),
        ({"settings": {"condense": {"examples": 1000}}}, "more than the 60 examples of the train part"),
        ({"training": hc.Training(optimizer="adamw")}, "optimizer"),
        ({"training": hc.Training(remat=True)}, "leave out remat"),
        (
            {"train": (examples(60, 1)[0].astype(int), examples(60, 1)[1]), "val": None, "test": None},
            "condensing moves",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(changes, message, tmp_path):
    assert message in error_of(lambda: study_in(tmp_path / "run", **changes).condense())
    assert not (tmp_path / "run").exists()


def test_networks_that_cannot_be_searched_are_told(tmp_path):
    lost = hc.make_problem(init, lambda p, x, h: jnp.log(-h["gain"]) * (x @ p[0] @ p[1][0]), space=SPACE)
    given = {name: getattr(study_in(tmp_path), name) for name in _OTHERS}
    assert "train_loss is nan at these params" in error_of(lambda: hc.Study(lost, SPACE, **given).source)
    idle = hc.make_problem(init, lambda p, x, h: h["gain"] * (x @ p[0] @ p[1][0]), space=SPACE)
    (note,) = hc.Study(idle, SPACE, **given).source.data.notes
    assert note.startswith("the hyperparameter 'log_decay' is ignored")


def test_inputs_in_trees_go_through_noise():
    def noisy(params, inputs, h, key):
        inputs = jnp.concatenate(inputs, 1)
        return apply(params, inputs if key is None else inputs + jax.random.normal(key, inputs.shape), h)

    problem = hc.make_problem(init, noisy, space=SPACE)
    inputs, labels = examples(7, 4)
    batch = hc.as_batch(((inputs[:, :2], inputs[:, 2:]), labels))
    stored = storable(problem, 2, jax.tree.structure(batch.inputs))
    kept, key = stored.init(jax.random.key(0), jnp.ones(2)), jax.random.key(1)
    losses = [
        one.train_loss(params, jnp.ones(2), one.perturb(key, jnp.ones(2), seen))
        for one, params, seen in (
            (problem, problem.init(jax.random.key(0), jnp.ones(2)), batch),
            (stored, kept, batch._replace(inputs=as_dictionary(batch.inputs))),
        )
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_storable_problems_compute_what_the_problem_does():
    params = PROBLEM.init(jax.random.key(0), jnp.ones(2))
    stored = storable(PROBLEM, 2)
    assert stored is storable(PROBLEM, 2)
    kept = stored.init(jax.random.key(0), jnp.ones(2))
    assert list(kept) == ["0000", "0001"]
    batch = hc.as_batch(examples(7, 4))
    np.testing.assert_array_equal(
        stored.train_loss(kept, jnp.ones(2), batch), PROBLEM.train_loss(params, jnp.ones(2), batch)
    )
    tree = (batch.inputs[:, :2], [batch.inputs[:, 2:]])
    other = hc.make_problem(init, lambda p, x, h: apply(p, jnp.concatenate([x[0], x[1][0]], 1), h), space=SPACE)
    reading = storable(other, 2, jax.tree.structure(tree))
    np.testing.assert_allclose(
        reading.val_loss(params, jnp.ones(2), batch._replace(inputs=as_dictionary(tree))),
        PROBLEM.val_loss(params, jnp.ones(2), batch),
        rtol=1e-6,
    )


FILE = """
import numpy as np, jax, jax.numpy as jnp
import hcdc_jax as hc

space = hc.spaces.box("file", {"decay": (1e-4, 1e-1, "log"), "gain": (0.5, 2.0)})
rng = np.random.default_rng(0)
X = rng.normal(size=(80, 4))
y = (X[:, 0] > 0).astype(int)
problem = hc.make_problem(
    lambda key: {"w": 0.1 * jax.random.normal(key, (4, 2))}, lambda p, x, h: h["gain"] * x @ p["w"], space=space,
    weight_decay="decay",
)
study = hc.Study(problem, space, train=(X, y), training=hc.Training(steps=5), settings={
    "condense": {"examples": 4, "val_factor": 1.0}, "space": {"candidates": 4}, "training": {"proxy_inits": 1},
    "hcdc": {"full_trainings": 3, "oversampling": 1, "steps": 2, "inits": 1},
})
def make():
    return study
if __name__ == "__main__":
    raise RuntimeError("not when it is read")
"""


def test_the_command_takes_a_study_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    assert cli.main(["condense", "mine.py:make", "--methods", "hcdc", "--out", "runs/mine"]) == 0
    assert cli.main(["search", "runs/mine", "--num", "4", "--method", "random"]) == 0
    assert "Its settings: decay =" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs/mine/results/info.json").read_text())["study"].keys() == {
        "losses",
        "space",
        "file",
    }


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("missing.py", 2, "no such file"),
        ("mine.py:stdy", 2, "did you mean 'study'?"),
        ("mine.py:X", 2, "is a ndarray, no hcdc_jax.Study"),
        ("broken.py", 2, "broken.py raised ZeroDivisionError"),
    ],
)
def test_files_without_a_study_are_told(target, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "broken.py").write_text(textwrap.dedent("def f():\n    return 1 / 0\nf()\n"))
    assert cli.main(["run", target]) == code
    said = capsys.readouterr().err
    assert message in said
    if target == "broken.py":  # after a line of ours the user's own traceback, and nothing of how it came to be run
        assert said.startswith("hcdc: broken.py raised ZeroDivisionError: division by zero\nTraceback")
        assert [line.split()[-1] for line in said.splitlines() if line.startswith("  File")] == ["<module>", "f"]
    else:
        assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_file_of_a_study_is_run_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import os\n\nos.mkdir('once')\n" + FILE)  # which can be done but once
    monkeypatch.setattr(hc.Study, "source", "its source")
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(configs.dumps(Config()))
    job = begun("mine.py")
    assert (job.folder.absolute(), job.source, job.config) == (folder, "its source", Config())
    assert (tmp_path / "once").is_dir()
