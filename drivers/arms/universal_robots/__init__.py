"""Universal Robots arm as a plate mover: `driver` is what the edge sees."""

from drivers.arms.universal_robots.driver import UniversalRobots

__all__ = ["UniversalRobots"]
