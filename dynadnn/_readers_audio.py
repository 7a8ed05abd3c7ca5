"""Reader of Google Speech Commands: one second of 16 kHz mono WAV per file, as log-mel spectrograms."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import generator
from ._errors import FormatError
from ._readers import find_folder

RATE = 16000  # Hz, and samples of one recording
WINDOW, HOP, FFT = 640, 320, 1024  # samples: frames of 40 ms every 20 ms, as Zhang et al. 2017 (Hello Edge)
BANDS, LOWEST, HIGHEST = 40, 20.0, 4000.0  # Hz
FLOOR = 1e-6  # keeps the logarithm of silence finite: ln(1e-6) is about -14
CENTRE, HALF_RANGE = -6.0, 4.0  # of logarithms from -14 (silence) to 2 (loud speech): features lie within about -2 to 2
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SHARE = 0.1  # of "silence" and of "unknown" beside the ten words, as Warden 2018
_NOISE = "_background_noise_"
_CHUNK = 64  # recordings per transform

Array = NDArray[Any]


@cache
def mel_filters() -> NDArray[np.float64]:
    """Triangles of equal width on the mel scale, shape (FFT // 2 + 1, BANDS).

    mel(f) = 1127 ln(1 + f / 700) (O'Shaughnessy 1987); the corners of band k are the k-th to k+2nd of BANDS + 2 equal
    steps from LOWEST to HIGHEST.
    """

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    corners = np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)
    place = mel(np.arange(FFT // 2 + 1) * (RATE / FFT))[:, None]
    rise = (place - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - place) / (corners[2:] - corners[1:-1])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rise, fall))
    filters.flags.writeable = False
    return filters


def log_mel(sound: NDArray[Any]) -> NDArray[np.float32]:
    """Features of recordings.

    Parameters
    ----------
    sound : ndarray of float, shape (n, samples)
        From -1 to 1, 16 kHz, at least one window (640 samples).

    Returns
    -------
    ndarray of float32, shape (n, frames, 40)
        ``(ln(power + 1e-6) + 6) / 4`` per frame of 40 ms every 20 ms and mel band: power is the squared magnitude of
        the Fourier transform under a Hann window, summed under each triangle of `mel_filters`.

    Examples
    --------
    >>> log_mel(np.zeros((1, 16000)))[0, 0, :2].round(3).tolist(), log_mel(np.zeros((1, 16000))).shape
    ([-1.9539999961853027, -1.9539999961853027], (1, 49, 40))
    """
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW, axis=1)[:, ::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = np.fft.rfft(frames * hann, FFT, axis=2)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) @ mel_filters()
    features: NDArray[np.float32] = ((np.log(power + FLOOR) - CENTRE) / HALF_RANGE).astype(np.float32)
    return features


def read_wav(path: Path) -> NDArray[np.int16]:
    """Return the samples of a 16-bit mono file of 16 kHz."""
    try:
        with wave.open(str(path)) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            count = file.getnframes()
            if form != (1, 2, RATE):
                raise FormatError(
                    f"{str(path)!r} has {form[0]} channels of {8 * form[1]} bits at {form[2]} Hz: it must be mono, "
                    f"16 bits, {RATE} Hz"
                )
            if 2 * count > path.stat().st_size:
                raise FormatError(f"{str(path)!r} claims {count} samples but has {path.stat().st_size} bytes")
            raw = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise FormatError(f"{str(path)!r} is no complete WAV file: {error or 'it ends too early'}") from None
    if len(raw) != 2 * count or count == 0:
        raise FormatError(f"{str(path)!r} holds {len(raw) // 2} of {count} samples: it is empty or truncated")
    return np.frombuffer(raw, "<i2").astype(np.int16)


def read_speech_commands(
    root: Path, all_classes: bool, seed: int
) -> tuple[dict[str, tuple[Array, Array]], tuple[str, ...]]:
    """Features and labels of "train", "val" and "test", and names of the classes."""
    folder = find_folder(root, "validation_list.txt", "validation_list.txt, testing_list.txt and one folder per word")
    words = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
    if not words:
        raise FileNotFoundError(f"no folder of a word in {str(folder)!r}")
    absent = [] if all_classes else [word for word in WORDS if word not in words]
    if absent:
        raise FileNotFoundError(f"no folder {', '.join(absent)} in {str(folder)!r}: the 12 classes need them")
    parts = _parts(folder, words)
    if all_classes:
        order = {word: k for k, word in enumerate(words)}
        made = {}
        for part, files in parts.items():
            made[part] = (_features(files), np.array([order[f.parent.name] for f in files], np.int64))
        return made, tuple(words)
    noise = _noise(folder / _NOISE)
    names = ("silence", "unknown", *WORDS)
    return {p: _twelve(files, names, noise, generator(seed, k)) for k, (p, files) in enumerate(parts.items())}, names


def _parts(folder: Path, words: Sequence[str]) -> dict[str, list[Path]]:
    """Files of each split, in order of their names: the two lists, and the rest for training."""
    listed: dict[str, set[str]] = {}
    for part, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name} missing in {str(folder)!r}")
        listed[part] = {
            line.strip() for line in (folder / name).read_text(errors="replace").splitlines() if line.strip()
        }
    both = listed["val"] & listed["test"]
    if both:
        raise FormatError(f"{min(both)!r} is in validation_list.txt and in testing_list.txt")
    there = {f"{word}/{p.name}": p for word in words for p in sorted((folder / word).glob("*.wav"))}
    for part, wanted in listed.items():
        lost = wanted - there.keys()
        if lost:
            raise FileNotFoundError(f"{min(lost)!r} is in the list for {part} but not in {str(folder)!r}")
    parts = {part: [p for key, p in there.items() if key in wanted] for part, wanted in listed.items()}
    parts["train"] = [p for key, p in there.items() if key not in listed["val"] and key not in listed["test"]]
    for part, files in parts.items():
        if not files:
            raise FormatError(f"no recording is left for {part} in {str(folder)!r}")
    return parts


def _features(files: Sequence[Path]) -> NDArray[np.float32]:
    return _transformed((_second(read_wav(path)) for path in files), len(files))


def _transformed(sounds: Any, n: int) -> NDArray[np.float32]:
    """Features of n recordings, some at a time."""
    made = np.empty((n, 1 + (RATE - WINDOW) // HOP, BANDS), np.float32)
    for start in range(0, n, _CHUNK):
        some = [next(sounds) for _ in range(min(_CHUNK, n - start))]
        made[start : start + len(some)] = log_mel(np.stack(some))
    return made


def _second(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """One second from -1 to 1: the rest cut off, what is missing silent."""
    sound = np.zeros(RATE)
    sound[: len(samples)] = samples[:RATE] / 32768.0
    return sound


def _noise(folder: Path) -> list[NDArray[np.int16]]:
    files = sorted(folder.glob("*.wav")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"no WAV file in {str(folder)!r}: 'silence' is cut from them")
    noise = [read_wav(path) for path in files]
    for path, samples in zip(files, noise, strict=True):
        if len(samples) < RATE:
            raise FormatError(f"{str(path)!r} has {len(samples)} samples: background noise needs {RATE}")
    return noise


def _twelve(
    files: Sequence[Path], names: Sequence[str], noise: Sequence[NDArray[np.int16]], draw: np.random.Generator
) -> tuple[Array, Array]:
    """Ten words, a tenth as many other words, and a tenth as many seconds of noise of random loudness."""
    known = [p for p in files if p.parent.name in WORDS]
    others = [p for p in files if p.parent.name not in WORDS]
    count = max(1, round(SHARE * len(known)))
    some = [others[k] for k in np.sort(draw.permutation(len(others))[:count])]

    def silence() -> Any:
        for which, place, loudness in zip(
            draw.integers(0, len(noise), count), draw.random(count), draw.random(count), strict=True
        ):
            start = int(place * (len(noise[which]) - RATE + 1))
            yield loudness * _second(noise[which][start : start + RATE])

    x = np.concatenate([_transformed(silence(), count), _features([*some, *known])])
    labels = [names.index(p.parent.name) for p in known]
    return x, np.array([0] * count + [1] * len(some) + labels, np.int64)
