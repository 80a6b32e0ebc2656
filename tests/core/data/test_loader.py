"""Batches come in order and are the same for any number of workers, with shared memory or without it; bad samples,
lost workers and stuck ones are explained."""

import errno
import json
import os
import pickle
import re
import resource
import signal
import time
import warnings
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcore.contract.protocols import Datasets, DataSource
from mmcore.contract.values import Batch, Draw, Sample
from mmcore.data import parcel
from mmcore.data.bad import FILE_NAME, BadSamples, Incident, quarantined, replacement
from mmcore.data.loader import Loader
from mmcore.data.order.source_per_batch import SourcePerBatchOrder
from mmcore.errors import DataError

SIZE = 40


@dataclass
class Numbers(DataSource):
    """Samples whose pixels are random numbers of the draw's seed; some records misbehave."""

    name: str = "numbers"
    bad: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()
    deadly: int = -1
    broken: int = -1
    seen: list[int] = field(default_factory=list)
    fingerprint: str = "x"

    def __len__(self) -> int:
        return SIZE

    def aspect_groups(self) -> np.ndarray:
        return (np.arange(SIZE) % 2).astype(np.uint8)

    def sample(self, draw: Draw) -> Sample | None:
        self.seen.append(draw.position)
        if draw.position in self.bad:
            raise DataError("image is damaged", where=f"numbers/{draw.position}.jpg")
        if draw.position in self.empty:
            return None
        if draw.position == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if draw.position == self.broken:
            raise KeyError("segmentation")
        pixels = np.random.default_rng(draw.seed).integers(0, 255, (3, 4, 5), np.uint8)
        time.sleep(0.002 * (draw.position % 3))  # workers finish out of order
        return Sample(
            torch.from_numpy(pixels),
            torch.zeros(0, 4),
            torch.zeros(0, dtype=torch.long),
            None,
            draw,
            draw.position,
            (4, 5),
        )


@dataclass(slots=True)
class Pixels(Batch):
    images: torch.Tensor
    seed: int


def collate(samples: list[Sample], seed: int) -> Pixels:
    draws = tuple(sample.draw for sample in samples)
    return Pixels(draws[0].source, draws, {"samples": len(samples)}, torch.stack([s.image for s in samples]), seed)


def loader(source: Numbers | None = None, *, whole_epochs: bool = False, **options) -> Loader:
    source = source or Numbers()
    order = SourcePerBatchOrder(
        {"numbers": SIZE},
        {"numbers": 1.0},
        {"numbers": 4},
        {"numbers": source.aspect_groups()},
        whole_epochs=whole_epochs,
    )
    options = {"num_workers": 0, "pin_memory": False, **options}
    return Loader(Datasets({"numbers": source}, {"numbers": collate}), order, **options)


def content(batches) -> list[tuple]:
    return [(m, batch.draws, batch.seed, batch.images.tolist()) for m, batch in batches]


def test_batches_do_not_depend_on_the_number_of_workers():
    bad = frozenset({3, 4, 17})
    expected = content(loader(Numbers(bad=bad)).iterate(2, 9))
    for num_workers in (1, 2):
        workers = loader(Numbers(bad=bad), num_workers=num_workers)
        assert content(workers.iterate(2, 9)) == expected
        assert workers.wait_seconds > 0
        workers.close()


def test_the_same_workers_serve_another_range_after_one_was_left_unfinished():
    expected = content(loader().iterate(5, 9))
    workers = loader(num_workers=2)
    for _ in workers.iterate(0, 50):
        break
    assert content(workers.iterate(5, 9)) == expected
    assert content(workers.iterate(5, 9)) == expected
    workers.close()


def test_ranks_and_accumulation_share_out_the_same_micro_batches():
    whole = content(loader().iterate(0, 12))
    parts = [loader(rank=rank, world_size=2, accumulation=3) for rank in range(2)]
    shared_out = sorted(item for part in parts for item in content(part.iterate(0, 2)))
    assert shared_out == whole
    assert list(parts[1].numbers(1, 2)) == [7, 9, 11]


def test_loading_leaves_the_trainings_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    workers = loader(num_workers=1)
    list(workers.iterate(0, 3))
    workers.close()
    assert torch.equal(torch.rand(3), expected)


