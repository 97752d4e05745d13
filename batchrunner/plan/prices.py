"""The expected cost of a generation: the current price table, and the calculation. Pure.

The price of a job comes from the first of these sources that has one: the manifest, the service's own price list
(`batchrunner.providers.base.PriceList`), the built-in table.

Sources of the built-in table, as of AS_OF: the service documents 1 USD = 2,000,000 credits. It publishes no price for
``wan2.2-14b-animate-replace`` in its documentation. The figures in the model's spec are its upstream's documented list
price ($0.04, 0.06, 0.08 per video second for 480p, 580p, 720p) times 1.30, the mark-up in the service's published
prices of similar models since spring 2026. They are inferred, not quoted.
The upstream counts 16 frames as a video second, so a clip with 30 frames per second is billed for almost twice its
length. An unknown value is None and never guessed: the length of a clip behind a URL is unknown.

A charge above its estimate raises the price of all similar jobs that are submitted later (`Prices.raised_by`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from batchrunner.formatting import rfc3339
from batchrunner.job import Attempt, Job, Media, Record
from batchrunner.providers import registry
from batchrunner.providers.base import CREDITS_PER_USD, PriceList, Rate
from batchrunner.providers.models import Params

AS_OF = max((spec.price.as_of for spec in registry.models().values() if spec.price), default="")

INFERRED = "inferred"  # the source of such a price begins with it
YOURS = "from the manifest"
LISTED = "from the service's price list"  # the source of such a price begins with it
_RAISED = "raised to what the service charged for others"
# A charge differs from its estimate if it is above it by more than rounding can explain.
_TOLERANCE = 1.001
_TOLERANCE_CREDITS = 1.0
_MAX_NUMBER = 1e15

_Like = tuple[str, str, bool]  # model, value of the parameter that the price depends on, whether the length is assumed


class Estimate(NamedTuple):
    """The expected cost of one generation in credits; None if unknown. basis: its source, or why it is unknown.

    seconds: the billed video seconds in the calculation.
    """

    credits: float | None
    basis: str
    seconds: float | None = None

    @property
    def usd(self) -> float | None:
        """The expected cost in US dollars; None if unknown."""
        return None if self.credits is None else usd(self.credits)


class Prices(NamedTuple):
    """The prices of one batch.

    own: credits per video second by resolution, from the manifest. assume_length_s: the assumed length of clips with
    unknown length, or None. listed: the service's price list, or None. factors: by how much the service charged more
    than these prices, by kind of job.
    """

    own: Mapping[str, float]
    assume_length_s: float | None = None
    listed: PriceList | None = None
    factors: Mapping[_Like, float] = {}

    def estimate(self, job: Job) -> Estimate:
        """Return the expected cost of a generation of `job`."""
        plain = self._plain(job)
        factor = self.factors.get(_like(job), 1.0) if self.factors else 1.0
        if factor == 1.0 or plain.credits is None:
            return plain
        return plain._replace(credits=round(plain.credits * factor, 2), basis=f"{plain.basis}; {_RAISED}")

    def estimates(self, jobs: Iterable[Job]) -> Iterator[Estimate]:
        """Yield the expected cost of each of many jobs. Jobs of equal cost share one object."""
        known: dict[tuple[object, ...], Estimate] = {}
        for job in jobs:
            media, params = billed_input(job), job.params
            text = params.json if isinstance(params, Params) else repr(sorted(params.items()))
            key = (job.model, text) if media is None else (job.model, text, media.frames, media.duration_s)
            found = known.get(key)
            if found is None:
                found = known[key] = self.estimate(job)
            yield found

    def bases(self, jobs: Iterable[Job]) -> list[str]:
        """Return the sources of the prices of `jobs`, sorted."""
        by = {name: spec.price.by if spec.price else "resolution" for name, spec in registry.models().items()}
        different = {(job.model, job.params.get(by.get(job.model, "resolution"))): job for job in jobs}
        return sorted({self._price(job)[1] for job in different.values()})

    def raised_by(self, records: Iterable[Record]) -> "Prices":
        """Return the prices with those of similar jobs raised to the highest charge in `records`; self if none is."""
        factors = dict(self.factors)
        for record in records:
            for attempt in record.attempts:
                if overrun(attempt):
                    plain = self._plain(record.job).credits
                    charge = attempt.charge or 0.0
                    if plain and charge > plain * factors.get(_like(record.job), 1.0):
                        factors[_like(record.job)] = charge / plain
        return self if factors == self.factors else self._replace(factors=factors)

    def raised_since(self, before: "Prices") -> float:
        """Return the largest factor by which a price is above that of `before`."""
        return max((factor / before.factors.get(like, 1.0) for like, factor in self.factors.items()), default=1.0)

    def _plain(self, job: Job) -> Estimate:
        """Return the expected cost by the table in force."""
        price, basis = self._price(job)
        if price is None:
            return Estimate(None, basis)
        seconds = billed_seconds(job)
        if seconds is None:
            seconds = self.assume_length_s
            basis = f"{basis}; the clip's length is assumed"
        if seconds is None:
            return Estimate(None, "the length of the reference clip is unknown (set assume_length)")
        return Estimate(round(price * seconds, 2), basis, seconds)

    def _price(self, job: Job) -> tuple[float | None, str]:
        """Return credits per video second and their source, or None and why the price is unknown."""
        spec = registry.models().get(job.model)
        known = spec.price if spec else None
        value = str(job.params.get(known.by if known else "resolution", ""))
        if value in self.own:
            return self.own[value], YOURS
        if known is not None and self.listed is not None:
            # If several rates apply, use the highest: an estimate above the charge is safe, one below it is not.
            rates = [one.credits_per_s for one in self.listed.rates.get(job.model, ()) if one.applies(job.params)]
            if rates:
                return max(rates), f"{LISTED} of {rfc3339(self.listed.as_of)[:10]}"
        if known is not None and value in known.credits:
            return known.credits[value], known.source
        return None, f"no price is known for {job.model} at {value or 'no resolution'}"


def prices_from(settings: Mapping[str, Any]) -> Prices:
    """Return the prices that a run was started with, from its stored settings."""
    listed = list_from_facts(settings.get("price_list"))
    return Prices(settings.get("prices") or {}, settings.get("assume_length_s"), listed)


def list_as_facts(prices: PriceList, models: Collection[str] | None = None) -> dict[str, Any]:
    """Return a price list, JSON-ready. models: only these."""
    rates = {
        name: [{"credits_per_s": one.credits_per_s, "when": dict(one.when)} for one in known]
        for name, known in prices.rates.items()
        if models is None or name in models
    }
    return {"as_of": prices.as_of, "source": prices.source, "version": prices.version, "rates": rates}


def list_from_facts(stored: object) -> PriceList | None:
    """Do the reverse of `list_as_facts`; None for other values."""
    if not isinstance(stored, dict):
        return None
    try:
        rates = {
            str(name): tuple(
                Rate(_price_of(one["credits_per_s"]), {str(key): str(value) for key, value in one["when"].items()})
                for one in known
            )
            for name, known in stored["rates"].items()
        }
        return PriceList(rates, _price_of(stored["as_of"]), str(stored["source"]), str(stored["version"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _price_of(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_NUMBER:
        raise ValueError(f"{value!r} is not a price or a date")
    return float(value)


def overrun(attempt: Attempt) -> float:
    """Return by how many credits the service's quote or charge is above the estimate; 0 if it is not."""
    charge, estimate = attempt.charge, attempt.estimate
    if charge is None or estimate is None or charge <= estimate * _TOLERANCE or charge - estimate <= _TOLERANCE_CREDITS:
        return 0.0
    return 0.0 if attempt.is_reused else charge - estimate


def overrun_in_sql(credits_: str, estimate: str) -> str:
    """Return `overrun` as an SQL expression of two columns."""
    over = f"{credits_} - {estimate}"
    is_over = f"{credits_} > {estimate} * {_TOLERANCE} AND {over} > {_TOLERANCE_CREDITS}"
    return f"CASE WHEN {is_over} THEN {over} ELSE 0 END"


def _like(job: Job) -> _Like:
    """Return the key of jobs whose prices are raised together."""
    spec = registry.models().get(job.model)
    by = spec.price.by if spec and spec.price else "resolution"
    return job.model, str(job.params.get(by, "")), billed_seconds(job) is None


def billed_seconds(job: Job) -> float | None:
    """Return the billed video seconds of a generation, by the frames or the length of the billed input."""
    spec = registry.models().get(job.model)
    media = job.inputs.get(spec.price.input) if spec and spec.price else None
    if media is None or spec is None or spec.price is None:
        return None
    return media.frames / spec.price.frames_per_second if media.frames else media.duration_s


def billed_input(job: Job) -> Media | None:
    """Return the input whose length determines the price, or None."""
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
