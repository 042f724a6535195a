"""What the controller tells the outside."""

from __future__ import annotations

from edge.link.messages import Document
from edge.run.progress import ActiveRun


class Listener:
    """Hears of everything worth telling; does nothing by itself. The session implements it."""

    def cell_changed(self) -> None:
        """The cell's status is another one."""

    def run_changed(self, run: ActiveRun, urgent: bool) -> None:
        """A run's status is another one; `urgent` at changes of state."""

    def inventory_changed(self) -> None:
        """The book-keeping has changed."""

    def documents(self, run: ActiveRun, documents: list[Document]) -> None:
        """Documents to keep and send."""
