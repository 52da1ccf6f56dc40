"""Speech from the espeak-ng library that ships in the `espeakng-loader` package, through ctypes.

The library keeps state from one utterance to the next, so a whole list is spoken in one fresh process: the
same list gives the same samples. The library cannot take this process down with it, either.
"""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from fakesound.core.audio import FloatArray
from fakesound.core.errors import UserError
from fakesound.core.lifetime import end_with_parent

_SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_DONT_EXIT = 0x8000  # espeak_Initialize: report trouble instead of ending the process

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """What to say and how.

    Attributes:
        voice: espeak-ng voice with variant, such as 'en-us+f3'.
        text: in the voice's language.
        words_per_minute: 80-450.
        pitch: 0-99.
        pitch_range: 0-99; 0 is monotone.
    """

    voice: str
    text: str
    words_per_minute: int
    pitch: int
    pitch_range: int


def speak(utterances: Sequence[Utterance]) -> list[tuple[FloatArray, int]]:
    """Samples (n,) and sample rate in Hz of each utterance.

    Raises:
        UserError: the library is missing, cannot be loaded or does not know a voice.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            return pool.submit(_speak_here, list(utterances)).result()
        except BrokenProcessPool:
            raise UserError(
                "espeak-ng crashed: reinstall espeakng-loader, or give a folder of recordings"
            ) from None


def _speak_here(utterances: list[Utterance]) -> list[tuple[FloatArray, int]]:
    library, rate_hz = _opened()
    heard: list[bytes] = []

    @_Callback
    def receive(samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(receive)
    spoken = []
    for utterance in utterances:
        heard.clear()
        _say(library, utterance)
        steps = np.frombuffer(b"".join(heard), dtype=np.int16)
        spoken.append(((steps / 32768).astype(np.float32), rate_hz))
    library.espeak_Terminate()
    return spoken


def _opened() -> tuple[ctypes.CDLL, int]:
    try:
        import espeakng_loader

        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(f"espeak-ng cannot be loaded ({error}): install espeakng-loader") from None
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
        ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DONT_EXIT)
    if rate_hz <= 0:
        raise UserError("espeak-ng does not start: its data is missing; reinstall espeakng-loader")
    return library, rate_hz


def _say(library: ctypes.CDLL, utterance: Utterance) -> None:
    if library.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
        raise UserError(f"espeak-ng has no voice {utterance.voice!r}")
    library.espeak_SetParameter(_RATE, utterance.words_per_minute, 0)
    library.espeak_SetParameter(_PITCH, utterance.pitch, 0)
    library.espeak_SetParameter(_RANGE, utterance.pitch_range, 0)
    text = utterance.text.encode() + b"\0"
    if library.espeak_Synth(text, len(text), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None) != 0:
        raise UserError(f"espeak-ng could not say {utterance.text!r}")
