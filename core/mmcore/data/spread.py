"""Work of one kind given to several processes, for parsers: results come in the order of the jobs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from mmcore.base.terminal import tell

Job = TypeVar("Job")
Done = TypeVar("Done")


def spread(function: Callable[[Job], Done], jobs: Sequence[Job], processes: int) -> Iterator[Done]:
    """What a function of a module returns for each job.

    Args:
        function: what is done; it and its jobs travel to other processes, and doing one twice does no harm.
        jobs: in any number.
        processes: that share the work; below 2 the calling one does it.

    Raises:
        DataError: whatever the function raises.
    """
    done = 0
    if processes > 1 and len(jobs) > 1:
        try:
            with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn")) as pool:
                futures = [pool.submit(function, job) for job in jobs]
                try:
                    for future in futures:
                        yield future.result()
                        done += 1
                finally:
                    for future in futures:
                        future.cancel()
            return
        except BrokenProcessPool:
            # Slower is better than not at all.
            tell(
                "the index is built by one process: those that should help ended at once\n"
                "  do:    put what your script does under `if __name__ == '__main__':`, or give them more memory"
            )
    for job in jobs[done:]:
        yield function(job)
