import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.studies.resolve import STUDIES, parse_assignment, resolve, to_yaml
from small_study import small


@pytest.fixture
def study_file(tmp_path):
    def write(text):
        path = tmp_path / "study.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
        return str(path)

    return write


def refusal(study, *overrides):
    with pytest.raises(Invalid) as caught:
        resolve(study, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- presets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "preset"), [(study, preset) for study in STUDIES for preset in STUDIES[study]])
def test_presets_are_valid_and_named_after_themselves(study, preset):
    resolved = resolve(study, [("preset", preset)])
    assert resolved.name == f"{study}-{preset}"
    assert resolved.device == "cpu" or "cuda" in resolved.device or resolved.device == "mps"


def test_the_first_preset_is_the_default():
    assert resolve("lottery-ticket") == resolve("lottery-ticket", [("preset", "quick")])


def test_paper_is_the_published_setting():
    (setting,) = resolve("lottery-ticket", [("preset", "paper")]).variants.values()
    train, prune = setting.train, setting.prune
    assert (setting.model.name, setting.model.width) == ("lenet-300-100", 1)
    assert (train.optimizer, train.lr, train.batch, train.iterations) == ("adam", 1.2e-3, 60, 50_000)
    assert (prune.rate, prune.output_rate, prune.scope, prune.retrain) == (0.2, None, "layerwise", "reset")
    assert setting.data.validation == 5_000


@pytest.mark.parametrize(
    ("name", "iterations", "lr", "conv_rate"),
    [("conv-2", 20_000, 2e-4, 0.1), ("conv-4", 25_000, 3e-4, 0.1), ("conv-6", 30_000, 3e-4, 0.15)],
)
def test_paper_conv_is_the_published_setting(name, iterations, lr, conv_rate):
    setting = resolve("lottery-ticket", [("preset", "paper-conv")]).variants[name]
    train, prune = setting.train, setting.prune
    assert setting.model.name == name
    assert (train.optimizer, train.batch, train.iterations, train.lr) == ("adam", 60, iterations, lr)
    assert (prune.rate, prune.conv_rate, prune.output_rate) == (0.2, conv_rate, None)


# --- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("trails", "trials"),
        ("train.lrr", "lr"),
        ("train.evaluate_evry", "evaluate_every"),
        ("prune.round", "rounds"),
        ("model.nam", "name"),
        ("data.validaton", "validation"),
        ("pruning.rate", "prune"),
        ("variants.a.train.iteration", "iterations"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(key, near):
    path = key.removesuffix(".rate")  # of an unknown section
    assert refusal("lottery-ticket", (key, 1)) == f"lottery-ticket: {path}: no such key; did you mean {near!r}?"


def test_an_unknown_key_of_a_variant_is_named_with_its_path(study_file):
    path = study_file({"variants": {"one": {}, "two": {"train": {"bach": 60}}}})
    assert refusal(path) == f"{path}: variants.two.train.bach: no such key; did you mean 'batch'?"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("trials", "three", "trials is 'three'; allowed: a whole number"),
        ("trials", "3", "trials is '3'; allowed: a whole number"),
        ("trials", 2.0, "trials is 2.0; allowed: a whole number"),
        ("trials", True, "trials is True; allowed: a whole number"),
        ("trials", 0, "trials is 0; allowed: at least 1"),
        ("trials", None, "trials is None; allowed: a whole number"),
        ("seed", "x", "seed is 'x'; allowed: a whole number"),
        ("threads", 100_000, "threads is 100000; allowed: at most 1024"),
        ("title", 3, "title is 3; allowed: text"),
        ("arms", "reinit", "arms is 'reinit'; allowed: a list"),
        ("arms", ["reinit", "shufle"], "arms.1 is 'shufle'; allowed: 'reinit', 'shuffle' or 'random'"),
        ("arms", ["random", "random"], "arms is ['random', 'random']; allowed: each of reinit, shuffle, random once"),
        ("control_rounds", [0], "control_rounds.0 is 0; allowed: at least 1"),
        ("train.lr", "fast", "train.lr is 'fast'; allowed: a number"),
        ("train.lr", True, "train.lr is True; allowed: a number"),
        ("train.lr", float("nan"), "train.lr is nan; allowed: a finite number"),
        ("train.lr", float("inf"), "train.lr is inf; allowed: a finite number"),
        ("train.batch", 1.5, "train.batch is 1.5; allowed: a whole number"),
        ("train.augment", 1, "train.augment is 1; allowed: true or false"),
        ("train.optimizer", "adm", "train.optimizer is 'adm'; allowed: 'adam', 'adamw' or 'sgd'"),
        ("train.iterations", 1.5, "train.iterations is 1.5; allowed: iterations as 500 or '500it', or epochs"),
        ("train.iterations", "long", "iterations is 'long'; allowed: iterations as 500 or '500it', or epochs"),
        ("train", 5, "train is 5; allowed: a mapping of keys"),
        ("model", "lenet-5", "model is 'lenet-5'; allowed: a mapping of keys"),
        ("model.name", "lenet", "model is 'lenet'; did you mean 'lenet-5'?"),
        ("model.name", None, "model.name is None; allowed: text"),
        ("model.width", 0, "model.width is 0; allowed: above 0"),
        ("model.width", float("inf"), "model.width is inf; allowed: a finite number"),
        ("data.name", 3, "data.name is 3; allowed: text"),
        ("data.validation", "all", "data.validation is 'all'; allowed: a whole number or a number"),
        ("prune.rate", 1, "prune.rate is 1; allowed: below 1"),
        ("prune.rate", -0.1, "prune.rate is -0.1; allowed: at least 0"),
        ("prune.scope", "locally", "prune.scope is 'locally'; allowed: 'layerwise' or 'global'"),
        ("prune.fine_tune", 3, "fine_tune is 3 with retrain 'reset'; allowed: only with 'fine-tune'"),
        ("device", "tpu", "device is 'tpu'; here there is: auto, cpu"),
        ("device", "cuda:99", "device is 'cuda:99'; here there is: auto, cpu"),
        ("study", "lotery-ticket", "study is 'lotery-ticket'; did you mean 'lottery-ticket'?"),
        ("study", ["a"], "study is ['a']; allowed: lottery-ticket"),
        ("preset", "papper", "preset is 'papper'; did you mean 'paper'?"),
        ("preset", {}, "preset is {}; allowed: quick, paper, paper-conv"),
        ("variants", 3, "variants is 3; allowed: a mapping of names to settings"),
        ("variants", {"a": 3}, "variants.a is 3; allowed: a mapping of keys"),
    ],
)
def test_an_ill_typed_value_is_named_with_its_path_and_what_is_allowed(key, value, says):
    assert says in refusal("lottery-ticket", (key, value))


