"""The result as plain text, for the end of a run: at most 110 columns."""

from fakesound.evaluation.result import ALL_FAKE, ALL_REAL, ORACLE, EvaluationResult, Group, Metric

HEADLINE = {
    "clip_accuracy": "clip acc",
    "clip_auc": "clip AUC",
    "clip_eer": "clip EER",
    "frame_f1_10ms": "F1 10 ms",
    "frame_f1_20ms": "F1 20 ms",
    "frame_f1_1s": "F1 1 s",
    "frame_auc": "frame AUC",
}
REFERENCE_NAMES = {ALL_REAL: "all real", ALL_FAKE: "all fake", ORACLE: "oracle"}
MODEL_NAMES = {
    "vim": "ViM",
    "transformer": "Transformer",
    "mamba2": "Mamba-2",
    "fcn_resnet": "FCN-ResNet",
    "deeplab_mobilenet": "DeepLabV3",
    "lcnn": "LCNN",
}
_WIDTH = 12
_NAME_WIDTH = 16


def render_table(result: EvaluationResult) -> str:
    """Views by models, each figure with its interval, then floors and ceiling."""
    head = " " * (_NAME_WIDTH + 1) + "".join(f"{title:>{_WIDTH}}" for title in HEADLINE.values())
    lines = [head.rstrip()]
    for split in result.splits:
        rows = {MODEL_NAMES.get(name, name): model.splits[split] for name, model in result.models.items()}
        size = next(iter(rows.values()))
        lines += [
            "",
            f"{split}: {size.num_forged} forged of {size.num_clips} clips, {size.num_sources} sources",
        ]
        rows |= {REFERENCE_NAMES[name]: group for name, group in result.references[split].items()}
        for name, group in rows.items():
            lines.append(_row(name, group, with_interval=name not in REFERENCE_NAMES.values()))
    method = result.method
    lines += [
        "",
        f"value low-high: {method.level:.0%} interval, {method.draws} bootstrap draws over sources. "
        "all real / all fake: floors.",
        f"oracle: the best that one decision every {method.step_frames * method.hop_s:.2g} s, as the first "
        "model decides, could do.",
        "Thresholds: from validation.",
    ]
    return "\n".join(lines)


def _row(name: str, group: Group, *, with_interval: bool) -> str:
    cells = (_cell(group.metrics.get(metric, Metric()), with_interval=with_interval) for metric in HEADLINE)
    return f"{name:<{_NAME_WIDTH}.{_NAME_WIDTH}} " + "".join(f"{cell:>{_WIDTH}}" for cell in cells).rstrip()


def _cell(metric: Metric, *, with_interval: bool) -> str:
    if metric.value is None:
        return "-"
    if not with_interval or metric.low is None or metric.high is None:
        return short(metric.value)
    return f"{short(metric.value)} {short(metric.low)}-{short(metric.high)}"


def short(value: float) -> str:
    """Two decimals without the leading zero: .87, 1.0."""
    text = f"{value:.2f}"
    return "1.0" if text == "1.00" else text.removeprefix("0")
