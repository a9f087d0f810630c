"""The one place that reads the weights' format out of a file's name and prefers one to others."""

import re

PREFERRED = ("Q4_K_M", "Q8_0", "F16", "BF16")
"""What is taken when nobody says: small and good first."""

_LABEL = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q[1-9](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))"
    r"(?=$|[-._])",
    re.IGNORECASE,
)


def quantization_of(stem: str) -> str:
    """The format in a file's stem, in capital letters; empty when it names none.

    The last one counts: it stands after the model's own name.
    """
    labels = _LABEL.findall(stem)
    return canonical(labels[-1]) if labels else ""


def canonical(label: str) -> str:
    """One spelling for each format."""
    return label.upper().replace("FP", "F") if label.upper().startswith("FP") else label.upper()


def preference(quantization: str, size_bytes: int) -> tuple[int, int]:
    """A sort key: the best to take when nobody says comes first; among unknown the smallest."""
    known = PREFERRED.index(quantization) if quantization in PREFERRED else len(PREFERRED)
    return known, size_bytes
