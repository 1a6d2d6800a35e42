# %% [markdown]
# # Five-minute tour
# Condense a real graph, look at how well filters are ranked on it, and search it. This file is plain Python;
# `jupytext --to ipynb` makes a notebook of it.

# %%
import tempfile
from pathlib import Path

import jax

import hcdc_jax as hc
from hcdc_jax import config, pipeline

# %% [markdown]
# A run is a configuration and a folder. This one is the demo (`configs/digits_graph.toml`) with fewer candidates, so
# that it ends within a minute; whatever is not named keeps its default.

# %%
settings = config.apply_overrides(
    config.Config(),
    ["--methods", "random", "hcdc", "real_val", "--condense.ratio=0.0223", "--space.candidates=24"],
)
folder = Path(tempfile.mkdtemp()) / "tour"
report = pipeline.run(settings, folder)

# %%
for name, entry in report["methods"].items():
    rank = entry["spearman_loss"]["mean"]
    print(f"{name:10s} ranks at {rank:.3f} after {entry['full_trainings_used']} full trainings")

# %% [markdown]
# `folder / "report.html"` shows the same with figures. The condensed graph itself is two small batches and a card:

# %%
condensed = hc.load_condensed(folder)
print(condensed.card["method"], condensed.train.inputs.nodes.shape, condensed.val.inputs.nodes.shape)

# %% [markdown]
# A search on it is one compiled call, however many candidates there are.

# %%
data = hc.load_dataset("digits_graph")
problem = hc.models.spectral_gnn(data.num_features, data.num_classes, hidden=32)
candidates = hc.spaces.get("graph_filter", order=2).sample(jax.random.key(1), 200)
scores = hc.evaluate(jax.random.key(0), problem, candidates, condensed.train, condensed.val)
best = candidates[scores.loss.argmin()]
print("best filter", best)

# %% [markdown]
# Does it hold on the full graph? Train it there once.

# %%
real = {
    part: hc.real_batch(data, index, order=2, basis="laplacian")
    for part, index in (("train", data.train_idx), ("test", data.test_idx))
}
truth = hc.evaluate(jax.random.key(2), problem, best[None], real["train"], real["test"])
print(f"test accuracy on the full graph {truth.accuracy[0]:.3f}")
assert truth.accuracy[0] > 0.8
