"""The cell's alarms: raised once, cleared when the cause goes, told to the outside at each change."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge.link.messages import Alarm, utc_now


class Alarms:
    """Alarms that stand now, by id."""

    def __init__(self, publish: Callable[[Alarm], None]) -> None:
        self.standing: dict[str, Alarm] = {}
        self._publish = publish

    def raise_(self, alarm_id: str, severity: str, source: str, message: str) -> None:
        """Raise, or tell again when the message is another one."""
        old = self.standing.get(alarm_id)
        if old is not None and old.message == message:
            return
        alarm = msgspec.convert(
            {
                "id": alarm_id,
                "severity": severity,
                "source": source,
                "message": message,
                "state": "unacknowledged",
                "at": utc_now(),
            },
            Alarm,
        )
        self.standing[alarm_id] = alarm
        self._publish(alarm)

    def clear(self, alarm_id: str) -> None:
        """The cause of this alarm is gone."""
        if (alarm := self.standing.pop(alarm_id, None)) is not None:
            self._publish(msgspec.structs.replace(alarm, state="returned_to_normal", at=utc_now()))

    def clear_all(self, *prefixes: str) -> None:
        """The causes of the alarms whose ids begin so are gone."""
        for alarm_id in [key for key in self.standing if key.startswith(prefixes)]:
            self.clear(alarm_id)
