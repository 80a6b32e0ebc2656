"""From the order to batches: read by worker processes, delivered in order, the same for any number of workers.

Micro-batches are numbered over the whole run: optimiser step s, accumulation turn j and rank r read number
(s * accumulation + j) * world_size + r. Workers get the draws with their task and keep nothing between tasks, so
starting anywhere costs nothing, and a worker's random numbers cannot matter.
"""

import os
import signal
import time
import traceback
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from mmcore.base.hashing import mix, name_key
from mmcore.base.signals import SIGNALS
from mmcore.contract.protocols import Datasets, Order
from mmcore.contract.values import Batch, Draw
from mmcore.data.bad import FILE_NAME, BadSamples, Incident, Policy, Reader, quarantined
from mmcore.data.parcel import Unpacker, check_room, pack
from mmcore.errors import DataError, MmcoreError

DEADLINE_S = 900.0
"""How long a batch may take; less than processes wait for one another (`mmcore.base.distributed.start`)."""

_LOOK_S = 5.0
"""How often a waiting loader looks whether it has waited too long."""


class Task(NamedTuple):
    """What a worker is asked for."""

    m: int
    """Global number of the micro-batch."""
    draws: tuple[Draw, ...]


class Loader:
    """Batches of one rank, from any step on.

    Args:
        datasets: sources and their collators.
        order: what is drawn.
        rank: of this process.
        world_size: number of processes.
        accumulation: micro-batches per process and optimiser step.
        num_workers: processes that read; 0 reads in this one.
        policy: what a bad sample does.
        max_in_a_row: bad samples one after the other that stop the run.
        run_folder: where `bad_samples.jsonl` is kept; None keeps it nowhere.
        prefetch: micro-batches that each worker reads ahead.
        pin_memory: page-locked tensors for quick copies to CUDA; None where CUDA is.
        start_method: how workers start ("fork", "spawn", "forkserver"); None is the system's way.
        deadline_s: how long a batch may take before its worker is taken to be stuck.
    """

    def __init__(
        self,
        datasets: Datasets,
        order: Order,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        num_workers: int = 2,
        policy: Policy = "skip",
        max_in_a_row: int = 100,
        run_folder: Path | None = None,
        prefetch: int = 2,
        pin_memory: bool | None = None,
        start_method: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._order = order
        self._deadline_s, self._prefetch = deadline_s, prefetch
        self._unpack = Unpacker()
        self._rank, self._world_size, self._accumulation = rank, world_size, accumulation
        self._num_workers = num_workers
        listed = run_folder / FILE_NAME if run_folder else None
        known_bad = quarantined(listed) if listed and policy == "quarantine" else None
        # All ranks append to one list, a line at a time; who reads it takes each sample once.
        self.bad = BadSamples(listed)
        self.wait_seconds = 0.0
        """How long `iterate` has waited for data so far."""
        self.cut = 0
        """Samples that were longer than the maximum length and lost their end, repetitions included."""
        reader = Reader(datasets.sources, policy, max_in_a_row, known_bad)
        self._dataset = _Tasks(reader, dict(datasets.collate), order.seed)
        self._tasks = _TaskList()
        self._loader = self._workers(prefetch, pin_memory, start_method) if num_workers else None

    def numbers(self, start_step: int, stop_step: int) -> Iterator[int]:
        """Global micro-batch numbers that this rank reads in steps start to stop."""
        for turn in range(start_step * self._accumulation, stop_step * self._accumulation):
            yield turn * self._world_size + self._rank

    def iterate(self, start_step: int, stop_step: int) -> Iterator[tuple[int, Batch]]:
        """Micro-batches of optimiser steps start (included) to stop (excluded), with their global numbers.

        Raises:
            DataError: a sample cannot be read and the policy is "error", too many in a row cannot, or a worker died;
                names source, record and worker.
        """
        tasks = (Task(m, draws) for m in self.numbers(start_step, stop_step) if (draws := self._order.draws(m)))
        results = self._from_workers(tasks) if self._loader is not None else map(self._dataset.__getitem__, tasks)
        while True:
            begin = time.perf_counter()
            result = next(results, None)
            self.wait_seconds += time.perf_counter() - begin
            if result is None:
                return
            if result.error is not None:
                raise result.error
            self.bad.take(result.incidents)
            assert result.batch is not None
            self.cut += int(result.batch.statistics.get("cut", 0))
            yield result.m, result.batch

    def close(self) -> None:
        """Stop the workers; a later `iterate` starts them again."""
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None  # type: ignore[union-attr]

    def _workers(self, prefetch: int, pin_memory: bool | None, start_method: str | None) -> DataLoader[Any]:
        with _without_opinions():
            return DataLoader(
                self._dataset,
                batch_size=None,
                sampler=self._tasks,
                num_workers=self._num_workers,
                collate_fn=pack,
                timeout=min(_LOOK_S, self._deadline_s),
                pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
                worker_init_fn=init_worker,
                prefetch_factor=prefetch,
                persistent_workers=True,
                multiprocessing_context=start_method,
                # Without its own generator the loader would draw from, and so change, the training's random numbers.
                generator=torch.Generator(),
            )

    def _from_workers(self, tasks: Iterator[Task]) -> Iterator["_Result"]:
        assert self._loader is not None
        self._tasks.set(tasks)
        check_room(self._num_workers, self._prefetch)
        results = self._started()
        _raise_only_in_next(results)
        while True:
            result = self._next(results)
            if result is None:
                return
            self._tasks.done(result.m)
            yield result

    def _started(self) -> Any:
        assert self._loader is not None
        with _without_opinions():
            return iter(self._loader)

    def _next(self, results: Any) -> "_Result | None":
        """The next answer; whoever does not answer is named."""
        began = time.monotonic()
        while True:
            try:
                return self._unpack(next(results, None))
            except (RuntimeError, OSError, EOFError) as error:  # the last two where a worker died with its tensors
                stuck = "timed out" in str(error)
                if stuck and time.monotonic() - began < self._deadline_s:
                    continue
                failure = self._stuck_worker() if stuck else self._lost_worker(results, error)
                for process in getattr(results, "_workers", ()) if stuck else ():
                    process.kill()  # it would not answer to anything else
                self.close()
                raise failure from error

    def _stuck_worker(self) -> DataError:
        task = self._tasks.first_waiting()
        return DataError(
            f"no batch came from the data workers within {self._deadline_s:.0f} s",
            where=f"rank {self._rank}, {_describe(task)}" if task else f"rank {self._rank}",
            do="a file system that does not answer, or a plugin that waits: try these records with --workers 0",
        )

    def _lost_worker(self, results: Any, error: Exception) -> Exception:
        """Name the worker that is gone and what it was reading; tasks go round the workers."""
        workers = getattr(results, "_workers", ())
        ended = connection.wait([process.sentinel for process in workers], timeout=_LOOK_S)
        for number, process in enumerate(workers):
            if process.sentinel in ended:
                process.join(_LOOK_S)  # its files are closed before it can be waited for
            if process.exitcode in (None, 0):
                continue
            # It may have answered some of these and died before its answer was fetched, so all of them are named.
            reading = " or ".join(map(_describe, self._tasks.waiting_for(number, self._num_workers)))
            code = process.exitcode
            how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
            return DataError(
                f"data worker {number} (pid {process.pid}) {how}",
                where=f"rank {self._rank}, {reading}" if reading else f"rank {self._rank}",
                do="often too little memory or /dev/shm: try fewer --workers, or --workers 0 to see the failure itself",
            )
        return error


@contextmanager
def _without_opinions() -> Generator[None, None, None]:
    """Without what Python and torch think of forking beside threads, whose locks workers do not use, and of more
    workers than cores, which was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        yield


def _raise_only_in_next(results: Any) -> None:
    """Keep torch from raising about a lost worker wherever the main thread happens to be.

    Its SIGCHLD handler does so at any later child's end too, long after the loss was dealt with. Told of no workers it
    stays silent, and `next` notices within five seconds that one is gone.
    """
    if results._worker_pids_set:
        signal_handling._remove_worker_pids(id(results))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        results._worker_pids_set = False


@dataclass(frozen=True, slots=True)
class _Result:
    """What comes back for a task."""

    m: int
    batch: Batch | None
    incidents: tuple[Incident, ...] = ()
    error: MmcoreError | None = None

    def pin_memory(self) -> "_Result":
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _Tasks(Dataset[_Result]):
    """Answers tasks; an error is an answer too, since exceptions that cross processes lose what they know."""

    def __init__(self, reader: Reader, collate: Mapping[str, Any], seed: int) -> None:
        self._reader = reader
        self._collate = collate
        self._seed = seed

    def __getitem__(self, task: Task) -> _Result:  # type: ignore[override]
        try:
            read = [self._reader.read(draw) for draw in task.draws]
            incidents = tuple(incident for _, found in read for incident in found)
            collate = self._collate[task.draws[0].source]
            batch = collate([sample for sample, _ in read], mix(self._seed, name_key("collate"), task.m))
            return _Result(task.m, batch, incidents)
        except MmcoreError as error:
            return _Result(task.m, None, error=error)
        except Exception as error:  # a plugin's code may raise anything
            failure = _explain(error, task)
            failure.__cause__ = error  # for --debug; does not travel from a worker
            return _Result(task.m, None, error=failure)


class _TaskList(Iterable[Task]):
    """The sampler: tasks in order, remembering those that were given out and not answered."""

    def __init__(self) -> None:
        self._tasks: Iterator[Task] = iter(())
        self._waiting: dict[int, tuple[int, Task]] = {}

    def set(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._waiting.clear()

    def __iter__(self) -> Iterator[Task]:
        for number, task in enumerate(self._tasks):
            self._waiting[task.m] = (number, task)
            yield task

    def done(self, m: int) -> None:
        self._waiting.pop(m, None)

    def first_waiting(self) -> Task | None:
        """The task whose answer comes next."""
        return next((task for _, task in self._waiting.values()), None)

    def waiting_for(self, worker: int, num_workers: int) -> list[Task]:
        """The tasks that one worker was given and whose answers were not fetched."""
        return [task for number, task in self._waiting.values() if number % num_workers == worker]


@contextmanager
def results_of(loader: DataLoader[Any]) -> Generator[Iterator[Any], None, None]:
    """What a `DataLoader` gives, its workers ended whatever happens.

    Workers of `init_worker` heed no signal: with an error on its way the interpreter would wait for them for ever.
    """
    results = iter(loader)
    try:
        yield results
    finally:
        if (stop := getattr(results, "_shutdown_workers", None)) is not None:
            stop()


def init_worker(worker: int) -> None:
    """Set up a data worker process."""
    # Signals to the process group are the main process's business: it finishes the step, and that needs its data.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _explain(error: Exception, task: Task) -> DataError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return DataError(
        f"{type(error).__name__}: {error}",
        where=f"{_describe(task)}; {os.path.basename(last.filename)}:{last.lineno} in {last.name}, pid {os.getpid()}",
        do="run with --workers 0 --debug for the traceback; `mmcore data check` looks for damaged records",
    )


def _describe(task: Task) -> str:
    records = ", ".join(str(draw.position) for draw in task.draws)
    return f"micro-batch {task.m}, source {task.draws[0].source}, records {records}"
