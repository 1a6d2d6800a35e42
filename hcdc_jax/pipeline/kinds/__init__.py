"""Kinds of data, as the stages of a run ask for them: graphs, images, streamed images, arrays."""
