"""Rivals for cells that train nothing: their size, and scores of untrained networks (see `search.zero_cost`)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from hcdc_jax.pipeline.clock import measured
from hcdc_jax.pipeline.kinds.images import network_options
from hcdc_jax.pipeline.recipes.base import Method, RankRequest, RankResult
from hcdc_jax.pipeline.scoring import rank_keys
from hcdc_jax.pipeline.setup import Setup
from hcdc_jax.search import ZeroCost, nas_bench_201_proxies
from hcdc_jax.training.candidates import Scores

IMAGES = 64
"""Of the real training part that a proxy sees: the mini-batch of the papers."""

_ABOUT = {
    "num_parameters": "how many numbers a cell's network learns; log #parameters ranks alike",
    "flops": "how many multiply-adds a cell's network takes for an image",
    "synflow": "what all paths of an untrained network carry (arXiv 2006.05467)",
    "naswot": "how differently the rectifiers of an untrained network answer to images (arXiv 2006.04647)",
    "jacob_cov": "how differently the logits of an untrained network change with images (arXiv 2006.04647v1)",
    "grad_norm": "the norm of the loss's gradient in an untrained network (arXiv 2101.08134)",
    "snip": "what the weights of an untrained network do to its loss (arXiv 1810.02340)",
}


def _proxy(setup: Setup, name: str) -> ZeroCost:
    data = setup.data
    options = network_options(setup.config.model)
    return nas_bench_201_proxies(data.image_shape, data.num_classes, read=setup.space.read, **options)[name]


def shown(setup: Setup, seed: int) -> np.ndarray:
    """Numbers of the images that proxies see, each once: of two equal ones a determinant would be 0."""
    numbers = setup.data.train_idx
    return np.random.default_rng([seed, 4]).choice(numbers, min(IMAGES, len(numbers)), replace=False)


def _judge(trial: RankRequest, *, name: str) -> RankResult:
    """Minus the score, averaged over initialisations, stands where others have a loss."""
    setup = trial.run.setup
    keys, proxy = rank_keys(setup, trial.seed), _proxy(setup, name)
    batch = setup.kind.batch(setup, shown(setup, trial.seed))
    with measured() as elapsed:
        score = jax.jit(lambda key, hparams: proxy(key, hparams, batch))
        # One by one: a cell by itself computes what it has, cells side by side compute all operations.
        found = np.array([[float(score(key, hparams)) for hparams in setup.candidates] for key in keys]).mean(0)
    good = np.isfinite(found)
    loss = np.where(good, -found, np.inf).astype(np.float32)
    return RankResult(Scores(jnp.asarray(loss), jnp.zeros(len(loss)), jnp.asarray(good)), elapsed, batch.inputs.size)


METHODS = {
    name: Method(f"zero-cost, for cells: {about}", None, functools.partial(_judge, name=name), labels="own")
    for name, about in _ABOUT.items()
}
