# %% [markdown]
# # Search with Optuna
# A study that asks for a batch, scores it on condensed data in one compiled call, and tells all of it. Needs
# `pip install 'hcdc-jax[optuna]'`. From the command line: `hcdc search RUN --method optuna`.

# %%
import jax
import numpy as np

import hcdc_jax as hc
from hcdc_jax.condense import coresets
from hcdc_jax.containers import graph_container
from hcdc_jax.containers.graph import fixed

data = hc.load_dataset("digits_graph")
space = hc.spaces.get("graph_filter", order=2)
problem = hc.models.spectral_gnn(data.num_features, data.num_classes, hidden=32)

# %% [markdown]
# Any small training and validation set will do: of a run it would be `hc.load_condensed(folder)`; here it is 40 + 80
# real nodes.

# %%
container = graph_container(fixed(), 2, "laplacian")


def small(pool, count):
    nodes = coresets.plain_sample(np.random.default_rng(0), data, pool, count)
    return container.decode(container.init(jax.random.key(0), coresets.induced_subgraph(data, nodes, count)))


train, val = small(data.train_idx, 40), small(data.val_idx, 80)


def evaluate_fn(candidates):
    return hc.evaluate(jax.random.key(0), problem, candidates, train, val, training=hc.Training(steps=60))


# %%
history = hc.search.optuna_search(jax.random.key(1), space, evaluate_fn, 48, batch_size=16)
blind = hc.search.random_search(jax.random.key(1), space, evaluate_fn, 48)
for name, found in (("Optuna", history), ("random", blind)):
    (best,) = found.best(1)
    print(f"{name:7s} {found.loss[best]:.3f} at {found.hparams[best]}")
