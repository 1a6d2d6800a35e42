# %% [markdown]
# # The jitted functions by hand
# Hypergradients, and their match, of losses that know nothing of this library: ridge regression with one weight decay
# per feature.

# %%
import jax
import jax.numpy as jnp

import hcdc_jax as hc

key = jax.random.key(0)
weights = jnp.array([1.0, -2.0, 0.0, 0.5])


def draw(key, n):
    noise, inputs = jax.random.normal(key, (n,)), jax.random.normal(jax.random.fold_in(key, 1), (n, 4))
    return inputs, inputs @ weights + noise


def val_loss(params, hparams, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ params - targets) ** 2)


def train_loss(params, hparams, batch):
    return val_loss(params, hparams, batch) + jnp.sum(jnp.exp(hparams) * params**2)


train_batch, val_batch = draw(jax.random.key(1), 12), draw(jax.random.key(2), 200)

# %% [markdown]
# At a minimum of the training loss the implicit function theorem gives the slope of the validation loss along lambda.


# %%
@jax.jit
def minimum(hparams):
    inputs, targets = train_batch
    gram = inputs.T @ inputs / len(targets) + jnp.diag(jnp.exp(hparams))
    return jnp.linalg.solve(gram, inputs.T @ targets / len(targets))


hparams = jnp.full(4, -2.0)
g, info = hc.hypergradient(
    train_loss, val_loss, minimum(hparams), hparams, train_batch, val_batch, solver=hc.neumann(100)
)
exact = jax.grad(lambda h: val_loss(minimum(h), h, val_batch))(hparams)
print("hypergradient", g, "exact", exact, "residual of the solve", info.solve.residual)
assert jnp.allclose(g, exact, rtol=1e-2, atol=1e-4)

# %% [markdown]
# Now three synthetic validation points whose hypergradients agree with those of the 200 real ones, at several lambda at
# once. `hypergradient_matching` returns the distance and its exact gradient with respect to the synthetic batch.

# %%
several = jax.random.uniform(jax.random.key(3), (6, 4), minval=-4.0, maxval=0.0)
params = jax.vmap(minimum)(several)
targets = jax.vmap(
    lambda p, h: hc.hypergradient(train_loss, val_loss, p, h, train_batch, val_batch, solver=hc.dense())[0]
)(params, several)


@jax.jit
def step(batch):
    def match(p, h, target):
        d, grad, _ = hc.hypergradient_matching(
            train_loss, val_loss, p, h, train_batch, batch, target, solver=hc.dense(), distance="cosine"
        )
        return d, grad

    d, grad = jax.vmap(match)(params, several, targets)
    return jax.tree.map(lambda leaf, slope: leaf - 0.3 * slope.mean(0), batch, grad), d.mean()


synthetic = draw(jax.random.key(4), 3)
synthetic, first = step(synthetic)
for _ in range(300):
    synthetic, last = step(synthetic)
print(f"mean cosine distance {first:.3f} -> {last:.4f}")
assert last < 0.1 * first

# %% [markdown]
# The order of unseen lambda by three synthetic points, against the order by 200 real ones:

# %%
unseen = jax.random.uniform(jax.random.key(5), (200, 4), minval=-4.0, maxval=0.0)
loss = jax.jit(jax.vmap(lambda h, batch: val_loss(minimum(h), h, batch), in_axes=(0, None)))
ranks = hc.rank_report(loss(unseen, val_batch), loss(unseen, synthetic))
print("Spearman", round(ranks["spearman"], 3))
assert ranks["spearman"] > 0.8