@pytest.mark.parametrize("name", ["../up", "/tmp/x", "a/b", "..", ".hidden", "", "cells", "partial", "a" * 101, "a\n"])
def test_a_name_stays_one_folder_of_the_results(name):
    assert "name" in refusal("lottery-ticket", ("name", name))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no study"),
        ("- a\n- b\n", "holds no study"),
        ("just words", "holds no study"),
        ("a: [", "cannot be read as YAML"),
        ("seed: 2024-01-01", "cannot be read as YAML"),
        ("train: &a {b: *a}", "cannot be read as YAML"),
        ("a: " + "[" * 5000, "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("1: 2", "1: no such key"),
    ],
)
def test_a_file_that_is_no_study_is_refused(study_file, text, says):
    path = study_file(text)
    assert refusal(path).startswith(f"{path}: {says}")


def test_a_study_that_is_no_file_is_refused(tmp_path):
    assert "neither a YAML file nor a built-in study" in refusal("lotery-ticket")
    assert "did you mean 'lottery-ticket'?" in refusal("lotery-ticket")
    assert "a folder" in refusal(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    assert "cannot be read as YAML" in refusal(str(binary))


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("0.1", 0.1), ("1e-3", 1e-3), ("-2.5E+2", -250.0)])
def test_assigned_numbers_are_numbers(text, value):
    key, parsed = parse_assignment(f"train.lr={text}")
    assert (key, parsed, type(parsed)) == ("train.lr", value, type(value))


def test_assigned_values_are_yaml():
    assert parse_assignment("arms=[reinit, random]") == ("arms", ["reinit", "random"])
    assert parse_assignment("model={name: lenet-5}") == ("model", {"name": "lenet-5"})
    assert parse_assignment("control_rounds=null") == ("control_rounds", None)
    assert parse_assignment("title=a=b") == ("title", "a=b")


@pytest.mark.parametrize("text", ["train.lr", "=3", " =3", "a=[", "a='", "a=2024-01-01"])
def test_an_assignment_that_is_none_is_refused(text):
    with pytest.raises(Invalid, match="--set"):
        parse_assignment(text)


def test_no_key_is_looked_for_inside_a_value():
    assert "train.lr is 0.006, which has no keys" in refusal("lottery-ticket", ("train.lr.x", 1))


# --- precedence ------------------------------------------------------------------------------------------------


