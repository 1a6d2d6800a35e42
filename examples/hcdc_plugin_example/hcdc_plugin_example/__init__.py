"""A plugin of hcdc_jax: a method, a space, a data set, a container, a protocol and a network of graphs."""
