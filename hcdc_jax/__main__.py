"""`python -m hcdc_jax`: the command `hcdc`."""

from hcdc_jax.cli import program

if __name__ == "__main__":
    program()
