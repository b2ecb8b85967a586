"""Small recordings for tests: motions, bodies and tones that are easily told apart."""

from __future__ import annotations

import csv
import math
import struct
import wave
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from xmodal.recordings.recording import Recording, Recordings
from xmodal.values import Audio, Imu, Skeleton

RATE_HZ = 50.0
CLASSES = ("nod", "shake", "rest")


def motion(kind: int, seed: int, seconds: float = 1.6) -> Imu:
    """A sensor under gravity that swings about one axis, another one, or not at all."""
    rng = np.random.default_rng([seed, kind])
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    accel = np.tile([0.0, 0.0, 9.81], (len(time_s), 1)) + 0.1 * rng.standard_normal(
        (len(time_s), 3)
    )
    gyro = 0.05 * rng.standard_normal((len(time_s), 3))
    if kind < 2:
        gyro[:, kind] += 2.0 * np.sin(2 * math.pi * 2.0 * time_s + rng.uniform(0, 6.28))
    return Imu(
        accel_mps2=torch.from_numpy(accel).float(),
        gyro_radps=torch.from_numpy(gyro).float(),
        time_s=torch.from_numpy(time_s).float(),
        offsets=torch.tensor([0, len(time_s)]),
    )


def body(kind: int, seed: int, frames: int = 40) -> Skeleton:
    """Twenty joints of which one hand moves along one axis, another one, or not at all."""
    rng = np.random.default_rng([seed, kind, 7])
    joints = np.random.default_rng(0).uniform(-1, 1, (20, 3))[None].repeat(frames, 0)
    joints = joints + 0.01 * rng.standard_normal(joints.shape)
    if kind < 2:
        joints[:, 7, kind] += 0.4 * np.sin(np.arange(frames) / 3 + rng.uniform(0, 6.28))
    return Skeleton(
        joints_m=torch.from_numpy(joints).float(),
        time_s=torch.arange(frames) / 30.0,
        offsets=torch.tensor([0, frames]),
    )


def tone(kind: int, seed: int, seconds: float = 1.0, rate_hz: float = 16000.0) -> Audio:
    """A sine of its own pitch in a little noise."""
    rng = np.random.default_rng([seed, kind, 3])
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    sound = 0.3 * np.sin(2 * math.pi * (300.0 * 2**kind) * time_s + rng.uniform(0, 6.28))
    sound = sound + 0.02 * rng.standard_normal(len(time_s))
    return Audio(
        amplitudes=torch.from_numpy(sound).float()[None],
        rate_hz=rate_hz,
        offsets=torch.tensor([0, len(time_s)]),
    )


MAKERS: Mapping[str, Callable[[int, int], object]] = {
    "imu": motion,
    "skeleton": body,
    "audio": tone,
}


def recordings(
    groups: int = 3, each: int = 2, kinds: tuple[str, ...] = ("imu", "skeleton")
) -> Recordings:
    """In memory: `each` recordings of every class for every group (`g0`, ...)."""
    items = [
        Recording(
            name=f"{name}_g{group}_t{trial}",
            group=f"g{group}",
            label=name,
            streams={k: partial(MAKERS[k], number, 100 * group + trial) for k in kinds},
        )
        for group in range(groups)
        for trial in range(each)
        for number, name in enumerate(CLASSES)
    ]
    return Recordings(name="made", items=tuple(items), classes=CLASSES)


def write_motions(folder: Path, groups: int = 3, each: int = 2) -> Path:
    """The motions as files of the format `clips`, with their table of labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for item in recordings(groups, each, ("imu",)).items:
        imu = item.streams["imu"]()
        np.savez(
            folder / f"{item.name}_imu.npz",
            time_s=imu.time_s.double().numpy(),
            accel_mps2=imu.accel_mps2.double().numpy(),
            gyro_radps=imu.gyro_radps.double().numpy(),
        )
        rows.append({"name": item.name, "label": item.label, "group": item.group})
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "label", "group"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_tone(path: Path, kind: int, seed: int) -> Path:
    """A tone as a 16-bit WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = tone(kind, seed, seconds=0.3)
    samples = (audio.amplitudes[0].numpy() * 32767).astype(np.int16).tolist()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


GRAPH = """
  name: motions
  nodes:
    imu: {kind: imu}
    classes: {kind: labels}
    truth: {kind: embedding, channels: 3}
    motion: {kind: embedding, channels: 16}
  encode:
    imu -> motion: {op: imu_tcn, size: micro, window_s: 0.8, dropout: 0.0}
  lift:
    classes -> truth: {op: one_hot}
  distill:
    truth -> motion: {op: kl, project: linear}
"""


def write_run(path: Path, data: Path, *, steps: int = 12, extra: str = "") -> Path:
    """A run file that teaches an IMU network from labels; group g0 is held out."""
    path.write_text(
        f"name: motions\ngraph:{GRAPH}"
        f"data: {{scene: {data}, format: clips}}\n"
        'splits: {test: ["*_g0_*"]}\n'
        f"optimiser: {{steps: {steps}, batch: 8, lr: 1.0e-2, warmup_steps: 2, log_every: 1}}\n"
        f"evaluation: {{tasks: [classification, probe]}}\n{extra}"
    )
    return path
