"""Health checks of a run from its log: balance of G and D, gradients, data and speed, with advice.

The bounds are rules of thumb, with their source where there is one; they only decide the colour of a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from gankit.report.reading import Run, Series

Status = Literal["good", "watch", "bad"]

ENOUGH_TICKS = 5  # before that, nothing can be told from a trend
CERTAIN, BLIND = 0.9, 0.1  # mean sign of D on real images; ADA (Karras et al. 2020) holds it at 0.6
AGREE = 0.1  # mean sign of D on generated images above which most of them pass
SPIKE, FADE = 10.0, 0.01  # gradient norm now / early on
STRONG_ADA = 0.8  # p above which ADA's transformations may show in the pictures (ADA, section 2.2 and fig. 3)
COLLAPSED, NARROW = 0.3, 0.6  # variety of the samples / of the real images with the same conditions
DATA_SOME, DATA_MUCH = 0.05, 0.2  # share of time that training waits for images
RARE_SKIPS = 0.001  # share of steps left out for gradients that were not finite
GROWING = 1.5  # gap of the scores in the last fifth of the run / in the fifth around its middle
SLOWER = 0.6  # speed now / at its best


@dataclass(frozen=True)
class Check:
    """One health line; `series` names the logged numbers that it is about."""

    title: str
    status: Status
    value: str
    advice: str
    series: tuple[str, ...] = ()


def checks(run: Run) -> list[Check]:
    """The health lines of a run, the worst first; only those that its log has numbers for."""
    found = [
        check
        for look in (_signs, _gap, _gradients, _numbers, _ada, _diversity, _data, _speed)
        for check in look(run)
    ]
    order = {"bad": 0, "watch": 1, "good": 2}
    return sorted(found, key=lambda check: order[check.status])


def _signs(run: Run) -> Iterator[Check]:
    """Mean signs of D's scores; not of a relativistic loss, of whose scores only differences mean anything."""
    if run.loss.startswith("relativistic"):
        return
    real, fake = run.series.get("sign/real"), run.series.get("sign/fake")
    if real is not None and (now := real.recent()) is not None:
        few = run.recipe.get("augmentation") is None
        status: Status = "good"
        advice = "D tells most real images, yet not all of them: a healthy contest."
        if now > CERTAIN:
            status = "watch"
            advice = "D is certain of nearly every real image, so G learns little from it: " + (
                "add augmentation (--set augmentation=ada) if the data is small, or raise regularizers.r1.gamma."
                if few
                else "raise regularizers.r1.gamma, or lower train.lr_d."
            )
        elif now < BLIND:
            status = "watch"
            advice = (
                "D hardly tells real images from generated ones: let it learn more (lower regularizers.r1.gamma, raise "
                "train.lr_d or discriminator.channel_base), or weaken the augmentation."
            )
        yield Check("D on real images", status, f"mean sign {now:+.2f}", advice, ("sign/real",))
    if fake is not None and (now := fake.recent()) is not None:
        if now > AGREE:
            yield Check(
                "D on generated images",
                "watch",
                f"mean sign {now:+.2f}",
                "D takes most generated images for real while it sees through few: raise train.lr_d, or make D larger.",
                ("sign/fake",),
            )
        else:
            yield Check(
                "D on generated images",
                "good",
                f"mean sign {now:+.2f}",
                "D rejects most generated images, which is what gives G a direction.",
                ("sign/fake",),
            )


