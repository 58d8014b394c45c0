"""Who is served where: sizes of workers, shares of GPUs, deaths, and too little memory, without a GPU."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedkd.base.errors import UserError
from simulations.engine.dispatcher import ATTEMPTS, Dispatcher
from simulations.engine.grid import failed, name_message
from simulations.engine.inline import InlineGrid
from simulations.engine.jobs import Job, NoWorkersError
from simulations.engine.resources import MEMORY_A_WORKER, Need, Room, plan
from simulations.engine.sizes import Sizes
from simulations.engine.travelling import Greeting, Probe, greeting
from simulations.engine.workers import Answered
from simulations.ray_settings import RaySettings
from tests.conftest import written


def need(cpus: float = 1.0, gpus: float = 0.0) -> Need:
    return Need(gpus=gpus, cpus=cpus)


class TestPlan:
    @pytest.mark.parametrize(
        ("asked", "rooms", "count"),
        [
            (need(1), [Room(4, 0)], 4),
            (need(0.1), [Room(4, 0)], 4),  # never more workers than cores
            (need(0.1), [Room(4, 0, memory=2.5 * MEMORY_A_WORKER)], 2),  # nor than memory allows
            (need(3), [Room(4, 0), Room(7, 0), Room(2, 0)], 3),
            (need(1, 1 / 3), [Room(8, 2)], 6),
            (need(1, 0.4), [Room(8, 2)], 4),  # a share is never put together from two GPUs
            (need(1, 0.25), [Room(4, 2)], 4),  # cores run out first
            (need(1, 2), [Room(8, 3), Room(8, 4)], 3),
        ],
    )
    def test_as_many_workers_as_there_is_room_for(self, asked: Need, rooms: list[Room], count: int) -> None:
        assert plan({asked: 1.0}, rooms) == [asked] * count

    def test_sizes_share_the_room_in_proportion_to_their_work(self) -> None:
        small, large = need(1, 0.25), need(1, 0.5)
        assert Counter(plan({small: 1.0, large: 1.0}, [Room(16, 3)])) == {small: 4, large: 4}
        assert Counter(plan({small: 9.0, large: 1.0}, [Room(16, 2)])) == {small: 6, large: 1}

    def test_a_larger_worker_serves_what_has_no_room_beside_it(self) -> None:
        assert plan({need(1, 1): 1.0, need(1, 0.5): 5.0}, [Room(4, 1)]) == [need(1, 1)]

    def test_sizes_that_do_not_fit_beside_each_other_become_one(self) -> None:
        assert plan({need(1, 1): 1.0, need(4, 0): 1.0}, [Room(4, 1)]) == [need(4, 1)]

    def test_what_fits_nowhere_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"no room for a worker with 2 CPUs.*Ray sees one node with 1 CPUs"):
            plan({need(2, 1): 1.0}, [Room(1, 1)])


class TestSizes:
    def test_models_have_what_the_recipe_gives_them(self) -> None:
        sizes = Sizes(RaySettings(num_gpus=0.25, resources={"resnet18": {"num_gpus": 0.5}, "mlp(hidden=[8])": {}}), 1)
        assert sizes.of([sizes.kind("cnn")]) == need(1, 0.25)
        assert sizes.of([sizes.kind("resnet18(norm='group')")]) == need(1, 0.5)
        assert sizes.of([sizes.kind("cnn"), sizes.kind("resnet18")]) == need(1, 0.5)
        assert sizes.kind("mlp(hidden=[8])") != sizes.kind("mlp(hidden=[9])")

    @pytest.mark.parametrize(("used", "share"), [(0.9, 1.0), (0.5, 0.5), (0.34, 0.5), (0.3, 1 / 3), (0.001, 1 / 16)])
    def test_a_measured_client_has_the_share_that_it_used(self, used: float, share: float) -> None:
        sizes = Sizes(RaySettings(num_gpus="auto"), 2)
        kind = sizes.kind("cnn")
        assert sizes.needs[kind] == need(1, 1)
        assert sizes.measure(kind, used) is (share < 1)
        assert sizes.needs[kind].gpus == pytest.approx(share)
        assert not sizes.measure(kind, 0.01), "once"

    def test_auto_without_a_gpu_asks_for_none(self) -> None:
        sizes = Sizes(RaySettings(num_gpus="auto"), 0)
        assert sizes.of([sizes.kind("cnn")]) == need(1, 0)

    def test_too_little_memory_doubles_the_share_up_to_a_whole_gpu(self) -> None:
        sizes = Sizes(RaySettings(num_gpus=0.3), 1)
        kind = sizes.kind("cnn")
        assert [sizes.halve([kind]) and sizes.needs[kind].gpus for _ in range(3)] == [0.6, 1.0, False]


class Died(Exception):  # noqa: N818 - what Ray says when a process is gone
    """A worker has died."""


@dataclass
class Fake:
    """Workers without Ray: tests say when and how they answer."""

    there: list[Room] = field(default_factory=lambda: [Room(4, 2)])
    calls: list[tuple[int, Need, Job, Future[Answered]]] = field(default_factory=list)
    living: dict[int, Need] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    stillborn: bool = False
    changes: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def rooms(self) -> list[Room]:
        return self.there

    def start(self, need: Need) -> int:
        number = len(self.living) + len(self.ended)
        self.living[number] = need
        return number

    def greet(self, actor: int) -> Future[bool]:
        assert actor in self.living
        done: Future[bool] = Future()
        if self.stillborn:
            done.set_exception(Died("at birth"))
        else:
            done.set_result(False)
        return done

    def call(self, actor: int, job: Job, distant: bool) -> Future[Answered]:
        assert not distant
        done: Future[Answered] = Future()
        with self.changed:
            self.calls.append((actor, self.living[actor], job, done))
            self.changed.notify_all()
        return done

    def kill(self, actor: int) -> None:
        self.living.pop(actor)
        self.ended.append(actor)

    def is_of_the_worker(self, error: BaseException) -> bool:
        return isinstance(error, Died)

    def called(self, count: int) -> list[tuple[int, Need, Job, Future[Answered]]]:
        """Wait until workers have been called so often; the calls since the last time."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= count, 5), f"{len(self.calls)} calls"
            now, self.calls = self.calls, []
        return now


