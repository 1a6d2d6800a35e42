"""Many candidates in one call: the same numbers as one by one, wherever and beside whomever they are trained."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hcdc_jax import testing
from hcdc_jax.batches.graphs import real_batch
from hcdc_jax.models import spectral_gnn
from hcdc_jax.problem import Problem, accuracy, brier_score, judged_by
from hcdc_jax.spaces import graph_filter
from hcdc_jax.training.candidates import _planned, evaluate, evaluate_on, train_each
from hcdc_jax.training.memory import branches, memory_budget, memory_chunk_size
from hcdc_jax.training.scores import score
from hcdc_jax.training.sharding import COPIES_ON_CPU, as_needed
from hcdc_jax.training.train import Training, shapes_of_step, shown, train
from hcdc_jax.types import Batch
from tests.small_graphs import block_graph

DATA = block_graph(30)
PROBLEM = spectral_gnn(5, 3, hidden=4)
TRAIN, VAL = (real_batch(DATA, index, order=2, basis="laplacian") for index in (DATA.train_idx, DATA.val_idx))
CANDIDATES = graph_filter(2).sample(jax.random.key(0), 7)
KEY = jax.random.key(5)
TRAINING = Training(steps=15)


def scores_of(candidates=CANDIDATES, **options):
    scores = evaluate(KEY, PROBLEM, candidates, TRAIN, VAL, **{"training": TRAINING, **options})
    return jax.tree.map(np.asarray, scores)


def assert_close(a, b, rtol=1e-5):
    np.testing.assert_allclose(a.loss, b.loss, rtol=rtol)
    np.testing.assert_array_equal(a.accuracy, b.accuracy)
    np.testing.assert_array_equal(a.status, b.status)


def test_scores_are_those_of_a_plain_loop():
    scores = scores_of()

    @jax.jit
    def one(lam):
        params, _ = train(KEY, PROBLEM, lam, TRAIN, TRAINING)
        return PROBLEM.val_loss(params, lam, VAL), accuracy(PROBLEM, params, lam, VAL)

    for i, lam in enumerate(CANDIDATES):
        loss, share = one(lam)
        np.testing.assert_allclose(scores.loss[i], loss, rtol=1e-5)
        np.testing.assert_allclose(scores.accuracy[i], share, rtol=1e-6)
    assert scores.status.all()
    assert scores.loss.shape == scores.accuracy.shape == (7,)


def test_several_batches_share_one_training():
    both = evaluate_on(KEY, PROBLEM, CANDIDATES, TRAIN, (VAL, TRAIN), training=TRAINING)
    assert_close(jax.tree.map(np.asarray, both[0]), scores_of())
    on_train = evaluate(KEY, PROBLEM, CANDIDATES, TRAIN, TRAIN, training=TRAINING)
    assert_close(*(jax.tree.map(np.asarray, scores) for scores in (both[1], on_train)))


def test_the_order_of_candidates_does_not_matter():
    order = np.random.default_rng(0).permutation(7)
    moved, scores = scores_of(CANDIDATES[order]), scores_of()
    assert_close(moved, jax.tree.map(lambda leaf: leaf[order], scores))


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_the_chunk_size_does_not_matter(chunk_size):
    np.testing.assert_allclose(scores_of(chunk_size=chunk_size).loss, scores_of().loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [[1e30, -1e30, 1e30], [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]])
@pytest.mark.parametrize("chunk_size", [3, 7])
def test_a_candidate_that_diverges_is_reported_and_touches_no_other(bad, chunk_size):
    bad_one = CANDIDATES.at[4].set(jnp.array(bad))
    scores, before = scores_of(bad_one, chunk_size=chunk_size), scores_of(chunk_size=chunk_size)
    assert scores.loss[4] == np.inf
    assert scores.accuracy[4] == 0
    assert not scores.status[4]
    others = np.arange(7) != 4
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[others], b[others]), scores, before)


class TestOnePassOfScoring:
    @staticmethod
    def asked(**replaced):
        """The scores of a network, and how often it was asked."""
        calls = []

        def apply(params, hparams, inputs):
            calls.append(None)
            return PROBLEM.apply(params, hparams, inputs)

        problem = judged_by(PROBLEM._replace(apply=apply), brier_score)._replace(**replaced)
        return score(problem, PROBLEM.init(KEY, CANDIDATES[0]), CANDIDATES[0], VAL), len(calls)

    def test_a_loss_of_logits(self):
        scores, calls = self.asked()
        params = PROBLEM.init(KEY, CANDIDATES[0])
        assert calls == 1
        assert scores.loss == brier_score(PROBLEM.apply(params, CANDIDATES[0], VAL.inputs), VAL)
        assert scores.accuracy == accuracy(PROBLEM, params, CANDIDATES[0], VAL)

    def test_any_other_loss_is_asked_for_itself(self):
        scores, _ = self.asked(val_loss=lambda params, hparams, batch: jnp.float32(7))
        assert scores.loss == 7

    def test_a_loss_of_other_logits_is_not_taken_for_that_of_these(self):
        double, params = lambda *args: 2 * PROBLEM.apply(*args), PROBLEM.init(KEY, CANDIDATES[0])
        scores, _ = self.asked(apply=double)
        assert scores.loss == brier_score(PROBLEM.apply(params, CANDIDATES[0], VAL.inputs), VAL)


def counted():
    """The problem, and a list that grows whenever its training loss is traced."""
    traces = []

    def train_loss(params, hparams, batch):
        traces.append(None)
        return PROBLEM.train_loss(params, hparams, batch)

    return Problem(PROBLEM.init, PROBLEM.apply, train_loss, PROBLEM.val_loss), traces


def test_nothing_is_traced_again_when_numbers_change():
    problem, traces = counted()
    evaluate(KEY, problem, CANDIDATES, TRAIN, VAL, training=Training(steps=3), chunk_size=2)
    first = len(traces)
    assert first > 0
    evaluate(jax.random.key(9), problem, CANDIDATES, TRAIN, VAL, training=Training(steps=3), chunk_size=2)
    evaluate(KEY, problem, -CANDIDATES, TRAIN, VAL, training=Training(0.5, steps=3), chunk_size=2)
    other = TRAIN._replace(labels=TRAIN.labels[::-1], weights=0.5 * TRAIN.weights)
    evaluate(KEY, problem, CANDIDATES, other, VAL, training=Training(steps=3), chunk_size=2)
    assert len(traces) == first
    evaluate(KEY, problem, CANDIDATES, TRAIN, VAL, training=Training(steps=4), chunk_size=2)
    assert len(traces) > first  # the counter counts


def test_candidates_may_be_pytrees():
    problem = Problem(
        lambda key, hparams: PROBLEM.init(key, hparams["lam"]),
        lambda params, hparams, inputs: PROBLEM.apply(params, hparams["lam"], inputs),
        lambda params, hparams, batch: hparams["scale"] * PROBLEM.train_loss(params, hparams["lam"], batch),
        lambda params, hparams, batch: PROBLEM.val_loss(params, hparams["lam"], batch),
    )
    scores = evaluate(KEY, problem, {"lam": CANDIDATES, "scale": jnp.ones(7)}, TRAIN, VAL, training=TRAINING)
    assert_close(jax.tree.map(np.asarray, scores), scores_of())


def branching_loss(params, hparams, batch):
    extra = jax.lax.cond(hparams[0] > 0, lambda: 0.01 * sum(map(jnp.vdot, *[jax.tree.leaves(params)] * 2)), lambda: 0.0)
    return PROBLEM.train_loss(params, hparams, batch) + extra


BRANCHING = PROBLEM._replace(train_loss=branching_loss)


def test_candidates_that_branch_are_trained_alone_and_score_alike():
    assert branches(BRANCHING, CANDIDATES[0], TRAIN)
    assert not branches(PROBLEM, CANDIDATES[0], TRAIN)
    alone, mapped = (
        evaluate(KEY, BRANCHING, CANDIDATES, TRAIN, VAL, training=TRAINING, chunk_size=size) for size in (None, 7)
    )
    assert_close(alone, mapped)
    assert np.abs(alone.loss - scores_of().loss).max() > 1e-4


def test_what_counts_is_the_mini_batch_that_a_step_looks_at():
    problem = Problem(
        lambda key, hparams: jnp.zeros((8, 3)),
        lambda params, hparams, inputs: inputs @ params,
        lambda params, hparams, batch: jnp.mean((batch.inputs @ params) ** 2),
        lambda params, hparams, batch: jnp.mean((batch.inputs @ params) ** 2),
    )
    data = Batch(jnp.ones((1_000_000, 8)), jnp.zeros(1_000_000, int), jnp.ones(1_000_000))
    val = jax.tree.map(lambda leaf: leaf[:10], data)
    sizes = []
    for batch_size in (10, None, 2_000_000):
        training = Training(batch_size=batch_size)
        plan = _planned(problem, jnp.zeros((20, 2)), data, (val,), None, 1, training)
        sizes.append(jax.tree.leaves(plan.chunks)[0].shape[:2])
        seen = shapes_of_step(data, training)
        taken = jax.eval_shape(lambda data, t=training: shown(KEY, 0, problem, jnp.zeros(2), data, t), data)
        for shape, other in zip(jax.tree.leaves(seen), jax.tree.leaves(taken), strict=True):
            assert (shape.shape, shape.dtype) == (other.shape, other.dtype)
    assert sizes == [(1, 32), (32, 1), (32, 1)]


def test_numbers_of_candidates_share_programs_and_scores_do_not_see_what_fills_up():
    many = np.asarray(CANDIDATES)[np.arange(13) % 7]
    training, first = Training(0.1, steps=3), np.zeros(0)

    def losses(count, chunk_size):
        return np.asarray(
            evaluate(KEY, PROBLEM, many[:count], TRAIN, VAL, training=training, chunk_size=chunk_size).loss
        )

    for chunk_size, counts in ((100, (8, 5, 6, 7)), (2, (8, 7)), (1, (8, 5))):  # side by side, in chunks, one by one
        first = losses(counts[0], chunk_size)
        with testing.compilations() as compiled:
            for count in counts[1:]:
                np.testing.assert_allclose(losses(count, chunk_size), first[:count], rtol=1e-6)
        assert not compiled
    np.testing.assert_allclose(losses(13, 2)[:8], first, rtol=1e-6)


def test_chunks_grow_with_the_budget_and_shrink_with_the_network():
    small, large = (
        memory_chunk_size(spectral_gnn(5, 3, hidden=hidden), CANDIDATES[0], TRAIN, budget=1e8) for hidden in (4, 64)
    )
    assert small > large > 1
    twice = memory_chunk_size(spectral_gnn(5, 3, hidden=64), CANDIDATES[0], TRAIN, budget=2e8)
    assert twice in (2 * large, 2 * large + 1)
    assert memory_chunk_size(PROBLEM, CANDIDATES[0], TRAIN, budget=1.0) == 1
    assert memory_budget("cpu") < memory_budget("gpu") == memory_budget("tpu")


FOUR_DEVICES = """
import re
import sys
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 4)
assert jax.local_device_count() == 4
from hcdc_jax.training.candidates import _evaluate_chunks, evaluate, score_each, train_each
from hcdc_jax.training.sharding import mesh_of, over_candidates
from tests.test_candidates import BRANCHING, CANDIDATES, KEY, PROBLEM, TRAIN, TRAINING, VAL, scores_of
alone = evaluate(KEY, BRANCHING, CANDIDATES, TRAIN, VAL, training=TRAINING)
params = train_each(KEY, BRANCHING, CANDIDATES, TRAIN, training=TRAINING)
networks = jax.tree.leaves(params)
np.testing.assert_allclose(score_each(BRANCHING, params, CANDIDATES, VAL).loss, alone.loss, rtol=1e-6)
mesh = mesh_of(jax.devices())
for problem, alone_each in ((PROBLEM, False), (BRANCHING, True)):
    chunks, replicate = over_candidates(CANDIDATES, 1, mesh)
    shared = replicate((KEY, TRAIN, (VAL,), TRAINING))
    program = _evaluate_chunks.lower(shared[0], problem, chunks, *shared[1:], mesh=mesh, alone=alone_each).compile()
    # One that has waited for another for long is ended by XLA.
    assert not re.search("all-gather|all-reduce|all-to-all|collective|rendezvous", program.as_text())
