"""A plugin of hcdc_jax: a method, a space and a data set."""
