"""The generated recordings: speech, textures, music and events, so that everything runs with no download.

Each kind comes at each of four sample rates, about as long, with a background and at a random level:
nothing but the sound itself tells the kinds apart. A voice speaks one or two recordings and is a group; all
else is independent.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile

from fakesound.core.audio import FULL_SCALE, FloatArray, resample
from fakesound.core.config import digest_of
from fakesound.core.parallel import map_parallel
from fakesound.core.store import Place, Store
from fakesound.corpora.config import BuiltinConfig
from fakesound.corpora.seeds import rng_for
from fakesound.corpora.speech import Utterance, speak
from fakesound.corpora.synthesis import SYNTHESISERS, background, in_a_room

BUILTIN_VERSION = 2  # raise it when code changes what is generated
BUILTIN_GROUP_PATTERN = r"^speech/([^/]+)/"

_RATES_HZ = (16_000, 22_050, 32_000, 44_100)
_KINDS = ("speech", "texture", "event", "speech", "music", "texture", "speech", "event", "music")
# Not those with breath (f2, f3, f5, whisper): it comes from random numbers that nobody seeds.
_VARIANTS = (
    "m1",
    "f1",
    "m2",
    "f4",
    "m3",
    "linda",
    "m4",
    "belinda",
    "m5",
    "anika",
    "m6",
    "steph",
    "m7",
    "Annie",
)
_SENTENCES = {
    "en-us": (
        "The river was high after the rain.",
        "Nobody heard the second train leave.",
        "Bring a lamp and a rope.",
    ),
    "de": ("Der Zug kommt heute später an.", "Im Garten singen die Vögel.", "Morgen fahren wir ans Meer."),
    "fr": (
        "Le marché ouvre à sept heures.",
        "Il a neigé toute la nuit.",
        "La porte du jardin est ouverte.",
    ),
    "es": (
        "El barco llegó antes del amanecer.",
        "La ventana da a la plaza.",
        "Mañana compramos pan y queso.",
    ),
    "it": ("La strada sale fino al castello.", "Abbiamo visto le stelle cadere.", "Il caffè è ancora caldo."),
    "pt": ("O vento mudou durante a tarde.", "A ponte fica perto do rio.", "Eles chegaram muito cedo."),
    "nl": ("De boot vaart langs de oude molen.", "Het regent al de hele dag.", "Zij leest een lange brief."),
    "sv": ("Skogen är tyst på vintern.", "Vi åker hem i morgon bitti.", "Hunden sover under bordet."),
    "pl": ("Pociąg odjeżdża o szóstej rano.", "Ptaki odleciały na południe.", "Woda w jeziorze jest zimna."),
    "fi": ("Järvi oli aamulla aivan tyyni.", "Kissa nukkuu ikkunalla.", "Huomenna sataa lunta."),
    "tr": ("Deniz bugün çok sakin.", "Kapının önünde iki kedi var.", "Yarın erken kalkacağız."),
    "cs": ("Vlak přijel o hodinu později.", "Na stole leží stará kniha.", "V zimě chodíme na led."),
}


@dataclass(frozen=True)
class _Recipe:
    """One recording to be generated."""

    name: str
    kind: str
    turn: int
    sample_rate_hz: int
    duration_s: float


def builtin_recordings(config: BuiltinConfig, seed: int, store: Store, jobs: int | None = None) -> Place:
    """The finished place "recordings/{key}" with the generated recordings; made if it is not there.

    Raises:
        UserError: the espeak-ng library cannot be used.
    """
    key = digest_of({"version": BUILTIN_VERSION, "config": config.model_dump(mode="json"), "seed": seed})
    place = store.place("recordings", key)
    if place.is_complete():
        return place
    recipes = [_recipe(config, seed, index) for index in range(config.num_recordings)]
    spoken = iter(speak([_utterance(seed, r) for r in recipes if r.kind == "speech"]))
    work = [(recipe, next(spoken) if recipe.kind == "speech" else None) for recipe in recipes]
    for _ in map_parallel(
        partial(_write, place.uri, seed), work, description="generating recordings", jobs=jobs
    ):
        pass
    place.complete(
        {"description": "generated recordings", "config": config.model_dump(mode="json"), "seed": seed}
    )
    return place


def _recipe(config: BuiltinConfig, seed: int, index: int) -> _Recipe:
    round_number, position = divmod(index, len(_KINDS))
    kind = _KINDS[position]
    turn = round_number * _KINDS.count(kind) + _KINDS[:position].count(kind)
    folder = f"speech/voice-{_voice_number(turn):03d}" if kind == "speech" else kind
    suffix = "flac" if index % 2 else "wav"
    return _Recipe(
        name=f"{folder}/{kind}-{turn:03d}.{suffix}",
        kind=kind,
        turn=turn,
        sample_rate_hz=_RATES_HZ[(turn + turn // len(_RATES_HZ)) % len(_RATES_HZ)],
        duration_s=float(
            rng_for(seed, "duration", index).uniform(config.min_duration_s, config.max_duration_s)
        ),
    )


def _voice_number(turn: int) -> int:
    """Voices 0, 0, 1, 2, 2, 3, ...: every other one speaks twice."""
    return turn * 2 // 3


def _utterance(seed: int, recipe: _Recipe) -> Utterance:
    number = _voice_number(recipe.turn)
    voice = rng_for(seed, "voice", number)
    language = list(_SENTENCES)[number % len(_SENTENCES)]
    sentences = list(_SENTENCES[language])
    rng_for(seed, "text", recipe.turn).shuffle(sentences)
    return Utterance(
        voice=f"{language}+{_VARIANTS[number % len(_VARIANTS)]}",
        text=" ".join(sentences * 2),
        words_per_minute=int(voice.integers(130, 230)),
        pitch=int(voice.integers(20, 80)),
        pitch_range=int(voice.integers(30, 80)),
    )


def _write(place_uri: str, seed: int, work: tuple[_Recipe, tuple[FloatArray, int] | None]) -> None:
    recipe, spoken = work
    rng = rng_for(seed, "recording", recipe.name)
    num_samples = int(recipe.duration_s * recipe.sample_rate_hz)
    sound = _sound(recipe, spoken, num_samples, rng)
    sound = sound / max(1e-9, float(np.sqrt(np.mean(sound**2))))
    noise_level = 10 ** (rng.uniform(-38, -18) / 20)
    sound = sound + noise_level * background(num_samples, recipe.sample_rate_hz, rng)
    sound *= 10 ** (rng.uniform(-10, -1) / 20) / float(np.abs(sound).max())
    steps = np.rint(sound * (FULL_SCALE - 1)).astype(np.int16)
    kind = "FLAC" if recipe.name.endswith("flac") else "WAV"
    with Place(place_uri).writing(recipe.name) as path:
        soundfile.write(str(path), steps, recipe.sample_rate_hz, format=kind, subtype="PCM_16")


def _sound(
    recipe: _Recipe, spoken: tuple[FloatArray, int] | None, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    rate_hz = recipe.sample_rate_hz
    if spoken is None:
        makers = SYNTHESISERS[recipe.kind]
        sound = makers[recipe.turn % len(makers)](num_samples, rate_hz, rng)
    else:
        speech = resample(spoken[0], spoken[1], rate_hz).astype(np.float64)
        sound = np.resize(speech, num_samples)  # repeats itself should it be too short
    has_room = recipe.kind == "event" or (recipe.kind == "speech" and recipe.turn % 2 == 1)
    return in_a_room(sound, rate_hz, rng) if has_room else sound
