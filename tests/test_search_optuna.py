"""Search by Optuna: batches, failures, studies that are kept, and studies of something else."""

from __future__ import annotations

import sys

import jax
import numpy as np
import pytest
from search_toy import FAILS_ABOVE, HIGH, LOW, SPACE, Evaluator

from hcdc_jax import search
from hcdc_jax.errors import UserError
from hcdc_jax.search.optuna_search import SOURCES
from hcdc_jax.search.optuna_search import SPACE as MARK

optuna = pytest.importorskip("optuna")
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

KEY = jax.random.key(0)


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def test_finds_the_minimum():
    history = search.optuna_search(KEY, SPACE, Evaluator(), 120, batch_size=12)
    assert history.loss.min() < 0.02
    assert len(history.loss) == 120
    assert np.median(history.loss[-60:]) < 0.2 * np.median(history.loss[:12])


def test_batches_have_one_shape_and_the_key_decides():
    evaluators, said = [Evaluator() for _ in range(3)], []
    first, again, other = (
        search.optuna_search(jax.random.key(k), SPACE, evaluate_fn, 20, batch_size=8, report=said.append)
        for k, evaluate_fn in zip((0, 0, 1), evaluators, strict=True)
    )
    assert evaluators[0].shapes == [(8, 2)] * 3
    assert said == [8, 16, 20] * 3
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.hparams, other.hparams)


def test_candidates_of_a_batch_differ():
    """Without a lie about pending trials, those of one batch huddle around the best of the batch before."""
    history = search.optuna_search(KEY, SPACE, Evaluator(), 64, batch_size=32)
    lying = history.hparams[32:].std(0)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, constant_liar=False))
    honest = search.optuna_search(KEY, SPACE, Evaluator(), 64, batch_size=32, study=study).hparams[32:].std(0)
    assert (lying / (HIGH - LOW)).prod() > (honest / (HIGH - LOW)).prod()


class TestStudy:
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path / 'study.db'}"

    def test_holds_what_was_found(self):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        history = search.optuna_search(KEY, SPACE, Evaluator(), 16, batch_size=8, study=study)
        trials = study.get_trials()
        assert states(study) == ["COMPLETE" if ok else "FAIL" for ok in history.hparams[:, 0] <= FAILS_ABOVE]
        assert "FAIL" in states(study)
        for i, trial in enumerate(trials):
            hparams = LOW + (HIGH - LOW) * np.array([trial.params["a"], trial.params["b"]])
            # The bounds are of size 1, and so is what float32 rounds: a coordinate may lie next to 0.
            np.testing.assert_allclose(hparams, history.hparams[i], rtol=1e-5, atol=1e-6)
            assert list(trial.user_attrs["hparams"].values()) == history.hparams[i].tolist()
            if history.status[i]:
                assert trial.value == history.loss[i]
                assert trial.user_attrs["accuracy"] == history.accuracy[i]

    def test_goes_on(self, url):
        for total in (6, 12):
            study = search.open_study(0, storage=url, name="mine")
            history = search.optuna_search(KEY, SPACE, Evaluator(), 6, study=study)
            assert len(history.loss) == 6
            assert len(study.get_trials()) == total

    def test_no_trial_is_left_running(self, url):
        study = search.open_study(0, storage=url, name="mine")

        def interrupted(candidates):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search.optuna_search(KEY, SPACE, interrupted, 4, study=study)
        assert states(study) == ["FAIL"] * 4

    @pytest.mark.parametrize(
        "other",
        [
            SPACE._replace(hparam_names=("a", "c")),
            SPACE._replace(from_unit=lambda u: 2.0 * u),
            SPACE._replace(name="else"),
        ],
    )
    def test_of_another_space(self, other, url):
        study = search.open_study(0, storage=url, name="mine")
        search.optuna_search(KEY, other, lambda c: Evaluator()(c), 4, study=study)
        before = study.user_attrs, states(study)
        evaluate_fn = Evaluator()
        message = r"the Optuna study 'mine' searches another space .*; name another study \(--study NAME\)"
        with pytest.raises(UserError, match=message):
            search.optuna_search(KEY, SPACE, evaluate_fn, 4, study=search.open_study(0, storage=url, name="mine"))
        assert (study.user_attrs, states(study)) == before
        assert evaluate_fn.shapes == []

    def test_of_somebody_else(self):
        study = optuna.create_study()
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=2)
        with pytest.raises(UserError, match=r"another space \(x\) or other ranges than toy \(a, b\)"):
            search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study)
        assert len(study.get_trials()) == 2
        assert MARK not in study.user_attrs

    def test_of_other_sources(self, url):
        ours = {"data set": "aa", "artefact": "bb"}
        for _ in range(2):  # the same search goes on
            study = search.open_study(0, storage=url, name="mine")
            search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study, sources=ours)
        before, evaluate_fn = (study.user_attrs, states(study)), Evaluator()
        assert before[0][SOURCES] == ours
        for theirs, named in (
            ({"data set": "cc", "artefact": "dd"}, "data set"),
            ({"data set": "aa", "artefact": "dd"}, "artefact"),
            ({"data set": "aa"}, "source"),
        ):
            study = search.open_study(0, storage=url, name="mine")
            message = rf"^the Optuna study 'mine' searches on another {named}; name another study \(--study NAME\)$"
            with pytest.raises(UserError, match=message):
                search.optuna_search(KEY, SPACE, evaluate_fn, 4, study=study, sources=theirs)
        assert (study.user_attrs, states(study)) == before
        assert evaluate_fn.shapes == []

    def test_that_does_not_say_on_what(self):
        study = optuna.create_study(study_name="old")
        search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study)
        with pytest.raises(UserError, match=r"^the Optuna study 'old' has trials and does not say on which data; name"):
            search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study, sources={"data set": "aa"})
        assert SOURCES not in study.user_attrs

    @pytest.mark.parametrize("mark", ["mine", ["a"], {"name": "toy"}])
    def test_with_a_mark_of_somebody_else(self, mark):
        study = optuna.create_study()
        study.set_user_attr(MARK, mark)
        with pytest.raises(UserError, match=r"searches another space \(of unknown names\)"):
            search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study)
        assert study.get_trials() == []

    @pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
    def test_that_does_not_minimise(self, directions):
        study = optuna.create_study(study_name="up", directions=directions)
        with pytest.raises(UserError, match="the Optuna study 'up' does not minimise one value"):
            search.optuna_search(KEY, SPACE, Evaluator(), 4, study=study)
        assert study.get_trials() == []

    @pytest.mark.parametrize("url", ["nosuch://x", "sqlite:////no/such/folder/study.db"])
    def test_that_cannot_be_opened(self, url):
        with pytest.raises(UserError, match=f"^Optuna cannot open the study 'mine' in {url}: .+$"):
            search.open_study(0, storage=url, name="mine")


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"Optuna is not installed; install it with: pip install 'hcdc-jax\[optuna\]'"):
        search.optuna_search(KEY, SPACE, Evaluator(), 4)
