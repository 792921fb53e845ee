"""The page of an atlas of experts: one HTML file with its pictures inside, for a browser without a network.

Axis glossary: `L` mixture layers, `E` experts, `K` chosen a token.
"""

import html
import math
from collections.abc import Sequence
from importlib.metadata import version

import jax
import numpy as np

import mofme_jax
from mofme_jax.evaluation.evaluator import PROTOCOL
from mofme_jax.evaluation.routing_measures import SHUFFLES, load_entropy
from mofme_jax.restoring import atlas_drawing as draw
from mofme_jax.restoring.atlas_figures import View, by_weather, weather_information
from mofme_jax.restoring.pictures import expert_picture
from mofme_jax.viz import heat


def page(model, parameters: int, views: Sequence[View], title: str, tile: int) -> str:
    """The whole page.

    Args:
      model: the `Restorer`.
      parameters: their number.
      views: what it did, photograph by photograph.
      title: what the network is called.
      tile: largest side of a picture, pixels.

    Returns:
      HTML that depends on the arguments, the packages and the platform alone.
    """
    colours = draw.palette(model.num_experts)
    name = html.escape(title)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Expert atlas of {name}</title><style>{draw.STYLE}</style></head><body>",
            f"<h1>Expert atlas</h1><p>What the experts of <b>{name}</b> do: which tokens they take, in which weather, "
            "and what is lost without them. Layers and experts are numbered from 0, as in "
            "<code>aux[layer].chosen</code>.</p>",
            _facts(model, parameters, views, tile),
            _pictures(model, views, colours),
            _use(model, views, colours),
            _switched_off(model, views),
            _entropy(model, views),
            "</body></html>\n",
        ]
    )


def _facts(model, parameters: int, views: Sequence[View], tile: int) -> str:
    names = list(dict.fromkeys(view.case.name for view in views))
    draws = {weather: len(pictures) for weather, pictures in by_weather(views, lambda view: view.psnr).items()}
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "numpy", "pillow"))
    weights = "weights of the chosen " + (
        "signed, of unit length over all experts"
        if model.router == "paper"
        else "as they are, so that they sum to less than 1"
        if model.norm_order == "softmax_topk" and model.top_k < model.num_experts
        else "summing to 1"
    )
    rows = {
        "network": f"{model.feed_forward}, width {model.width}, {parameters:,} parameters",
        "experts": f"E = {model.num_experts} in each of L = {model.depth} layers, K = {model.top_k} chosen a token; "
        f"a token is {model.patch} x {model.patch} pixels",
        "router": f"{model.router}; {weights} ({model.norm_order})",
        "photographs": f"{', '.join(map(html.escape, names))}: clean ones, their middle of at most {tile} x {tile} "
        "pixels",
        "weather": "synthesised from fixed keys, pictures of each: "
        + ", ".join(f"{weather} {count}" for weather, count in draws.items()),
        "protocol": f"each picture restored in one piece, without tiles; PSNR as in {PROTOCOL}: 8 bits, RGB, the mean "
        "over pictures",
        "made with": f"mofme_jax {mofme_jax.__version__}, {packages}, on {jax.devices()[0].platform}",
        "again": "The same command gives the same bytes on the same machine with the same packages. On another, sums "
        "are taken in another order: last digits differ, and so may a token whose choice is near a tie.",
    }
    body = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def _used(views: Sequence[View], layer: int) -> tuple[list[int], str]:
    """The experts of a layer that some token chose, and a sentence on the others."""
    shares = np.sum([view.choices[layer] for view in views], axis=0)
    never = ", ".join(map(str, np.flatnonzero(shares == 0)))
    return [int(expert) for expert in np.flatnonzero(shares)], f"Never chosen here: expert {never}. " if never else ""


