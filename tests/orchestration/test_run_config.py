import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakesound.core.errors import UserError
from fakesound.models.build import build_detector
from fakesound.orchestration.config import PRESETS, RunConfig, with_overrides


@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_preset_instantiates_with_its_models(preset):
    config = RunConfig.load(preset)
    for model in (config.detector, config.baseline):
        assert build_detector(model, config.features.num_mels).training


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["transformer", "mamba2"])
def test_one_line_puts_a_rival_over_the_same_patches_in_the_detectors_place(preset, kind):
    ours = RunConfig.load(preset).detector
    rival = RunConfig.load(preset, [f"detector.kind={kind}"]).detector
    assert rival.kind == kind
    assert (rival.patch_mels, rival.patch_frames) == (ours.patch_mels, ours.patch_frames)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["deeplab_mobilenet", "lcnn"])
def test_one_line_puts_a_convolutional_rival_in_either_place(preset, kind):
    assert RunConfig.load(preset, [f"baseline.kind={kind}"]).baseline.kind == kind
    assert RunConfig.load(preset, [f"detector={{kind: {kind}}}"]).detector.kind == kind


def test_json_is_canonical_and_comes_back_as_the_same_config():
    config = RunConfig.load("builtin", ["training.epochs=3"])
    text = config.to_json()
    assert RunConfig.load(text) == config
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert RunConfig.load(text).digest() == config.digest()


def test_overrides_are_typed_by_the_config():
    config = RunConfig.load(
        "builtin", ["training.schedule.peak_lr=0.001", "corpus.protocol.seen=[nmf]", "detector.depth=2"]
    )
    assert config.training.schedule.peak_lr == 0.001
    assert config.corpus.protocol.seen == ("nmf",)
    assert config.detector.depth == 2


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.epocs=3", "epocs"),
        ("training.epochs=many", "training.epochs"),
        ("training.epochs", "key.key=value"),
        ("=3", "key.key=value"),
        ("training.epochs.more=3", "training.epochs"),
        ("training.epochs=[", "not YAML"),
        ("training.epochs=-1", "training.epochs"),
    ],
)
def test_a_bad_override_is_refused_by_name(override, complaint):
    with pytest.raises(UserError, match=complaint):
        RunConfig.load("builtin", [override])


def test_an_override_below_a_value_is_refused():
    with pytest.raises(UserError, match="epochs is a value"):
        RunConfig.load("{training: {epochs: 3}}", ["training.epochs.more=3"])


def test_an_override_opens_a_group_that_is_null():
    config = RunConfig.load(RunConfig().model_dump_json(), ["budget.match=parameters"])
    assert config.budget is not None
    assert config.budget.match == "parameters"


def test_a_home_that_is_nobodys_is_refused():
    with pytest.raises(UserError, match=r"initial_weights.*cannot be read"):
        RunConfig.load("{}", ["training.initial_weights=~no such user/x.pth"])


def test_a_file_is_read_and_a_missing_one_names_the_presets(tmp_path):
    (tmp_path / "mine.yaml").write_text("training: {epochs: 7}\n")
    assert RunConfig.load(str(tmp_path / "mine.yaml")).training.epochs == 7
    with pytest.raises(UserError, match="builtin, folder"):
        RunConfig.load(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="not a mapping"):
        RunConfig.load(str(tmp_path / "list.yaml"))


def test_a_file_cannot_construct_objects(tmp_path):
    (tmp_path / "evil.yaml").write_text("training: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError, match="not YAML"):
        RunConfig.load(str(tmp_path / "evil.yaml"))


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("de"), st.integers())
    ),
    st.integers(),
)
def test_overrides_leave_their_input_and_every_other_value_alone(values, number):
    before = json.dumps(values)
    changed = with_overrides(values, [f"new.deep={number}"])
    assert json.dumps(values) == before
    assert changed == values | {"new": {"deep": number}}


def test_what_is_left_out_has_one_order() -> None:
    loaded = [RunConfig.load("builtin", [f"unseen=[{names}]"]) for names in ("nmf,codec,nmf", "codec,nmf")]
    assert loaded[0].unseen == ("codec", "nmf") and loaded[0].digest() == loaded[1].digest()
