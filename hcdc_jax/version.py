"""The version: read here by the build, by artefacts and by the command."""

__version__ = "0.1.0"
