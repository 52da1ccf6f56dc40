"""What options of the trainer cost and save: clips per second, share of waiting, memory, of the real trainer.

    python benchmarks/trainer_options.py --store store --json training.json [--processes 1 2] [--threads 1]

Every variant trains for a few steps in processes of its own, `--rounds` times in turn; figures are the median
over rounds of what the trainer reports of its last steps. The first step, which compiles, is told apart; peak
memory is the first process's, validation included. `ratio` is clips per second against the plain variant of
the same model and number of processes, `scaling` against one process.
"""

import argparse
import json
import os
import platform
import socket
import statistics
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from fakesound.core.memory import peak_mib
from fakesound.core.progress import say
from fakesound.core.store import Pointer, Store
from fakesound.corpora.build import build_corpus
from fakesound.features.extract import extract_features
from fakesound.models.config import FCNResNetConfig, ModelConfig, TransformerConfig, VisionMambaConfig
from fakesound.orchestration.config import RunConfig
from fakesound.training.config import TrainingConfig
from fakesound.training.ranks import Ranks
from fakesound.training.reports import Quiet, StepRecord
from fakesound.training.request import TrainingRequest
from fakesound.training.trainer import train

PATCH = {"patch_mels": 128, "patch_frames": 4}
MODELS: dict[str, ModelConfig] = {
    "vim-micro": VisionMambaConfig.of_size("micro", **PATCH),
    "transformer-micro": TransformerConfig.of_size("micro", **PATCH),
    "fcn_resnet": FCNResNetConfig(),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate_steps=4": {"accumulate_steps": 4},
    "activation_checkpointing": {"activation_checkpointing": True},
    "compile": {"compile": True},
    "ema": {"ema_decay": 0.999},
}
FOR_BLOCKS = ("activation_checkpointing", "compile")
WARM_UP_STEPS, MEASURED_STEPS, BATCH_CLIPS = 6, 12, 8


class Kept(Quiet):
    """Keeps what is told of steps."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []

    def on_step(self, record: StepRecord) -> None:
        """See `Reports.on_step`."""
        self.steps.append(record)


def work(text: str, ranks: Ranks, port: int, threads: int, answer: Connection) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(threads)
    kept = Kept()
    peak = peak_mib(lambda: train(TrainingRequest.model_validate_json(text), ranks, kept))
    warm_up, measured = kept.steps[:1], kept.steps[WARM_UP_STEPS : WARM_UP_STEPS + MEASURED_STEPS]
    if ranks.is_first:
        seconds = sum(1 / record.clips_per_s for record in measured)
        answer.send(
            {
                "clips_per_s": len(measured) / seconds,
                "loader_share": sum(r.loader_share / r.clips_per_s for r in measured) / seconds,
                "first_step_s": BATCH_CLIPS / warm_up[0].clips_per_s,
                "peak_mib": peak,
            }
        )
    answer.close()
    os._exit(0)


def measure(request: TrainingRequest, processes: int, threads: int) -> dict[str, float]:
    context = get_context("spawn")
    here, there = context.Pipe()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    text = request.model_dump_json()
    ranks = [
        context.Process(target=work, args=(text, Ranks(k, k, processes), port, threads, there))
        for k in range(processes)
    ]
    for rank in ranks:
        rank.start()
    there.close()
    figures = here.recv()
    for rank in ranks:
        rank.join()
    return figures


def requested(
    features: Pointer, model: str, options: dict[str, Any], place: str, processes: int
) -> TrainingRequest:
    training = {"batch_clips": BATCH_CLIPS, "max_steps": WARM_UP_STEPS + MEASURED_STEPS, "log_every_steps": 1}
    return TrainingRequest(
        features=features,
        store_url=place,
        model=MODELS[model],
        training=TrainingConfig.parse(training | options),
        world_size=processes,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    store, base = Store(arguments.store), RunConfig.load("builtin")
    features = extract_features(build_corpus(base.corpus, store, None), base.features, store)
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for model in arguments.models:
            for variant in arguments.variants:
                if variant in FOR_BLOCKS and model == "fcn_resnet":
                    continue
                for processes in arguments.processes:
                    place = f"{arguments.store}/round-{number}-{os.getpid()}"
                    request = requested(features, model, VARIANTS[variant], place, processes)
                    figures = measure(request, processes, arguments.threads)
                    found.setdefault((model, variant, processes), []).append(figures)
                    write(arguments, found)


def write(arguments: argparse.Namespace, found: dict[tuple[str, str, int], list[dict[str, float]]]) -> None:
    """All that is measured so far; the last row is said."""
    rows = []
    for (model, variant, processes), rounds in found.items():
        median = {name: statistics.median(row[name] for row in rounds) for name in rounds[0]}
        row = {"model": model, "variant": variant, "processes": processes, "threads": arguments.threads}
        row |= {name: round(value, 3) for name, value in median.items()}
        for name, peer in (("ratio", (model, "plain", processes)), ("scaling", (model, variant, 1))):
            if peer in found:
                base = statistics.median(other["clips_per_s"] for other in found[peer])
                row[name] = round(median["clips_per_s"] / base, 2)
        rows.append(row)
    say(json.dumps(rows[-1]))
    facts = {"machine": platform.machine(), "cpus": os.cpu_count(), "torch": torch.__version__}
    arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
