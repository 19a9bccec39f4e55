"""The page's JavaScript comes to the same results as Python, on the same traces."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from millrace.client.blame import Blame
from millrace.clock.drift import DriftEstimator
from millrace.clock.jitter import PROFILES, JitterTarget
from millrace.clock.sync import OffsetFilter
from tests.real.pages import in_browser

from .browser import Chromium, Page
from .conftest import Bus

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("heavy")]


def trace(seed: int, seconds: float, ppm: float, jitter_ms: float) -> list[tuple[int, int]]:
    """Times of packets: captured every 20 ms by one clock, and arrived with exponential jitter by another."""
    dice = random.Random(seed)
    out = []
    for n in range(round(seconds * 50)):
        captured = n * 20_000_000 + 5_000_000_000_000
        came = captured * (1 - ppm * 1e-6) + 1e6 + (dice.expovariate(1 / (jitter_ms * 1e6)) if jitter_ms else 0.0)
        out.append((captured, round(came)))
    return out


def _held(seconds: float) -> list[int]:
    """The earliest arrivals on a line that holds packets for 8 s from second 30 on and then catches up fivefold."""
    begin, first = 5_000_000_000_000, 30_000_000_000
    captured = [n * 20_000_000 for n in range(round(seconds * 50))]
    return [begin + (first + 8_000_000_000 + (at - first) // 5 if at > first else 0) for at in captured]


@pytest.mark.beside
def test_estimators_match_pythons(chromium: Chromium, bus: Bus) -> None:
    stood = [(x, y + (6_000_000_000 if n > 2_000 else 0)) for n, (x, y) in enumerate(trace(4, 60, 100, 1.0))]
    held = [(x, max(y, trace_y)) for (x, y), trace_y in zip(trace(5, 60, 0, 1.0), _held(60), strict=True)]
    jumped = [(x, y + (30_000_000 if n > 100 else 0)) for n, (x, y) in enumerate(trace(6, 30, 50, 0.2))]
    drained = [(x, y - 1_000_000 * min(max(n - 600, 0), 100)) for n, (x, y) in enumerate(trace(7, 40, 50, 0.2))]
    traces = [trace(1, 90, 300, 3.0), trace(2, 60, -150, 0.0), trace(3, 60, 0, 10.0), stood, held, jumped, drained]

    async def test(page: Page) -> None:
        for pairs in traces:
            ours, jitter = DriftEstimator(), JitterTarget(PROFILES["normal"])
            said = []
            for n, (x, y) in enumerate(pairs):
                late = ours.observe(x, y)
                jitter.add(late)
                if n % 50 == 49:
                    jitter.refresh(1.0)
                    said.append([late, ours.rate * 1e6, jitter.target_delay_ns, ours.state.value])
            theirs = await page.run(
                "import('/page/clock.js').then(({ DriftEstimator, JitterTarget, PROFILES }) => {"
                " const d = new DriftEstimator(), j = new JitterTarget(PROFILES.normal), out = [];"
                f" {json.dumps(pairs)}.forEach(([x, y], n) => {{ const late = d.observe(x, y); j.add(late);"
                " if (n % 50 === 49) { j.refresh(1); out.push([late, d.rate * 1e6, j.targetDelay, d.state]); } });"
                " return out; })"
            )
            assert len(said) == len(theirs)
            for mine, its in zip(said, theirs, strict=True):
                assert mine[3] == its[3]
                assert np.allclose(mine[:3], its[:3], rtol=1e-6, atol=2.0), (mine, its)

    in_browser(chromium, bus, test)


OFFSETS = """import('/page/clock.js').then(({ OffsetFilter }) => {
  const clock = new OffsetFilter();
  return TRIPS.map((trip) => { clock.add(...trip); return [clock.offset(trip[2]), clock.rtt]; });
})"""


@pytest.mark.beside
def test_offset_of_the_daemons_clock_matches_pythons_when_it_jumps_too(chromium: Chromium, bus: Bus) -> None:
    dice, trips, ours = random.Random(3), list[tuple[int, int, int]](), OffsetFilter()
    for n in range(120):
        at, there, back = n * 2 * 10**9, round(dice.expovariate(1e-7)), round(dice.expovariate(1e-7))
        trips.append((at, at + there + (30 * 10**9 if 40 <= n < 80 else 0), at + there + back))
    said = []
    for sent, remote, received in trips:
        ours.add(sent, remote, received)
        said.append([ours.offset_ns(received), ours.rtt_ns])

    async def test(page: Page) -> None:
        assert np.allclose(said, await page.run(OFFSETS.replace("TRIPS", json.dumps(trips))), atol=2.0)

    in_browser(chromium, bus, test)


def moments(seed: int) -> list[tuple[str, int, int]]:
    """Ten seconds of a listener: ticks, pulls, packets and gaps, with stalls of each, and losses."""
    dice = random.Random(seed)
    out, sequence = [], 0
    held: dict[str, int] = {}
    for now in range(5, 10_000, 5):
        if dice.random() < 0.01:
            held[dice.choice(["tick", "pull", "packet"])] = now + dice.choice([30, 80, 300])
        at = now * 1_000_000 + dice.randrange(100_000)
        for what, every in (("tick", 50), ("pull", 5), ("packet", 20)):
            if now % every == 0 and held.get(what, 0) <= now:
                sequence += what == "packet" and (1 if dice.random() > 0.02 else dice.randrange(2, 5))
                out.append((what, at, sequence))
                if what == "packet" and dice.random() < 0.1:
                    sequence += 1
                    out.append(("follows", at + 1000, sequence))
        if dice.random() < 0.02:
            out.append((dice.choice(["hole", "lost", "silence"]), at, dice.randrange(1, 4)))
    return out


def verdicts(trace: list[tuple[str, int, int]]) -> list[list[object]]:
    """The verdicts of Python's listener."""
    blame, out = Blame(50_000_000), []
    for what, at, number in trace:
        found = None
        if what == "tick":
            blame.ticked(at)
        elif what == "pull":
            blame.pulled(at, 5_000_000)
        elif what == "packet":
            blame.arrived(at, 20_000_000, number)
        elif what == "follows":
            blame.arrived(at, 20_000_000, number, True)
        elif what == "silence":
            blame.silence()
        else:
            found = blame.hole(at) if what == "hole" else blame.lost(at, number)
        if found is not None:
            out.append([found.stage, found.cause, found.at_ns, found.evidence, blame.unsure(at)])
    return out


