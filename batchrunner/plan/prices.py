"""What a generation is expected to cost: a dated table, and the arithmetic on it. Pure.

Sources, as of AS_OF. 1 USD = 2,000,000 credits is documented by the service. It publishes no price of this model; the
figures below are its upstream's list price ($0.04, 0.06, 0.08 per video second for 480p, 580p, 720p, documented) times
1.30, the mark-up that the service's published prices of sibling models show since spring 2026: inferred, not a quote.
The upstream counts a video second as 16 frames, so a clip of 30 frames a second is billed for nearly twice its length.
Rule: what is not known is None, never a guess: a clip behind a URL has no known length.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from batchrunner.job import Job

AS_OF = "2026-11-22"
CREDITS_PER_USD = 2_000_000
BILLED_FRAMES_PER_S = 16

INFERRED = "inferred from the upstream's list price and the service's usual mark-up"
YOURS = "from the manifest"

# Credits per video second, by model and resolution.
TABLE: Mapping[str, Mapping[str, float]] = {
    "alibaba/wan2.2-14b-animate-replace": {"480p": 104_000, "580p": 156_000, "720p": 208_000},
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one generation is expected to cost, credits; None where it is not known. basis: how it is known, or why not.

    seconds: billed video seconds it was reckoned with.
    """

    credits: float | None
    basis: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of one batch.

    own: credits per video second by resolution, from the manifest; they go before the table's. assume_length_s: the
    length to reckon with for clips whose length is not known, or None.
    """

    own: Mapping[str, float]
    assume_length_s: float | None = None

    def estimate(self, job: Job) -> Estimate:
        """What a generation of `job` is expected to cost."""
        resolution = str(job.params.get("resolution", ""))
        price = self.own.get(resolution, TABLE.get(job.model, {}).get(resolution))
        if price is None:
            return Estimate(None, f"no price is known for {job.model} at {resolution or 'no resolution'}")
        basis = YOURS if resolution in self.own else INFERRED
        seconds = billed_seconds(job)
        if seconds is None:
            seconds = self.assume_length_s
            basis = f"{basis}; the clip's length is assumed"
        if seconds is None:
            return Estimate(None, "the length of the reference clip is not known (assume_length gives one)")
        return Estimate(round(price * seconds, 2), basis, seconds)


def billed_seconds(job: Job) -> float | None:
    """Video seconds that a generation is billed for: one for 16 frames that play, or the clip's length."""
    video = job.video
    return video.frames / BILLED_FRAMES_PER_S if video.frames else video.duration_s


def usd(credits_: float) -> float:
    """US dollars for so many credits."""
    return credits_ / CREDITS_PER_USD
