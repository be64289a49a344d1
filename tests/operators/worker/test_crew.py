import threading
import time

import pytest

from tokenmill.worker.crew import Crew, DeadlineExceeded


def test_jobs_run_in_order_and_give_their_results_or_errors() -> None:
    """One thread takes jobs as they were submitted; what a job raises reaches who waits."""
    crew, seen = Crew(1, "test"), list[int]()
    jobs = [crew.submit(lambda i=i: seen.append(i) or i) for i in range(20)]  # type: ignore[misc,func-returns-value]
    assert [job.wait(5) for job in jobs] == seen == list(range(20))
    failing = crew.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.wait(5)
    crew.close()


def test_a_hanging_job_is_given_up_and_its_thread_replaced() -> None:
    """The next job runs at once; the thread that hung goes when it returns, so none pile up."""
    crew, release = Crew(1, "hanging"), threading.Event()
    hanging, waiting = crew.submit(lambda: release.wait(20)), crew.submit(lambda: 7)
    with pytest.raises(DeadlineExceeded):
        hanging.wait(0.1)
    crew.replace()
    assert waiting.wait(5) == 7
    release.set()
    deadline = time.monotonic() + 5
    while threads("hanging") > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads("hanging") == 1
    crew.close()


def threads(name: str) -> int:
    """How many threads of a crew are alive."""
    return sum(thread.name == name for thread in threading.enumerate())


def test_time_in_the_queue_does_not_count() -> None:
    """A job behind a slow one has its own deadline from when it starts."""
    crew = Crew(1, "test")
    slow, quick = crew.submit(lambda: time.sleep(0.4)), crew.submit(lambda: 1)
    assert quick.wait(0.2) == 1
    slow.wait(1)
    crew.close()


def test_a_closed_crew_refuses_jobs_that_nobody_would_run() -> None:
    """Waiting for them would be for ever; what was queued before is still done."""
    crew = Crew(2, "closed")
    job = crew.submit(lambda: 3)
    crew.close()
    assert job.wait(5) == 3
    with pytest.raises(RuntimeError, match="closed"):
        crew.submit(lambda: 4)