def _gap(run: Run) -> Iterator[Check]:
    real, fake = run.series.get("score/real"), run.series.get("score/fake")
    if real is None or fake is None:
        return
    below = dict(zip(fake.nimg, fake.values))
    gap = Series("gap")
    for nimg, value in zip(real.nimg, real.values):
        other = below.get(nimg)
        if value is not None and other is not None:
            gap.nimg.append(nimg)
            gap.values.append(value - other)
    now, count = gap.recent(), len(gap.values)
    if now is None or count < ENOUGH_TICKS:
        return
    middle = median(gap.finite[max(count * 2 // 5, 1) : max(count * 3 // 5, 2)])
    if now <= 0:
        yield Check(
            "Scores, real minus generated",
            "watch",
            f"{now:+.2f}",
            "D scores generated images as high as real ones: it has lost the contest; make it stronger or G slower.",
            ("score/real", "score/fake"),
        )
    elif count >= 4 * ENOUGH_TICKS and middle > 0 and now > GROWING * middle:
        yield Check(
            "Scores, real minus generated",
            "watch",
            f"{now:+.2f}, was {middle:+.2f} halfway",
            "The gap keeps widening: D runs ahead of G. Raise regularizers.r1.gamma, add augmentation or data, and "
            "prefer an earlier checkpoint if the pictures get worse.",
            ("score/real", "score/fake"),
        )
    else:
        yield Check(
            "Scores, real minus generated",
            "good",
            f"{now:+.2f}",
            "Real images score higher, and the gap is steady: neither side runs away.",
            ("score/real", "score/fake"),
        )


def _gradients(run: Run) -> Iterator[Check]:
    for side in ("G", "D"):
        norm = run.series.get(f"grad_norm/{side}")
        if norm is None or len(norm.finite) < ENOUGH_TICKS:
            continue
        now, before = norm.recent(), norm.early()
        assert now is not None
        assert before is not None
        title, value = f"Gradients of {side}", f"norm {now:.3g}"
        if now > SPIKE * before:
            yield Check(
                title,
                "bad",
                f"{value}, was {before:.3g}",
                f"The gradients of {side} have grown more than {SPIKE:.0f}-fold, which ends in divergence: lower "
                f"train.lr_{side.lower()}, or start again from an earlier checkpoint with --init.",
                (norm.name,),
            )
        elif now < FADE * before:
            other = "D is so sure that nothing reaches G" if side == "G" else "D no longer learns"
            yield Check(
                title,
                "watch",
                f"{value}, was {before:.3g}",
                f"The gradients of {side} have nearly vanished ({other}): look at the scores above, and at "
                "regularizers.r1.gamma.",
                (norm.name,),
            )
        else:
            yield Check(
                title, "good", value, "Of the size that it was: no explosion, no vanishing.", (norm.name,)
            )


def _numbers(run: Run) -> Iterator[Check]:
    skipped = run.series.get("bad_steps")
    broken = [s.name for s in run.series.values() if s.values and s.values[-1] is None]
    if broken:
        names = ", ".join(broken[:4])
        yield Check(
            "Numbers",
            "bad",
            f"{names} not finite",
            "The last line of the log has numbers that are not finite: stop, take an earlier checkpoint, and lower the "
            "learning rates or set train.precision=fp32.",
        )
    if skipped is None or not skipped.finite:
        return
    count = int(skipped.finite[-1])
    share = count * run.batch / max(run.nimg, 1) if run.batch else None
    if count == 0:
        yield Check(
            "Skipped steps", "good", "none", "The gradients of every step were finite.", ("bad_steps",)
        )
    else:
        rare = share is not None and share < RARE_SKIPS
        yield Check(
            "Skipped steps",
            "watch" if rare else "bad",
            f"{count:,}" + (f" ({share:.2%} of all)" if share is not None else ""),
            "A few steps had gradients that were not finite and were left out; that does no harm while it stays rare."
            if rare
            else "Many steps had gradients that were not finite: set train.precision=fp32 if this is bf16, else lower "
            "train.lr_g and train.lr_d.",
            ("bad_steps",),
        )


def _ada(run: Run) -> Iterator[Check]:
    p = run.series.get("augment/p")
    now = p.recent() if p is not None else None
    if now is None:
        return
    if now > STRONG_ADA:
        yield Check(
            "ADA's p",
            "watch",
            f"{now:.2f}",
            f"Augmentation has a p above {STRONG_ADA}, so its colours or rotations may leak into the pictures: "
            "more data or a higher regularizers.r1.gamma helps, and so does a smaller augmentation.pipeline.",
            ("augment/p",),
        )
    else:
        yield Check(
            "ADA's p",
            "good",
            f"{now:.2f}",
            "The strength of augmentation that keeps D from overfitting; it rises where data is short.",
            ("augment/p",),
        )


def _diversity(run: Run) -> Iterator[Check]:
    """Variety of the sample grids, and whatever a plugin logs under the name of diversity, compared with its own
    past."""
    for logged in (s for s in run.series.values() if "diversity" in s.name and len(s.finite) >= ENOUGH_TICKS):
        now, before = logged.recent(), logged.early()
        assert now is not None
        assert before is not None
        falls = now < NARROW * before
        yield Check(
            logged.name,
            "watch" if falls else "good",
            f"{now:.3g}, was {before:.3g}" if falls else f"{now:.3g}",
            "It has fallen since the beginning: look at the sample grids for pictures that repeat (mode collapse)."
            if falls
            else "Not falling: the pictures keep their variety.",
            (logged.name,),
        )
    series = run.series.get("samples/variety")
    now = series.recent() if series is not None else None
    if now is None:
        return
    status: Status = "good" if now >= NARROW else "watch" if now >= COLLAPSED else "bad"
    if run.nimg and status != "good" and len(series.finite if series else ()) < 3:
        status = "watch"  # samples of a run that has just begun look alike
    advice = {
        "good": "The samples differ from each other about as much as real images with the same conditions do.",
        "watch": "The samples differ less from each other than real images do: early on that passes, later it is the "
        "beginning of a collapse (mode collapse); compare with older grids.",
        "bad": "The samples look alike (mode collapse): go back to a checkpoint from before, with stronger "
        "regularizers.r1.gamma, more augmentation or lower learning rates.",
    }[status]
    yield Check("Variety of the samples", status, f"{now:.0%} of real", advice, ("samples/variety",))


def _data(run: Run) -> Iterator[Check]:
    share = run.series.get("time/data")
    now = share.recent() if share is not None else None
    if now is None:
        return
    status: Status = "good" if now < DATA_SOME else "watch" if now < DATA_MUCH else "bad"
    advice = {
        "good": "Training hardly ever waits for images.",
        "watch": "Training waits for images now and then: raise --workers if cores are free.",
        "bad": "Training spends much of its time waiting for images: raise --workers, store them at the size of "
        "training, or as shards (see the page on data).",
    }[status]
    yield Check("Time spent waiting for data", status, f"{now:.1%}", advice, ("time/data",))


def _speed(run: Run) -> Iterator[Check]:
    speed = run.series.get("speed/images_per_s")
    if speed is None or (now := speed.recent(0.05)) is None:
        return
    values = speed.finite
    width = max(len(values) // 10, 3)
    best = max(median(values[i : i + width]) for i in range(0, max(len(values) - width + 1, 1), width))
    if len(values) >= 4 * ENOUGH_TICKS and now < SLOWER * best:
        yield Check(
            "Speed",
            "watch",
            f"{now:.3g} images/s, was {best:.3g}",
            "Training has become slower: another program may use the machine, or it throttles for heat.",
            ("speed/images_per_s",),
        )
    else:
        yield Check("Speed", "good", f"{now:.3g} images/s", "Steady.", ("speed/images_per_s",))
