"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from smalti.drawing.result import Timings

SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "smalti_requests", "Answers, by route and status.", ("route", "status"), registry=registry
        )
        self.refused = Counter(
            "smalti_refused", "Requests that found no place, by reason.", ("reason",), registry=registry
        )
        self.cancelled = Counter("smalti_cancelled", "Work that ended since its client left.", registry=registry)
        self.pictures = Counter("smalti_pictures", "Pictures that were drawn.", ("bundle",), registry=registry)
        self.calls = Counter(
            "smalti_network_calls", "Network calls of draws that ended.", ("bundle",), registry=registry
        )
        self.batched = Counter("smalti_batched", "Draws that shared a batch with others.", registry=registry)
        self.stages = Counter(
            "smalti_stage_seconds", "Seconds of draws that ended, by stage.", ("stage",), registry=registry
        )
        self.waited = Histogram("smalti_wait_seconds", "Seconds until work began.", buckets=SECONDS, registry=registry)
        self.worked = Histogram("smalti_work_seconds", "Seconds that work took.", buckets=SECONDS, registry=registry)
        self.places = Gauge("smalti_places_taken", "Requests that wait or are worked on.", registry=registry)
        self.ready = Gauge("smalti_ready", "1 when all bundles are ready.", registry=registry)

    def drawn(self, bundle: str, pictures: int, timings: Timings) -> None:
        """Count a draw that ended."""
        self.pictures.labels(bundle).inc(pictures)
        self.calls.labels(bundle).inc(timings.calls)
        for stage in ("network", "draw", "decoder", "host"):
            self.stages.labels(stage).inc(max(0.0, getattr(timings, stage)))

    def follow(self, places: Callable[[], float], ready: Callable[[], bool]) -> None:
        """Ask for these whenever the figures are read."""
        self.places.set_function(places)
        self.ready.set_function(lambda: float(ready()))

    def text(self) -> bytes:
        """Return all figures in the format of Prometheus."""
        return generate_latest(self.registry)
