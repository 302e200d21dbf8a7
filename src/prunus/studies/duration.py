"""Times in words."""


def duration(seconds: float) -> str:
    """A time in the units one would say it in: 0.4 s, 12 s, 3 min 20 s, 1 h 5 min, 12 days 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} day{'s' if days > 1 else ''} {hours_left} h"
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
