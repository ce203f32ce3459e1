"""What the process has only once, used by several threads and interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch
from torch import nn

from influence_core import threads
from influence_core.batches import FORWARD, batches_of, samples_at_once
from influence_core.gradients import plain_attention, squared_norms
from influence_core.measure import measure
from influence_core.threads import FairLock, WhileNeeded, ignored_while_needed, waited
from influence_core.training import Stream, fit, seeded
from tests.helpers import images, net, states_equal


def in_threads(*work) -> list[BaseException]:
    raised: list[BaseException] = []

    def run(one) -> None:
        try:
            one()
        except BaseException as error:
            raised.append(error)

    running = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return raised


def test_the_lock_goes_to_who_waits_and_counts_the_waiting() -> None:
    lock, order, waits = FairLock(), [], {}

    def work(name: str) -> None:
        for _ in range(5):
            with lock, lock:  # its holder may take it again
                order.append(name)
                time.sleep(0.005)
        waits[name] = waited()

    assert not in_threads(lambda: work("a"), lambda: work("b"))
    assert order[2:8] in (list("ababab"), list("bababa"))
    assert all(0.01 < seconds < 0.2 for seconds in waits.values())
    assert waited() == 0.0 or threading.current_thread() is threading.main_thread()


def test_an_interrupted_wait_leaves_the_lock_free(monkeypatch) -> None:
    lock, inside, go = FairLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            go.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(5)
    take = lock._take_or_queue

    def interrupted(me: int):
        take(me)
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "_take_or_queue", interrupted)
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    monkeypatch.undo()
    go.set()
    holder.join()
    monkeypatch.setattr(lock, "_take_or_queue", interrupted)
    with pytest.raises(KeyboardInterrupt), lock:
        pass
    monkeypatch.undo()
    assert not in_threads(lambda: lock.__enter__() or lock.__exit__(None, None, None))
    assert lock._owner is None


def test_a_setting_lasts_until_the_last_is_out() -> None:
    enabled = torch.backends.mha.get_fastpath_enabled()
    inside, go = threading.Event(), threading.Event()
    seen: list[bool] = []

    def first() -> None:
        with plain_attention():
            inside.set()
            go.wait(5)
        seen.append(torch.backends.mha.get_fastpath_enabled())

    def second() -> None:
        inside.wait(5)
        with plain_attention():
            go.set()
            time.sleep(0.05)
            seen.append(torch.backends.mha.get_fastpath_enabled())

    assert not in_threads(first, second)
    assert seen == [False, False]
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    assert torch.backends.cuda.flash_sdp_enabled()


def test_a_setting_that_cannot_be_made_is_not_held() -> None:
    def impossible():
        raise OSError("no")

    setting = WhileNeeded(impossible)
    with pytest.raises(OSError, match="no"), setting():
        pass
    assert not setting._inside


def test_ignored_warnings_leave_no_filter_behind() -> None:
    ignored = ignored_while_needed(UserWarning, "rare")
    before = list(warnings.filters)
    both = threading.Barrier(2)

    def work(last: float) -> None:
        both.wait()
        with ignored():
            both.wait()
            warnings.warn("rare classes", UserWarning, stacklevel=1)
            time.sleep(last)

    assert not in_threads(lambda: work(0.0), lambda: work(0.05))
    assert warnings.filters == before
    with warnings.catch_warnings(), ignored():  # somebody else's copy of the filters
        warnings.warn("rare classes", UserWarning, stacklevel=1)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="rare"):
        warnings.warn("rare classes", UserWarning, stacklevel=1)


def test_a_stream_goes_on_where_it_stopped() -> None:
    before = torch.get_rng_state()
    one, two = Stream(3, torch.device("cpu")), Stream(4, torch.device("cpu"))
    drawn = []
    for _ in range(2):
        with one.current():
            drawn.append(torch.rand(2))
            with two.current():
                torch.rand(7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat(drawn), torch.rand(4, generator=torch.Generator().manual_seed(3)))


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = net(), nn.Dropout(0.3)

    def forward(self, x):
        return self.body(self.drop(x))


def trained(seed: int) -> nn.Module:
    with seeded(seed, torch.device("cpu")):
        model = Dropping()
    noisy = lambda x: x + 0.1 * torch.randn_like(x)  # noqa: E731
    fit(model, images(24, seed=seed), epochs=4, batch_size=8, checkpoints=1, augment=noisy, seed=seed)
    return model


def test_trainings_at_once_draw_what_each_draws_alone() -> None:
    alone = [trained(seed) for seed in (1, 2, 3)]
    before = torch.get_rng_state()
    found: dict[int, nn.Module] = {}
    assert not in_threads(*(lambda seed=seed: found.update({seed: trained(seed)}) for seed in (1, 2, 3)))
    assert all(states_equal(found[seed], alone[seed - 1]) for seed in (1, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_overlapping_blocks_keep_each_others_peaks() -> None:
    """In a process of its own: freed memory that the engine keeps for later would hide the blocks."""
    script = """