class Setting:
    """A dispatcher in its thread, with workers that tests answer for."""

    def __init__(self, settings: RaySettings, fake: Fake, kinds: Sequence[str] = ("cnn",)) -> None:
        self.fake, self.sizes = fake, Sizes(settings, max((room.gpus for room in fake.there), default=0.0))
        self.dispatcher = Dispatcher(fake, self.sizes)
        work = {self.sizes.kind(model): 1.0 for model in kinds}
        self._grid = InlineGrid(ClientApp(), 8)
        self.thread = threading.Thread(target=self.dispatcher.serve, args=(work,), daemon=True)
        self.thread.start()

    def job(self, node: int = 1, model: str = "cnn", size: int = 1) -> Job:
        """A message to a node."""
        message = Message(RecordDict(), dst_node_id=node, message_type="train")
        name_message(message)
        return Job(message, self._grid._contexts[node], frozenset([self.sizes.kind(model)]), size, message)

    def submitted(self, *jobs: Job) -> list[Future[Answered]]:
        self.dispatcher.submit(jobs)
        return [job.outcome for job in jobs]


def fine(job: Job, used: float = 0.0) -> Answered:
    """A reply of a client that has trained."""
    return Answered(
        Message(RecordDict({"metrics": MetricRecord({"0||steps": 3.0})}), reply_to=job.message), job.context, used
    )


def too_little_memory(job: Job) -> Answered:
    why = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    return Answered(failed(job.message, why), job.context)


@pytest.fixture
def settings() -> Iterator[list[Setting]]:
    """The settings that a test makes; all are ended."""
    made: list[Setting] = []
    yield made
    for each in made:
        each.dispatcher.end()
        each.thread.join(5)
        assert not each.thread.is_alive()
        assert not each.fake.living, "no worker is left"


