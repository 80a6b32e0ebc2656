"""Files on disk to the model's losses: the first two samples of a data set's case, batched and run."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mmcore.parity import Case, Check, Report

from mmcore_glamm.batch import collator_of
from mmcore_glamm.parity.common import beside, built, ids_of, limits, losses_of
from mmcore_glamm.parity.data import reader_of, sample_of

COUNT = 2
"""Samples of each batch."""


def end_to_end(case: Case, report: Report) -> None:
    """The five numbers of each data set."""
    model = built(case).model.train()
    for name, wanted in case.data["results"].items():
        files = beside(case, wanted["data_case"])
        with TemporaryDirectory() as scratch:
            reader, stored = reader_of(files, Path(scratch)), files.data["samples"][name]
            # What lies between is the other case's to compare; a failure there would show here as another loss.
            samples = [sample_of(files, Report(files), reader, name, stored, number) for number in range(COUNT)]
        batch = collator_of(model.config, ids_of(case), reader.processor.max_length)(samples, 0)
        longest = max(len(sample.encoded.ids) for sample in samples)
        report.equal(f"{name}: shape", [len(samples), longest], wanted["shape"])
        for key, value in losses_of(model, batch).items():
            report.close(f"{name}: {key}", value, wanted["losses"][key], **limits(case))


KINDS: dict[str, Check] = {"e2e": end_to_end}
