"""
A rollout on a terminal as it happens, and line by line where there is none.
"""

from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from tfcanary.report.evidence import Bar, Shown, scale
from tfcanary.report.rollout_reading import Reading, reading
from tfcanary.report.times import clock, stamp, utc
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import Note, State, Step
from tfcanary.text import printable

_EVENTS = 8
# Characters of a bar, and of the claim before it.
_BAR, _LEAST_BAR, _CLAIM = 40, 10, 13
# What of a bar is full, what is not, and its bound; the second for a terminal that has no more than ASCII.
_BLOCKS, _ASCII = ("█", "·", "│"), ("#", ".", "|")
_STYLES = {"held": "green", "failed": "red", "open": "yellow"}


def view(plan: Plan, state: State, now: float) -> RenderableType:
    """
    A rollout at one moment, for `rich.live.Live`.

    Args:
        plan: what was declared.
        state: where the rollout is.
        now: seconds since 1970.

    Raises:
        UsageError: if the evidence in the state is not that of this plan.
    """
    read = reading(plan, state, now)
    parts: list[RenderableType] = [_facts(read), Text(), _Evidence(read.signals)]
    if read.holds:
        parts += [Text(), *(Text(f"held: {why}", "bold yellow") for why in read.holds)]
    events = [Text(f"{clock(one.at)}  {printable(one.text)}", "dim") for one in state.notes[-_EVENTS:]]
    parts += [
        Text(),
        *events,
        Text(),
        Text(read.sentence, f"bold {_STYLES[read.mark]}"),
        Text(utc(now), "dim"),
    ]
    return Group(*parts)


def _facts(read: Reading) -> Grid:
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in read.facts:
        grid.add_row(Text(name), Text(text))
    return grid


class _Evidence:
    """
    The signals, a bar with its bound for each claim, as wide as there is room.
    """

    def __init__(self, signals: Sequence[Shown]) -> None:
        self._signals, self._scale = signals, scale(signals)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = max(len(bar.words) for one in self._signals for bar in one.bars)
        width = max(_LEAST_BAR, min(_BAR, options.max_width - _CLAIM - numbers - 2))
        for one in self._signals:
            counts = f", {one.promotion}: {one.counts}" if one.counts else ""
            yield Text.assemble((one.name, "bold"), (counts, "dim"))
            for bar in one.bars:
                drawn = self._drawn(bar, width, _ASCII if options.ascii_only else _BLOCKS)
                yield Text.assemble(
                    f"  {bar.claim}".ljust(_CLAIM), drawn, "  ", (bar.words, _STYLES.get(bar.mark, ""))
                )

    def _drawn(self, bar: Bar, width: int, characters: tuple[str, str, str]) -> Text:
        full, rest, bound = characters
        reaches = round(self._scale.part(bar.evidence) * width)
        at = min(width - 1, int(self._scale.part(bar.bound) * width))
        line = full * reaches + rest * (width - reaches)
        style = _STYLES.get(bar.mark, "cyan")
        parts = [Text(line[:at]), Text(bound, "bold"), Text(line[at + 1 :])]
        for part in (parts[0], parts[2]):
            part.highlight_words([full], style)
            part.highlight_words([rest], "dim")
        return Text.assemble(*parts)


def teller(tell: Callable[[str], object]) -> Callable[[State], None]:
    """
    What tells, of each state that it is given, the lines that are new.
    """
    before: State | None = None

    def told(after: State) -> None:
        nonlocal before
        for line in lines(before, after):
            tell(line)
        before = after

    return told


def lines(before: State | None, after: State) -> list[str]:
    """
    What is new in a rollout, one line each, in the order of their times.

    Args:
        before: the state that was told last; None to tell all that the state still has.
        after: the state now.

    Returns:
        Lines that begin with a time in UTC. Where nothing is new there are none: a judge that still waits is told once at
        each weight, whatever its numbers are by now.
    """
    if before is not None and (before.run, before.started) != (after.run, after.started):
        before = None
    found: list[tuple[float, str]] = [(note.at, _told(note, after)) for note in _new(before, after)]
    found += _weights(before, after)
    if after.phase is Phase.JUDGE and (before is None or before.serial != after.serial):
        found.append((after.entered, f"{after.phase.value} at {after.weight:g} %"))
    found += _verdict(before, after)
    found += _outage(before, after)
    return [f"{stamp(at)} {printable(text)}" for at, text in sorted(found, key=lambda one: one[0])]


def _new(before: State | None, after: State) -> Sequence[Note]:
    """
    The events since; only the last ones are kept, and the oldest may have gone meanwhile.
    """
    known = before.notes if before is not None else ()
    gone = next(n for n in range(len(known) + 1) if known[n:] == after.notes[: len(known) - n])
    return after.notes[len(known) - gone :]


def _told(note: Note, after: State) -> str:
    """
    An event; that of the end says why.
    """
    ends = after.ended and note is after.notes[-1] and note.text == after.phase.value
    return f"{note.text}: {after.reason}" if ends else note.text


def _weights(before: State | None, after: State) -> Iterable[tuple[float, str]]:
    known = {(one.weight, one.asked): one for one in (before.steps if before is not None else ())}
    for step in after.steps:
        was: Step | None = known.get((step.weight, step.asked))
        if was is None:
            yield step.asked, f"weight {step.weight:g} % asked for"
        if step.seen is not None and (was is None or was.seen is None):
            yield step.seen, f"weight {step.weight:g} % seen at {step.pods} of {step.pods} gateway pods"


def _verdict(before: State | None, after: State) -> Iterable[tuple[float, str]]:
    """
    The verdict, if it is another one than before or the first at its weight.
    """
    asked, sentence = _said(after)
    was_asked, was = _said(before) if before is not None else (0.0, "")
    if sentence and (asked != was_asked or _action(sentence) != _action(was)):
        yield after.now, f"verdict: {sentence}"


def _said(state: State) -> tuple[float, str]:
    """
    When the present weight was asked for, and the verdict at it.
    """
    return (state.steps[-1].asked, state.steps[-1].verdict) if state.steps else (0.0, state.verdict)


def _action(sentence: str) -> str:
    return sentence.partition(":")[0]


def _outage(before: State | None, after: State) -> Iterable[tuple[float, str]]:
    was = before.outage if before is not None else None
    if was is None and after.outage is not None:
        yield after.outage, "the cluster does not answer"
    if was is not None and after.outage is None:
        yield after.now, "the cluster answers again"
