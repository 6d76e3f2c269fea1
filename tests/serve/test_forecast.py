"""What is refused because it would wait too long: rule by rule, then two simulated minutes."""

import heapq
import random
from dataclasses import dataclass, field

import pytest
from serve_doubles import StoppedTime

from app.serve import forecast as module
from app.serve.admission import Admission
from app.serve.cost import CostModel
from app.serve.forecast import Forecast, QueueTooLongError
from app.serve.groups import GroupQueue

TIMEOUT_S = 60.0


@pytest.fixture
def clock(monkeypatch):
    time = StoppedTime()
    monkeypatch.setattr(module, "time", time)
    return time


@dataclass
class Workers:
    """As many threads as there is work for, unless told otherwise."""

    task_s: float = 0.0
    wait_s: float = 0.0
    behind_s: float = 0.0

    def wait_behind_s(self, tasks):
        return self.behind_s * tasks


@dataclass
class Device:
    """Has so many seconds of work; a photo costs a second a pixel, one of unknown size ten."""

    busy_s: float = 0.0

    def expected_s(self, *, items=0, pixels=0, unsized=0):
        return self.busy_s + pixels + 10 * unsized

    def cost_s(self, pixels, *, others=0, company=0):
        return float(pixels)


@dataclass
class Lag:
    """Of an event loop that is not late, unless told otherwise."""

    seconds: float = 0.0


@dataclass
class Stages:
    decoders: Workers = field(default_factory=Workers)
    device: Device = field(default_factory=Device)
    encoders: Workers = field(default_factory=Workers)
    lag: Lag = field(default_factory=Lag)
    admission: Admission = field(
        default_factory=lambda: Admission(
            max_requests=1000, max_pixels=10**9, retry_after=lambda: 1
        )
    )

    @property
    def forecast(self):
        return Forecast(self.admission, self.decoders, self.device, self.encoders, self.lag)


def test_with_nobody_ahead_nothing_is_refused(clock):
    stages = Stages(Workers(999, 999), Device(999), Workers(999, 999, 999))
    assert stages.forecast.wait_s() == 0
    assert stages.forecast.retry_after_s() == 1
    stages.forecast.check(1.0)
    with stages.admission.place():  # its own, as when its header is read
        stages.forecast.check_sized(10**6, 1.0)


def test_the_slowest_stage_decides(clock):
    stages = Stages(Workers(0, 3.0), Device(4.0), Workers(0, 0, 2.0))
    with stages.admission.place() as one:
        one.take(1, 1)
        one.queued()
        assert stages.forecast.wait_s() == 4
        stages.decoders.wait_s = 7.5
        assert stages.forecast.wait_s() == 7.5
        assert stages.forecast.retry_after_s() == 8
        stages.encoders.behind_s = 9.0
        assert stages.forecast.wait_s() == 9


def test_what_is_on_its_way_to_the_device_is_part_of_the_wait(clock):
    stages = Stages()
    with stages.admission.place() as one, stages.admission.place():
        assert stages.forecast.wait_s() == 20
        one.take(400, 4)
        assert stages.forecast.wait_s() == 14
        one.queued()
        assert stages.forecast.wait_s() == 10


def test_a_wait_that_fits_twice_is_accepted_and_a_longer_one_refused(clock):
    stages = Stages(device=Device(30.0))
    clock.now = 5.0
    with stages.admission.place():
        stages.device.busy_s = 20.0
        stages.forecast.check(65.0)
        stages.device.busy_s = 20.1
        with pytest.raises(QueueTooLongError, match=r"30\.1 seconds.* within 60\.0") as caught:
            stages.forecast.check(65.0)
    assert caught.value.retry_after_s == 31


def test_its_own_time_counts_once_the_header_has_told_its_size(clock):
    stages = Stages(Workers(task_s=1.0), Device(10.0), Workers(task_s=2.0))
    with stages.admission.place() as ahead, stages.admission.place():
        ahead.take(1, 1)
        ahead.queued()
        stages.forecast.check_sized(37, 60.0)
        with pytest.raises(QueueTooLongError, match=r"take 41\.0 itself"):
            stages.forecast.check_sized(38, 60.0)
        stages.device.busy_s = 0.0
        stages.forecast.check_sized(10**6, 60.0)


def test_photos_behind_in_the_decoders_queue_do_not_count_once_the_header_is_read(clock):
    stages = Stages()
    with stages.admission.place() as ahead:
        ahead.take(1, 1)
        ahead.queued()
        with stages.admission.place(), stages.admission.place():
            stages.forecast.check_sized(1, 5.0)
            with pytest.raises(QueueTooLongError):
                stages.forecast.check(5.0)


def test_an_event_loop_that_is_late_is_a_stage_too(clock):
    stages = Stages(device=Device(5.0))
    stages.lag.seconds = 1.0
    assert stages.forecast.wait_s() == 7  # nobody is ahead but in the loop
    stages.forecast.check(14.0)
    with pytest.raises(QueueTooLongError, match="wait about 7"):
        stages.forecast.check(13.9)
    with stages.admission.place() as ahead:
        ahead.take(1, 1)
        ahead.queued()
        assert stages.forecast.wait_s() == 12
        stages.forecast.check_sized(3, 27.0)
        with pytest.raises(QueueTooLongError):
            stages.forecast.check_sized(4, 27.0)


def test_an_event_loop_that_is_on_time_lets_no_estimate_refuse(clock):
    stages = Stages(device=Device(999))
    stages.lag.seconds = 0.001
    with stages.admission.place():
        stages.forecast.check_sized(10**6, 1.0)


@dataclass(eq=False)
class Photo:
    pixels: int
    arrived: float
    deadline: float
    gone = False


