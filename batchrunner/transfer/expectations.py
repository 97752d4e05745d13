"""What a result should look like by its job and its model: size and length. Pure."""

from batchrunner.job import Job, Result
from batchrunner.providers import registry


def expectation_warnings(job: Job, result: Result) -> tuple[str, ...]:
    """What is odd about a clip that is whole: not the size asked for, or not as long as the input that it follows."""
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
