"""How many lanes there are, by what is reported of them."""

from prunus.training.engines.sizing import REPORTS, Sizing


def sizes(seconds, memory=lambda lanes: lanes, free=10**9):
    """The sizes that are tried, where a step of all lanes takes `seconds(lanes)`; the last one is kept."""
    sizing, tried = Sizing(), []
    while not sizing.settled and len(tried) < 12:
        tried.append(sizing.size)
        for _ in range(REPORTS):
            sizing.report(sizing.size, seconds(sizing.size), memory(sizing.size), free)
    return [*tried, sizing.size]


def test_it_doubles_while_lanes_become_cheaper_and_goes_back_to_the_best():
    # up to 16 lanes take as long as one; beyond, each adds its share
    assert sizes(lambda lanes: max(1.0, lanes / 16)) == [4, 8, 16, 32, 16]


def test_an_improvement_of_five_percent_is_none():
    assert sizes(lambda lanes: lanes**0.95) == [4, 8, 4]  # 2 ** -0.05 = 0.966 of the time
    assert sizes(lambda lanes: lanes**0.9)[:4] == [4, 8, 16, 32]  # 0.933


def test_it_never_tries_what_would_not_fit():
    # a fixed 50, and 10 for each lane: from 8 to 16 takes twice what 4 to 8 took, which was 40
    def memory(lanes):
        return 50 + 10 * lanes

    assert sizes(lambda lanes: 1.0, memory, free=79) == [4, 4]  # the four may have taken all of their 90
    assert sizes(lambda lanes: 1.0, memory, free=90) == [4, 8, 16, 16]
    assert sizes(lambda lanes: 1.0, memory, free=160) == [4, 8, 16, 32, 32]


def test_stacks_that_are_not_full_and_slow_reports_say_nothing():
    sizing = Sizing()
    for _ in range(10):
        sizing.report(3, 1e-9, 0, 10**9)
    assert sizing.size == 4
    for seconds in (1.0, 50.0, 50.0):
        sizing.report(4, seconds, 0, 10**9)
    for seconds in (50.0, 1.0, 50.0):
        sizing.report(8, seconds, 0, 10**9)
    assert sizing.size == 16
