import numpy as np
import pytest
import soundfile

from fakesound.core.errors import UserError
from fakesound.core.store import Store
from fakesound.corpora import builtin, synthesis
from fakesound.corpora.builtin import builtin_recordings
from fakesound.corpora.config import BuiltinConfig
from fakesound.corpora.speech import Utterance, speak


@pytest.mark.parametrize("maker", [m for makers in synthesis.SYNTHESISERS.values() for m in makers])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_synthesisers_sound_and_repeat(maker: synthesis.Synthesiser, rate_hz: int) -> None:
    sound = maker(rate_hz, rate_hz, np.random.default_rng(5))
    assert sound.shape == (rate_hz,) and np.isfinite(sound).all() and sound.std() > 0
    np.testing.assert_array_equal(sound, maker(rate_hz, rate_hz, np.random.default_rng(5)))
    assert not np.array_equal(sound, maker(rate_hz, rate_hz, np.random.default_rng(6)))


def test_generated_recordings_are_varied_and_repeat(tmp_path) -> None:
    config = BuiltinConfig(num_recordings=20, min_duration_s=1.0, max_duration_s=1.2)
    places = [builtin_recordings(config, 3, Store(str(tmp_path / name)), jobs=1) for name in "ab"]
    assert places[0].marker["files"] == places[1].marker["files"]
    names = list(places[0].marker["files"])
    assert len(names) == 20 and {name.split("/")[0] for name in names} == {
        "speech",
        "texture",
        "event",
        "music",
    }
    files = [soundfile.info(places[0].checked_path(name)) for name in names]
    assert {file.samplerate for file in files} == {16_000, 22_050, 32_000, 44_100}
    assert {file.format for file in files} == {"WAV", "FLAC"} and all(1.0 <= f.duration <= 1.2 for f in files)
    voices = {name.split("/")[1] for name in names if name.startswith("speech/")}
    assert 1 < len(voices) < sum(name.startswith("speech/") for name in names)


def test_every_voice_is_known_and_speaks() -> None:
    said = speak(
        [Utterance(language, sentences[0], 200, 50, 50) for language, sentences in builtin._SENTENCES.items()]
    )
    assert all(
        rate_hz == 22_050 and len(samples) > 10_000 and samples.std() > 0.01 for samples, rate_hz in said
    )
    with pytest.raises(UserError, match="no voice 'zz-zz'"):
        speak([Utterance("zz-zz", "Hello.", 200, 50, 50)])
