"""Universal Robots arm as a plate mover.

Sources: Universal Robots articles 16377 (Modbus server) and 15690 (dashboard server), and ../HANDSHAKE.md.
`driver` is what the edge sees, `mover` speaks to the program on the arm, `dashboard` to the controller.
"""

from drivers.arms.universal_robots.driver import UniversalRobots

__all__ = ["UniversalRobots"]
