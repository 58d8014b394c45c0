"""A results folder made up from known effects, for the tests of the analysis room."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.results.journal import read_journal

METHODS = ("local", "kd", "tuned_kd", "dml", "dp_kd")
PARTITIONS = ("iid", "dirichlet(alpha=0.5)", "dirichlet(alpha=0.1)")
TEST_SAMPLES = 1000
CLASSES = 4


@dataclass(frozen=True)
class Planted:
    """A study whose truth is known. Accuracies are multiples of 1/1000, so that sums are exact."""

    methods: Sequence[str] = METHODS
    partitions: Sequence[str] = PARTITIONS
    seeds: Sequence[int] = (0, 1, 2)
    rounds: int = 10
    clients: int = 10
    gain: dict[str, float] = field(
        default_factory=lambda: {"local": 0.004, "kd": 0.02, "tuned_kd": 0.06, "dml": 0.035, "dp_kd": 0.02}
    )
    """Final gain over round 0 of each method."""
    noise: float = 0.004
    """Standard deviation between seeds of a method's gain."""
    swept: Sequence[str] = ("partition", "method", "seed")
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of every federation, over the defaults."""
    cut: dict[str, int] = field(default_factory=dict)
    """Last round of the federations that were interrupted."""

    def write(self, folder: Path, study: bool = True) -> Path:
        journals = folder / "journal"
        journals.mkdir(parents=True, exist_ok=True)
        federations = {}
        for partition in self.partitions:
            for method in self.methods:
                for seed in self.seeds:
                    name = f"f{len(list(journals.iterdir())):04d}"
                    settings = self._settings(partition, method, seed)
                    federations[name] = settings
                    self._journal(journals / f"{name}.jsonl", name, settings)
        if study:
            (folder / "study.json").write_text(json.dumps(self._study(federations)))
        return folder

    def _settings(self, partition: str, method: str, seed: int) -> dict[str, Any]:
        return {
            "dataset": "digits",
            "partition": partition,
            "method": method,
            "models": "cnn",
            "clients": self.clients,
            "rounds": self.rounds,
            "seed": seed,
            "transfer": "public(fraction=0.2)",
            "val": "local",
            "train.lr": 0.05,
            **self.settings,
        }

    def _study(self, federations: dict[str, Any]) -> dict[str, Any]:
        rng = np.random.default_rng(5)
        partitions = [
            {
                "dataset": "digits",
                "partition": partition,
                "seed": seed,
                "clients": self.clients,
                "sha256": f"{place:02d}{seed}" * 21,
                "classes": [str(digit) for digit in range(10)],
                "counts": (rng.dirichlet([10.0 / (1 + 40 * place)] * self.clients, 10).T * 140).astype(int).tolist(),
                "transfer": 287,
                "val": 110,
            }
            for place, partition in enumerate(self.partitions)
            for seed in self.seeds
        ]
        return {
            "recipe": {"dataset": "digits", "method": list(self.methods), "partition": list(self.partitions)},
            "swept": list(self.swept),
            "federations": federations,
            "versions": {"fedkd": "0.1.0", "torch": "2.9.1"},
            "hardware": {"cpus": 2, "gpu": None},
            "commit": "0123abc",
            "partitions": partitions,
        }

    def _journal(self, path: Path, name: str, settings: dict[str, Any]) -> None:
        last = self.cut.get(name, self.rounds)
        lines = [{"federation": name, "rounds": self.rounds, "settings": settings}]
        lines += [{"round": number, "rows": self.rows(settings, number)} for number in range(last + 1)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def rows(self, settings: dict[str, Any], number: int) -> list[list[Any]]:
        """The rows of one round. The start depends on partition and seed only: it is common to all."""
        method, seed = settings["method"], int(settings["seed"])
        place = list(self.partitions).index(settings["partition"])
        start = np.random.default_rng([seed, place])
        starts = np.round(0.85 - 0.15 * place + start.normal(0, 0.02 * (1 + place), self.clients), 3)
        own = np.random.default_rng([seed, place, list(self.methods).index(method)])
        final = self.gain.get(method, 0.03) * (1 + place) + own.normal(0, self.noise)
        share = final * (1 - np.exp(-number / 3)) / (1 - np.exp(-self.rounds / 3))
        lost = np.round(0.3 * abs(share) + np.abs(own.normal(0, 0.002, self.clients)) * (number > 0), 3)
        gained = np.round(np.maximum(share + lost, 0), 3) * (number > 0)
        # dml sends every round but the last; the other teachers are frozen: up at the start, down in round 1.
        up = 27_000 * (number < self.rounds if method == "dml" else number == 0) * (method != "local")
        down = 27_000 * (number > 0 if method == "dml" else number == 1) * (method != "local")
        up += 1200 * (method.startswith("tuned_kd") and number == 0)
        rows: list[list[Any]] = []
        for client in range(self.clients):
            accuracy = float(starts[client] + gained[client] - lost[client])
            val = float(np.round(accuracy + np.sin(7 * number + client) * 0.02, 2))
            scores = {"test": accuracy, "val": val, "transfer": accuracy}
            for split, score in scores.items():
                rows += [[client, split, "accuracy", score], [client, split, "loss", 2 * (1 - score)]]
            rows += [
                [client, "test", "gained", float(gained[client])],
                [client, "test", "lost", float(lost[client])],
            ]
            costs = {"steps": 4 if number else 0, "samples": 128 if number else 0, "seconds": 0.01}
            costs |= {"bytes_up": up, "bytes_down": down}
            costs |= {} if number else {"parameters": 27_000, "pretrain_epochs": 40}
            costs |= {} if number else {"pretrain_seconds": 2.0 + seed + place / 8 + client / 16}
            rows += [[client, "", metric, value] for metric, value in costs.items()]
            if method.startswith("tuned_kd") and number == 0:
                rows += self._tuning(client, place, own)
        if method.startswith("tuned_kd") and number == 0:
            weight = [0.5, 0.9, 0.9][seed % 3]
            rows.append([-1, "", f"tuning_chosen/temperature=4.0,weight={weight}", 1.0])
        return [*rows, [-1, "", "seconds", 0.1]]

    def _tuning(self, client: int, place: int, rng: np.random.Generator) -> list[list[Any]]:
        rows: list[list[Any]] = []
        for temperature in (1.0, 2.0, 4.0, 8.0, 10.0, 20.0):
            for weight in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
                score = 0.9 - 0.1 * place - 0.02 * np.log2(temperature / 4) ** 2 - 0.1 * (weight - 0.8) ** 2
                cell = f"temperature={temperature},weight={weight}"
                rows.append([client, "val", f"tuning_accuracy/{cell}", float(score + rng.normal(0, 0.01))])
                rows.append([client, "val", f"tuning_loss/{cell}", 1.0 - float(score)])
        return [*rows, *([client, "", f"tuning_{cost}", 36.0 * 4] for cost in ("steps", "samples", "bytes"))]


@dataclass(frozen=True)
class Rich(Planted):
    """A study that measures everything: classes, calibration, forgetting, teachers, a global and a pooled model."""

    consolidated: int = 0
    """Rounds of a consolidated start, in which only the server's model is judged."""

    def rows(self, settings: dict[str, Any], number: int) -> list[list[Any]]:
        rows = super().rows(settings, max(number - self.consolidated, 0))
        method, seed = str(settings["method"]), int(settings["seed"])
        mean = float(np.mean([row[3] for row in rows if row[1] == "test" and row[2] == "accuracy"]))
        rng = np.random.default_rng([seed, number, len(method)])
        own = [[client, "local_test", "accuracy", 0.95 - 0.01 * number * client] for client in range(self.clients)]
        for client in range(self.clients):
            own.append([client, "test", "ece", 0.05 + 0.02 * client + 0.01 * number])
            if number:
                own.append([client, "transfer", "agreement", 0.5 + 0.02 * number])
            if not method.startswith("local"):
                own.append([client, "transfer", "teacher_accuracy", 0.8 - 0.03 * len(method)])
                own.append([client, "transfer", "teacher_loss", 0.6])
            if number in (0, self.rounds + self.consolidated):
                lift = {"kd": 0.1, "dml": 0.05}.get(method, 0.0) * (number > 0)
                own += [
                    [client, "test", f"accuracy/{c}", 0.5 + 0.1 * c + lift * (c - 1) + 0.01 * client]
                    for c in range(CLASSES)
                ]
        rows += own
        if method == "fedavg":
            for split in ("test", "val"):
                value = mean + 0.05 + 0.01 * number + float(rng.normal(0, 0.005))
                rows += [[-1, split, "accuracy", value], [-1, split, "loss", 0.3]]
        if method.startswith("pooled"):
            rows = [row for row in rows if row[0] <= 0]
            for row in rows:
                row[3] += 0.1 * (row[2] == "accuracy") * (row[1] in ("test", "val"))
        if number < self.consolidated:
            rows = [row for row in rows if row[2].startswith("bytes") or (row[0] < 0 and row[2] == "seconds")]
            rows += [[-1, split, "accuracy", 0.3 + 0.1 * number + 0.01 * seed] for split in ("test", "val")]
        if self.consolidated and number == 0:
            rows.append([-1, "", "start_rounds", float(self.consolidated)])
        return rows

    def _journal(self, path: Path, name: str, settings: dict[str, Any]) -> None:
        longer = Planted(rounds=self.rounds + self.consolidated)
        object.__setattr__(longer, "rows", self.rows)
        Planted._journal(longer, path, name, settings)


def test_the_synthetic_study_is_a_results_folder(tmp_path: Path) -> None:
    Planted(methods=("local",), partitions=("iid",), seeds=(0,), rounds=2, clients=3).write(tmp_path)
    journal = read_journal(tmp_path / "journal" / "f0000.jsonl")
    assert journal is not None
    assert journal.settings["method"] == "local"
    assert journal.rows["round"].max() == 2
