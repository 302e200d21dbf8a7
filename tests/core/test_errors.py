import pytest

from prunus.core.errors import Invalid, check_density, nearest


@pytest.mark.parametrize(("name", "near"), [("magnitud", "magnitude"), ("SNIP", "SNIP"), ("synflo", "synflow")])
def test_the_nearest_name_is_asked_for(name, near):
    assert nearest(name, ["magnitude", "SNIP", "synflow"]) == f"did you mean {near!r}?"


def test_where_no_name_is_near_all_are_listed():
    assert nearest("x", ["alpha", "beta"]) == "allowed: alpha, beta"
    assert nearest("x", []) == "there are none"


def test_a_long_list_is_cut_and_counted():
    assert nearest("?", [f"layer{i}" for i in range(20)], most=2) == "allowed: layer0, layer1, … (20 in all)"


@pytest.mark.parametrize("density", [1, 1.0, 0.5, 1e-300])
def test_densities(density):
    assert check_density(density) == density
    assert type(check_density(density)) is float


@pytest.mark.parametrize("density", [0, -0.1, 1.0000001, float("nan"), float("inf"), True, "0.5", None])
def test_what_is_no_density_is_refused_by_name(density):
    with pytest.raises(Invalid) as caught:
        check_density(density, "keep")
    assert str(caught.value) == f"keep is {density!r}; allowed: a number in (0, 1]"


def test_invalid_is_a_value_error():
    assert issubclass(Invalid, ValueError)