import threading, torch
from influence_core.measure import measure
costs = {}
began, ended = threading.Event(), threading.Event()
def long():
    with measure() as costs["long"]:
        block = torch.ones(96 * 2**20 // 4) + 1
        del block
        began.set()
        ended.wait()
def short():
    began.wait()
    with measure() as costs["short"]:
        pass
    ended.set()
threads = [threading.Thread(target=work) for work in (long, short)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
peaks = {name: cost.peak_memory_mib for name, cost in costs.items()}
assert None in peaks.values() or peaks["long"] > 90 and peaks["short"] < 20, peaks
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_seconds_exclude_waiting() -> None:
    lock, costs, inside = FairLock(), [], threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            time.sleep(0.3)

    def wait() -> None:
        inside.wait(5)
        with measure() as cost, lock:
            time.sleep(0.01)
        costs.append(cost.seconds)

    assert not in_threads(hold, wait)
    assert 0.01 <= costs[0] < 0.15


def test_batch_sizes_hold_for_the_thread_that_sets_them() -> None:
    seen = []
    with batches_of(3):
        in_threads(lambda: seen.append(samples_at_once()))
        seen.append(samples_at_once())
    assert seen == [FORWARD, 3]


def test_threads_of_torch_are_left_alone() -> None:
    import influence_core as ic

    before = torch.get_num_threads()
    seen = []
    with ic.progress.listen(lambda *_: seen.append(torch.get_num_threads())):
        squared_norms(net(), ic.losses.cross_entropy, images(8))
    assert set(seen) == {before}


INTERRUPTED = """
import builtins, signal, sys
import influence_core as ic
assert "sympy" not in sys.modules and "torch._dynamo" not in sys.modules, "importing the package has to stay quick"

class Ctrl:
    def find_spec(self, name, path=None, target=None):
        if name == "sympy.interactive":  # late enough for half of sympy to stay behind
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)   # Ctrl-C in the middle of the import

sys.meta_path.insert(0, Ctrl())
study = ic.demo.digits()
quick = {"fvm": dict(steps=2), "gex": dict(members=1, epochs=0.1, refresh_batches=1),
         "arnoldi": dict(rank=1, steps=2, samples=20), "el2n": dict(runs=1, epoch_share=0.01, min_epochs=1)}
try:
    ic.estimators.get("fvm", **quick["fvm"]).fit(study)
except KeyboardInterrupt:
    print("interrupted")
for name, settings in quick.items():
    ic.estimators.get(name, **settings).fit(study)
print("through")
"""


def test_ctrl_c_in_a_late_import_breaks_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "through"]


def test_interrupts_wait_for_the_end_of_the_block() -> None:
    import signal

    steps = []

    def work() -> None:
        with threads.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("through")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["through"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_filter_of_the_users_own_stays() -> None:
    ignored = ignored_while_needed(UserWarning, "rare")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rare", UserWarning)
        warnings.filterwarnings("error", "common", UserWarning)
        before = list(warnings.filters)
        with ignored():
            assert warnings.filters[1:] == before
        assert warnings.filters == before


def test_a_stream_inside_of_itself_goes_on() -> None:
    plain, nested = Stream(3, torch.device("cpu")), Stream(3, torch.device("cpu"))
    with plain.current():
        expected = torch.rand(3)
    before = torch.get_rng_state()
    with nested.current():
        first = torch.rand(1)
        with nested.current():
            second = torch.rand(1)
        third = torch.rand(1)
    assert torch.equal(torch.cat([first, second, third]), expected)
    assert torch.equal(torch.get_rng_state(), before)
