"""Names of the cell's topics. Pure."""

from __future__ import annotations

ROOT = "labedge/v1"


class Topics:
    """Topics of one cell."""

    def __init__(self, cell: str) -> None:
        base = f"{ROOT}/{cell}"
        self.base = base
        self.submit = f"{base}/plan/submit"
        self.check = f"{base}/plan/check"
        self.command = f"{base}/command"
        self.cell_status = f"{base}/cell/status"
        self.capabilities = f"{base}/cell/capabilities"
        self.inventory = f"{base}/cell/inventory"
        self.alarm = f"{base}/alarm"

    def reply(self, reply_id: str) -> str:
        return f"{self.base}/reply/{reply_id}"

    def run_status(self, plan_id: str) -> str:
        return f"{self.base}/run/{plan_id}/status"

    def documents(self, plan_id: str) -> str:
        return f"{self.base}/run/{plan_id}/documents"

    def telemetry(self, device: str) -> str:
        return f"{self.base}/telemetry/{device}"