np.savez(
    sys.argv[1], **scores_of()._asdict(), loss_of_two=scores_of(devices=jax.devices()[:2]).loss, branching=alone.loss,
    network=networks[0]
)
"""


def test_four_devices_give_the_numbers_of_one(tmp_path):
    # Seven candidates on four devices: some get two, one of them a copy that must not show.
    path = tmp_path / "scores.npz"
    subprocess.run([sys.executable, "-c", FOUR_DEVICES, path], check=True)
    with np.load(path) as spread:
        alone = scores_of()
        np.testing.assert_allclose(spread["loss"], alone.loss, rtol=1e-6)
        np.testing.assert_allclose(spread["loss_of_two"], alone.loss, rtol=1e-6)
        np.testing.assert_array_equal(spread["accuracy"], alone.accuracy)
        np.testing.assert_array_equal(spread["status"], alone.status)
        branching = evaluate(KEY, BRANCHING, CANDIDATES, TRAIN, VAL, training=TRAINING)
        np.testing.assert_allclose(spread["branching"], branching.loss, rtol=1e-6)
        network = jax.tree.leaves(train_each(KEY, BRANCHING, CANDIDATES, TRAIN, training=TRAINING))[0]
        np.testing.assert_allclose(spread["network"], network, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("devices", "count", "needed"), [(4, 1, 1), (4, 4, 4), (4, 6, 3), (4, 9, 3), (1, 5, 1)])
def test_no_more_devices_than_keep_busy(devices, count, needed):
    there = [SimpleNamespace(platform="gpu")] * devices
    assert len(as_needed(there, count, TRAIN)) == needed


def test_copies_for_devices_of_a_cpu_fit_into_memory():
    cores = [SimpleNamespace(platform="cpu")] * 8
    large = SimpleNamespace(nbytes=int(COPIES_ON_CPU / 3))
    assert len(as_needed(cores, 8, [large])) == 3
    assert len(as_needed(cores, 8, [large] * 4)) == 1
