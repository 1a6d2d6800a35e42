"""Problems of one's own: a space in two lines, evaluated and differentiated; losses that cannot be, and why."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hcdc_jax import spaces
from hcdc_jax.errors import UserError
from hcdc_jax.hypergradients.implicit import hypergradient
from hcdc_jax.hypergradients.solvers import dense
from hcdc_jax.models import check_losses
from hcdc_jax.problem import Problem, mean_loss
from hcdc_jax.training.candidates import evaluate
from hcdc_jax.training.train import Training
from hcdc_jax.types import Batch

SPACE = spaces.box("mine", {"weight_decay": (1e-3, 1e-1, "log"), "gain": (0.5, 2)})
KEY = jax.random.key(0)


def logistic() -> Problem:
    """Logistic regression on inputs that are multiplied by a gain."""

    def apply(params, hparams, inputs):
        return SPACE.read(hparams)["gain"] * inputs @ params["w"]

    def val_loss(params, hparams, batch):
        return mean_loss(apply(params, hparams, batch.inputs), batch)

    def train_loss(params, hparams, batch):
        return val_loss(params, hparams, batch) + SPACE.read(hparams)["weight_decay"] * jnp.sum(params["w"] ** 2)

    return Problem(lambda key, hparams: {"w": 0.1 * jax.random.normal(key, (4, 3))}, apply, train_loss, val_loss)


def halves() -> tuple[Batch, Batch]:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    inputs[np.arange(40), labels] += 1
    train, val = (Batch(jnp.asarray(inputs[i::2]), jnp.asarray(labels[i::2]), jnp.ones(20)) for i in (0, 1))
    return train, val


PROBLEM = logistic()


def test_candidates_of_a_space_of_ones_own_are_evaluated():
    candidates = SPACE.sample(KEY, 6)
    scores = evaluate(KEY, PROBLEM, candidates, *halves(), training=Training(0.1, steps=50))
    assert scores.status.all()
    assert len(set(np.asarray(scores.loss).tolist())) == 6


def test_its_hypergradient_is_the_slope_of_retraining(x64):
    train_batch, val_batch = halves()

    @jax.jit
    def fit(hparams):
        def newton(params, _):
            flat, unravel = ravel_pytree(params)
            loss = lambda x: PROBLEM.train_loss(unravel(x), hparams, train_batch)  # noqa: E731
            return unravel(flat - jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat))), None

        return jax.lax.scan(newton, {"w": jnp.zeros((4, 3))}, length=20)[0]

    hparams = jnp.asarray([np.log(0.02), 1.3])
    found, _ = hypergradient(
        PROBLEM.train_loss, PROBLEM.val_loss, fit(hparams), hparams, train_batch, val_batch, solver=dense()
    )
    value = jax.jit(lambda hparams: PROBLEM.val_loss(fit(hparams), hparams, val_batch))
    expected = [(value(hparams + step) - value(hparams - step)) / 2e-5 for step in 1e-5 * np.eye(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def check(train_loss=PROBLEM.train_loss, val_loss=PROBLEM.val_loss, params=None, hparams=None):
    hparams = jnp.asarray([-4.0, 1.0]) if hparams is None else hparams
    params = PROBLEM.init(KEY, hparams) if params is None else params
    check_losses(train_loss, val_loss, params, hparams, *halves())


def test_good_losses_pass():
    check()


def logits_of(params, hparams, batch):
    return PROBLEM.apply(params, hparams, batch.inputs)


MISTAKES = {
    "per example": (
        lambda p, h, b: logits_of(p, h, b).sum(1),
        "must return one number, got shape (20,); take the mean over the examples",
    ),
    "tuple": (
        lambda p, h, b: (0.0, p),
        "must return one number, got tuple; return the loss alone, nothing beside it",
    ),
    "integer": (
        lambda p, h, b: (logits_of(p, h, b).argmax(1) != b.labels).sum(),
        "must return a float, got int32; counts, labels and complex numbers have no gradient",
    ),
    "accuracy": (
        lambda p, h, b: (logits_of(p, h, b).argmax(1) == b.labels).mean(),
        "is not differentiable, or does not use params: its gradient in them is 0 everywhere",
    ),
    "numpy": (lambda p, h, b: np.mean(logits_of(p, h, b)) * float(p["w"][0, 0]), "cannot be traced by JAX"),
    "root": (
        lambda p, h, b: jnp.sqrt(jnp.sum((p["w"] - p["w"]) ** 2)) + h.sum(),
        "has a gradient that is not finite in params['w'], though its value is",
    ),
    "root of hparams": (
        lambda p, h, b: jnp.sum(p["w"] ** 2) * (1 + jnp.sqrt(h[1] - 1)),
        "has a gradient that is not finite in hparams, though its value is",
    ),
    "infinite": (lambda p, h, b: jnp.sum(p["w"]) + jnp.log(0.0), "is -inf at these params and hparams"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", ["train_loss", "val_loss"])
def test_what_is_wrong_with_a_loss_is_told_in_one_line(mistake, name):
    loss, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        check(**{name: loss})
    assert str(caught.value).startswith(f"{name} {message}")
    assert "\n" not in str(caught.value)


def test_integers_have_no_gradients():
    with pytest.raises(UserError, match="hparams is of type int32; only floats have gradients"):
        check(hparams=jnp.asarray([1, 2]))
    with pytest.raises(UserError, match=r"params\['w'\] is of type int32"):
        check(params={"w": jnp.ones((4, 3), int)})


def test_the_example_of_the_docs_runs():
    text = (Path(__file__).parent.parent / "docs" / "spaces.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[1:]
    names = {}
    exec("".join(blocks).replace("100)", "5)"), names)  # fewer candidates, same calls
    assert names["scores"].status.all()
    assert np.isfinite(names["slope"]).all()
    assert not names["info"].diverged
