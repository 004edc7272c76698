# SPDX-License-Identifier: Apache-2.0
"""The list of cases and the loop that runs them."""
import dataclasses
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback

from klib.guest import GuestDied
from klib.lab import Lab, Skip

CASES = []  # (module, name, function)
END_TIMEOUT_S = 20  # for a process that was told to end
GROUPS = {}  # function: its groups


def case(*groups):
    """Mark a function as a case. Groups: 'quick' runs in check-kernel, 'random' in torture-kernel
    with ever new seeds."""
    def mark(function):
        CASES.append((function.__module__.removeprefix('cases.'), function.__name__, function))
        GROUPS[function] = groups
        return function
    return mark


@dataclasses.dataclass
class Job:
    number: int  # in the order of the run, from 0
    index: int  # in CASES
    seed: int

    @property
    def name(self):
        return '{}: {}'.format(*CASES[self.index])


@dataclasses.dataclass
class Result:
    job: Job
    outcome: str  # 'passed', 'failed' or 'skipped'
    text: str  # of its line


class _Interrupted(BaseException):
    """SIGINT or SIGTERM."""


def run_case(lab, job):
    """One case, whatever it does; its Result."""
    begin = time.monotonic()
    failure = reason = ''
    lab.begin(job.seed)
    try:
        CASES[job.index][2](lab)
    except Skip as e:
        reason = str(e)
    except Exception as e:  # whatever goes wrong in a case fails that case alone
        frame = [f for f in traceback.extract_tb(e.__traceback__) if '/cases/' in f.filename]
        place = f'{frame[-1].filename}:{frame[-1].lineno}: ' if frame else ''
        failure = f'{place}{type(e).__name__}: {e}'
        if isinstance(e, GuestDied):
            lab.power_off()
    complaints = lab.end()
    if complaints and not failure:
        failure = f'the kernel complained:\n{complaints}'
    spent = time.monotonic() - begin
    if failure:
        text = failure.replace('\n', '\n          ')
        return Result(job, 'failed', f'FAILED  {job.name} (SEED={job.seed})\n          {text}')
    if reason:
        return Result(job, 'skipped', f'skipped {job.name}: {reason}')
    return Result(job, 'passed', f'ok      {job.name} ({spent:.1f} s)')


def _interrupt(*_):
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, signal.SIG_IGN)  # once is enough; what follows is tidying up
    raise _Interrupted


def _lane(machine, build, quick, jobs, results):
    """A process with a guest of its own, working jobs off until there are none. It leads a process
    group, so that what it started ends with it."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells by SIGTERM
    lab = Lab(machine, build)
    lab.quick = quick

    def end(*_):
        lab.abandon()
        _interrupt()

    signal.signal(signal.SIGTERM, end)
    try:
        for job in iter(jobs.get, None):
            results.put(run_case(lab, job))
            if lab.ending:
                break
    except _Interrupted:
        pass
    finally:
        lab.close()


def run(machine, build, jobs, lanes, quick, numbered):
    """Run an iterable of jobs in so many guests at once; prints each case's line, with
    the job's number if asked. The results, and True when a signal ended it."""
    context = multiprocessing.get_context('fork')
    todo, results = context.Queue(maxsize=1), context.Queue()
    processes = [context.Process(target=_lane, args=(machine, build, quick, todo, results))
                 for _ in range(lanes)]
    for p in processes:
        p.start()
    done, interrupted = [], False
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, _interrupt)
    threading.Thread(target=_feed, args=(jobs, todo, lanes), daemon=True).start()
    try:
        while any(p.is_alive() for p in processes) or not results.empty():
            try:
                done.append(results.get(timeout=1))
            except queue.Empty:
                continue
            number = f'{done[-1].job.number:5} ' if numbered else ''
            print(f'  {number}{done[-1].text}', flush=True)
    except _Interrupted:
        interrupted = True
    finally:
        for p in processes:
            p.terminate()
        for p in processes:
            p.join(END_TIMEOUT_S)
            if p.is_alive():  # the signal met it at a place where it cannot tidy up
                os.killpg(p.pid, signal.SIGKILL)
                p.join()
    if not interrupted and any(p.exitcode for p in processes):
        raise RuntimeError('a process that runs cases has died')
    return done, interrupted


def _feed(jobs, todo, lanes):
    for job in jobs:
        todo.put(job)
    for _ in range(lanes):
        todo.put(None)
