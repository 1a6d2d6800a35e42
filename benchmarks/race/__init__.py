"""The race: how many full trainings until the best of a finite pool is found, by every search there is.

`tasks` says what is searched, `curves` trains every candidate of a pool once, `cheap` gets what condensed data say of
them, `methods` replays searches on these tables, `outcome` compares them.
"""