def test_a_bad_sample_stops_the_run_under_the_policy_error():
    for num_workers in (0, 1):
        stopping = loader(Numbers(bad=frozenset(range(SIZE))), policy="error", num_workers=num_workers)
        with pytest.raises(DataError, match="damaged") as error:
            list(stopping.iterate(0, 1))
        assert "numbers/" in str(error.value)
        stopping.close()


def test_a_bad_sample_is_replaced_counted_and_listed_once(tmp_path):
    skipping = loader(Numbers(bad=frozenset({1, 2, 3}), empty=frozenset({8})), run_folder=tmp_path)
    for _, batch in skipping.iterate(0, 60):
        assert not {1, 2, 3, 8} & {draw.position for draw in batch.draws}
        assert len({draw.position % 2 for draw in batch.draws}) == 1
    summary = skipping.bad.summary()
    assert summary["bad"]["numbers"] > 3
    assert summary["empty"]["numbers"] > 0
    lines = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert {line["position"] for line in lines} == {1, 2, 3}
    assert len(lines) == summary["listed"] == 3
    assert lines[0]["what"] == "image is damaged"
    assert lines[0]["where"].startswith("numbers/")


def test_a_quarantined_sample_is_never_tried_again_also_after_a_restart(tmp_path):
    bad = frozenset({1, 2, 3})
    first = Numbers(bad=bad)
    before = content(loader(first, policy="quarantine", run_folder=tmp_path).iterate(0, 60))
    assert sum(position in bad for position in first.seen) == 3
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"source": "numb')  # cut by a crash
    assert quarantined(tmp_path / FILE_NAME) == {"numbers": {1, 2, 3}}
    second = Numbers(bad=bad)
    assert content(loader(second, policy="quarantine", run_folder=tmp_path).iterate(0, 60)) == before
    assert not bad & set(second.seen)
    BadSamples(tmp_path / FILE_NAME).take([Incident("numbers", 9, "image is missing", "9.jpg")])
    assert quarantined(tmp_path / FILE_NAME) == {"numbers": {1, 2, 3, 9}}


def test_skipping_and_quarantining_draw_the_same_samples():
    bad = frozenset({1, 2, 3, 20, 21})
    assert content(loader(Numbers(bad=bad), policy="skip").iterate(0, 30)) == content(
        loader(Numbers(bad=bad), policy="quarantine").iterate(0, 30)
    )


@pytest.mark.parametrize(
    "fault",
    [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), OverflowError("too large"), RecursionError("deep")],
)
def test_a_record_that_python_itself_cannot_take_is_a_bad_sample(fault, tmp_path):
    class Odd(Numbers):
        def sample(self, draw):
            if draw.position in (1, 2):
                raise fault
            return super().sample(draw)

    skipping = loader(Odd(), run_folder=tmp_path)
    assert len(list(skipping.iterate(0, 60))) == 60
    assert quarantined(tmp_path / FILE_NAME) == {"numbers": {1, 2}}
    with pytest.raises(DataError, match=r"source numbers, record [12]"):
        list(loader(Odd(), policy="error").iterate(0, 60))


def test_too_many_bad_samples_in_a_row_stop_the_run():
    source = Numbers(bad=frozenset(range(SIZE)))
    with pytest.raises(DataError, match="7 records of source 'numbers' in a row") as error:
        list(loader(source, max_in_a_row=7).iterate(0, 1))
    assert "image is damaged" in str(error.value)
    assert len(source.seen) == 7


def test_the_replacement_of_a_draw_is_its_own_function_and_keeps_the_orientation():
    groups = Numbers().aspect_groups()
    for seed in range(50):
        draw = Draw("numbers", seed % SIZE, seed)
        chosen = replacement(draw, SIZE, groups)
        assert chosen == replacement(draw, SIZE, groups)
        assert chosen.position % 2 == draw.position % 2
        assert chosen.seed != draw.seed


def test_a_plugins_mistake_names_the_sample_and_the_line():
    for num_workers in (0, 1):
        failing = loader(Numbers(broken=5), num_workers=num_workers, whole_epochs=True)
        with pytest.raises(DataError, match="KeyError: 'segmentation'") as error:
            list(failing.iterate(0, 11))
        assert "source numbers, records" in str(error.value)
        assert "test_loader.py" in str(error.value)
        failing.close()