class TestDispatcher:
    def test_a_node_is_served_by_the_worker_that_knows_it_and_none_is_idle(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(2, 0)])))

        def served(*nodes: int) -> dict[int, int]:
            here.submitted(*map(here.job, nodes))
            calls = here.fake.called(len(nodes))
            for _, _, job, done in calls:
                done.set_result(fine(job))
            return {job.node: worker for worker, _, job, _ in calls}

        first = served(1, 2)
        assert first[1] != first[2]
        assert served(2, 1) == first
        here.submitted(here.job(1), here.job(1))
        assert {worker for worker, _, _, _ in here.fake.called(2)} == {*first.values()}

    def test_large_groups_go_first(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(1, 0)])))
        here.submitted(*(here.job(node, size=size) for node, size in ((1, 2), (2, 5), (3, 3))))
        order = []
        for _ in range(3):
            ((_, _, job, done),) = here.fake.called(1)
            order.append(job.size)
            done.set_result(fine(job))
        assert order == [5, 3, 2]

    def test_a_message_whose_worker_dies_goes_to_another(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(1, 0)])))
        (outcome,) = here.submitted(job := here.job())
        ((first, _, _, done),) = here.fake.called(1)
        done.set_exception(Died())
        ((second, _, again, done),) = here.fake.called(1)
        assert (again, second != first, first in here.fake.ended) == (job, True, True)
        done.set_result(fine(job))
        assert not outcome.result(5).reply.has_error()

    def test_a_message_that_kills_every_worker_is_given_up(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(1, 0)])))
        (outcome,) = here.submitted(here.job())
        for _ in range(ATTEMPTS):
            ((_, _, _, done),) = here.fake.called(1)
            done.set_exception(Died("SIGSEGV"))
        assert "ended abruptly, 3 times in a row: SIGSEGV" in str(outcome.result(5).reply.error.reason)
        (outcome,) = here.submitted(job := here.job(2))
        ((_, _, _, done),) = here.fake.called(1)
        done.set_result(fine(job))
        assert not outcome.result(5).reply.has_error(), "others are served"

    def test_without_any_node_the_study_ends(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(1, 0)])))
        (outcome,) = here.submitted(here.job())
        ((_, _, _, done),) = here.fake.called(1)
        here.fake.there = []
        done.set_exception(Died())
        with pytest.raises(NoWorkersError, match="no room for a worker"):
            outcome.result(5)
        with pytest.raises(NoWorkersError):
            here.submitted(here.job())[0].result(5)

    def test_workers_that_die_while_they_start_end_the_study(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(), Fake([Room(1, 0)], stillborn=True)))
        with pytest.raises(NoWorkersError, match="cannot start: at birth"):
            here.submitted(here.job())[0].result(5)

    def test_a_model_goes_to_a_worker_that_is_large_enough(self, settings: list[Setting]) -> None:
        given = RaySettings(num_gpus=0.25, resources={"resnet18": {"num_gpus": 0.5}})
        settings.append(here := Setting(given, Fake([Room(4, 1)]), ["cnn", "resnet18"]))
        here.submitted(here.job(1, "resnet18"), here.job(2, "resnet18"), *(here.job(node) for node in (3, 4, 5)))
        calls = here.fake.called(3)
        served = [(job.node in (1, 2), worker.gpus) for _, worker, job, _ in calls]
        assert sorted(served) == [(False, 0.25), (False, 0.25), (True, 0.5)]

    def test_measured_clients_share_a_gpu_afterwards(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(num_gpus="auto"), Fake([Room(8, 1)])))
        here.submitted(*(here.job(node) for node in (1, 2, 3, 4)))
        ((_, whole, job, done),) = here.fake.called(1)
        assert whole.gpus == 1, "alone at first"
        done.set_result(fine(job, used=0.3))
        calls = here.fake.called(3)
        assert [worker.gpus for _, worker, _, _ in calls] == [pytest.approx(1 / 3)] * 3
        assert len(here.fake.living) == 3

    def test_too_little_memory_halves_the_clients_a_gpu_and_loses_no_message(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(num_gpus=0.25), Fake([Room(8, 1)])))
        outcomes = here.submitted(*(here.job(node) for node in (1, 2, 3, 4)))
        for _, _, job, done in here.fake.called(4):
            done.set_result(too_little_memory(job))
        served: list[float] = []
        while len(served) < 4:
            for _, worker, job, done in here.fake.called(1):
                served.append(worker.gpus)
                done.set_result(fine(job))
        assert served == [0.5] * 4, "four failures at once are one reason to halve, not two"
        assert not any(outcome.result(5).reply.has_error() for outcome in outcomes)

    def test_a_client_too_large_for_a_whole_gpu_fails_with_what_cuda_said(self, settings: list[Setting]) -> None:
        settings.append(here := Setting(RaySettings(num_gpus=0.5), Fake([Room(8, 1)])))
        (outcome,) = here.submitted(here.job())
        for _ in range(2):
            ((_, _, job, done),) = here.fake.called(1)
            done.set_result(too_little_memory(job))
        assert "CUDA out of memory" in str(outcome.result(5).reply.error.reason)


class TestGreeting:
    def test_a_worker_sees_the_driver_s_disk_or_not(self, tmp_path: Path) -> None:
        nonce, file = written(tmp_path / "nonce", "abc"), written(tmp_path / "data", "1234")
        here = Probe(str(nonce), "abc", ((str(file), 4),))
        assert greeting(here) == Greeting(sees_state=True, sees_files=True)
        assert greeting(replace(here, content="another disk")) == Greeting(sees_state=False, sees_files=True)
        assert greeting(replace(here, nonce=str(tmp_path / "nowhere"))) == Greeting(sees_state=False, sees_files=True)
        assert greeting(replace(here, files=((str(file), 5),))) == Greeting(sees_state=True, sees_files=False)
        assert greeting(replace(here, shared=False)) == Greeting(sees_state=False, sees_files=False)
        assert greeting(Probe()) == Greeting()

    def test_other_versions_are_refused(self) -> None:
        with pytest.raises(RuntimeError, match=r"has torch .*, but the driver has 0\.0"):
            greeting(Probe(versions=(("torch", "0.0"),)))
