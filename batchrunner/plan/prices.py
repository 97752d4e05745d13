"""The expected cost of a generation: a dated price table, and the calculation. Pure.

Sources, as of AS_OF: the service documents 1 USD = 2,000,000 credits. It publishes no price for
``wan2.2-14b-animate-replace``. The figures in the model's spec are its upstream's documented list price ($0.04, 0.06,
0.08 per video second for 480p, 580p, 720p) times 1.30, the mark-up in the service's published prices of similar models
since spring 2026. They are inferred, not quoted.
The upstream counts 16 frames as a video second, so a clip with 30 frames per second is billed for almost twice its
length. An unknown value is None and never guessed: the length of a clip behind a URL is unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from batchrunner.job import Job, Media
from batchrunner.providers import registry
from batchrunner.providers.base import CREDITS_PER_USD

AS_OF = max((spec.price.as_of for spec in registry.models().values() if spec.price), default="")

INFERRED = "inferred"  # the source of such a price begins with it
YOURS = "from the manifest"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected cost of one generation in credits; None if unknown. basis: its source, or why it is unknown.

    seconds: the billed video seconds in the calculation.
    """

    credits: float | None
    basis: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one batch.

    own: credits per video second by resolution, from the manifest; they override the table. assume_length_s: the
    assumed length of clips with unknown length, or None.
    """

    own: Mapping[str, float]
    assume_length_s: float | None = None

    def estimate(self, job: Job) -> Estimate:
        """Return the expected cost of a generation of `job`."""
        spec = registry.models().get(job.model)
        known = spec.price if spec else None
        resolution = str(job.params.get(known.by if known else "resolution", ""))
        price = self.own.get(resolution, known.credits.get(resolution) if known else None)
        if price is None:
            return Estimate(None, f"no price is known for {job.model} at {resolution or 'no resolution'}")
        basis = YOURS if known is None or resolution in self.own else known.source
        seconds = billed_seconds(job)
        if seconds is None:
            seconds = self.assume_length_s
            basis = f"{basis}; the clip's length is assumed"
        if seconds is None:
            return Estimate(None, "the length of the reference clip is unknown (set assume_length)")
        return Estimate(round(price * seconds, 2), basis, seconds)


def billed_seconds(job: Job) -> float | None:
    """Return the billed video seconds of a generation, by the frames or the length of the billed input."""
    spec, media = registry.models().get(job.model), billed_input(job)
    if media is None or spec is None or spec.price is None:
        return None
    return media.frames / spec.price.frames_per_second if media.frames else media.duration_s


def billed_input(job: Job) -> Media | None:
    """The input whose length the price depends on; None where there is none."""
    spec = registry.models().get(job.model)
    return job.inputs.get(spec.price.input) if spec and spec.price else None


def usd(credits_: float) -> float:
    """Convert credits to US dollars."""
    return credits_ / CREDITS_PER_USD


def dollars(credits_: float) -> str:
    """Format credits as US dollars: ``$1.25``; a small amount with four decimals."""
    amount = usd(credits_)
    if 0 < amount < 0.0001:
        return "under $0.0001"
    text = f"{abs(amount):,.2f}" if abs(amount) >= 0.1 or not amount else f"{abs(amount):,.4f}"
    return f"-${text}" if amount < 0 else f"${text}"
