"""Placeholder."""


def prototype(*_):
    return None
