"""Derivatives through training: implicit, of networks that stay put, their solvers, and distances between them."""