class SimulatedService:
    """The real queue, cost model, admission and forecast around a device that only takes time.

    Decoding takes no time, so a photo reaches the device's queue as it is accepted.
    """

    def __init__(self, clock, seconds_of, most_images):
        self.clock = clock
        self.queue = GroupQueue(
            max_images=16, max_pixels=4_194_304, most_images=lambda key: most_images(key)
        )
        self.cost = CostModel()
        self.seconds_of = seconds_of
        self.admission = Admission(max_requests=256, max_pixels=10**9, retry_after=lambda: 1)
        self.forecast = Forecast(self.admission, Workers(), self, Workers(), Lag())
        self.running = []
        self.done_at = 0.0
        self.expected_done_at = 0.0
        self.accepted = []
        self.refused = 0
        self.full = 0
        self.late = []

    # What the forecast asks of a batcher.

    def expected_s(self, *, items=0, pixels=0, unsized=0):
        waiting = self.cost.seconds(self.queue.pixels + pixels, self.queue.batches + items)
        running = max(0.0, self.expected_done_at - self.clock.now) if self.running else 0.0
        return running + waiting + self.cost.seconds_of_photos(unsized)

    def cost_s(self, pixels, *, others=0, company=0):
        return self.cost.seconds(pixels)

    # What happens.

    def request(self, pixels, timeout_s):
        now = self.clock.now
        deadline = now + timeout_s
        if self.admission.requests >= 256:
            self.full += 1
            return
        try:
            self.forecast.check(deadline)
            self.forecast.check_sized(pixels, deadline)
        except QueueTooLongError:
            self.refused += 1
            return
        self.admission.requests += 1
        self.accepted.append(photo := Photo(pixels, now, deadline))
        self.queue.push(pixels, photo)
        self.proceed()

    def proceed(self):
        """Let the device finish what it should have finished by now, and begin the next batch."""
        now = self.clock.now
        if self.running and self.done_at <= now:
            pixels = sum(photo.pixels for photo in self.running)
            self.cost.add(
                images=len(self.running), pixels=pixels, seconds=self.done_at - self.began
            )
            self.late += [photo for photo in self.running if photo.deadline < now]
            self.admission.requests -= len(self.running)
            self.running = []
        if not self.running:
            popped = self.queue.pop(now)
            self.late += popped.expired
            self.admission.requests -= len(popped.expired)
            if popped.batch:
                pixels = sum(photo.pixels for photo in popped.batch)
                self.running, self.began = popped.batch, now
                self.done_at = now + self.seconds_of(len(popped.batch), pixels)
                self.expected_done_at = now + self.cost.seconds(pixels)


def simulate(service, arrivals):
    """Let requests of (moment, pixels, timeout) happen, then the rest of the work."""
    events = [(moment, n, pixels, timeout) for n, (moment, pixels, timeout) in enumerate(arrivals)]
    heapq.heapify(events)
    while events or service.running:
        at = events[0][0] if events else float("inf")
        if service.running and service.done_at <= at:
            service.clock.now = service.done_at
            service.proceed()
        else:
            _, _, pixels, timeout = heapq.heappop(events)
            service.clock.now = at
            service.request(pixels, timeout)


CPU = (0.9, 0.004)
GPU = (0.02, 0.003)
FEW = [96 * 96, 224 * 224, 480 * 360]
MANY = [(300 + 4 * n) * 360 for n in range(150)]
UNEVEN = [*[64 * 64] * 20, *[480 * 360] * 5, 4000 * 3000]


@pytest.mark.parametrize(
    ("line", "sizes", "most", "timeout"),
    [
        (CPU, FEW, lambda pixels: 8 if pixels < 20_000 else 1, TIMEOUT_S),
        (CPU, MANY, lambda pixels: 16, TIMEOUT_S),
        (CPU, UNEVEN, lambda pixels: 8, TIMEOUT_S),
        (CPU, [480 * 360], lambda pixels: 1, 5.0),
        (GPU, MANY, lambda pixels: 16, 2.0),
        (GPU, FEW, lambda pixels: 16, 1.0),
    ],
)
def test_two_minutes_of_ten_times_the_capacity(clock, line, sizes, most, timeout):
    generator = random.Random(1)
    slowdown = 1.0

    def seconds_of(images, pixels):
        return slowdown * generator.uniform(0.8, 1.25) * (line[0] * pixels / 1e6 + line[1])

    service = SimulatedService(clock, seconds_of, most)
    alone_s = sum(line[0] * pixels / 1e6 + line[1] for pixels in sizes) / len(sizes)
    # Calm, so that the costs are learnt on an idle machine ...
    simulate(service, [(n * 4 * alone_s, generator.choice(sizes), timeout) for n in range(40)])
    calm, start = len(service.accepted), clock.now
    # ... which is half as fast again with all the requests that come now.
    slowdown = 1.5
    minutes = min(120.0, 12_000 * alone_s / 10)
    arrivals = []
    moment = start
    while moment < start + minutes:
        moment += generator.expovariate(10 / alone_s)
        arrivals.append((moment, generator.choice(sizes), timeout))
    simulate(service, arrivals)
    assert service.refused + service.full > 0.3 * len(arrivals)
    assert not service.late
    # The device was busy to the end: nothing was refused that it had time for.
    assert clock.now >= start + minutes
    assert len(service.accepted) - calm >= 0.8 * minutes / (1.5 * 1.025 * alone_s) / 1.1
    # And then the next one is served as if nothing had been.
    simulate(service, [(clock.now + 1, sizes[0], timeout)])
    assert service.accepted[-1].arrived == clock.now - (service.done_at - service.began)
    assert not service.late
