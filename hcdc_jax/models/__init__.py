"""Networks. Each file returns a `Problem`; nothing outside this folder imports flax."""
