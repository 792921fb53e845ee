"""Colours, pictures and charts of the atlas, as text that a page holds.

Axis glossary: `H W` pixels, `h w` rows and columns of tokens, `E` experts.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from mofme_jax.restoring.pictures import expert_colours

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; max-width: 1160px; margin: 2em auto;
  padding: 0 1.5em }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2em; border-bottom: 1px solid #c9d0d6 } h3 { margin: 1.6em 0 .4em }
p { max-width: 52em }
.not { color: #5a4630; background: #fbf5ec; padding: .5em .9em; border-left: 3px solid #d9a860 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto; margin: .6em 0 }
th, td { padding: .25em .6em; text-align: right; font-weight: normal; white-space: nowrap }
th { color: #46525c } td small { color: #4c5761 } td[style] small { color: #26313a }
.figures td, .figures th { border-bottom: 1px solid #e3e7ea }
tbody th, .facts th { text-align: left } .facts td { text-align: left; white-space: normal }
.facts th { vertical-align: top }
.pictures td, .pictures th { padding: 2px 5px 2px 0; text-align: left; vertical-align: top }
.pictures th { font-size: 13px } .pictures img { width: 100%; min-width: 130px; height: auto; display: block }
.pictures small { font-size: 12px } .legend span { display: inline-block; margin-right: 1.1em }
i.key { display: inline-block; width: .95em; height: .95em; margin-right: .35em; vertical-align: -.12em }
svg { font: 12px system-ui, sans-serif; max-width: 100%; height: auto; display: block; margin: .5em 0 }
@media print { body { margin: 0; max-width: none; font-size: 11px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact } tr, svg, .legend { break-inside: avoid } h2, h3 { break-after: avoid }
  .pictures { table-layout: fixed; width: 100% } .pictures th:first-child { width: 5em }
  .pictures img { min-width: 0 } .wide { overflow: visible } }
"""


def palette(experts: int) -> list[str]:
    """A colour, #rrggbb, for each expert."""
    return ["#" + bytes(colour.tolist()).hex() for colour in expert_colours(experts)]


def enlarged(tokens: np.ndarray, patch: int, size: tuple[int, ...]) -> np.ndarray:
    """(h, w, ...) values of tokens -> (H, W, ...) of pixels, each token a square of patch pixels."""
    return tokens.repeat(patch, axis=0).repeat(patch, axis=1)[: size[0], : size[1]]


def picture(image: np.ndarray, text: str) -> str:
    """An <img> that holds the (H, W, 3) uint8 picture as JPEG; `text`, escaped, says what it shows."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    height, width = image.shape[:2]
    return f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="{text}">'


def share_bars(shares: Mapping[str, np.ndarray], colours: list[str]) -> str:
    """An SVG with a bar for each row, cut into the (E,) shares of the experts, which sum to 1."""
    wide, tall, left, step = 560, 22, 90, 28
    parts = []
    for row, (name, values) in enumerate(shares.items()):
        top, x = row * step, float(left)
        parts.append(f'<text x="{left - 8}" y="{top + 16}" text-anchor="end">{name}</text>')
        for expert, share in enumerate(values):
            width = wide * float(share)
            parts.append(f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{tall}" fill="{colours[expert]}"/>')
            if width >= 34:
                fill = "#000" if _is_light(colours[expert]) else "#fff"
                middle = x + width / 2
                parts.append(
                    f'<text x="{middle:.1f}" y="{top + 16}" text-anchor="middle" fill="{fill}">{percent(share)}</text>'
                )
            x += width
    return _svg(left + wide + 2, step * len(shares), "share of the choices that fell on each expert", parts)


def histogram(values: np.ndarray, bins: int = 20) -> str:
    """An SVG of how many of the values, all in [0, 1], lie where; the dashed line is their mean.

    It begins at the tenth below the least value and ends at 1.
    """
    wide, tall, left, top = 420, 120, 46, 12
    low = min(0.9, np.floor(10 * float(values.min())) / 10)
    counts = np.histogram(values, bins, (low, 1.0))[0] / values.size
    most = float(counts.max())
    parts = []
    for i, share in enumerate(counts):
        height = tall * float(share) / most
        parts.append(
            f'<rect x="{left + i * wide / bins + 0.5:.1f}" y="{top + tall - height:.1f}" '
            f'width="{wide / bins - 1:.1f}" height="{height:.1f}" fill="#4d6a85"/>'
        )
    mean = left + wide * (float(values.mean()) - low) / (1 - low)
    base = top + tall
    parts += [
        f'<path d="M{left} {top}V{base}H{left + wide}" fill="none" stroke="#555"/>',
        f'<path d="M{mean:.1f} {top - 6}V{base}" stroke="#b3261e" stroke-dasharray="4 3" fill="none"/>',
        f'<text x="{left - 6}" y="{top + 10}" text-anchor="end">{percent(most)}</text>',
        f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text>',
        *(
            f'<text x="{left + wide * (tick - low) / (1 - low):.1f}" y="{base + 16}" text-anchor="middle">'
            f"{100 * tick:.3g} %</text>"
            for tick in np.linspace(low, 1, 5)
        ),
    ]
    return _svg(left + wide + 24, base + 22, "histogram of gate entropy as a share of log E", parts)


def percent(share: float, digits: int = 0) -> str:
    """A share in [0, 1] as text."""
    return f"{100 * share:.{digits}f} %"


def legend(colours: list[str], experts: Iterable[int]) -> str:
    """A paragraph that names the colours of these experts."""
    keys = "".join(
        f'<span><i class="key" style="background:{colours[i]}"></i>expert {i}</span>' for i in sorted(experts)
    )
    return f'<p class="legend">{keys}</p>'


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls where it is too wide. Rows are <tr> elements."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    return (
        f'<div class="wide"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def change_cell(values: np.ndarray, largest: float) -> str:
    """A cell of a table: the mean of (N,) changes in dB and how far they go, coloured by its share of `largest`.

    Changes from or to an exact picture are infinite, and none is shown.
    """
    if not np.isfinite(values).all():
        return "<td>-</td>"
    mean = float(values.mean())
    ends = f"{_signed(values.min())} to {_signed(values.max())}"
    spread = f" <small>({ends})</small>" if len(values) > 1 and values.any() else ""
    return f'<td style="background:{_change_colour(mean, largest)}">{_signed(mean)}{spread}</td>'


def _signed(change: float) -> str:
    text = f"{change:+.2f}"
    return "0" if change == 0 else "0.00" if text.endswith("0.00") and abs(change) < 1 else text


def _change_colour(change: float, largest: float) -> str:
    """The background of a change in dB: white at 0, orange down to -largest, blue up to +largest."""
    if not np.isfinite(change) or largest <= 0:
        return "#ffffff"
    end = np.array([240, 150, 80] if change < 0 else [110, 170, 225])
    rgb = np.round(255 + (end - 255) * min(1.0, abs(change) / largest)).astype(int)
    return "#" + "".join(f"{channel:02x}" for channel in rgb)


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 130


def _svg(width: float, height: float, text: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{text}">{"".join(parts)}</svg>'
    )
