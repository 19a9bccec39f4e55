"""The picture outlet: encodes a screen once for all viewers with equal settings, for those that are ready.

A viewer that was ready for each picture has all that was sent. One that was not lacks what those pictures touched; that
is its own damage, and it gets it from the newest picture when it is ready again, not the pictures that it missed. If it
missed a picture of the video, it is not drawn any more of it before a key picture. Key pictures are made when somebody
lacks the video and there is video to send, for all who wait, and at most twice a second.

The work itself runs elsewhere (`Offload`), one picture at a time; so a picture is begun only when the one before is
handed over (`deliver`), and damage collects meanwhile. What takes well under a millisecond is made at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from millrace.budget import ENCODERS, Budget
from millrace.codec.picturesettings import PictureSettings
from millrace.errors import GraphError, MillraceError
from millrace.graph.pictures import Memory, Mode, Overlay, visible
from millrace.graph.screen import Picture, Screen
from millrace.graph.seat import Watcher
from millrace.outlets.encoded import EncodedPicture, Offload, PictureSink
from millrace.outlets.line import LAN_RATE
from millrace.outlets.picturechoice import Formats
from millrace.outlets.picturecost import work_bytes
from millrace.outlets.picturecounts import PictureCounts, tallied
from millrace.outlets.picturejob import Job
from millrace.outlets.picturestrain import Spent, Strain, Told
from millrace.outlets.pictureviewer import Share, Viewer
from millrace.outlets.picturework import Made, PictureWork, Task
from millrace.pixels.rects import Rect, Size, beyond
from millrace.units import NS_PER_S, HostNs
from millrace.wire.peer.pictures import VIDEO_TYPES, Part

KEY_INTERVAL_NS: HostNs = NS_PER_S // 2
"""The least time between two key pictures that viewers need."""
FILM_KEPT_NS: HostNs = 10 * NS_PER_S
"""So long after the last film, the memory of its encoder is given back. Films begin and pause often."""
FILM_PAUSED_NS: HostNs = NS_PER_S
"""So long after it, it is given back if somebody of the guest would be refused otherwise."""
RATE_MIN = 50_000
VIEWER_BYTES = 8 * 1024


class PictureEncoder:
    """Encodes one screen with one set of settings; `outlets.encoded.Pictures`."""

    def __init__(
        self, screen: Screen, settings: PictureSettings, who: Watcher, wake: Callable[[], None], *,
        lane: Offload, clock: Callable[[], HostNs], budget: Budget, formats: Formats,
        failed: Callable[[Exception], None], computed: Callable[[], HostNs], told: Told,
    ) -> None:  # fmt: skip
        """`wake` is called when a deadline may have changed, `failed` when no more pictures will come, and why.

        `computed` is the processor time of the thread that calls it, and `told` hears of trouble.
        """
        self.screen, self.formats = screen, formats
        self._scale, self._lossless = settings.scale, settings.picture == "lossless"
        self._wake, self._lane, self._clock, self._failed = wake, lane, clock, failed
        self._account = budget.open("picture encoder", {"viewers": VIEWER_BYTES}, ENCODERS)
        self._computed = computed
        self._interval_ns = NS_PER_S // settings.fps
        self._strain = Strain(self._interval_ns, told)
        try:
            self._reader = screen.read(who, self._interval_ns, wake=self._woken)
        except GraphError:
            self._account.close()
            raise
        self.rate = settings.picture if isinstance(settings.picture, int) else LAN_RATE
        self._viewers: dict[PictureSink, Viewer] = {}
        self._work: PictureWork | None = None
        self._of: tuple[Mode, Memory] | None = None
        self._job: Job | None = None
        self._made: Made | None = None
        """What the job has made, to be handed over."""
        self._serial = 0
        self._due_ns: HostNs | None = None
        self._last_ns: HostNs | None = None
        self._key_ns: HostNs | None = None
        self._film_ns: HostNs | None = None
        """When there was film last; None: there is no encoder for it, nor memory held."""
        self._painted_ns: HostNs = 0
        self._number = 0
        """Of the screen's picture that was taken last."""
        self._overlays: tuple[Overlay, ...] = ()
        """Those that lie over it and are left out."""
        self._door_ns: HostNs = 0
        """How long that was in the door."""
        self._published: tuple[int, HostNs] = (screen.serial, 0)
        """The number of the screen's newest picture, and when its door had published that."""
        self.counts = PictureCounts()
        self._closed = False
        self._account.may_spare(self._spare_video)

    # -- viewers ---------------------------------------------------------------------------------

    @property
    def size(self) -> Size | None:
        """Of the pictures; None before the first."""
        return None if self._work is None else self._work.size

    @property
    def video(self) -> str:
        """What encodes its video, in words; empty while there is none."""
        return "" if self._work is None else self._work.video

    def join(self, sink: PictureSink) -> None:
        """Send to `sink` from now on, first the whole picture; BudgetError if there is no room for it."""
        self._account.hold("viewers", VIEWER_BYTES * (2 + len(self._viewers)), ENCODERS)
        if self._work is None and (memory := self.screen.memory) is not None:
            # Who joins together with others is told now that there is no room, and not with the first picture.
            size = Size(memory.mode.width, memory.mode.height)
            self._account.hold("encoder", work_bytes(size, self._scale), ENCODERS)
        viewer = Viewer(sink, self.rate)
        self._strain.joined()
        self._viewers[sink] = viewer
        if self.size is not None:
            viewer.voided(self.size)
            sink.resized(self.size)
        self._wake()

    def leave(self, sink: PictureSink) -> None:
        """Send nothing more to `sink`. A second call does nothing."""
        viewer = self._viewers.pop(sink, None)
        if viewer is not None:
            viewer.leave()
        # One that has ended may have closed its account, and viewers leave it after that.
        if not self._closed:
            self._account.hold("viewers", VIEWER_BYTES * (1 + len(self._viewers)), ENCODERS)

    def refresh(self, sink: PictureSink) -> None:
        """What `sink` shows is wrong, or its decoder has failed: send all of it again."""
        self._strain.refreshed()
        if (viewer := self._viewers.get(sink)) is not None and self.size is not None:
            viewer.voided(self.size)
        self._wake()

    def set_rate(self, rate: int | None) -> None:
        """How many bit/s each viewer's line takes; None: any number."""
        self.rate = LAN_RATE if rate is None else max(RATE_MIN, rate)
        for viewer in self._viewers.values():
            viewer.set_rate(self.rate)

    def set_fps(self, fps: int) -> None:
        """How many pictures a second there may be."""
        self._interval_ns = self._strain.interval_ns = NS_PER_S // fps
        self._reader.set_interval(self._interval_ns)
        self._wake()

    def compose(self, tracks: frozenset[str]) -> None:
        """See `Pictures`."""
        if tracks != self._reader.leave_out:
            self._reader.set_leave_out(tracks)
            self._wake()

    def _woken(self) -> None:
        if self._closed:
            return
        if self._published[0] != self.screen.serial:
            self._published = self.screen.serial, self._clock()
        self._wake()

    # -- when ------------------------------------------------------------------------------------

    def next_timeout(self) -> HostNs | None:
        """When `handle_timeout` is due; None: when something is painted, or a viewer becomes ready or joins."""
        if self._made is not None:
            return 0
        if self._closed or self._job is not None:
            return None
        painted_ns = self._reader.next_timeout()
        dues = [self._due_for(viewer, painted_ns) for viewer in self._viewers.values() if not viewer.asleep]
        dues.append(None if self._film_ns is None else self._film_ns + FILM_KEPT_NS)
        return min((due for due in dues if due is not None), default=None)

    def _due_for(self, viewer: Viewer, painted_ns: HostNs | None) -> HostNs | None:
        """When there is something to send to this viewer, and room for it."""
        own_ns = self._own_due_ns(viewer)
        due_ns = painted_ns if own_ns is None else own_ns if painted_ns is None else min(own_ns, painted_ns)
        return None if due_ns is None else max(due_ns, viewer.line.free_ns())

    def _own_due_ns(self, viewer: Viewer) -> HostNs | None:
        """When there is something to send to it although nothing was painted."""
        if self._work is None or self._last_ns is None:
            return None
        if viewer.missing and viewer.catching:
            return self._last_ns
        if viewer.missing or viewer.rough or viewer.overlays != self._overlays:
            return self._last_ns + self._interval_ns
        return None if self._due_ns is None else max(self._due_ns, self._last_ns + self._interval_ns)

    def handle_timeout(self, now_ns: HostNs) -> None:
        """Begin a picture if one is due. Also to be called when a sink has become ready."""
        for viewer in self._viewers.values():
            viewer.wake()
        painted_ns = self._reader.next_timeout()
        if self._job is not None or self._closed:
            return
        if self._film_ns is not None and now_ns - self._film_ns >= FILM_KEPT_NS:
            self._give_up_video()
        if not self._is_due(self._viewers.values(), painted_ns, now_ns):
            return
        ready = [viewer for viewer in self._viewers.values() if viewer.ready(now_ns)]
        if not ready:
            return
        picture = self._taken(now_ns)
        if picture is None and not self._is_due(ready, None, now_ns):
            return
        try:
            self._begin(picture, ready, now_ns)
        except Exception as error:
            # Also without memory for it: what was taken is given back in any case.
            self._job = None
            if picture is not None:
                picture.release()
            if not isinstance(error, MillraceError):
                raise
            self._end(error)

    def _is_due(self, viewers: Iterable[Viewer], painted_ns: HostNs | None, now_ns: HostNs) -> bool:
        """Whether something is to be sent to one of these viewers, by now."""
        dues = (self._due_for(viewer, painted_ns) for viewer in viewers)
        return any(due_ns is not None and due_ns <= now_ns for due_ns in dues)

    def _taken(self, now_ns: HostNs) -> Picture | None:
        """The newest picture, if it is another one: the pointer is not part of it."""
        picture = self._reader.take(now_ns)
        if picture is None or picture.damage or picture.moves or self._left_out(picture) != self._overlays:
            return picture
        picture.release()
        return None

    def _left_out(self, picture: Picture) -> tuple[Overlay, ...]:
        return tuple(overlay for overlay in picture.overlays if overlay.track in self._reader.leave_out)

    # Viewers draw overlays into the picture itself. So where one goes they have none of what the reference has, whether
    # that has changed or not; and nothing may be moved from there.
    def _cover(self, overlays: tuple[Overlay, ...]) -> None:
        """These overlays lie over the picture now."""
        gone = [rect for overlay in self._overlays if overlay not in overlays for rect in visible(overlay)]
        self._overlays = overlays
        if gone and self.size is not None:
            whole = Rect(0, 0, self.size.width, self.size.height)
            lying = [rect for overlay in overlays for rect in visible(overlay)]
            rects = beyond([rect.common(whole) for rect in gone], lying)
            for viewer in self._viewers.values():
                viewer.uncovered(rects)

    def _begin(self, picture: Picture | None, ready: list[Viewer], now_ns: HostNs) -> None:
        before = self._work
        if picture is not None:
            self._painted_ns, self._number = picture.painted_ns, picture.serial
            self._cover(self._left_out(picture))
            number, published_ns = self._published
            self._door_ns = max(0, published_ns - picture.painted_ns) if number == picture.serial else 0
            self._fit(picture)
        if (work := self._work) is None:
            return
        job = Job(picture, now_ns, ready)
        job.first = work is not before
        for viewer in ready:
            job.lacks(viewer, refine=picture is None)
        lacking = tuple(lacking for lacking, _ in job.catching)
        wants_key = any(not viewer.video for viewer in ready)
        job.key = wants_key and (self._key_ns is None or now_ns - self._key_ns >= KEY_INTERVAL_NS)
        task = Task(now_ns, key=job.key, lacking=lacking)
        if picture is not None:
            covered = tuple(rect for overlay in self._overlays for rect in visible(overlay))
            task = task._replace(
                picture=picture.plane, damage=picture.damage, moves=picture.moves, covered=covered
            )  # fmt: skip
        small, held = self.rate == work.rate and work.is_small(task), self._film_ns is not None
        job.task = task._replace(video=held and not small, ask=not held and not small and work.video_bytes > 0)
        self._job, self._last_ns = job, now_ns
        self._encode(work, job.task, small)

    def _encode(self, work: PictureWork, task: Task, small: bool) -> None:
        rate, crowded, times = self.rate, self._lane.crowded, (self._clock, self._computed)
        self._lane(lambda: _made(work, task, rate, crowded, *times), self._done, small)

    def _fit(self, picture: Picture) -> None:
        """Begin anew for another mode, of which all viewers lack everything."""
        memory = self.screen.memory
        assert memory is not None
        if self._of is not None and self._of[1] is memory:
            return
        mode = picture.mode
        size = Size(mode.width, mode.height)
        if self._film_ns is not None:
            self._give_up_video()
        self._account.hold("encoder", work_bytes(size, self._scale), ENCODERS)
        work = PictureWork(size, self._scale, self.formats, self._lossless, self.rate, self._clock)
        before, self._work, self._of, self._due_ns = self.size, work, (mode, memory), None
        for viewer in self._viewers.values():
            viewer.voided(work.size)
            if before != work.size:
                viewer.sink.resized(work.size)

    # It is given back at once if this picture has no film after all.
    def _hold_video(self, work: PictureWork) -> bool:
        """Hold memory for an encoder of video; False if the guest has none: then what moves is sent as stills."""
        return self._account.fits("video", work.video_bytes, ENCODERS)

    def _spare_video(self) -> None:
        """Somebody needs memory: give that of a film back which has paused."""
        paused = self._film_ns is not None and self._clock() - self._film_ns >= FILM_PAUSED_NS
        if paused and self._job is None:
            self._give_up_video()

    def _give_up_video(self) -> None:
        """Give the memory of video back, until there is film again."""
        assert self._work is not None
        self._work.close()
        self._account.hold("video", 0, ENCODERS)
        self._film_ns = None

    # -- what was made ---------------------------------------------------------------------------

    def _done(self, made: tuple[Made, Spent] | Exception) -> None:
        job = self._job
        assert job is not None
        if not isinstance(made, Exception) and made[0].asks and not self._closed:
            try:
                self._go_on(job, made[1])
            except MillraceError as error:
                made = error
            else:
                return
        if job.picture is not None:
            job.picture.release()
        if isinstance(made, Exception) or self._closed:
            self._job = None
        if self._closed:
            self._free()
        elif isinstance(made, Exception):
            self._end(made)
        else:
            self._strain.encoded(made[1] if job.spent is None else job.spent.then(made[1]))
            self._compare(made[0], job)
            if made[0].video:
                self._film_ns = self._clock()
            elif self._film_ns is None:
                self._account.hold("video", 0, ENCODERS)
            self._made = made[0]
            self._wake()

    def _go_on(self, job: Job, spent: Spent) -> None:
        """Some of the picture is best sent as video: have it made, so if there is memory for that."""
        assert self._work is not None
        job.spent = spent
        self._encode(self._work, job.task._replace(video=self._hold_video(self._work), ask=False), small=False)

    def deliver(self) -> Iterator[None]:
        """See `Pictures`."""
        made, job = self._made, self._job
        if made is None or job is None:
            return
        yield from self._send(made, job)
        self._made = self._job = None

    # Viewers may come and go between two steps. Those that come lack everything, and need nothing of this.
    def _send(self, made: Made, job: Job) -> Iterator[None]:
        now_ns = self._clock()
        self._due_ns = made.due_ns
        if made.key:
            self._key_ns = now_ns
            if job.key:
                self._strain.key_picture(job.begun_ns)
        self.counts.encoded(made.encode_ns, made.key)
        answers = {
            id(viewer): (lacking, given)
            for (lacking, viewers), given in zip(job.catching, made.given, strict=True) for viewer in viewers
        }  # fmt: skip
        stills = tuple(part for part in made.parts if part.type not in VIDEO_TYPES)
        shared = {Share.ALL: made.parts, Share.STILLS: stills, Share.NONE: ()}
        pictures: dict[tuple[Share, int], EncodedPicture] = {}
        for viewer in list(self._viewers.values()):
            if not viewer.left:
                share, own = viewer.takes(made, viewer in job.viewers, answers.get(id(viewer)))
                # Viewers that lacked the same have the same parts of their own.
                picture = pictures.get((share, id(own)))
                if picture is None:
                    picture = pictures[share, id(own)] = self._picture((*shared[share], *own), made, job)
                self._push(viewer, picture, viewer in job.viewers, now_ns)
            yield

    def _compare(self, made: Made, job: Job) -> None:
        """Note how much of what the source reported has changed."""
        if job.picture is not None and not job.first and self._scale == 1:
            reported = sum(rect.area for rect in job.picture.damage)
            changed = sum(rect.area for rect in made.touched)
            self.screen.facts.compared(reported, changed, job.picture.painted_ns)

    def _picture(self, parts: tuple[Part, ...], made: Made, job: Job) -> EncodedPicture:
        kinds, painted_ns = tallied(parts), self._painted_ns
        size = sum(tally.bytes for tally in kinds.values())
        wait_ns = max(0, job.begun_ns - painted_ns)
        return EncodedPicture(
            0, painted_ns, parts, made.key, size, made.encode_ns, wait_ns, self._door_ns, self._number, kinds,
            self._overlays,
        )  # fmt: skip

    def _push(self, viewer: Viewer, picture: EncodedPicture, asked: bool, now_ns: HostNs) -> None:
        moved = asked and not viewer.missing and viewer.overlays != picture.overlays
        if picture.parts or moved:
            self._serial += 1
            if viewer.push(picture._replace(serial=self._serial), now_ns):
                self.counts.pushed(picture.kinds)

    # -- the end ---------------------------------------------------------------------------------

    def _end(self, error: Exception) -> None:
        if not self._closed:
            self.close()
            self._failed(error)

    # What has begun uses its memory and its picture: both are given back when it is done. What waits is withdrawn.
    def close(self) -> None:
        """End. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._viewers = {}
        self._reader.end()
        if self._lane.withdraw():
            if self._job is not None and self._made is None and self._job.picture is not None:
                self._job.picture.release()
            self._made = self._job = None
            self._free()

    def _free(self) -> None:
        if self._work is not None:
            self._work.close()
        self._work = self._of = None
        self._account.close()


def _made(
    work: PictureWork, task: Task, rate: int, crowded: bool, clock: Callable[[], HostNs], computed: Callable[[], HostNs]
) -> tuple[Made, Spent]:  # fmt: skip
    began_ns, before_ns = clock(), computed()
    if rate != work.rate:
        work.set_rate(rate)
    made = work.make(task)
    return made, Spent(task.now_ns, began_ns, clock(), computed() - before_ns, crowded)
