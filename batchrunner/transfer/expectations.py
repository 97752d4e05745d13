"""Compare a result's size and length with those that its job and its model lead to expect. Pure."""

from batchrunner.job import Job, Result
from batchrunner.providers import registry


def expectation_warnings(job: Job, result: Result) -> tuple[str, ...]:
    """Return a warning if a whole clip has another size than requested, and one if its length is not its input's.

    A model without such expectations, and a value that is unknown, give no warning.
    """
    spec = registry.models().get(job.model)
    if spec is None:
        return ()
    warnings, shape = [], spec.result
    asked = str(job.params.get(shape.short_side, "")).removesuffix("p")
    if asked.isdigit() and result.width_px and result.height_px:
        short_px = min(result.width_px, result.height_px)
        if abs(short_px - int(asked)) > shape.multiple_px:
            warnings.append(f"asked for {asked}p, got {result.width_px}x{result.height_px}")
    source = job.inputs.get(shape.length_of)
    if source is not None and source.duration_s and result.duration_s:
        ratio = result.duration_s / source.duration_s
        if not 0.8 <= ratio <= 1.25:
            label = next(item.label for item in spec.inputs if item.name == shape.length_of)
            shown = f"{label[:1].lower()}{label[1:]}"
            warnings.append(f"lasts {result.duration_s:.2f} s, the {shown} {source.duration_s:.2f} s")
    return tuple(warnings)