def test_a_killed_worker_is_named_with_what_it_was_reading():
    lost = loader(Numbers(deadly=5), num_workers=2, whole_epochs=True)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"data worker [01] \(pid \d+\) was killed by signal SIGKILL") as error:
        list(lost.iterate(0, 11))
    assert time.monotonic() - begin < 30
    named = re.findall(r"records ([\d, ]+)", str(error.value))
    assert "5" in [record for records in named for record in records.strip().split(", ")]


def _die_slowly() -> None:
    """As under load: the kernel has closed a killed process's files long before it can be waited for."""
    os.closerange(3, 1024)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_whose_files_are_closed_is_waited_for():
    dying = get_context("fork").Process(target=_die_slowly)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        dying.start()
    lost = loader(num_workers=1)
    failure = lost._lost_worker(SimpleNamespace(_workers=[dying]), ConnectionResetError("reset by peer"))
    assert "was killed by signal SIGKILL" in str(failure)


def test_workers_leave_signals_to_the_main_process():
    workers = loader(num_workers=1)
    batches = workers.iterate(0, 30)
    next(batches)
    [process] = workers._loader._iterator._workers
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert len(list(batches)) == 29
    workers.close()
    assert not process.is_alive()


def test_workers_can_be_spawned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workers = loader(num_workers=1, start_method="spawn")
        pickle.dumps(workers._dataset)
        assert content(workers.iterate(0, 2)) == content(loader().iterate(0, 2))
        workers.close()


def full(answer: object) -> memoryview:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(0, 4),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.ones(3, requires_grad=True) * 1,
    ],
)
def test_a_copied_tensor_is_the_tensor(tensor: torch.Tensor) -> None:
    [again] = pickle.loads(parcel._copied([tensor]))
    assert again.dtype == tensor.dtype
    assert torch.equal(again, tensor)


def test_without_room_in_shared_memory_the_same_batches_come_through_pipes(monkeypatch, capsys) -> None:
    expected = content(loader().iterate(0, 6))
    monkeypatch.setattr(parcel, "_shared", full)
    workers = loader(num_workers=2)
    assert content(workers.iterate(0, 6)) == expected
    workers.close()
    told = capsys.readouterr().err
    assert told.count("No space left on device") == 1
    assert "--shm-size" in told


BIG = torch.arange(3 * 256 * 256).to(torch.uint8).reshape(3, 256, 256)


class Confined(Numbers):
    """Its worker may not make a file of more than four kilobytes, as if /dev/shm had no more room than that."""

    def sample(self, draw):
        sample = super().sample(draw)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return replace(sample, image=BIG)


def test_a_real_refusal_of_the_system_is_survived(capsys) -> None:
    workers = loader(Confined(), num_workers=1, deadline_s=20)
    batches = [batch for _, batch in workers.iterate(0, 4)]
    workers.close()
    assert len(batches) == 4
    assert all(torch.equal(image, BIG) for b in batches for image in b.images)
    assert "through pipes" in capsys.readouterr().err


def test_shared_memory_that_cannot_be_written_is_told_before_the_start(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parcel, "SHARED", tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="cannot be written") as caught:
        list(loader(num_workers=1).iterate(0, 1))
    assert "--workers 0" in str(caught.value)
    assert content(loader().iterate(0, 1))


def test_little_room_is_told_before_the_start(monkeypatch, capsys) -> None:
    monkeypatch.setattr(parcel.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5 * 2**20}))
    workers = loader(num_workers=1)
    list(workers.iterate(0, 1))
    workers.close()
    assert "has 5 MiB free" in capsys.readouterr().err


def test_semaphores_that_cannot_be_made_are_told(monkeypatch) -> None:
    class Context:
        def Lock(self) -> None:  # noqa: N802 as multiprocessing spells it
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(parcel, "get_context", Context)
    with pytest.raises(DataError, match=r"cannot start.*Read-only"):
        list(loader(num_workers=1).iterate(0, 1))


class Stuck(Numbers):
    def sample(self, draw):
        time.sleep(60 if draw.position == 5 else 0)
        return super().sample(draw)


def test_a_worker_that_never_answers_is_given_up_with_what_it_was_reading() -> None:
    workers = loader(Stuck(), num_workers=2, whole_epochs=True, deadline_s=1.0)
    began = time.monotonic()
    with pytest.raises(DataError, match="no batch came from the data workers within 1 s") as caught:
        list(workers.iterate(0, 11))
    assert time.monotonic() - began < 20
    assert "5" in str(caught.value).split("records ")[1].split("\n")[0].split(", ")