def test_later_words_win(study_file):
    path = study_file(
        {
            "preset": "paper",
            "trials": 7,
            "train": {"lr": 0.01, "iterations": 90},
            "variants": {"one": {"train": {"lr": 0.02}}, "two": {"model": {"width": 0.5}}},
        }
    )
    resolved = resolve(path, [("train.iterations", 30)])
    one, two = resolved.variants["one"], resolved.variants["two"]
    assert (one.train.batch, two.prune.rate) == (60, 0.2)  # the preset
    assert (resolved.trials, two.train.lr) == (7, 0.01)  # the file before the preset
    assert (one.train.lr, two.model.width, one.model.width) == (0.02, 0.5, 1)  # the variant before the file
    assert (one.train.iterations, two.train.iterations) == (30, 30)  # --set before all
    assert one.model.name == two.model.name == "lenet-300-100"


def test_a_variant_is_changed_alone_by_its_path():
    overrides = [("preset", "paper-conv"), ("variants.conv-4.train.lr", 0.5)]
    variants = resolve("lottery-ticket", overrides).variants
    assert [v.train.lr for v in variants.values()] == [2e-4, 0.5, 3e-4]


def test_overrides_are_taken_in_their_order():
    first = [("variants.a", {"train": {"lr": 0.5}}), ("variants.a.train.lr", 0.25)]
    assert resolve("lottery-ticket", first).variants["a"].train.lr == 0.25
    assert resolve("lottery-ticket", first[::-1]).variants["a"].train.lr == 0.5


def test_an_empty_section_says_nothing(study_file):
    path = study_file("name: lottery-ticket-quick\ntrain:\nprune:\nvariants: {lenet-300-100: }\n")
    assert resolve(path) == resolve("lottery-ticket")


def test_control_rounds_of_a_preset_end_with_its_rounds():
    inherited = resolve("lottery-ticket").control_rounds
    assert inherited is not None
    assert max(inherited) > 4
    assert small(prune__rounds=4, control_rounds=None).control_rounds is None
    fewer = resolve("lottery-ticket", [("prune.rounds", 4)]).control_rounds
    assert fewer == tuple(r for r in inherited if r <= 4)


def test_control_rounds_that_somebody_asks_for_must_be_there():
    says = "control_rounds has 5; allowed: up to the 4 of prune.rounds"
    assert says in refusal("lottery-ticket", ("prune.rounds", 4), ("control_rounds", [1, 5]))


# --- there and back --------------------------------------------------------------------------------------------

OVERRIDES = st.fixed_dictionaries(
    {"prune.rounds": st.integers(20, 30)},
    optional={
        "title": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
        "seed": st.integers(-5, 2**70),
        "trials": st.integers(1, 9),
        "arms": st.lists(st.sampled_from(["reinit", "shuffle", "random"]), unique=True),
        "control_rounds": st.none() | st.lists(st.integers(1, 20), max_size=3),
        "model.name": st.sampled_from(["lenet-5", "conv-2"]),
        "model.width": st.floats(1e-6, 1e6),
        "data.name": st.sampled_from(["digits", "no", "123", "~"]),
        "data.validation": st.none() | st.integers(1, 99) | st.floats(0.01, 0.99),
        "train.lr": st.floats(1e-9, 1e9),
        "train.iterations": st.integers(1, 10**9) | st.sampled_from(["3ep", "7it", "10"]),
        "train.augment": st.booleans(),
        "prune.rate": st.floats(0, 0.999),
        "prune.output_rate": st.none() | st.floats(0, 0.999),
        "prune.exclude": st.lists(st.sampled_from(["fc*", "*.weight"]), max_size=2),
        "prune.rewind": st.integers(0, 5) | st.just("1ep"),
        "preset": st.sampled_from(list(STUDIES["lottery-ticket"])),
    },
)


@settings(max_examples=30, deadline=None)
@given(OVERRIDES)
def test_a_resolved_study_resolves_to_itself(tmp_path_factory, overrides):
    study = resolve("lottery-ticket", overrides.items())
    path = tmp_path_factory.mktemp("there") / "study.yaml"
    path.write_text(to_yaml(study), encoding="utf-8")
    assert resolve(str(path)) == study


def test_a_key_that_stands_twice_is_refused(study_file):
    with pytest.raises(Invalid, match="the key 'trials' is there twice"):
        resolve(study_file("trials: 1\ntrials: 2\n"))


def test_the_output_rate_follows_the_rate_and_the_scope(study_file):
    assert resolve("lottery-ticket", [("prune.scope", "global")]).variants["lenet-300-100"].prune.output_rate is None