def _pictures(model, views: Sequence[View], colours: list[str]) -> str:
    least = min(float(view.uncertainty.min()) for view in views)
    most = max(float(view.uncertainty.max()) for view in views)
    knows = most > 0
    leads = np.mean([view.lead for view in views], axis=0)
    leaders = {int(expert) for view in views for expert in np.unique(view.leading)}
    lead = ", ".join(f"{draw.percent(share)} (layer {layer})" for layer, share in enumerate(leads))
    parts = [
        "<h2>Which expert takes which token</h2><p>Each square is a token, in the colour of the expert that leads, the "
        "one with the heaviest gate, over the degraded picture in grey. "
        + (
            f"Uncertainty is the routers' own, the mean over layers: from {least:.2g} nats (black) to {most:.2g} "
            "(white), one scale for all pictures."
            if knows
            else f"The {model.router} router knows no uncertainty, so that none is drawn."
        )
        + " Of each weather the first draw is shown.</p>",
        '<p class="not">The colours show where an expert leads, not how much of the work it does: of the weight of the '
        f"chosen, K = {model.top_k} a token, the leading one has {lead} on average. Colours of different layers have "
        "nothing to do with one another."
        + (" Uncertainty is doubt about the routing, not a measure of the error of a pixel." if knows else "")
        + "</p>",
    ]
    heads = ["degraded", "restored", *(f"layer {i}" for i in range(model.depth)), *(["uncertainty"] if knows else [])]
    for name in dict.fromkeys(view.case.name for view in views):
        rows = []
        firsts = {v.case.group: v for v in reversed(views) if v.case.name == name}
        for weather in reversed(firsts):
            view = firsts[weather]
            what = html.escape(f"{name}, {weather}")
            cells = [
                draw.picture(view.case.degraded, f"{what}: degraded") + f"<small>{_decibels(view.psnr_input)}</small>",
                draw.picture(view.restored, f"{what}: restored") + f"<small>{_decibels(view.psnr)}</small>",
            ]
            for layer, leading in enumerate(view.leading):
                drawn = expert_picture(view.case.degraded, leading, model.patch, model.num_experts)
                cells.append(draw.picture(drawn, f"{what}: experts of layer {layer}"))
            if knows:
                pixels = draw.enlarged(view.uncertainty, model.patch, view.restored.shape)
                drawn = np.round(255 * heat(pixels, least, most)).astype(np.uint8)
                cells.append(draw.picture(drawn, f"{what}: router uncertainty"))
            rows.append(f"<tr><th>{weather}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        head = "".join(f"<th>{text}</th>" for text in ("", *heads))
        parts.append(
            f'<h3>{html.escape(name)}</h3>{draw.legend(colours, leaders)}<div class="wide"><table class="pictures">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return "\n".join(parts)


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else "equals the truth"


def _use(model, views: Sequence[View], colours: list[str]) -> str:
    parts = [
        "<h2>Use by weather</h2><p>The share of a layer's choices that fell on each expert; a token makes "
        f"K = {model.top_k} of them. In brackets, the share of tokens that the expert leads. Load entropy, of the "
        "choices, is 100 % where all experts are used alike; gate entropy is 100 % where the router prefers none. "
        "Mutual information says how many bits a token's leading expert tells of the weather, each weather, clean "
        "among them, counted as equally likely.</p>",
        '<p class="not">Tokens of one picture resemble each other, and the pictures are few: hold the mutual '
        "information against what chance gives. Where it is larger, routing follows something that goes with the "
        "weather, perhaps only brightness or contrast: it does not show that an expert is good at that weather."
        + (" With K = E every expert is chosen for every token." if model.top_k == model.num_experts else "")
        + "</p>",
    ]
    for layer in range(model.depth):
        choices, leads, entropies = (
            {weather: values[:, layer].mean(axis=0) for weather, values in by_weather(views, figure).items()}
            for figure in (
                lambda view: view.choices,
                lambda view: view.leads,
                lambda view: view.entropy.mean(axis=(1, 2)),
            )
        )
        used, never = _used(views, layer)
        rows = []
        for weather, shares in choices.items():
            cells = [draw.percent(load_entropy(shares), 1), draw.percent(entropies[weather], 1)]
            for expert in used:
                share, leading = (draw.percent(values[weather][expert], 1) for values in (choices, leads))
                cells.append(f"{share} <small>({leading})</small>")
            rows.append(f"<tr><th>{weather}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        heads = ["", "load entropy", "gate entropy", *(f"expert {i}" for i in used)]
        found = weather_information(views, layer)
        most = math.log2(min(len(choices), model.num_experts))
        parts.append(
            f"<h3>Layer {layer}</h3>{draw.legend(colours, used)}{draw.share_bars(choices, colours)}"
            f"{draw.table(heads, rows)}"
            f"<p>{never}I(expert; weather) = <b>{found.bits:.3f} bits</b> of at most {most:.2f}, the plug-in estimate "
            f"from {found.tokens:,} tokens of {len(views)} pictures. By chance, with the weathers shuffled among the "
            f"pictures of each photograph ({SHUFFLES:,} times): {found.by_chance:.3f} bits on average, 95 % of them at "
            f"most {found.chance_95:.3f}.</p>"
        )
    return "\n".join(parts)


def _switched_off(model, views: Sequence[View]) -> str:
    with np.errstate(invalid="ignore"):  # between exact pictures
        changes = by_weather(views, lambda view: view.psnr_without - view.psnr)  # (N, L, E) of each weather
    means = np.stack([values.mean(axis=0) for values in changes.values()])
    finite = np.abs(means[np.isfinite(means)])
    largest = float(finite.max(initial=0.1))  # dB: less is pale, however little the others are
    passed_on = "the next heaviest takes its place" if model.top_k < model.num_experts else "none can take its place"
    weight = (
        "the weights of the others stay as they are"
        if model.norm_order == "softmax_topk"
        else "the weights of those chosen are renormalised"
    )
    parts = [
        "<h2>An expert switched off</h2><p>The change of PSNR in dB when one expert of one layer is never given a "
        f"token: {passed_on}, and {weight}. The mean over the pictures of a weather, in brackets the least and the "
        f"largest of them. Orange is a loss, blue a gain; the deepest colour is {largest:.2f} dB.</p>",
        '<p class="not">The rest of the network was trained with this expert there: a loss says how much it is relied '
        "upon, not how much worse a network would be that was trained without it. An expert whose loss is small may be "
        "idle, or have a double. PSNR feels a shift in the tone of a whole picture: a gain on these few may be one "
        "that happens to suit them, and does not show that the expert does harm.</p>",
    ]
    for layer in range(model.depth):
        rows = []
        used, never = _used(views, layer)
        for expert in used:
            cells = [draw.change_cell(values[:, layer, expert], largest) for values in changes.values()]
            known = means[:, layer, expert][np.isfinite(means[:, layer, expert])]
            cells.append(draw.change_cell(known.mean(keepdims=True), largest) if known.size else "<td>-</td>")
            rows.append(f"<tr><th>expert {expert}</th>{''.join(cells)}</tr>")
        parts.append(f"<h3>Layer {layer}</h3>{draw.table(['', *changes, 'mean of these'], rows)}<p>{never}</p>")
    return "\n".join(parts)


def _entropy(model, views: Sequence[View]) -> str:
    parts = [
        "<h2>How decided the routers are</h2><p>Entropy of a router's probabilities for a token, as a share of log E, "
        "over all tokens of all pictures: at 0 % one expert is certain, at 100 % all are as likely. Height is the "
        "share of tokens; the dashed line is their mean; mind where the axis begins.</p>",
        '<p class="not">A decided router is not a good one: it shows how sharply tokens are told apart, not whether '
        "that helps the picture.</p>",
    ]
    for layer in range(model.depth):
        values = np.concatenate([view.entropy[layer].ravel() for view in views])
        parts.append(f"<h3>Layer {layer}</h3>{draw.histogram(values)}")
    return "\n".join(parts)
