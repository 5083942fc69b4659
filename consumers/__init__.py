"""Consumers: processes without an end. Each is a source, the one engine and a reaction."""

from consumers.projector import Projected, project

__all__ = ["Projected", "project"]