BLAME = """import('/page/blame.js').then(({ Blame }) => {
  const blame = new Blame(50e6), out = [];
  for (const [what, at, number] of TRACE) {
    let found = null;
    if (what === "tick") blame.ticked(at);
    else if (what === "pull") blame.pulled(at, 5e6);
    else if (what === "packet") blame.arrived(at, 20e6, number);
    else if (what === "follows") blame.arrived(at, 20e6, number, true);
    else if (what === "silence") blame.silence();
    else found = what === "hole" ? blame.hole(at) : blame.lost(at, number);
    if (found) out.push([found.stage, found.cause, found.at, found.evidence, blame.unsure(at)]);
  }
  return out;
})"""


@pytest.mark.beside
def test_page_blames_the_same_causes_as_python(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        causes = set()
        for seed in range(8):
            trace = moments(seed)
            ours, theirs = verdicts(trace), await page.run(BLAME.replace("TRACE", json.dumps(trace)))
            assert [one[:2] + one[3:] for one in ours] == [one[:2] + one[3:] for one in theirs]
            assert np.allclose([one[2] for one in ours], [one[2] for one in theirs], atol=2.0)
            causes |= {one[1] for one in ours}
        assert causes == {"not run", "late", "packets lost", "stalled"}

    in_browser(chromium, bus, test)


SLEPT = """import('/page/blame.js').then(({ Blame }) => [false, true].map((knows) => {
  const blame = new Blame(50e6);
  for (let n = 0; n < 5; n++) blame.arrived(n * 20e6, 20e6, n);
  if (knows) blame.anew();
  blame.arrived(29e9, 20e6, 9);
  blame.arrived(29.05e9, 20e6, 10);
  return [Math.round(blame.worst / 1e6), blame.next];
}))"""


@pytest.mark.beside
def test_sleep_is_no_jitter_and_packets_that_were_lost_meanwhile_are_counted(chromium: Chromium, bus: Bus) -> None:
    async def test(page: Page) -> None:
        assert await page.run(SLEPT) == [[28_850, 11], [30, 11]]

    in_browser(chromium, bus, test)


SIMULATION = """import('/page/clock.js').then(async ({ RateController, PROFILES }) => {
  const { AdaptiveLink, PLAYING } = await import('/page/link.js');
  const pairs = PAIRS, ppm = 300, rate = 48000, quantum = 128;
  const less = (n) => { voice.frames -= n; return n; };
  const voice = { frames: 0, get fill() { return this.frames; }, get ready() { return Math.max(0, this.frames - 17); },
    accelerate: less, skip: less, expand(n) { this.frames += n; return n; }, conceal(n) { this.frames += n; },
    drop(n) { return less(Math.max(0, Math.min(n, this.frames))); } };
  const pace = new RateController(rate, PROFILES.normal), link = new AdaptiveLink(rate, rate, pace, voice);
  const errors = [], ratios = [];
  let at = 0, clock = 0, card = 0;
  const begin = pairs[0][1];
  for (let now = begin; at < pairs.length; card += quantum) {
    now = begin + card * 1e9 / rate * (1 - ppm * 1e-6);
    while (at < pairs.length && pairs[at][1] <= now) {
      const [media, came] = pairs[at++];
      pace.arrived(media, 20e6, came);
      const missing = link.missing(media);
      if (missing) voice.conceal(missing - link.replaced(missing));
      voice.frames += 960; link.written(media, 960);
    }
    if (now - clock > 20e6) { clock = now; pace.observed(card * 1e9 / rate, now); }
    if (link.pull(quantum, card * 1e9 / rate, now)) voice.frames -= (quantum - link.lead) * link.step;
    if (now - begin > 30e9 && link.state === PLAYING) { errors.push(link.late); ratios.push((pace.ratio - 1) * 1e6); }
  }
  const rms = (list, mean) => Math.sqrt(list.reduce((s, v) => s + (v - mean) ** 2, 0) / list.length);
  const mean = ratios.reduce((s, v) => s + v, 0) / ratios.length;
  const noise_ppm = rms(ratios, mean), targetDelay = pace.targetDelay;
  return { error_us: rms(errors, 0) / 1e3, ratio_ppm: mean, noise_ppm, ...link.tally, targetDelay };
})"""


@pytest.mark.beside
def test_javascript_loop_holds_latency_as_pythons_does(chromium: Chromium, bus: Bus) -> None:
    """Ten minutes of packets with 3 ms of jitter, played by a card that is 300 ppm fast, in virtual time."""
    pairs = trace(7, 600, 0, 3.0)

    async def test(page: Page) -> None:
        found = await page.run(SIMULATION.replace("PAIRS", json.dumps(pairs)))
        assert found["underruns"] == 0 and found["error_us"] < 100 and found["noise_ppm"] < 10, found
        assert abs(found["ratio_ppm"] + 300) < 10 and found["targetDelay"] < 60e6, found

    in_browser(chromium, bus, test)
