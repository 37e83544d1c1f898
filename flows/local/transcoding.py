"""A small transcoder, standing in for the platform's: ffmpeg makes what the platform's workers would."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from blocks.errors import TerminalError

CLIPS = {
    "city lights.mp4": "testsrc2=size=1280x720:rate=25:duration=8",
    "fractal – zoom.mp4": "mandelbrot=size=1280x720:rate=25:maxiter=400,trim=duration=6",
    "colour bars.mp4": "smptehdbars=size=1280x720:rate=25:duration=6",
}
LARGE_CLIP = ("director's cut.mp4", "nullsrc=size=1280x720:rate=25:duration=3,geq=random(1)*255:128:128")
"""Noise, which does not compress: large enough for a small quota."""


class FfmpegError(TerminalError):
    """ffmpeg ended with an error; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Played:
    """What a player saw of a stream."""

    seconds: float
    frames: int


def ffmpeg(*arguments: str) -> str:
    """Run ffmpeg; returns what it wrote to standard output.

    Raises:
        FfmpegError: it did not end well, or took more than two minutes.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *arguments]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        raise FfmpegError("ffmpeg took more than two minutes") from error
    if finished.returncode != 0:
        raise FfmpegError(f"ffmpeg failed: {finished.stderr[-1500:]}")
    return finished.stdout


def make_clip(target: Path, picture: str) -> None:
    """Write a real clip with sound; the file appears when it is whole."""
    part = target.with_suffix(".part.mp4")
    ffmpeg(
        "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100",
        "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest", str(part),
    )  # fmt: skip
    part.replace(target)


def transcode(source: Path, folder: Path) -> None:
    """Everything the platform makes of a video, laid out as `register-outputs` expects it."""
    for size in ("360p", "720p"):
        (folder / size / "segments").mkdir(parents=True, exist_ok=True)
        video = folder / size / f"video_{size}.mp4"
        # A key frame every two seconds, where the segments are cut.
        ffmpeg(
            "-i", str(source), "-vf", f"scale=-2:{size[:-1]}", "-c:v", "libx264", "-preset", "ultrafast",
            "-g", "50", "-keyint_min", "50", "-pix_fmt", "yuv420p", "-c:a", "aac", "-movflags", "+faststart",
            str(video),
        )  # fmt: skip
        segments = folder / size / "segments"
        ffmpeg(
            "-i", str(video), "-c", "copy", "-hls_time", "2", "-hls_playlist_type", "vod",
            "-hls_segment_filename", str(segments / "segment_%04d.ts"), str(segments / "playlist.m3u8"),
        )  # fmt: skip
    (folder / "audio").mkdir(exist_ok=True)
    ffmpeg("-i", str(source), "-vn", "-c:a", "libmp3lame", str(folder / "audio" / "audio.mp3"))
    _write_texts(source, folder)


def play(url: str) -> Played:
    """Decode a stream from beginning to end, as a player would."""
    printed = ffmpeg(
        "-protocol_whitelist", "http,https,tcp,tls,crypto", "-i", url, "-map", "0:v", "-f", "null",
        "-progress", "pipe:1", "-",
    )  # fmt: skip
    values = dict(line.split("=", 1) for line in printed.splitlines() if "=" in line)
    return Played(seconds=int(values.get("out_time_us", "0")) / 1e6, frames=int(values.get("frame", "0")))


def _write_texts(source: Path, folder: Path) -> None:
    line = "A test tone, and nobody speaks."
    texts = folder / "transcription"
    texts.mkdir(exist_ok=True)
    (texts / "transcript.txt").write_text(f"{line}\n")
    (texts / "transcript.srt").write_text(f"1\n00:00:00,000 --> 00:00:05,000\n{line}\n")
    (texts / "transcript.vtt").write_text(f"WEBVTT\n\n00:00.000 --> 00:05.000\n{line}\n")
    (texts / "transcript.json").write_text(json.dumps({"segments": [{"start": 0.0, "end": 5.0, "text": line}]}))
    (folder / "metadata.json").write_text(json.dumps({"source_bytes": source.stat().st_size, "renditions": [360, 720]}))
