"""A deadline as a user writes it: a window, a time of day, or a date and time. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import time as time_of_day

WINDOW = re.compile(r"(\d\d:\d\d(?::\d\d)?) ?[-\u2013] ?(\d\d:\d\d(?::\d\d)?)")
_OVER_FOR_S = 8 * 3600  # a time of day that passed less than this ago is over, not tomorrow's


@dataclass(frozen=True, slots=True)
class Moment:
    """The deadline of a run: a window (``22:00-06:00``), a time of day, or a date and time; local without an offset.

    rehearsed: for a rehearsal, which may start at any time: a window starts with it, and no time of day is over.
    """

    text: str
    rehearsed: bool = False

    def after(self, now: float, zone: tzinfo | None = None) -> float:
        """Return the moment for a run that starts now, in seconds since the epoch. A past moment means: too late.

        Outside a window, it is the window's last end. A time of day is its next occurrence, except that one that passed
        within the last eight hours is over: a nightly run that starts late must not use the day.

        now: wall time. zone: the local zone, by default this machine's. When clocks change, a time of day that occurs
        twice means the first occurrence. A skipped time of day is converted with the offset before the change: 02:30 is
        then 03:30.
        """
        if window := WINDOW.fullmatch(self.text):
            opens, closes = map(time_of_day.fromisoformat, window.groups())
            return self._end_of_window(opens, closes, now, zone)
        try:
            clock_time = time_of_day.fromisoformat(self.text)
        except ValueError:
            return _local(datetime.fromisoformat(self.text), zone)
        today = datetime.fromtimestamp(now, clock_time.tzinfo or zone).date()
        days = (datetime.combine(today + timedelta(days=ahead), clock_time) for ahead in range(-2, 3))
        since = now if self.rehearsed else now - _OVER_FOR_S
        return next(at for day in days if (at := _local(day, zone)) > since)

    @property
    def is_window(self) -> bool:
        """True for a window, which has a start and an end."""
        return bool(WINDOW.fullmatch(self.text))

    def is_over(self, now: float, zone: tzinfo | None = None) -> bool:
        """Return True if a run that starts now is too late, or too early for a window."""
        return self.after(now, zone) <= now

    def _end_of_window(self, opens: time_of_day, closes: time_of_day, now: float, zone: tzinfo | None) -> float:
        today = datetime.fromtimestamp(now, zone).date()
        last = now
        for ahead in range(-2, 2):
            day = today + timedelta(days=ahead)
            start = _local(datetime.combine(day, opens), zone)
            end = _local(datetime.combine(day + timedelta(days=closes <= opens), closes), zone)
            if start <= now < end:
                return end
            if end <= now:
                last = now + end - start if self.rehearsed else end
        return last


def _local(moment: datetime, zone: tzinfo | None) -> float:
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.timestamp()
