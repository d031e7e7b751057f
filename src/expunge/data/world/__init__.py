"""The embedded world: seeded fictitious authors, books and publishers in TOFU's roles, with nothing to download."""

from expunge.data.world.generate import World, WorldConfig, build_world, make_world
from expunge.data.world.graph import Entity, EntityLink

__all__ = ["Entity", "EntityLink", "World", "WorldConfig", "build_world", "make_world"]
