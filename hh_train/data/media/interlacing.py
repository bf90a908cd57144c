"""Interlaced pictures to whole ones."""

from __future__ import annotations

from collections.abc import Iterator

from av.error import BlockingIOError as NotYetError
from av.error import EOFError as EndOfFramesError
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class Deinterlacer:
    """One whole frame for each interlaced one (the filter bwdif); frames that are not interlaced stay as they are.

    From the first interlaced frame on, frames come out one or two later than they go in.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._graph: Graph | None = None
        self._kind: tuple[int, int, str] | None = None

    def add(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """The frames that are ready once this one is there."""
        if self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self._kind:
            yield from self.finish()
            self._graph, self._kind = self._made_for(frame), kind
        assert self._graph is not None
        self._graph.vpush(frame)
        yield from self._ready()

    def finish(self) -> Iterator[VideoFrame]:
        """The frames that are still to come."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._ready()

    def _made_for(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            template=self._stream,
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or self._stream.time_base,
        )
        filtered = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(filtered)
        filtered.link_to(sink)
        graph.configure()
        return graph

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (NotYetError, EndOfFramesError):
                return
