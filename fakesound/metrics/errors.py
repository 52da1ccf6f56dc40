"""What a metric answers when it has no answer."""


class MetricError(ValueError):
    """The metric is not defined on this input: it is empty, holds one class only, or is malformed."""
